"""Where rows and labels come from: data sets known by name, and the kinds of files that others come in."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.dataset_options import (
    Names,
    Shares,
    Size,
    choice_faults,
    found,
    height_and_width,
    option_faults,
)
from trainers.images import Channels, ImageFiles, converted, decoded
from trainers.row_selection import encoded, equally_many, first_alike, renamed, share_of_each
from trainers.sources.arrays import read_npy
from trainers.sources.idx import read_fashion_mnist, read_idx
from trainers.sources.image_files import read_files, read_folder
from trainers.sources.rows import Rows, first_five, shortened
from trainers.sources.sklearn_sets import read_sklearn
from trainers.sources.tables import read_csv

KINDS: dict[str, Callable[..., Rows]] = {
    "idx": read_idx,
    "npy": read_npy,
    "csv": read_csv,
    "folder": read_folder,
    "files": read_files,
    "sklearn": read_sklearn,
}
"""What a mapping's ``kind`` may be. A reader's parameters are its options, their annotations what they hold;
the options that every kind has besides are the parameters of ``_finished``."""

DATASETS: dict[str, Callable[[], Rows]] = {
    "digits": partial(read_sklearn, "digits"),
    "fashion_mnist": read_fashion_mnist,
}
"""Data sets that need no mapping."""

_NEARLY_BLACK = 16
"""Of 255: what 12 bits come to in files of 16."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled rows, read and checked: two classes or more, two rows or more of each, nothing missing."""

    name: str
    x: NDArray[Any]
    """(n, height, width, channels) images or (n, features) vectors; uint8 or float32, read-only."""
    y: NDArray[np.int64]
    """(n,) class indices in [0, len(classes)), read-only."""
    classes: tuple[str, ...]
    scale: float
    """``x / scale`` lies in [0, 1] for images; 1.0 for vectors, which are left as they are."""
    test_rows: NDArray[np.int64] | None
    """Rows of a test split that came with the data."""
    source: str
    """A sentence saying where the rows were read from."""
    groups: NDArray[np.int64] | None = None
    """(n,) the group of each row, a person say, read-only; rows of one group never lie in two splits."""
    notes: tuple[str, ...] = ()
    """What was left out or changed while reading, one line each."""


def load_dataset(spec: str | Mapping[str, Any], cache: Path | None = None) -> Dataset:
    """The data set of that name, or as a mapping says: ``{kind: csv, path: faces.csv, label: glasses}``.

    Relative paths start at the working directory, or else at $RUNGWISE_DATA. Images that had to be decoded,
    resized or recoloured are kept in the folder ``cache`` and come from there the next time. Raises DataError
    with one line for each fault.
    """
    if faults := dataset_faults(spec):
        raise DataError("\n".join(faults))
    if isinstance(spec, str):
        return _finished(DATASETS[spec](), cache)
    reader = KINDS[spec["kind"]]
    own, shared = _options(reader), _options(_finished)
    values = {name: _value(value, {**own, **shared}[name]) for name, value in spec.items() if name != "kind"}
    rows = reader(**{name: value for name, value in values.items() if name in own})
    return _finished(rows, cache, **{name: value for name, value in values.items() if name in shared})


def dataset_faults(spec: Any) -> list[str]:
    """What is wrong with a data set's name or mapping, as far as can be told without reading the data."""
    return [message for _, message in located_faults(spec)]


def located_faults(spec: Any) -> Iterator[tuple[str, str]]:
    """Each of them with the option that it is about; empty where it is about the data set as a whole."""
    if isinstance(spec, str):
        yield from _about("", choice_faults("data set", spec, DATASETS))
        return
    if not isinstance(spec, Mapping) or "kind" not in spec:
        kinds = f"nor a mapping with a 'kind' ({', '.join(KINDS)})"
        yield "", f"data set {spec!r} is neither a name ({', '.join(DATASETS)}) {kinds}"
        return
    if faults := choice_faults("kind", spec["kind"], KINDS):
        yield from _about("kind", faults)
        return
    options = {**_options(KINDS[spec["kind"]]), **_options(_finished)}
    for name in spec:
        if name != "kind":
            yield from _about(name, choice_faults(f"kind {spec['kind']}: option", name, options))
    for name, option in options.items():
        if name in spec:
            yield from _about(name, option_faults(name, option.annotation, spec[name]))
        elif option.default is option.empty:
            yield "", f"option {name!r} is missing; kind {spec['kind']} needs it"


