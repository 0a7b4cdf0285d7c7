"""What the options of a data set may hold, and where the files lie that they name."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from spaces.params import did_you_mean

Size = int | Sequence[int]
"""Height and width of images, as one number where they are the same."""
Names = Mapping[str | int, str | int]
"""{label: class}"""
Shares = Mapping[str | int, float]
"""{class: share of its rows}"""


def option_faults(name: str, annotation: Any, value: Any) -> list[str]:
    """What is wrong with an option's value; the annotation of the parameter says what it holds."""
    what = f"option {name!r}"
    if annotation in (Path, Path | None):
        if not isinstance(value, str | Path):
            return [f"{what} is {value!r}; expected a path"]
        return [] if found(value) else [_not_found(value, what)]
    for choice in (annotation, *get_args(annotation)):
        if get_origin(choice) is Literal:
            return choice_faults(f"{what}:", value, get_args(choice))
    is_right, expected = _EXPECTED[annotation]
    return [] if is_right(value) else [f"{what} is {value!r}; expected {expected}"]


def choice_faults(what: str, value: Any, known: Iterable[str]) -> list[str]:
    known = list(known)
    if value in known:
        return []
    return [f"{what} {value!r} is unknown; known: {', '.join(known)}{did_you_mean(str(value), known)}"]


def found(value: str | Path) -> Path | None:
    """The file or folder of that path, from the working directory or else under $RUNGWISE_DATA."""
    path, own = _home_expanded(value), own_data()
    places = (path, *([own / path] if own else ()))
    return next((place for place in places if place.exists()), None)


def own_data() -> Path | None:
    """The folder that $RUNGWISE_DATA names, ``~`` expanded; None where it is not set or empty."""
    own = os.environ.get("RUNGWISE_DATA")
    return _home_expanded(own) if own else None


def _home_expanded(path: str | Path) -> Path:
    """``~`` and ``~user`` as a folder; as they are where nobody has that name."""
    return Path(os.path.expanduser(path))


def _not_found(value: str | Path, what: str) -> str:
    if _home_expanded(value).is_absolute():
        return f"{value}: not found ({what})"
    where = own_data() or "not set"
    return f"{value}: not found ({what}), neither in {Path.cwd()} nor in $RUNGWISE_DATA ({where})"


def height_and_width(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high  # True is an int as well, and no size


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list | tuple) else (value, value)
    return len(sides) == 2 and all(_is_whole(side, 1, 4096) for side in sides)


def _is_mapping(value: Any, is_value: Callable[[Any], bool]) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(_is_label(k) and is_value(v) for k, v in value.items())
    )


def _is_label(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and bool(value))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


_EXPECTED: dict[Any, tuple[Callable[[Any], bool], str]] = {
    str: (lambda value: isinstance(value, str), "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (lambda value: _is_whole(value, 0, 2**32), "a whole number from 0 up"),
    Sequence[str]: (
        lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
        "a list of texts",
    ),
    Size | None: (_is_size, "a number of pixels from 1 to 4096, or a list of two: height, width"),
    Names | None: (
        lambda value: _is_mapping(value, _is_label),
        "a mapping such as {negative: healthy, positive: ill}",
    ),
    Shares | None: (
        lambda value: _is_mapping(value, _is_share),
        "a mapping such as {ill: 0.2}, with shares above 0 and up to 1",
    ),
}
"""Whether a value is right for a parameter of this annotation, and the words for those that are."""
