"""Which rows a model learns from, which it is judged by, and which nobody touches until the end."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.sweep import Validation
from trainers.contract import DataError, Fold, take
from trainers.datasets import Dataset

_DEALS = 20
"""How often groups are dealt anew before it is told that a class does not reach every side."""

Rows = NDArray[np.int64]
"""Row numbers of a data set, in rising order: trainers shuffle for themselves, and rows that lie together
can stay where they are."""


@dataclass(frozen=True, eq=False)
class Split:
    """One way to divide the rows that are not test rows."""

    train: Rows
    valid: Rows


@dataclass(frozen=True, eq=False)
class Splits:
    """Every way in which a sweep divides its rows: ``repeat`` times one for a hold-out, else ``kfold``."""

    folds: tuple[Split, ...]
    test: Rows
    """Empty where no test set was asked for and none came with the data."""


def split_rows(dataset: Dataset, validation: Validation, seed: int) -> Splits:
    """Sets the test rows apart, then divides the rest, each class in its share.

    Where the data set has groups, no group is ever on two sides; the shares then hold as nearly as whole
    groups allow. Without groups a class's rows are divided as evenly as whole rows allow, at least one row on
    each side. The same seed gives the same rows. Raises DataError naming each class that cannot be divided.
    """
    rng = np.random.default_rng(seed)
    rows, test = np.arange(len(dataset.y)), dataset.test_rows
    sides = validation.kfold or 2
    if test is not None:
        rows = np.setdiff1d(rows, test)
        _check_groups_apart(dataset, rows, test)
        _check_rows_per_class(dataset, rows, sides)
    elif validation.test:
        _check_rows_per_class(dataset, rows, sides + 1)
        test = _holdout(dataset, rows, validation.test, sides, rng)
        rows = np.setdiff1d(rows, test)
    else:
        _check_rows_per_class(dataset, rows, sides)
        test = rows[:0]
    parts = [
        part for _ in range(validation.repeat) for part in _validation_rows(dataset, rows, validation, rng)
    ]
    return Splits(tuple(Split(np.setdiff1d(rows, part), part) for part in parts), np.sort(test))


def make_folds(
    dataset: Dataset, splits: Splits, epochs: int, cache: Path | None = None, seed: int = 0
) -> tuple[Fold, ...]:
    """What a trial sees: everything but the test rows and the labels of the validation rows."""
    seen = np.setdiff1d(np.arange(len(dataset.y)), splits.test)
    x = take(dataset.x, seen)
    return tuple(
        Fold(
            x=x,
            train=np.searchsorted(seen, split.train),
            y_train=take(dataset.y, split.train),
            valid=np.searchsorted(seen, split.valid),
            classes=dataset.classes,
            scale=dataset.scale,
            epochs=epochs,
            seed=seed,
            cache=cache,
        )
        for split in splits.folds
    )


def y_valid(dataset: Dataset, splits: Splits) -> tuple[NDArray[np.int64], ...]:
    """The labels (n_valid,) of each fold in the order of its ``Fold.valid``, for the one who scores."""
    return tuple(take(dataset.y, split.valid) for split in splits.folds)


def fingerprint(dataset: Dataset, splits: Splits) -> dict[str, Any]:
    """What tells this data, divided like this, from any other, in JSON's types.

    A run goes on only with data of the same fingerprint; ``sha256`` covers rows, labels, classes and splits.
    ``class_counts`` are those of the first fold's training rows, of all folds' validation rows, and of the
    test rows.
    """
    digest = hashlib.sha256(json.dumps([dataset.classes, dataset.scale]).encode())
    divided = [side for split in splits.folds for side in (split.train, split.valid)]
    for array in (dataset.x, dataset.y, *divided, splits.test):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    parts = {
        "train": splits.folds[0].train,
        "valid": np.concatenate([split.valid for split in splits.folds]),
        "test": splits.test,
    }
    return {
        "rows": len(dataset.y),
        "classes": list(dataset.classes),
        "class_counts": {name: class_counts(dataset, rows).tolist() for name, rows in parts.items()},
        "sha256": digest.hexdigest(),
    }


def class_counts(dataset: Dataset, rows: Rows) -> NDArray[np.int64]:
    """(K,) how many of these rows each class has."""
    return np.bincount(dataset.y[rows], minlength=len(dataset.classes))


def _validation_rows(
    dataset: Dataset, rows: Rows, validation: Validation, rng: np.random.Generator
) -> list[Rows]:
    if validation.kfold is None:
        assert validation.holdout is not None
        return [_holdout(dataset, rows, validation.holdout, 1, rng)]
    if dataset.groups is not None:
        return _deal_groups(dataset, rows, [1 / validation.kfold] * validation.kfold, rng)
    return _deal_rows(dataset.y, rows, validation.kfold, rng)


def _holdout(dataset: Dataset, rows: Rows, share: float, keep: int, rng: np.random.Generator) -> Rows:
    if dataset.groups is not None:
        return _deal_groups(dataset, rows, [1 - share, share], rng)[1]
    return _draw(dataset.y, rows, share, keep, rng)


def _draw(y: NDArray[np.int64], rows: Rows, share: float, keep: int, rng: np.random.Generator) -> Rows:
    """About ``share`` of the rows: of each class at least 1, and all but ``keep`` at most.

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


