"""Image files become one array of bytes: decoded, resized, made grey or coloured once, then kept on disk."""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError

Channels = Literal["grey", "rgb"]

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".pbm"),
)
"""What a folder is searched for; a file that is named is read whatever it is called."""

_DEPTH: dict[Channels, int] = {"grey": 1, "rgb": 3}
_THREADS = min(8, os.cpu_count() or 1)
_DECODING = 1  # to be raised when the same files come to decode to other pixels


@dataclass(frozen=True)
class ImageFiles:
    """Images that are not read yet, in the order of their rows."""

    names: tuple[str, ...]
    """Paths, or names of members where there is a zip."""
    zip: Path | None = None

    def __len__(self) -> int:
        return len(self.names)


def decoded(
    files: ImageFiles, size: tuple[int, int] | None, channels: Channels | None, cache: Path | None
) -> NDArray[np.uint8]:
    """(n, height, width, 1 or 3) pixels; read-only and mapped from a file under ``cache`` if that is given.

    ``size`` is (height, width). Without ``size`` or ``channels`` the images have to agree by themselves.
    Raises DataError naming images that cannot be read, or that differ.
    """
    places = [str(files.zip)] if files.zip else files.names
    stamps = [_stamp(place) for place in places] if cache else []
    key = _digest(json.dumps([_DECODING, stamps, files.names, size, channels]).encode())
    return _kept_in(cache, key, lambda: _decode(files, size, channels))


def converted(
    x: NDArray[Any], size: tuple[int, int] | None, channels: Channels | None, cache: Path | None
) -> NDArray[Any]:
    """Images (n, height, width, channels) that are an array already, in another size or number of channels.

    The values' type stays. Raises DataError where the channels are neither 1 nor 3.
    """
    depth = _DEPTH[channels] if channels else x.shape[-1]
    if x.shape[1:] == (*(size or x.shape[1:3]), depth):
        return x
    if depth != x.shape[-1] and x.shape[-1] not in _DEPTH.values():
        raise DataError(
            f"images have {x.shape[-1]} channels; option 'channels' can turn only 1 or 3 into others"
        )
    head = json.dumps([_DECODING, x.shape, x.dtype.str, size, depth]).encode()
    return _kept_in(
        cache, _digest(head, _bytes(x)), lambda: _resized(_recoloured(x, depth), size or x.shape[1:3])
    )


# ---- decoding ----


def _decode(files: ImageFiles, size: tuple[int, int] | None, channels: Channels | None) -> NDArray[np.uint8]:
    x = np.empty((0, 0, 0, 0), np.uint8)
    shapes: dict[str, tuple[int, ...]] = {}
    unread = []
    with _opener(files.zip) as open_file, ThreadPoolExecutor(_THREADS) as pool:
        pixels = pool.map(partial(_try_one, open_file, size, channels), files.names)
        for row, (name, image) in enumerate(zip(files.names, pixels, strict=True)):
            if isinstance(image, str):
                unread.append(f"{name} ({image})")
                continue
            if not shapes:  # the first that can be read says what the others have to be like
                x = np.empty((len(files), *image.shape), np.uint8)
            shapes[name] = image.shape
            if image.shape == x.shape[1:]:
                x[row] = image
    if faults := [*_unread_faults(unread), *_shape_faults(shapes)]:
        raise DataError("\n".join(faults))
    return x


@contextmanager
def _opener(packed: Path | None) -> Iterator[Callable[[str], IO[bytes]]]:
    if packed is None:
        yield lambda name: open(name, "rb")
    else:
        with open_zip(packed) as file:
            yield file.open


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip at ``path``; raises DataError if it is none."""
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as a zip ({error}); fetch it again") from error


def _try_one(
    open_file: Callable[[str], IO[bytes]],
    size: tuple[int, int] | None,
    channels: Channels | None,
    name: str,
) -> NDArray[np.uint8] | str:
    """(height, width, channels) pixels, or why there are none."""
    from PIL import UnidentifiedImageError

    try:
        with open_file(name) as file:
            return _decode_one(file, size, channels)
    except UnidentifiedImageError:  # its text names the open file, not the image
        return "no image format that is known"
    except Exception as error:  # each image format fails in its own way
        return str(error) or type(error).__name__


def _decode_one(
    file: IO[bytes], size: tuple[int, int] | None, channels: Channels | None
) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    image: Image.Image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_as_bytes(np.asarray(image), image.mode))
    is_grey = channels == "grey" if channels else image.mode in ("1", "L", "LA", "La")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way
    image = image.convert("L" if is_grey else "RGB")
    if size:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)  # Pillow's filters leave no aliasing
    return np.asarray(image).reshape(image.height, image.width, -1)


def _as_bytes(values: NDArray[Any], mode: str) -> NDArray[np.uint8]:
    """16-bit grey as 8-bit; Pillow's own conversion would cut off everything above 255."""
    if mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"{mode} pixels of more than 16 bits; save it with 8 or 16 bits")
    return np.round(values / 257).astype(np.uint8)


