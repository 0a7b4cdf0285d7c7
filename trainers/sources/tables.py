"""CSV files: kind csv, rows of numbers with a label, and tables of texts such as labels of images."""

import csv
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.sources.rows import (
    Rows,
    as_float32,
    column_fault,
    first_five,
    last_part_is_test,
    shortened,
    together,
)

_NO_NUMBER = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")


def read_table(path: Path) -> dict[str, list[str]]:
    """{column: its texts} of a CSV with a first line of names; blanks around texts are taken off.

    Raises DataError for a file that is no CSV, a line that is too long or too short, a name given twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a mark in front
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [text.strip() for text in line]) for line in reader if line]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if not lines:
        raise DataError(f"{path}: is empty; expected a first line with the names of columns")
    (_, columns), *rows = lines
    faults = []
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        faults.append(f"{path}: columns named more than once: {shortened(twice)}")
    if uneven := [number for number, texts in rows if len(texts) != len(columns)]:
        faults.append(
            f"{path}: {len(uneven)} lines have more or fewer values than the {len(columns)} columns of the"
            f" first line (lines {first_five(uneven)}); mend or remove them"
        )
    if faults:
        raise DataError("\n".join(faults))
    return {name: [texts[column] for _, texts in rows] for column, name in enumerate(columns)}


def read_csv(
    path: Path, label: str, drop: Sequence[str] = (), test: Path | None = None, group: str = ""
) -> Rows:
    """Vectors: one row a line, a column of labels, some columns to drop, and numbers in all the others."""
    paths = [path, *([test] if test else [])]
    parts = together(*(partial(_read_vectors, part, label, drop, group) for part in paths))
    features, labels, groups, faults = zip(*parts, strict=True)
    if test and (fault := _difference(list(features[0]), list(features[1]))):
        raise DataError(f"{test}: {fault}; its columns must be those of {path}")
    return Rows(
        path.stem,
        as_float32(np.concatenate([part[list(features[0])].to_numpy(np.float64) for part in features])),
        [text for part in labels for text in part],
        scale=1.0,
        source=f"Read from {' and '.join(map(str, paths))}.",
        is_test=last_part_is_test(*map(len, features)),
        groups=[text for part in groups for text in part] if group else None,
        notes=tuple(_numbering_notes(features[0])),
        faults=tuple(
            f"{part}: {fault}" if test else fault
            for part, list_ in zip(paths, faults, strict=True)
            for fault in list_
        ),
    )


def _read_vectors(
    path: Path, label: str, drop: Sequence[str], group: str
) -> tuple[Any, list[str], list[str], list[str]]:
    """The frame of features, labels, groups, and what is wrong with its numbers."""
    # Refuses a first row with a value too many, whose first one pandas would take for the row's name.
    head = {"header": None, "nrows": 2, "dtype": str, "keep_default_na": False}
    first = [str(name).strip() for name in _read_frame(path, **head).iloc[0]]
    # To names that stand twice pandas gives new ones.
    if twice := sorted({name for name in first if name and first.count(name) > 1}):
        raise DataError(f"{path}: columns named more than once: {shortened(twice)}")
    columns = list(_read_frame(path, nrows=0))
    if faults := _column_faults(columns, label, drop, group):
        raise DataError("\n".join(f"{path}: {fault}" for fault in faults))
    texts = [label, *([group] if group else [])]
    frame = _read_frame(
        path,
        dtype=dict.fromkeys(texts, str),
        na_values={column: _NO_NUMBER for column in columns if column not in texts},
        keep_default_na=False,  # "None" and "NA" may be classes
        low_memory=False,
    )
    features, faults = _numeric(frame.drop(columns=list(dict.fromkeys([*texts, *drop]))))
    labels, *groups = (frame[name].str.strip().tolist() for name in texts)
    return features, labels, groups[0] if groups else [], faults


def _numeric(features: Any) -> tuple[Any, list[str]]:
    """The frame with numbers only, and a fault for each column that holds anything else."""
    import pandas as pd

    faults = []
    for name in features.select_dtypes(exclude=["number", "bool"]):
        numbers = pd.to_numeric(features[name], errors="coerce")
        is_text = numbers.isna() & features[name].notna()
        if is_text.any():
            row = is_text.argmax()
            faults.append(
                f"column {name!r} is not numeric ({features[name].iloc[row]!r} in row {row});"
                " make it numbers or name it under drop"
            )
        features[name] = 0.0 if is_text.any() else numbers  # told once, not again as missing values
    return features, faults


def _numbering_notes(features: Any) -> Iterator[str]:
    """A note on columns that seem to number the rows, as ids do: they say nothing about new rows."""
    rising = [name for name in features if _is_rising(features[name].dropna().to_numpy(np.float64))]
    if rising:
        names = first_five(rising)
        yield (
            f"numbers that count up with the rows are learned from (column {names});"
            f" drop: [{names}] leaves them out"
        )


def _is_rising(values: NDArray[np.float64]) -> bool:
    """Whether they are whole numbers, each larger than the one before."""
    is_whole, is_larger = values == np.floor(values), values[1:] > values[:-1]
    return len(values) > 1 and bool(is_whole.all() and is_larger.all())


_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What damaged files raise, packed ones included; pandas' own errors are ValueErrors."""


def _read_frame(path: Path, **options: Any) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, **options)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _column_faults(columns: Sequence[str], label: str, drop: Sequence[str], group: str) -> list[str]:
    faults = [
        column_fault(name, option, columns)
        for option, names in (("label", [label]), ("group", [group] if group else []), ("drop", drop))
        for name in names
        if name not in columns
    ]
    # Mostly row numbers that were saved along, and a row's number must not be learned from.
    faults += [
        f"the first line has no name for column {number}; name it, or list {name!r} under drop"
        for number, name in enumerate(columns, 1)
        if name.startswith("Unnamed: ") and name not in drop
    ]
    if not set(columns) - {label, group, *drop}:
        faults.append("no column is left to learn from; drop fewer")
    return faults


def _difference(columns: Sequence[str], others: Sequence[str]) -> str:
    lost = [name for name in columns if name not in others]
    new = [name for name in others if name not in columns]
    told = (("lacks", lost), ("has besides", new))
    return ", ".join(f"{verb} {shortened(names)}" for verb, names in told if names)
