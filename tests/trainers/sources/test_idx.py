"""IDX files are read from folders, and Fashion-MNIST from the first of three places that has it."""

import numpy as np
import pytest

from tests.trainers.sources.conftest import faults_of, write_idx, write_idx_folder
from trainers.contract import DataError
from trainers.datasets import load_dataset
from trainers.row_selection import encoded
from trainers.sources.idx import DEBIAN_FOLDER, read_fashion_mnist


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_folder_keeps_its_own_test_rows(tmp_path, suffix):
    write_idx_folder(tmp_path, suffix)
    dataset = load_dataset({"kind": "idx", "path": str(tmp_path)})
    assert (dataset.x.shape, dataset.x.dtype, dataset.scale) == ((10, 3, 2, 1), np.uint8, 255.0)
    assert (dataset.x[:, 0, 0, 0] == np.arange(10)).all()
    assert dataset.classes == ("0", "2")
    assert (dataset.y == np.arange(10) % 2).all()
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [6, 7, 8, 9]
    assert str(tmp_path) in dataset.source


def test_an_idx_folder_may_have_no_test_rows(tmp_path):
    write_idx_folder(tmp_path, test_rows=0)
    assert load_dataset({"kind": "idx", "path": str(tmp_path)}).test_rows is None


def test_rows_and_labels_cannot_be_written_to(tmp_path):
    write_idx_folder(tmp_path)
    dataset = load_dataset({"kind": "idx", "path": str(tmp_path)})
    for array in (dataset.x, dataset.y):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_idx_files_of_the_wrong_sort_or_damaged_are_all_named(tmp_path):
    write_idx_folder(tmp_path, suffix="")
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((6, 3, 2)), magic=bytes([0, 0, 13, 3]))
    for name, keep in (("train-labels-idx1-ubyte", 9), ("t10k-images-idx3-ubyte", 7)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not packed")
    assert faults_of({"kind": "idx", "path": str(tmp_path)}) == [
        f"{tmp_path}/train-images-idx3-ubyte: starts with 00000d03, not with 00000803, "
        "so it is no train-images-idx3 file",
        f"{tmp_path}/t10k-images-idx3-ubyte: truncated: 7 bytes, expected 16 or more; fetch it again",
        f"{tmp_path}/train-labels-idx1-ubyte: truncated: 9 bytes, expected 14; fetch it again",
        f"{tmp_path}/t10k-labels-idx1-ubyte.gz: cannot be read (Not a gzipped file (b'no')); fetch it again",
    ]


def test_a_packed_idx_file_that_ends_early_is_refused(tmp_path):
    write_idx_folder(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-12])
    (fault,) = faults_of({"kind": "idx", "path": str(tmp_path)})
    assert fault.startswith(f"{file}: cannot be read (Compressed file ended")


def test_idx_images_and_labels_of_different_number_or_size_are_refused(tmp_path):
    write_idx_folder(tmp_path, suffix="")
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(5))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((4, 2, 2)))
    assert faults_of({"kind": "idx", "path": str(tmp_path)}) == [
        f"data set {tmp_path.name}: 6 images but 5 labels in the train part; each image needs one label",
        f"data set {tmp_path.name}: train images are (3, 2), t10k images (2, 2)",
    ]


def test_fashion_mnist_is_looked_for_in_the_own_folder_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path))
    write_idx_folder(tmp_path)
    dataset = load_dataset("fashion_mnist")
    assert (dataset.name, dataset.classes) == ("fashion_mnist", ("T-shirt/top", "Pullover"))
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [6, 7, 8, 9]
    assert dataset.source == f"Read from the IDX files in {tmp_path}."
    write_idx_folder(tmp_path / "fashion-mnist")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.setenv("RUNGWISE_DATA", f"~/{tmp_path.name}")
    assert load_dataset("fashion_mnist").source == f"Read from the IDX files in {tmp_path / 'fashion-mnist'}."


def test_fashion_mnist_is_looked_for_in_debians_folder_next(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path / "empty"))
    write_idx_folder(tmp_path / "debian")
    rows = read_fashion_mnist(tmp_path / "debian", refuse_to_download)
    assert rows.source == f"Read from the IDX files in {tmp_path / 'debian'}."


def test_fashion_mnist_is_downloaded_where_no_folder_has_it(tmp_path):
    part = np.zeros((4, 28, 28), np.uint8), np.array([0, 9, 0, 9], np.uint8)
    rows = read_fashion_mnist(tmp_path, lambda: (part, part))
    assert encoded(rows.labels, rows.class_names)[1] == ("T-shirt/top", "Ankle boot")
    assert rows.source == "Downloaded by keras.datasets.fashion_mnist."


def test_fashion_mnist_found_nowhere_names_the_three_places_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as error:
        read_fashion_mnist(tmp_path, refuse_to_download)
    _, own, debian, keras = str(error.value).splitlines()
    assert "$RUNGWISE_DATA (not set)" in own
    assert str(tmp_path) in debian and "apt install dataset-fashion-mnist" in debian
    assert "OSError: no network" in keras


def refuse_to_download():
    raise OSError("no network")


def test_fashion_mnist_that_is_damaged_where_it_is_found_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path))
    write_idx_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    (fault,) = faults_of("fashion_mnist")
    assert fault == f"{tmp_path}/train-labels-idx1-ubyte: not found, nor train-labels-idx1-ubyte.gz"


@pytest.mark.skipif(not DEBIAN_FOLDER.exists(), reason="package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian_has_7000_images_of_each_class():
    dataset = load_dataset("fashion_mnist")
    assert dataset.x.shape == (70_000, 28, 28, 1)
    assert np.bincount(dataset.y).tolist() == [7000] * 10
    assert dataset.classes[0] == "T-shirt/top" and dataset.classes[9] == "Ankle boot"
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == list(range(60_000, 70_000))