def _about(option: str, messages: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((option, message) for message in messages)


def _options(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a reader, and of ``_finished`` those that are only given by name."""
    parameters = inspect.signature(function).parameters
    is_shared = function is _finished
    return {
        name: option
        for name, option in parameters.items()
        if not is_shared or option.kind == option.KEYWORD_ONLY
    }


def _value(value: Any, option: inspect.Parameter) -> Any:
    return found(value) if option.annotation in (Path, Path | None) else value


# ---- what every kind shares ----


def _finished(
    rows: Rows,
    cache: Path | None,
    *,
    size: Size | None = None,
    channels: Channels | None = None,
    classes: Names | None = None,
    missing: Literal["error", "drop"] = "error",
    duplicates: Literal["keep", "drop"] = "keep",
    fractions: Shares | None = None,
    balance: bool = False,
    sample_seed: int = 0,
) -> Dataset:
    """Rows of any kind as a data set: images made, labels numbered, rows left out, in this order."""
    side = height_and_width(size) if size else None
    shares = {str(name): share for name, share in (fractions or {}).items()}
    is_test = np.zeros(len(rows.labels), bool) if rows.is_test is None else rows.is_test
    notes = list(rows.notes)
    faults = list(rows.faults)
    (notes if missing == "drop" else faults).extend(rows.unpaired)

    y, names = encoded(rows.labels, rows.class_names)
    x = _tried(faults, lambda: _prepared(rows.x, side, channels, cache))
    if classes:
        y, names = _tried(faults, lambda: renamed(y, names, classes)) or (y, names)
    kept, incomplete = _whole_rows(x, y, rows.groups)
    if missing == "drop":
        notes += [f"{line}; left out" for line in incomplete]
    else:
        kept = np.flatnonzero(y >= 0)
        faults += [f"{line}; mend them, or leave the rows out with missing: drop" for line in incomplete]
    faults += [*_share_faults(shares, names), *_class_faults(y[kept], names, is_test[kept])]
    if x is None or faults:
        raise _data_error(rows.name, faults)

    if isinstance(rows.x, ImageFiles):
        notes += _dark_notes(int(x.max()))
    first = first_alike(x, kept)
    notes += _copies_notes(kept, first, y, is_test, duplicates)
    if duplicates == "drop":
        kept = kept[first == kept]
    if shares:
        before, share_of = kept, {names.index(name): share for name, share in shares.items()}
        kept = share_of_each(kept, y, is_test, share_of, sample_seed)
        notes.append(_drawn_note("fractions", before, kept, y, names))
    if balance:
        before, kept = kept, equally_many(kept, y, is_test, sample_seed)
        notes.append(_drawn_note("balance", before, kept, y, names))
    if faults := list(_class_faults(y[kept], names, is_test[kept])):
        raise _data_error(rows.name, faults)
    return Dataset(
        rows.name,
        _read_only(x, kept),
        _read_only(y, kept),
        names,
        rows.scale,
        None if rows.is_test is None else np.flatnonzero(is_test[kept]),
        rows.source,
        None if rows.groups is None else _numbered(rows.groups, kept),
        tuple(notes),
    )


def _dark_notes(highest: int) -> list[str]:
    return [
        f"all images are nearly black: no pixel is above {highest} of 255; if 12 bits lie in files of 16,"
        " save them with 8, or stretched to 16"
    ] * (highest <= _NEARLY_BLACK)


_T = TypeVar("_T")


def _tried(faults: list[str], make: Callable[[], _T]) -> _T | None:
    """What ``make`` returns; None if data are at fault, and then ``faults`` grows."""
    try:
        return make()
    except DataError as error:
        faults += str(error).splitlines()
        return None


def _data_error(name: str, faults: Sequence[str]) -> DataError:
    return DataError("\n".join(f"data set {name}: {fault}" for fault in faults))


def _prepared(
    x: NDArray[Any] | ImageFiles, size: tuple[int, int] | None, channels: Channels | None, cache: Path | None
) -> NDArray[Any]:
    if isinstance(x, ImageFiles):
        return decoded(x, size, channels, cache)
    if x.ndim == 4:
        return converted(x, size, channels, cache)
    if size or channels:
        given = "size" if size else "channels"
        raise DataError(f"option {given!r} is for images; these rows are vectors of {x.shape[1]} numbers")
    return x


def _whole_rows(
    x: NDArray[Any] | None, y: NDArray[np.int64], groups: Sequence[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """The rows that lack nothing, and a line on each thing that others lack."""
    lacks = {}
    if x is not None and x.dtype != np.uint8:
        lacks["NaN, infinite or missing values"] = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    lacks["no label"] = y < 0
    if groups is not None:
        lacks["no group"] = np.array([not group for group in groups], bool)
    found_in = {what: np.flatnonzero(is_lacking) for what, is_lacking in lacks.items()}
    lines = [
        f"{what} in {len(lacking)} of {len(y)} rows (counted from 0: {first_five(lacking)})"
        for what, lacking in found_in.items()
        if len(lacking)
    ]
    return np.flatnonzero(~np.logical_or.reduce(list(lacks.values()))), lines


def _class_faults(y: NDArray[np.int64], names: Sequence[str], is_test: NDArray[np.bool_]) -> Iterator[str]:
    counts = np.bincount(y, minlength=len(names))
    learned = np.bincount(y[~is_test], minlength=len(names))
    if gone := [name for name, count in zip(names, counts, strict=True) if count == 0]:
        yield f"no row is left of class {shortened(gone)}; each class needs at least 2"
    if lonely := [name for name, count in zip(names, counts, strict=True) if count == 1]:
        yield f"one row only of class {shortened(lonely)}; each class needs at least 2"
    if unknown := [name for k, name in enumerate(names) if counts[k] and not learned[k]]:
        yield f"label {shortened(unknown)} is unknown outside the test rows; nothing could learn it"
    if len(names) < 2:
        yield f"only one class ({', '.join(names) or 'none'}); at least 2 are needed"


def _share_faults(shares: Mapping[str, float], names: Sequence[str]) -> Iterator[str]:
    if unknown := [name for name in shares if name not in names]:
        yield f"option 'fractions' names no class with {first_five(unknown)}; there are {shortened(names)}"


def _copies_notes(
    rows: NDArray[np.int64],
    first: NDArray[np.int64],
    y: NDArray[np.int64],
    is_test: NDArray[np.bool_],
    duplicates: str,
) -> Iterator[str]:
    """A note on rows that hold exactly what an earlier one, ``first``, does."""
    copies = rows[first != rows]
    if len(copies):
        asides = {
            "with another label": np.count_nonzero(y[rows] != y[first]),
            "test rows that copy others": np.count_nonzero(is_test[rows] & ~is_test[first]),
        }
        told = "".join(f", {count} of them {what}" for what, count in asides.items() if count)
        done = "left out" if duplicates == "drop" else "kept; duplicates: drop leaves them out"
        places = f"counted from 0: {first_five(copies)}"
        yield f"exact copies of earlier rows: {len(copies)} ({places}){told}; {done}"


def _drawn_note(
    option: str,
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    y: NDArray[np.int64],
    names: Sequence[str],
) -> str:
    counts = [np.bincount(y[rows], minlength=len(names)) for rows in (after, before)]
    told = [
        f"{new} of {old} rows of class {name}"
        for name, new, old in zip(names, *counts, strict=True)
        if new != old
    ]
    return f"{option} kept {', '.join(told) or 'all rows'}"


def _numbered(groups: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers = np.unique(np.asarray(groups)[rows], return_inverse=True)[1]
    numbers.flags.writeable = False
    return numbers


def _read_only(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    taken = array if len(rows) == len(array) else array[rows]
    taken.flags.writeable = False
    return taken
