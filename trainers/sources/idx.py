"""Kind idx, the files of MNIST and its relatives, and Fashion-MNIST wherever it may lie."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import DataError
from trainers.dataset_options import own_data
from trainers.keras_backend import import_keras
from trainers.sources.rows import Rows, last_part_is_test, together

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_idx(path: Path) -> Rows:
    """A folder with the IDX files of MNIST and its relatives, packed by gzip or not.

    ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and perhaps the same two for ``t10k``,
    which then are the test rows.
    """
    return _images_in_parts(path.resolve().name, *_read_folder(path))


def read_fashion_mnist(
    debian_folder: Path = DEBIAN_FOLDER, download: Callable[[], Any] | None = None
) -> Rows:
    """60,000 + 10,000 images (28, 28, 1) from $RUNGWISE_DATA, else Debian's package, else Keras's download.

    A folder with the file of training images is the place: what is wrong there is an error, not a reason to
    go on looking.
    """
    own = own_data()
    for folder in (*((own / "fashion-mnist", own) if own else ()), debian_folder):
        if _idx_file(folder, "train-images-idx3").exists():
            return _images_in_parts("fashion_mnist", *_read_folder(folder), _FASHION_CLASSES)
    try:
        (x_train, y_train), (x_test, y_test) = (download or _download_fashion_mnist)()
    except Exception as error:  # whatever Keras, its back end or the network may raise
        raise DataError(
            "data set fashion_mnist was found in none of three places:\n"
            f"  $RUNGWISE_DATA ({own or 'not set'}) holds no IDX files, nor does its folder fashion-mnist;"
            " set it to a folder that does\n"
            f"  {debian_folder} holds none; on Debian and Ubuntu: apt install dataset-fashion-mnist\n"
            f"  keras.datasets cannot download it: {type(error).__name__}: {error}"
        ) from error
    source = "Downloaded by keras.datasets.fashion_mnist."
    return _images_in_parts("fashion_mnist", [x_train, x_test], [y_train, y_test], source, _FASHION_CLASSES)


def _download_fashion_mnist() -> Any:
    return import_keras().datasets.fashion_mnist.load_data()


def _read_folder(folder: Path) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], str]:
    """Images and labels of each part (train, and t10k where it is there), and where they were read from."""
    has_test = any(_idx_file(folder, f"t10k-{what}").exists() for what in ("images-idx3", "labels-idx1"))
    parts = ("train", "t10k") if has_test else ("train",)
    arrays = together(
        *(partial(_read_file, folder, f"{part}-images-idx3", num_dims=3) for part in parts),
        *(partial(_read_file, folder, f"{part}-labels-idx1", num_dims=1) for part in parts),
    )
    return arrays[: len(parts)], arrays[len(parts) :], f"Read from the IDX files in {folder}."


def _images_in_parts(
    name: str,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    source: str,
    class_names: Sequence[str] = (),
) -> Rows:
    """Grey images that came as a training part and perhaps a test part."""
    faults = [
        f"data set {name}: {len(x)} images but {len(y)} labels in the {part} part; each image needs one label"
        for part, x, y in zip(("train", "t10k"), images, labels, strict=False)
        if len(x) != len(y)
    ]
    if len({x.shape[1:] for x in images}) > 1:
        faults.append(
            f"data set {name}: train images are {images[0].shape[1:]}, t10k images {images[1].shape[1:]}"
        )
    if faults:
        raise DataError("\n".join(faults))
    return Rows(
        name,
        np.concatenate(images)[..., None],
        np.concatenate(labels),
        scale=255.0,
        source=source,
        class_names=class_names,
        is_test=last_part_is_test(*map(len, images)),
    )


def _idx_file(folder: Path, name: str) -> Path:
    """The packed file, or the plain one where there is no packed one."""
    packed = folder / f"{name}-ubyte.gz"
    return packed if packed.exists() else folder / f"{name}-ubyte"


def _read_file(folder: Path, name: str, num_dims: int) -> NDArray[np.uint8]:
    """The bytes of one IDX file: a magic number, the size of each dimension, then the values."""
    file = _idx_file(folder, name)
    if not file.exists():
        raise DataError(f"{file}: not found, nor {file.name}.gz")
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); fetch it again") from error
    magic = bytes([0, 0, 8, num_dims])  # 8 stands for unsigned bytes
    if data[:4] != magic:
        raise DataError(
            f"{file}: starts with {data[:4].hex()}, not with {magic.hex()}, so it is no {name} file"
        )
    head = 4 + 4 * num_dims
    if len(data) < head:
        raise DataError(f"{file}: truncated: {len(data)} bytes, expected {head} or more; fetch it again")
    shape = [int(size) for size in np.frombuffer(data[4:head], ">u4")]
    if len(data) != head + prod(shape):
        raise DataError(
            f"{file}: truncated: {len(data)} bytes, expected {head + prod(shape)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
