"""Which rows a model learns from, which it is judged by, and which nobody touches until the end."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError, Fold
from trainers.datasets import Dataset


@dataclass(frozen=True, eq=False)
class Splits:
    """Row numbers of a data set, each row in exactly one of the three, in rising order.

    Trainers shuffle for themselves, so the order is free to be the one that leaves rows that lie together
    where they are.
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    """Empty where no test set was asked for and none came with the data."""


def split_rows(dataset: Dataset, holdout: float, test: float, seed: int) -> Splits:
    """Sets the test rows apart, then the validation rows from the rest, each class in its share.

    ``test`` is a share of all rows, 0 for no test set; it goes unused where test rows came with the data.
    ``holdout`` is a share of the rows that are not test rows. A class's rows are divided as evenly as whole
    rows allow, with one row at least on each side. The same seed gives the same rows.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(dataset.y))
    test_rows = dataset.test_rows
    if test_rows is None:
        sides = ("train", "validation", "test") if test else ("train", "validation")
        _check_rows_per_class(dataset, rows, sides)
        test_rows = _draw(dataset.y, rows, test, keep=2, rng=rng) if test else rows[:0]
        rows = np.setdiff1d(rows, test_rows)
    else:
        rows = np.setdiff1d(rows, test_rows)
        _check_rows_per_class(dataset, rows, ("train", "validation"))
    valid = _draw(dataset.y, rows, holdout, keep=1, rng=rng)
    return Splits(np.setdiff1d(rows, valid), valid, np.sort(test_rows))


def make_fold(dataset: Dataset, splits: Splits, epochs: int, seed: int) -> Fold:
    """What a trial sees: everything but the test rows and the labels of the validation rows."""
    return Fold(
        x_train=_take(dataset.x, splits.train),
        y_train=_take(dataset.y, splits.train),
        x_valid=_take(dataset.x, splits.valid),
        classes=dataset.classes,
        scale=dataset.scale,
        epochs=epochs,
        seed=seed,
    )


def y_valid(dataset: Dataset, splits: Splits) -> NDArray[np.int64]:
    """(n_valid,) labels in the order of ``Fold.x_valid``, for the one who scores."""
    return _take(dataset.y, splits.valid)


def fingerprint(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    """What tells this data, divided like this, from any other, in JSON's types.

    A run goes on only with data of the same fingerprint; ``sha256`` covers rows, labels, classes and splits.
    """
    digest = hashlib.sha256(json.dumps([dataset.classes, dataset.scale]).encode())
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    for array in (dataset.x, dataset.y, *parts.values()):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return {
        "rows": len(dataset.y),
        "classes": list(dataset.classes),
        "class_counts": {name: _counts(dataset, rows).tolist() for name, rows in parts.items()},
        "sha256": digest.hexdigest(),
    }


def _counts(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(dataset.y[rows], minlength=len(dataset.classes))


def _check_rows_per_class(dataset: Dataset, rows: NDArray[np.int64], sides: Sequence[str]) -> None:
    faults = [
        f"data set {dataset.name}: class {name!r} has too few rows to divide: {count};"
        f" at least {len(sides)} are needed, one each for {', '.join(sides)}"
        for name, count in zip(dataset.classes, _counts(dataset, rows), strict=True)
        if count < len(sides)
    ]
    if faults:
        raise DataError("\n".join(faults))


def _draw(
    y: NDArray[np.int64], rows: NDArray[np.int64], share: float, keep: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """About ``share`` of the rows, in rising order: of each class at least 1, and all but ``keep`` at most.

    Largest remainder: every class gives its whole rows, and the classes that lost most by rounding down give
    one more until the total is right.
    """
    classes, counts = np.unique(y[rows], return_counts=True)
    ideal = counts * share
    taken = np.floor(ideal).astype(np.int64)
    missing = round(len(rows) * share) - taken.sum()
    taken[np.argsort(taken - ideal, kind="stable")[:missing]] += 1
    taken = taken.clip(1, counts - keep)
    drawn = [
        rng.choice(rows[y[rows] == k], size=n, replace=False) for k, n in zip(classes, taken, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _take(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Read-only; a view where the rows lie together."""
    first, last = (rows[0], rows[-1]) if len(rows) else (0, -1)
    taken = array[first : last + 1] if last - first + 1 == len(rows) else array[rows]
    taken.flags.writeable = False
    return taken
