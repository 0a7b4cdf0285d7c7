"""What an exported model says about files: image files and folders of them, .npy and .csv files."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from search.exported import Input, load_model
from spaces.params import did_you_mean
from trainers.contract import DataError
from trainers.images import IMAGE_SUFFIXES, ImageFiles, decoded
from trainers.sources.arrays import read_array
from trainers.sources.image_files import files_below, is_image
from trainers.sources.rows import as_float32, together
from trainers.sources.tables import read_table

MOST_COLUMNS = 10
"""Of more classes a table shows only the second most probable one."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about rows, in the order in which they were given."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Where each row came from: a file, or a file and a row's number from 0."""
    x: NDArray[Any]
    """(n, ...) rows as the model saw them."""
    scale: float
    probabilities: NDArray[np.float32]
    """(n, n_classes)."""
    known: tuple[str | None, ...]
    """Each row's class where the files tell it."""

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def predicted(self) -> list[str]:
        """The most probable class of each row, the first of equals."""
        return [self.classes[k] for k in self.probabilities.argmax(axis=1)]

    @cached_property
    def is_wrong(self) -> list[bool]:
        """Whether a row is known to be of another class than the predicted one."""
        return [known not in (None, said) for known, said in zip(self.known, self.predicted, strict=True)]

    @property
    def verdict(self) -> str:
        """How many rows are known to be wrong, as the end of a sentence; nothing where no label is known."""
        num_known = sum(label is not None for label in self.known)
        return f": {sum(self.is_wrong):,} of {num_known:,} with known labels are wrong" if num_known else ""

    def table(self) -> Table:
        """For a terminal; rows that are known to be wrong are red."""
        told = ["name", "predicted", "probability", *(["known"] if any(self.known) else [])]
        others = self.classes if len(self.classes) <= MOST_COLUMNS else ("next", "probability")
        table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
        table.caption = Text(f"{len(self):,} rows{self.verdict}")
        for name in (*told, *others):
            table.add_column(
                Text(name), justify="right" if name in ("probability", *self.classes) else "left"
            )
        for number, row in enumerate(self._rows()):
            cells = [row[name] for name in told]
            cells += row["probabilities"].values() if others is self.classes else self._second(number)
            style = "red" if self.is_wrong[number] else ""
            table.add_row(*(Text(_cell(cell), style) for cell in cells))
        return table

    def csv(self) -> str:
        """A line a row: name, predicted, probability, known, then ``probability.CLASS`` for each class."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_TOLD, *(f"probability.{name}" for name in self.classes)])
        for row in self._rows():
            writer.writerow([*(row[name] for name in _TOLD), *row["probabilities"].values()])
        return file.getvalue()

    def json(self) -> str:
        """A list of objects with name, predicted, probability, known and probabilities by class."""
        return json.dumps(list(self._rows()), indent=1, ensure_ascii=False)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, name in enumerate(self.names):
            # Seven digits are all that a float32 has.
            numbers = [round(float(p), 7) for p in self.probabilities[number]]
            by_class = dict(zip(self.classes, numbers, strict=True))
            told = (name, self.predicted[number], max(numbers), self.known[number])
            yield {**dict(zip(_TOLD, told, strict=True)), "probabilities": by_class}

    def _second(self, number: int) -> tuple[str, float]:
        k = int((-self.probabilities[number]).argsort(kind="stable")[1])
        return self.classes[k], float(self.probabilities[number, k])


_TOLD = ("name", "predicted", "probability", "known")


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else value or ""


def predict(folder: Path, paths: Sequence[Path], trust: bool = False, grid: bool = False) -> Predictions:
    """Ask the model that ``rungwise export`` wrote into ``folder`` about the rows in ``paths``.

    Image models take image files, read as in training, folders with them at any depth, and ``.npy`` files
    (n, height, width[, channels]) of values as stored for training, or of floats up to 1. Vector models take
    ``.npy`` files (n, features) and ``.csv`` files with the columns of the training data; others beside them
    are left out. Known labels are the name of an image's folder where that is a class, and a CSV file's
    column of labels.

    Raises DataError with every file that does not fit; before any is read where a ``grid`` is to be drawn of
    what are no images; see ``search.exported.load_model`` for ``folder`` and ``trust``.
    """
    about, predictor = load_model(folder, trust)
    if grid:
        check_drawable(about.input.shape)
    parts: list[_Rows] = together(*(partial(_read, about.input, about.classes, path) for path in paths))
    if not parts:
        raise DataError("no files to predict were given")
    x = np.concatenate([part.x for part in parts])
    return Predictions(
        classes=about.classes,
        names=tuple(name for part in parts for name in part.names),
        x=x,
        scale=about.input.scale,
        probabilities=predictor.predict(x),
        known=tuple(label for part in parts for label in part.known),
    )


def check_drawable(shape: Sequence[int]) -> None:
    """Raises DataError unless rows of this shape are images, of which a grid can be drawn."""
    if len(shape) != 3:
        raise DataError(
            f"--grid: there is nothing to see: this model takes vectors of {shape[0]} numbers, not images;"
            " leave --grid out"
        )


# ---- from files to rows ----


@dataclass(frozen=True, eq=False)
class _Rows:
    x: NDArray[Any]
    names: Sequence[str]
    known: Sequence[str | None]


def _read(what: Input, classes: Sequence[str], path: Path) -> _Rows:
    if not path.exists():
        raise DataError(f"{path}: not found")
    suffix = path.suffix.lower()
    if suffix == ".npy" and path.is_file():
        return _read_npy(what, path)
    if what.is_image and suffix != ".csv":
        return _read_images(what, classes, path)
    if not what.is_image and suffix == ".csv":
        return _read_csv(what, classes, path)
    fitting = "image files, folders of them" if what.is_image else ".csv files"
    raise DataError(f"{path}: this model takes {what}; give {fitting} or .npy files")


def _read_images(what: Input, classes: Sequence[str], path: Path) -> _Rows:
    height, width, channels = what.shape
    if channels not in (1, 3):
        raise DataError(f"{path}: no image file has this model's {channels} channels; give .npy files")
    files = _images_below(path) if path.is_dir() else [path]
    names = tuple(map(str, files))
    x = decoded(ImageFiles(names), (height, width), "grey" if channels == 1 else "rgb", cache=None)
    known = [_known_by_folder(what, classes, file, path) for file in files]
    return _Rows(_scaled(x, what, 255.0), names, known)


def _known_by_folder(what: Input, classes: Sequence[str], file: Path, path: Path) -> str | None:
    """The class that a folder around ``file`` is called after: the topmost one below ``path``, as for
    training, else ``path`` itself."""
    below = file.relative_to(path).parts[:-1] if path.is_dir() else ()
    around = (*below, path.absolute().name if path.is_dir() else file.absolute().parent.name)
    labels = (what.labels.get(name, name) for name in around)
    return next((label for label in labels if label in classes), None)


def _images_below(folder: Path) -> list[Path]:
    if images := [folder / name for name in files_below(folder) if is_image(name)]:
        return images
    raise DataError(f"{folder}: no images in this folder; read are {', '.join(IMAGE_SUFFIXES)}")


def _scaled(x: NDArray[Any], what: Input, white: float) -> NDArray[Any]:
    """Pixels of [0, white] as the model was trained on them."""
    if what.scale != white:
        x = x.astype(np.float32) * np.float32(what.scale / white)
    if x.dtype == what.dtype:
        return x
    return np.rint(x).astype(np.uint8) if what.dtype == "uint8" else x.astype(np.float32)


def _read_npy(what: Input, path: Path) -> _Rows:
    x = read_array(path)
    if what.is_image and what.shape[-1] == 1 and x.ndim == 3:
        x = x[..., None]
    if x.shape[1:] != what.shape:
        expected = ", ".join(map(str, ("n", *what.shape)))
        raise DataError(f"{path}: has shape {x.shape}; this model takes ({expected})")
    if not what.is_image:
        x = as_float32(x)
    if not np.isfinite(x).all():
        row = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
        raise DataError(f"{path}: row {row} (counted from 0) holds NaN or infinite values; mend or remove it")
    names = [f"{path}[{row}]" for row in range(len(x))]
    if not what.is_image:
        return _Rows(x, names, [None] * len(x))
    low, high = x.min(), x.max()
    white = 1.0 if x.dtype.kind == "f" and high <= 1 else what.scale
    if low < 0 or high > white:
        raise DataError(
            f"{path}: holds values from {low:g} to {high:g}; this model takes 0 to {what.scale:g}, "
            "or floats from 0 to 1"
        )
    return _Rows(_scaled(x, what, white), names, [None] * len(x))


def _read_csv(what: Input, classes: Sequence[str], path: Path) -> _Rows:
    table = read_table(path)
    columns = what.columns or tuple(name for name in table if name != what.label)
    faults = [
        f"{path}: column {name!r} is missing; the model was trained with it{did_you_mean(name, table)}"
        for name in columns
        if name not in table
    ]
    if len(columns) != what.shape[0]:
        faults.append(f"{path}: has {len(columns)} columns of numbers; this model takes {what.shape[0]}")
    if not any(table.values()):
        faults.append(f"{path}: has no rows")
    if faults:
        raise DataError("\n".join(faults))
    x = as_float32(np.array([list(map(_number, table[name])) for name in columns]).T)
    if (broken := np.argwhere(~np.isfinite(x))).size:
        row, column = broken[0]
        name = columns[column]
        where = f"row {row} (counted from 0), column {name!r}"
        raise DataError(
            f"{path}: {table[name][row]!r} in {where}, is no finite number; mend or remove the row"
        )
    labels = _known(what, classes, table.get(what.label, [""] * len(x)), path)
    return _Rows(x, [f"{path}[{row}]" for row in range(len(x))], labels)


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        return np.nan


def _known(what: Input, classes: Sequence[str], texts: Sequence[str], path: Path) -> list[str | None]:
    labels = [what.labels.get(text, text) or None for text in texts]
    if unknown := sorted({label for label in labels if label is not None} - set(classes)):
        raise DataError(
            f"{path}: column {what.label!r} holds {unknown[0]!r}, which is none of the model's classes: "
            f"{', '.join(classes)}{did_you_mean(unknown[0], classes)}; mend it or leave the column out"
        )
    return labels
