"""Kind npy, rows as one array of numbers and their labels as another, or as a CSV."""

import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.sources.rows import Rows, as_float32, column_fault, first_five, last_part_is_test, together
from trainers.sources.tables import read_table


def read_npy(
    path: Path, labels: Path, test: Path | None = None, test_labels: Path | None = None, group: str = ""
) -> Rows:
    """Images (n, height, width[, channels]) or vectors (n, features) in one .npy file, labels in another.

    Labels are a .npy array (n,), or a CSV with a column ``label`` and perhaps ``index``, the label's row.
    """
    if (test is None) != (test_labels is None):
        raise DataError("options 'test' and 'test_labels' belong together; give both or neither")
    pairs = [(path, labels), *([(test, test_labels)] if test and test_labels else [])]
    parts = together(*(partial(_read_pair, *pair, group) for pair in pairs))
    shapes = [x.shape[1:] for x, *_ in parts]
    if len(set(shapes)) > 1:
        raise DataError(f"{test}: rows are {shapes[1]}, those of {path} are {shapes[0]}; they must be alike")
    xs, texts, groups, notes, unpaired = zip(*parts, strict=True)
    return Rows(
        path.resolve().parent.name,
        np.concatenate(xs),
        [text for part in texts for text in part],
        _scale([path, *([test] if test else [])], xs),
        f"Read from {' and '.join(str(place) for pair in pairs for place in pair)}.",
        is_test=last_part_is_test(*map(len, xs)),
        groups=[text for part in groups for text in part] if group else None,
        notes=tuple(note for part in notes for note in part),
        unpaired=tuple(fault for part in unpaired for fault in part),
    )


def _read_pair(
    path: Path, labels: Path, group: str
) -> tuple[NDArray[Any], Sequence[str], Sequence[str], list[str], list[str]]:
    """Rows that have a label, labels, groups, notes on rows without, and labels without a row."""
    if labels.suffix == ".npy":
        if group:
            raise DataError(f"{labels}: has no column {group!r} (group); give the labels as a CSV")
        x, texts = together(partial(_read_rows, path), partial(_read_labels, labels))
        _check_lengths(path, x, texts)
        return x, [str(text) for text in texts], [], [], []
    x, table = together(partial(_read_rows, path), partial(_read_label_table, labels, group))
    texts, groups = table["label"], table[group] if group else []
    if "index" not in table:
        _check_lengths(path, x, texts)
        return x, texts, groups, [], []
    line_of = _lines_of_rows(labels, table["index"])
    rows = [row for row in range(len(x)) if row in line_of]
    unlabelled = [row for row in range(len(x)) if row not in line_of]
    unpaired = [row for row in line_of if row >= len(x)]
    if not rows:
        raise DataError(f"{labels}: none of its {len(texts)} indices is one of the {len(x)} rows of {path}")
    return (
        x if len(rows) == len(x) else x[rows],
        [texts[line_of[row]] for row in rows],
        [groups[line_of[row]] for row in rows] if group else [],
        [_told("rows without a label left out", unlabelled, path)] if unlabelled else [],
        [_told("labels without a row", unpaired, labels)] if unpaired else [],
    )


def _told(what: str, rows: Sequence[int], path: Path) -> str:
    return f"{path}: {len(rows)} {what} (index {first_five(rows)})"


def _check_lengths(path: Path, x: NDArray[Any], labels: Sequence[Any]) -> None:
    if len(x) != len(labels):
        raise DataError(f"{path}: {len(x)} rows but {len(labels)} labels; each row needs one label")


def read_array(path: Path, kinds: str = "biuf") -> NDArray[Any]:
    """The one array in a .npy file, never one of Python objects; ``kinds`` are those of its dtype.

    Raises DataError for a file that is none, another kind of array, or an empty one.
    """
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as .npy: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or not array.size:
        raise DataError(f"{path}: expected one array of numbers in .npy format, not empty")
    return array


def _read_rows(path: Path) -> NDArray[Any]:
    """(n, features) as float32, or (n, height, width, channels) as uint8 or float32 from 0 to 255."""
    x = read_array(path)
    if x.ndim not in (2, 3, 4):
        raise DataError(
            f"{path}: has shape {x.shape}; expected (n, features) for vectors"
            " or (n, height, width[, channels]) for images"
        )
    if x.ndim == 2:
        return as_float32(x)
    low, high = _range(x)
    if low < 0 or high > 255:
        raise DataError(f"{path}: images hold values from {low} to {high}; expected 0 to 255 or 0 to 1")
    x = as_float32(x) if x.dtype.kind == "f" else x.astype(np.uint8, copy=False)
    return x if x.ndim == 4 else x[..., None]


def _scale(paths: Sequence[Path], xs: Sequence[NDArray[Any]]) -> float:
    """1.0 for vectors, and for images without a value above 1; else 255. Black images are of any scale."""
    if xs[0].ndim == 2:
        return 1.0
    highest = {path: _range(x)[1] for path, x in zip(paths, xs, strict=True)}
    scales = {1.0 if high <= 1 else 255.0 for high in highest.values() if high}
    if len(scales) > 1:
        told = ", ".join(f"0 to {high:g} in {path}" for path, high in highest.items())
        raise DataError(f"images hold values from {told}; they must be alike: 0 to 255, or 0 to 1")
    return scales.pop() if scales else 1.0


def _range(x: NDArray[Any]) -> tuple[Any, Any]:
    """The smallest and the largest value that is finite; ``trainers.datasets`` tells of the others."""
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    return (finite.min(), finite.max()) if finite.size else (0, 0)


def _read_labels(path: Path) -> NDArray[Any]:
    labels = read_array(path, kinds="biufU")
    if labels.ndim != 1 or labels.dtype.kind == "f":
        raise DataError(
            f"{path}: has shape {labels.shape} of {labels.dtype}; expected whole numbers or texts, (n,)"
        )
    return labels


def _read_label_table(path: Path, group: str) -> dict[str, list[str]]:
    table = read_table(path)
    faults = [
        column_fault(name, option, list(table))
        for name, option in (("label", "labels"), (group, "group"))
        if name and name not in table
    ]
    if faults:
        raise DataError("\n".join(f"{path}: {fault}" for fault in faults))
    return table


def _lines_of_rows(path: Path, index: Sequence[str]) -> dict[int, int]:
    """{row: its line in the table}, where every line names another row."""
    line_of: dict[int, int] = {}
    wrong, twice = [], []
    for line, text in enumerate(index):
        if not text.isdecimal():
            wrong.append(repr(text))
        elif int(text) in line_of:
            twice.append(text)
        else:
            line_of[int(text)] = line
    faults = [
        f"{path}: column 'index' holds {len(texts)} {what} ({first_five(texts)}); it holds each"
        " row's number, from 0, once"
        for what, texts in (("values that are no row numbers", wrong), ("numbers a second time", twice))
        if texts
    ]
    if faults:
        raise DataError("\n".join(faults))
    return line_of
