"""Small made-up data in the files that the catalog's sweeps read; a class is told by where it is bright."""

import csv
import gzip
import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUM_ROWS = 36


def write_all(folder: Path) -> None:
    """Every data set of the catalog that does not ship with a library, below ``folder``."""
    chance = np.random.default_rng(0)
    write_latent_vectors(folder / "latent_vectors.csv", chance)
    write_glasses_faces(folder / "glasses_faces", chance)
    write_chest_xray(folder / "chest_xray", chance)
    write_smiles(folder / "smiles", chance)
    write_fashion_mnist(folder / "fashion-mnist", chance)


def write_latent_vectors(path: Path, chance: np.random.Generator) -> None:
    y = np.arange(NUM_ROWS) % 2
    x = chance.normal(size=(NUM_ROWS, 512)) + y[:, None]
    _write_csv(
        path, [*(f"V{i}" for i in range(1, 513)), "glasses"], ([*row, k] for row, k in zip(x, y, strict=True))
    )


def write_glasses_faces(folder: Path, chance: np.random.Generator) -> None:
    """One third wears glasses; three pictures of each person."""
    (folder / "images").mkdir(parents=True)
    y = (np.arange(NUM_ROWS) % 3 == 0).astype(int)
    for number, image in enumerate(_images(y, 64, chance), 1):
        (folder / "images" / f"face-{number}.png").write_bytes(_encoded(image, "png"))
    lines = ([number, number // 3, k] for number, k in enumerate(y, 1))
    _write_csv(folder / "labels.csv", ["id", "person", "glasses"], lines)


def write_chest_xray(folder: Path, chance: np.random.Generator) -> None:
    folder.mkdir()
    y = np.arange(3 * NUM_ROWS) % 3
    np.save(folder / "images.npy", np.stack(list(_images(y, 64, chance)))[..., None])
    _write_csv(folder / "labels.csv", ["index", "label"], enumerate(y))


def write_smiles(folder: Path, chance: np.random.Generator) -> None:
    folder.mkdir()
    y = np.arange(NUM_ROWS) % 3 > 0
    names = [f"{number:05}.jpg" for number in range(NUM_ROWS)]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, image in zip(names, _images(y.astype(int), 64, chance), strict=True):
            archive.writestr(f"images/{name}", _encoded(image, "jpeg"))
    lines = [[name, "not_smile" if k else "smile"] for name, k in zip(names, y, strict=True)]
    _write_csv(folder / "train.csv", ["filename", "label"], lines[9:])
    _write_csv(folder / "test.csv", ["filename", "label"], lines[:9])


def write_fashion_mnist(folder: Path, chance: np.random.Generator) -> None:
    folder.mkdir()
    for part, num_rows in (("train", 80), ("t10k", 20)):
        y = np.arange(num_rows) % 10
        x = np.stack(list(_images(y, 28, chance)))
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", x)
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", y.astype(np.uint8))


def _images(y: NDArray[np.integer], side: int, chance: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """A grey picture (side, side) for each class, with the class's own tenth of the rows bright."""
    for k in y:
        image = chance.integers(0, 120, (side, side)).astype(np.uint8)
        image[k * side // 10 : (k + 1) * side // 10] += 130
        yield image


def _encoded(image: NDArray[np.uint8], kind: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def _write_csv(path: Path, columns: Iterable[str], lines: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(lines)


def _write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))
