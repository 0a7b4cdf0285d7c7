"""Tiny files of every kind that a data set may come in."""

import gzip

import numpy as np
import pytest
from PIL import Image

from trainers.contract import DataError
from trainers.datasets import load_dataset


@pytest.fixture(autouse=True)
def no_own_data_folder(monkeypatch):
    monkeypatch.delenv("RUNGWISE_DATA", raising=False)


@pytest.fixture
def write(tmp_path):
    """Writes a text or an array into a file of the test's folder and returns its path as text."""

    def _write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            np.save(path, content)
        return str(path)

    return _write


@pytest.fixture
def draw(tmp_path):
    """Writes an image filled with one value and returns its path; ``draw("a/1.png", 9, mode="RGB")``."""

    def _draw(name, value=0, size=(4, 4), mode="L", **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, value if mode in ("L", "I;16", "F") else (value,) * len(mode)).save(
            path, **options
        )
        return path

    return _draw


def faults_of(spec, cache=None):
    with pytest.raises(DataError) as error:
        load_dataset(spec, cache)
    return str(error.value).splitlines()


def labels_of(dataset):
    return [dataset.classes[k] for k in dataset.y]


def write_idx(path, array, magic=None):
    head = magic or bytes([0, 0, 8, array.ndim])
    data = head + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_idx_folder(folder, suffix=".gz", test_rows=4):
    """Six training images of 3x2 and some test images, each filled with its number; labels 0, 2, 0, 2, ..."""
    images = np.repeat(np.arange(6 + test_rows), 6).reshape(-1, 3, 2)
    labels = np.arange(6 + test_rows) % 2 * 2
    for part, rows in (("train", slice(6)), ("t10k", slice(6, None))):
        if len(images[rows]):
            write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images[rows])
            write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels[rows])