def _deal_rows(y: NDArray[np.int64], rows: Rows, num_sides: int, rng: np.random.Generator) -> list[Rows]:
    """Shuffle each class and deal it out like cards, going on where the class before ended."""
    by_class = np.concatenate([rng.permutation(rows[y[rows] == k]) for k in np.unique(y[rows])])
    return [np.sort(by_class[side::num_sides]) for side in range(num_sides)]


def _deal_groups(
    dataset: Dataset, rows: Rows, shares: Sequence[float], rng: np.random.Generator
) -> list[Rows]:
    """Deal whole groups, each to the side whose need of it is greatest for its size.

    Larger groups come sooner, since small ones fill gaps better, but not strictly: sizes are taken at half to
    all of what they are, or groups no two of which are alike would be divided in one way only, whatever the
    seed. (They still are where each is less than half of the next larger one.)
    Every class weighs the same whatever its size: what is compared are shares of a class, not rows, and what
    is missing of them by the side's own share, or the largest groups would all lie on the larger side.
    """
    assert dataset.groups is not None
    _, group = np.unique(dataset.groups[rows], return_inverse=True)
    counts = np.zeros((group.max() + 1, len(dataset.classes)))
    np.add.at(counts, (group, dataset.y[rows]), 1)
    portions = counts / np.maximum(counts.sum(axis=0), 1)
    share = np.asarray(shares)[:, None]
    sides: list[Rows] = []
    for _ in range(_DEALS):
        missing = np.repeat(share, len(dataset.classes), axis=1)
        side_of = np.empty(len(counts), np.int64)
        for number in np.argsort(-counts.sum(axis=1) * rng.uniform(0.5, 1, len(counts))):
            after = missing - portions[number]
            side = int(np.argmin(((after**2 - missing**2) / share).sum(axis=1)))
            missing[side], side_of[number] = after[side], side
        sides = [rows[side_of[group] == side] for side in range(len(shares))]
        if all(class_counts(dataset, side).all() for side in sides):
            return sides
    _check_dealt(dataset, rows, sides)
    return sides


def _check_rows_per_class(dataset: Dataset, rows: Rows, sides: int) -> None:
    faults = [
        f"data set {dataset.name}: class {name!r} has too few rows to divide: {count}; {sides} are needed, "
        "one for each side (folds, or training and validation, and the test set if one is drawn); "
        "use fewer folds, or collect more"
        for name, count in zip(dataset.classes, class_counts(dataset, rows), strict=True)
        if count < sides
    ]
    if faults:
        raise DataError("\n".join(faults))


def _check_dealt(dataset: Dataset, rows: Rows, sides: Sequence[Rows]) -> None:
    assert dataset.groups is not None
    faults = []
    for k, name in enumerate(dataset.classes):
        if not all((dataset.y[side] == k).any() for side in sides):
            num_groups = len(np.unique(dataset.groups[rows[dataset.y[rows] == k]]))
            faults.append(
                f"data set {dataset.name}: the rows of class {name!r} lie in {num_groups} groups, which "
                f"cannot be dealt to {len(sides)} sides; use fewer folds, larger shares, or no 'group'"
            )
    if faults:
        raise DataError("\n".join(faults))


def _check_groups_apart(dataset: Dataset, rows: Rows, test: Rows) -> None:
    if dataset.groups is None:
        return
    if both := np.intersect1d(dataset.groups[rows], dataset.groups[test]).size:
        raise DataError(
            f"data set {dataset.name}: {both} groups have rows among the test rows and among the others, "
            "so the test would flatter; leave out 'test' to have one drawn by group, or leave out 'group'"
        )
