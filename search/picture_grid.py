"""Images with what a model says about them, as one picture: wrong ones in red where labels are known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.predict import Predictions, check_drawable
from trainers.contract import DataError

MOST = 100
"""More pictures than this are too small to look at; the first ones are shown."""
_SIDE, _GAP, _MARGIN, _LINE = 128, 20, 28, 19  # pixels
_TEXT_SIZE, _TITLE_SIZE = 14, 16
_PAPER, _INK, _FAINT, _WRONG = "#ffffff", "#1c1e21", "#7a7f87", "#c62828"


def picture_grid(predictions: Predictions, path: Path) -> None:
    """Write the rows as the model saw them, each with its class and probability below, as a PNG.

    Raises DataError for vectors, and for a path that cannot be written.
    """
    check_drawable(predictions.x.shape[1:])
    try:
        _drawn(predictions).save(path, format="PNG")
    except OSError as error:
        raise DataError(f"--grid {path} cannot be written: {error.strerror or error}") from error


def _drawn(predictions: Predictions) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    shown = min(len(predictions), MOST)
    columns = min(shown, math.ceil(math.sqrt(shown * 1.3)))
    width, height = _SIDE + _GAP, _SIDE + 3 * _LINE + _GAP
    head = _MARGIN + 2 * _LINE
    size = (
        2 * _MARGIN + max(columns * width - _GAP, 3 * width - _GAP),  # wide enough for the title
        head + math.ceil(shown / columns) * height - _GAP + _MARGIN,
    )
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    text, title = ImageFont.load_default(_TEXT_SIZE), ImageFont.load_default(_TITLE_SIZE)
    pen.text((_MARGIN, _MARGIN - 6), _title(predictions, shown), _INK, title)
    for row in range(shown):
        left, top = _MARGIN + row % columns * width, head + row // columns * height
        _paste(page, pen, predictions.x[row] / predictions.scale, left, top, predictions.is_wrong[row])
        for line, (words, ink) in enumerate(_caption(predictions, row)):
            pen.text((left, top + _SIDE + 5 + line * _LINE), _cut(words, text), ink, text)
    return page


def _title(predictions: Predictions, shown: int) -> str:
    count = len(predictions)
    first = (
        f"The first {shown} of {count:,} images" if shown < count else f"{count:,} image{'s'[: count > 1]}"
    )
    return f"{first}{predictions.verdict}"


def _paste(page: Any, pen: Any, row: NDArray[Any], left: int, top: int, is_wrong: bool) -> None:
    """The picture in the middle of its square; a small one is magnified pixel by pixel."""
    from PIL import Image

    pixels = np.rint(row * 255).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    larger = max(picture.size)
    is_small = larger <= _SIDE
    scale = _SIDE // larger if is_small else _SIDE / larger
    method = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    wide, high = (max(1, round(side * scale)) for side in picture.size)
    corner = (left + (_SIDE - wide) // 2, top + (_SIDE - high) // 2)
    page.paste(picture.resize((wide, high), method), corner)
    if is_wrong:
        box = (corner[0] - 4, corner[1] - 4, corner[0] + wide + 3, corner[1] + high + 3)
        pen.rectangle(box, outline=_WRONG, width=3)


def _caption(predictions: Predictions, row: int) -> list[tuple[str, str]]:
    """Lines of text with their colour: the class and its probability, what it should have been, the name."""
    probability = f"{predictions.probabilities[row].max():.1%}"
    named = predictions.predicted[row]
    if predictions.is_wrong[row]:
        return [
            (f"{probability} {named}", _WRONG),
            (f"is {predictions.known[row]}", _WRONG),
            (Path(predictions.names[row]).name, _FAINT),
        ]
    return [(f"{probability} {named}", _INK), (Path(predictions.names[row]).name, _FAINT)]


def _cut(words: str, font: Any) -> str:
    """As much of the text as fits below a picture."""
    words = " ".join(words.split())
    if font.getlength(words) <= _SIDE:
        return words
    cut = words
    while cut and font.getlength(f"{cut}...") > _SIDE:
        cut = cut[:-1]
    return f"{cut}..."
