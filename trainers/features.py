"""What a frozen backbone makes of each row: computed once, shared by all trials that train a head on it."""

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import Fold

_ROWS_AT_ONCE = 32  # so that the maps of a deep network stay within a few hundred MB
_MOST_KEPT = 2

_kept: dict[str, NDArray[np.float32]] = {}
_digests: dict[int, str] = {}


def frozen_features(fold: Fold, backbone: Callable[[], Any], key: Mapping[str, Any]) -> Fold:
    """The fold with features (n, ...) float32 in place of its n rows, and the scale 1.0.

    ``backbone()`` makes a keras.Model from stored rows to features; it is called only where neither this
    process nor ``fold.cache`` holds them. ``key`` is JSON and names all that its output follows from besides
    the rows and their scale: layers, weights, seed, and the library that computes, since a cache outlives
    its upgrade. Of several processes with one cache, one computes and the
    others wait for it. A cache that cannot be written, being full or read-only, is done without.
    """
    name = _name(fold, key)
    if name not in _kept:
        features = _stored_features if fold.cache else _new_features
        _keep(name, features(fold, backbone, name))
    return replace(fold, x=_kept[name], scale=1.0)


def _name(fold: Fold, key: Mapping[str, Any]) -> str:
    rows = [_digest(fold.x), str(fold.x.dtype), fold.x.shape, fold.scale]
    text = json.dumps([rows, dict(key)], sort_keys=True)
    return "features-" + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest(x: NDArray[Any]) -> str:
    """Of all bytes of the rows, taken once for each array; rows of a fold never change."""
    if id(x) not in _digests:
        _digests[id(x)] = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).hexdigest()
        weakref.finalize(x, _digests.pop, id(x), None)  # another array may get its id
    return _digests[id(x)]


def _keep(name: str, features: NDArray[np.float32]) -> None:
    while len(_kept) >= _MOST_KEPT:
        del _kept[next(iter(_kept))]
    _kept[name] = features


def _stored_features(fold: Fold, backbone: Callable[[], Any], name: str) -> NDArray[np.float32]:
    assert fold.cache is not None
    file = fold.cache / f"{name}.npy"
    try:
        fold.cache.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # let go with the file, whatever becomes of this process
            if not file.exists():
                _write(file, _batches(fold.x, backbone()), len(fold.x))
    except OSError:
        return _new_features(fold, backbone, name)
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def _write(file: Path, batches: Iterator[NDArray[np.float32]], num_rows: int) -> None:
    """One batch after the other, so that a full disk is an error here and not a crash of a mapped page."""
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as out:
            for number, batch in enumerate(batches):
                if number == 0:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, *batch.shape[1:])}
                    np.lib.format.write_array_header_1_0(out, header)
                out.write(batch.astype("<f4").tobytes())
            out.flush()
            os.fsync(out.fileno())  # else a crash of the machine could leave the name on half a file
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)


def _new_features(fold: Fold, backbone: Callable[[], Any], name: str) -> NDArray[np.float32]:
    features = np.concatenate(list(_batches(fold.x, backbone())))
    features.flags.writeable = False
    return features


def _batches(x: NDArray[Any], model: Any) -> Iterator[NDArray[np.float32]]:
    """Features of all rows, in order, from batches of one length: another length would be another trace."""
    size = min(_ROWS_AT_ONCE, len(x))
    for first in range(0, len(x), size):
        rows = x[first : first + size]
        filled = np.zeros((size, *x.shape[1:]), np.float32)
        filled[: len(rows)] = rows
        yield np.asarray(model.predict_on_batch(filled)[: len(rows)], np.float32)