def _unread_faults(unread: Sequence[str]) -> list[str]:
    if not unread:
        return []
    first = ", ".join(unread[:5]) + (", ..." if len(unread) > 5 else "")
    return [f"{len(unread)} images cannot be read: {first}; mend or remove them"]


def _shape_faults(shapes: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """Each thing in which not all images are like the first, naming one that is not."""
    names = list(shapes)
    for what, part, told, remedy in (
        ("size", slice(0, 2), lambda shape: "{}x{}".format(*shape), "size: 64, say"),
        ("channels", slice(2, 3), lambda shape: "grey" if shape == (1,) else "rgb", "channels: grey or rgb"),
    ):
        others = [name for name in names if shapes[name][part] != shapes[names[0]][part]]
        if others:
            first, other = (f"{name} is {told(shapes[name][part])}" for name in (names[0], others[0]))
            yield f"images differ in {what} ({first}, {other}, {len(others)} in all differ); set {remedy}"


# ---- arrays ----


def _recoloured(x: NDArray[Any], depth: int) -> NDArray[Any]:
    if depth == x.shape[-1]:
        return x
    if depth == 3:
        return np.repeat(x, 3, axis=-1)
    # What a television takes for brightness (ITU-R BT.601), as Pillow does when it decodes.
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    return (np.round(grey) if x.dtype == np.uint8 else grey).astype(x.dtype)[..., None]


def _resized(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if x.shape[1:3] == size:
        return x
    resized = np.empty((len(x), *size, x.shape[-1]), x.dtype)
    with ThreadPoolExecutor(_THREADS) as pool:
        for row, image in enumerate(pool.map(partial(_resize_one, size=size), x)):
            resized[row] = image
    return resized


def _resize_one(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    from PIL import Image

    planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, -1, 0))
    resized = (plane.resize(size[::-1], Image.Resampling.BILINEAR) for plane in planes)
    return np.stack([np.asarray(plane) for plane in resized], axis=-1)


# ---- the cache ----


def _stamp(place: str) -> tuple[str, int, int] | None:
    """What changes when a file does: its place, size in bytes and time of change."""
    try:
        stat = os.stat(place)
    except OSError:  # decoding tells which files cannot be read, all of them together
        return None
    return os.path.abspath(place), stat.st_size, stat.st_mtime_ns


def _kept_in(cache: Path | None, key: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What ``make`` returns, made only where no file under ``cache`` holds it whole.

    A cache that cannot be written, being full or read-only, is done without.
    """
    if cache is None:
        return make()
    path = cache / f"images-{key}.npy"
    kept = _read(path)
    if kept is None:
        made = make()
        with suppress(OSError):
            _write(path, made)
        kept = _read(path)
    return made if kept is None else kept


def _read(path: Path) -> NDArray[Any] | None:
    """The array that ``_write`` left there; None if there is none, or not as it was written."""
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-_DIGEST_SIZE, os.SEEK_END)
            is_whole = file.read().hex() == _digest(_bytes(x))
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(x) if is_whole else None


def _write(path: Path, x: NDArray[Any]) -> None:
    """A .npy file with a digest of its values behind them: there whole, or not there.

    Any number of processes may do the same at once: each writes a file of its own, and whichever is last
    replaces one that says the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with draft.open("xb") as file:
            np.save(file, x, allow_pickle=False)
            file.write(bytes.fromhex(_digest(_bytes(x))))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


_DIGEST_SIZE = 16


def _digest(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _bytes(x: NDArray[Any]) -> Any:
    return np.ascontiguousarray(x).data
