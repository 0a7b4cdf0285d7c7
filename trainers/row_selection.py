"""Labels as numbers, and which rows are kept: the first of equal ones, a share, equally many of each."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.sources.rows import first_five

Rows = NDArray[np.int64]
"""Numbers of rows, rising."""


def encoded(
    labels: Sequence[str] | NDArray[Any], class_names: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class indices (n,), -1 where there is no label, and classes, in the order of numbers if all labels are
    whole numbers, else of texts."""
    values, index = np.unique(np.asarray(labels, dtype=None if len(labels) else str), return_inverse=True)
    texts = [str(value) for value in values]
    classes = [text for text in texts if text]
    try:
        classes = sorted(classes, key=int)
    except ValueError:
        pass
    number = {text: k for k, text in enumerate(classes)} | {"": -1}
    names = {str(k): name for k, name in enumerate(class_names)}
    y = np.array([number[text] for text in texts], np.int64)[index]
    return y, tuple(names.get(text, text) for text in classes)


def renamed(
    y: NDArray[np.int64], classes: Sequence[str], names: Mapping[Any, Any]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels and classes under new names, several of which may be the same.

    Classes keep their order; one made of several stands where the first of them stood. Raises DataError for
    classes that have no new name.
    """
    new_of = {str(old): str(new) for old, new in names.items()}
    if unknown := [k for k, name in enumerate(classes) if name not in new_of]:
        told = [f"{classes[k]!r} ({np.count_nonzero(y == k)} rows)" for k in unknown]
        one = repr(classes[unknown[0]])
        raise DataError(
            f"{len(unknown)} labels are unknown to option 'classes': {first_five(told)}; it names"
            f" {', '.join(new_of)}; write {one}: {one} to keep one as it is"
        )
    new_names = [new_of[name] for name in classes]
    new_classes = tuple(dict.fromkeys(new_names))
    number = np.array([*map(new_classes.index, new_names), -1], np.int64)  # the last one for -1
    return number[y], new_classes


def first_alike(x: NDArray[Any], rows: Rows) -> Rows:
    """For each of the rows the first of them that holds exactly the same: itself if no earlier one does."""
    first: dict[bytes, int] = {}
    digests = (blake2b(x[row].tobytes(), digest_size=16).digest() for row in rows)
    return np.array(
        [first.setdefault(digest, row) for digest, row in zip(digests, rows, strict=True)], np.int64
    )


def share_of_each(
    rows: Rows, y: NDArray[np.int64], part: NDArray[Any], shares: Mapping[int, float], seed: int
) -> Rows:
    """Rows, of which each class keeps its share in each part; a class without a share keeps all."""
    return _drawn(rows, y, part, lambda k, count, _: int(count * shares.get(k, 1.0) + 0.5), seed)


def equally_many(rows: Rows, y: NDArray[np.int64], part: NDArray[Any], seed: int) -> Rows:
    """Rows, of which each part keeps as many of each class as it has of its smallest."""
    return _drawn(rows, y, part, lambda _, __, smallest: smallest, seed)


def _drawn(
    rows: Rows,
    y: NDArray[np.int64],
    part: NDArray[Any],
    wanted: Callable[[int, int, int], int],
    seed: int,
) -> Rows:
    """``wanted(class, its rows, rows of the smallest class)`` rows of each class in each part, at random."""
    rng = np.random.default_rng(seed)
    drawn = [rows[:0]]
    for inside in (rows[part[rows] == value] for value in np.unique(part[rows])):
        classes, counts = np.unique(y[inside], return_counts=True)
        for k, count in zip(classes, counts, strict=True):
            size = wanted(int(k), int(count), int(counts.min()))
            drawn.append(rng.choice(inside[y[inside] == k], size=size, replace=False))
    return np.sort(np.concatenate(drawn))
