"""What every kind of source hands over, and the words in which each says what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.params import did_you_mean
from trainers.contract import DataError
from trainers.images import ImageFiles


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows and labels as they were found; what has to hold for rows of any kind is not checked yet."""

    name: str
    x: NDArray[Any] | ImageFiles
    """(n, height, width, channels) or (n, features), uint8 or float32; or images still to be decoded."""
    labels: Sequence[str] | NDArray[Any]
    """(n,) numbers or texts, empty where missing."""
    scale: float
    source: str
    class_names: Sequence[str] = ()
    """What the labels 0, 1, ... stand for."""
    is_test: NDArray[np.bool_] | None = None
    """(n,) which rows are a test split that came with the data; None where none did."""
    groups: Sequence[str] | None = None
    """(n,) texts, empty where missing."""
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """Already found, to be told with those still to be found."""
    unpaired: tuple[str, ...] = ()
    """Labels that have no row and are left out already: faults, unless what is incomplete may be dropped."""


def together(*reads: Callable[[], Any]) -> list[Any]:
    """What each of them returns; what is wrong with any of them is told together."""
    results, faults = [], []
    for read in reads:
        try:
            results.append(read())
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return results


def last_part_is_test(*lengths: int) -> NDArray[np.bool_] | None:
    """Which rows are test rows where the second length, if there is one, counts those."""
    return np.repeat([False, True], lengths) if len(lengths) == 2 else None


def as_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is reported as that
        return x.astype(np.float32)


def first_five(items: Sequence[Any] | NDArray[Any]) -> str:
    return ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")


def shortened(names: Sequence[str]) -> str:
    return ", ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]) or "none"


def column_fault(name: str, option: str, columns: Sequence[str]) -> str:
    hint = did_you_mean(name, columns)
    return f"column {name!r} ({option}) is not there; it has {shortened(columns)}{hint}"
