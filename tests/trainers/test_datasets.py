"""Data sets are read from each kind of file, and whatever is wrong with them is said in plain words."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trainers import datasets
from trainers.contract import DataError
from trainers.datasets import DATASETS, KINDS, dataset_faults, load_dataset


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


@pytest.fixture
def write(tmp_path):
    """Writes a file into the test's folder and returns its path as YAML would give it."""

    def _write(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            np.save(path, content)
        return str(path)

    return _write


def faults_of(spec):
    with pytest.raises(DataError) as error:
        load_dataset(spec)
    return str(error.value).splitlines()


# What is read


def test_digits_are_grey_images_from_0_to_16():
    digits = load_dataset("digits")
    assert (digits.x.shape, digits.x.dtype, digits.x.max()) == ((1797, 8, 8, 1), np.uint8, digits.scale)
    assert digits.classes == tuple("0123456789")
    assert digits.test_rows is None
    assert digits.source.startswith("Shipped with scikit-learn")


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_vectors_of_scikit_learn_keep_the_order_of_their_classes(name):
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    dataset = load_dataset({"kind": "sklearn", "name": name})
    assert dataset.x.dtype == np.float32
    assert dataset.scale == 1.0
    assert dataset.x == pytest.approx(bunch.data, rel=1e-6)
    assert (dataset.y == bunch.target).all()
    assert dataset.classes == tuple(map(str, bunch.target_names))


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


@pytest.mark.parametrize(
    ("images", "shape", "dtype", "scale"),
    [
        (np.arange(24, dtype=np.uint8).reshape(4, 3, 2), (4, 3, 2, 1), np.uint8, 255.0),
        (np.arange(24, dtype=np.int64).reshape(4, 3, 2, 1), (4, 3, 2, 1), np.uint8, 255.0),
        (np.arange(24).reshape(4, 3, 2) > 9, (4, 3, 2, 1), np.uint8, 1.0),
        (np.linspace(0, 1, 72).reshape(4, 3, 2, 3), (4, 3, 2, 3), np.float32, 1.0),
        (np.linspace(0, 255, 24).reshape(4, 3, 2), (4, 3, 2, 1), np.float32, 255.0),
        (np.linspace(-900, 900, 24).reshape(4, 6), (4, 6), np.float32, 1.0),
    ],
)
def test_npy_rows_are_images_or_vectors(write, images, shape, dtype, scale):
    spec = {"kind": "npy", "path": write("x.npy", images), "labels": write("y.csv", "label\na\nb\na\nb\n")}
    dataset = load_dataset(spec)
    assert (dataset.x.shape, dataset.x.dtype, dataset.scale) == (shape, dtype, scale)
    assert dataset.x.reshape(4, -1) == pytest.approx(images.reshape(4, -1).astype(float))


def test_csv_labels_go_to_the_row_their_index_names(write):
    images = write("images.npy", np.zeros((4, 2, 2), np.uint8))
    labels = write("labels.csv", "\ufeffindex,label\n3,ill\n0,well\n2,ill\n1,well\n")
    dataset = load_dataset({"kind": "npy", "path": images, "labels": labels})
    assert [dataset.classes[k] for k in dataset.y] == ["well", "well", "ill", "ill"]


def test_whole_numbers_are_classes_in_the_order_of_numbers(write):
    images = write("images.npy", np.zeros((6, 2, 2), np.uint8))
    for labels in (write("y.csv", "label\n10\n9\n2\n10\n9\n2\n"), write("y.npy", np.array([10, 9, 2] * 2))):
        dataset = load_dataset({"kind": "npy", "path": images, "labels": labels})
        assert dataset.classes == ("2", "9", "10")
        assert dataset.y.tolist() == [2, 1, 0] * 2


def test_npy_labels_may_be_texts(write):
    images = write("images.npy", np.zeros((4, 2, 2), np.uint8))
    labels = write("labels.npy", np.array(["b", "a", "b", "a"]))
    assert load_dataset({"kind": "npy", "path": images, "labels": labels}).classes == ("a", "b")


def test_a_csv_of_vectors_is_all_its_numbers_but_label_and_dropped_columns(write):
    path = write("latent.csv", "id,V1,glasses,V2\nx,1,yes,0.5\ny,2,None,-1\nz,3,yes,1e3\nw,4, None,7\n")
    dataset = load_dataset({"kind": "csv", "path": path, "label": "glasses", "drop": ["id"]})
    assert dataset.x.dtype == np.float32
    assert dataset.x.tolist() == [[1, 0.5], [2, -1], [3, 1000], [4, 7]]
    assert dataset.classes == ("None", "yes")  # "None" is a class here, no missing value
    assert (dataset.name, dataset.scale, dataset.y.tolist()) == ("latent", 1.0, [1, 0, 1, 0])


def test_importing_the_module_loads_no_heavy_library():
    heavy = "{'sklearn', 'pandas', 'keras', 'tensorflow'} & set(sys.modules)"
    code = f"import sys, trainers.datasets, trainers.folds, trainers.metrics; sys.exit(bool({heavy}))"
    root = Path(datasets.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


# Fashion-MNIST


def test_fashion_mnist_is_looked_for_in_the_own_folder_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path))
    write_idx_folder(tmp_path)
    dataset = load_dataset("fashion_mnist")
    assert (dataset.name, dataset.classes) == ("fashion_mnist", ("T-shirt/top", "Pullover"))
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [6, 7, 8, 9]
    assert dataset.source == f"Read from the IDX files in {tmp_path}."
    write_idx_folder(tmp_path / "fashion-mnist")
    assert load_dataset("fashion_mnist").source == f"Read from the IDX files in {tmp_path / 'fashion-mnist'}."


def test_fashion_mnist_is_looked_for_in_debians_folder_next(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path / "empty"))
    write_idx_folder(tmp_path / "debian")
    dataset = datasets._load_fashion_mnist(tmp_path / "debian", refuse_to_download)
    assert dataset.source == f"Read from the IDX files in {tmp_path / 'debian'}."


def test_fashion_mnist_is_downloaded_where_no_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.delenv("RUNGWISE_DATA", raising=False)
    part = np.zeros((4, 28, 28), np.uint8), np.array([0, 9, 0, 9], np.uint8)
    dataset = datasets._load_fashion_mnist(tmp_path, lambda: (part, part))
    assert dataset.classes == ("T-shirt/top", "Ankle boot")
    assert dataset.source == "Downloaded by keras.datasets.fashion_mnist."


def test_fashion_mnist_found_nowhere_names_the_three_places_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RUNGWISE_DATA", raising=False)
    with pytest.raises(DataError) as error:
        datasets._load_fashion_mnist(tmp_path, refuse_to_download)
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


@pytest.mark.skipif(
    not datasets._DEBIAN_FOLDER.exists(), reason="package dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_of_debian_has_7000_images_of_each_class(monkeypatch):
    monkeypatch.delenv("RUNGWISE_DATA", raising=False)
    dataset = load_dataset("fashion_mnist")
    assert dataset.x.shape == (70_000, 28, 28, 1)
    assert np.bincount(dataset.y).tolist() == [7000] * 10
    assert dataset.classes[0] == "T-shirt/top" and dataset.classes[9] == "Ankle boot"
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == list(range(60_000, 70_000))


# What is wrong before anything is read


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        (
            "fashion_mnits",
            ["data set 'fashion_mnits' is unknown; known: digits, fashion_mnist; did you mean 'fashion"],
        ),
        (7, ["data set 7 is neither a name (digits, fashion_mnist) nor a mapping with a 'kind' (idx, npy,"]),
        ({"path": "a.csv"}, ["data set {'path': 'a.csv'} is neither a name"]),
        ({"kind": "cvs"}, ["kind 'cvs' is unknown; known: idx, npy, csv, sklearn; did you mean 'csv'?"]),
        ({"kind": ["csv"]}, ["kind ['csv'] is unknown"]),
        (
            {"kind": "sklearn", "name": "irsi"},
            ["option 'name': 'irsi' is unknown; known: digits, iris, wine, br"],
        ),
        (
            {"kind": "csv", "lable": "glasses", "path": "/no/such.csv", "drop": "id"},
            [
                "kind csv: option 'lable' is unknown; known: path, label, drop; did you mean 'label'?",
                "/no/such.csv: not found (option 'path')",
                "option 'label' is missing; kind csv needs it",
                "option 'drop' is 'id'; expected a list of texts",
            ],
        ),
        (
            {"kind": "csv", "path": 3, "label": 4},
            ["option 'path' is 3; expected a path", "option 'label' is 4; ex"],
        ),
    ],
)
def test_a_wrong_name_or_mapping_is_told_without_reading(spec, faults):
    found = dataset_faults(spec)
    assert len(found) == len(faults)
    for line, beginning in zip(found, faults, strict=True):
        assert line.startswith(beginning)
    assert faults_of(spec) == found


def test_names_and_mappings_that_are_right_have_no_faults(tmp_path):
    assert set(DATASETS) == {"digits", "fashion_mnist"}
    assert set(KINDS) == {"idx", "npy", "csv", "sklearn"}
    assert not any(dataset_faults(name) for name in DATASETS)
    assert dataset_faults({"kind": "idx", "path": str(tmp_path)}) == []
    assert dataset_faults({"kind": "csv", "path": str(tmp_path), "label": "y"}) == []


# What is wrong with IDX files


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


# What is wrong with .npy files and their labels


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        (np.array([{}, []], dtype=object), "cannot be read as .npy: Object arrays cannot be loaded"),
        ("no array", "cannot be read as .npy"),
        (np.zeros((0, 2, 2)), "expected one array of numbers in .npy format, not empty"),
        (np.zeros((4, 2), complex), "expected one array of numbers"),
        (np.zeros(4), "has shape (4,) of float64; expected numbers, (n, features) for vectors or (n, height"),
        (np.array([["a"], ["b"]]), "has shape (2, 1) of <U1; expected numbers"),
        (np.full((4, 2, 2), -1), "images hold values from -1 to -1; expected 0 to 255 or 0 to 1"),
        (np.full((4, 2, 2), 256.0), "images hold values from 256.0 to 256.0"),
    ],
)
def test_npy_rows_that_cannot_be_used_are_refused(tmp_path, images, fault):
    path, labels = tmp_path / "images.npy", tmp_path / "labels.csv"
    path.write_text(images) if isinstance(images, str) else np.save(path, images, allow_pickle=True)
    labels.write_text("label\n0\n0\n1\n1\n")
    (found,) = faults_of({"kind": "npy", "path": str(path), "labels": str(labels)})
    assert found.startswith(f"{path}: {fault}")


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ("", "has columns none; expected a first line 'index,label' or 'label'"),
        ("0\n1\n", "has columns 0; expected a first line"),
        ("index,label\n1,a\n2,b\n", "column 'index' has no 0; 2 labels need the numbers 0 to 1, each once"),
        ("index,label\n0,a\n0,b\n", "column 'index' has no 1; 2 labels need"),
        (np.zeros((4, 1), np.int64), "has shape (4, 1) of int64; expected whole numbers or texts, (n,)"),
        (np.zeros(4), "has shape (4,) of float64; expected whole numbers or texts"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(write, labels, fault):
    images = write("images.npy", np.zeros((4, 2, 2), np.uint8))
    path = write("labels.csv" if isinstance(labels, str) else "labels.npy", labels)
    (found,) = faults_of({"kind": "npy", "path": images, "labels": path})
    assert found.startswith(f"{path}: {fault}")


def test_labels_in_another_encoding_are_refused(tmp_path, write):
    (tmp_path / "labels.csv").write_bytes("label\nmüde\n".encode("latin-1"))
    images = write("images.npy", np.zeros((4, 2, 2), np.uint8))
    (fault,) = faults_of({"kind": "npy", "path": images, "labels": str(tmp_path / "labels.csv")})
    assert "labels.csv: cannot be read as CSV: 'utf-8' codec" in fault


def test_faults_of_rows_and_labels_are_told_together(write):
    images = write("images.npy", np.full((4, 2, 2), -1))
    labels = write("labels.csv", "lable\n")
    assert len(faults_of({"kind": "npy", "path": images, "labels": labels})) == 2


# What is wrong with the data themselves


def test_different_numbers_of_rows_and_labels_are_both_given(write):
    spec = {
        "kind": "npy",
        "path": write("x.npy", np.zeros((3, 2))),
        "labels": write("y.npy", np.array([0, 1] * 2)),
    }
    (fault,) = faults_of(spec)
    assert fault.endswith(": 3 rows but 4 labels; each row needs one label")


def test_broken_values_missing_labels_and_lonely_classes_are_told_together(write):
    x = np.zeros((9, 2, 2))
    x[[1, 3, 4, 5, 6, 8], 0, 1] = np.nan, np.inf, -np.inf, np.nan, np.nan, np.nan
    spec = {
        "kind": "npy",
        "path": write("x.npy", x),
        "labels": write("y.csv", "index,label\n" + "".join(f"{i},{k}\n" for i, k in enumerate("aabbcd b "))),
    }
    assert [fault.split(": ", 1)[1] for fault in faults_of(spec)] == [
        "NaN, infinite or missing values in 6 of 9 rows (counted from 0: 1, 3, 4, 5, 6, ...);"
        " mend or remove them",
        "no label in 2 of 9 rows (counted from 0: 6, 8); mend or remove them",
        "one row only of class c, d; each class needs at least 2",
    ]


def test_a_value_too_large_for_float32_counts_as_infinite(write):
    path = write("x.csv", "v,y\n1,a\n1e300,a\n3,b\n4,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert "infinite or missing values in 1 of 4 rows (counted from 0: 1)" in fault


def test_one_class_is_not_enough(write):
    (fault,) = faults_of({"kind": "csv", "path": write("x.csv", "v,y\n1,a\n2,a\n"), "label": "y"})
    assert fault == "data set x: only one class (a); at least 2 are needed"


def test_a_csv_without_rows_has_no_class(write):
    (fault,) = faults_of({"kind": "csv", "path": write("x.csv", "v,y\n"), "label": "y"})
    assert fault == "data set x: only one class (none); at least 2 are needed"


# What is wrong with CSV files of vectors


def test_columns_that_are_not_there_are_named_with_the_likely_one(write):
    path = write("x.csv", "id,V1,glasses\n1,2,3\n")
    assert faults_of({"kind": "csv", "path": path, "label": "glases", "drop": ["idd"]}) == [
        f"{path}: column 'glases' (label) is not there; it has id, V1, glasses; did you mean 'glasses'?",
        f"{path}: column 'idd' (drop) is not there; it has id, V1, glasses; did you mean 'id'?",
    ]


def test_columns_of_text_are_all_named_with_an_example(write):
    path = write("x.csv", "V1,name,V2,y\n1,ann,,a\n2,bob,x,a\n3,cid,2,b\n4,dan,1,\n")
    assert faults_of({"kind": "csv", "path": path, "label": "y"}) == [
        "data set x: column 'name' is not numeric ('ann' in row 0); make it numbers or name it under drop",
        "data set x: column 'V2' is not numeric ('x' in row 1); make it numbers or name it under drop",
        "data set x: no label in 1 of 4 rows (counted from 0: 3); mend or remove them",
        "data set x: one row only of class b; each class needs at least 2",
    ]


def test_row_names_without_a_column_of_their_own_are_no_numbers(write):
    path = write("x.csv", "V1,y\nr1,1,a\nr2,2,a\nr3,3,b\nr4,4,b\n")
    assert load_dataset({"kind": "csv", "path": path, "label": "y"}).x.tolist() == [[1], [2], [3], [4]]
    path = write("x.csv", "V1,y\nr1,1,a\nr2,z,a\nr3,3,b\nr4,4,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert "column 'V1' is not numeric ('z' in row 1)" in fault


def test_missing_numbers_are_counted(write):
    path = write("x.csv", "V1,V2,y\n1,,a\n2,NaN,a\n3,2,b\n4,1,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert "missing values in 2 of 4 rows (counted from 0: 0, 1)" in fault


def test_row_numbers_saved_along_are_not_learned_from_by_accident(write):
    path = write("x.csv", ",V1,y\n0,5,a\n1,6,a\n2,7,b\n3,8,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert fault.endswith("no name for column 1; name it, or list 'Unnamed: 0' under drop")
    dataset = load_dataset({"kind": "csv", "path": path, "label": "y", "drop": ["Unnamed: 0"]})
    assert dataset.x.tolist() == [[5], [6], [7], [8]]


def test_a_csv_with_nothing_to_learn_from_is_refused(write):
    path = write("x.csv", "id,y\n0,a\n1,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y", "drop": ["id"]})
    assert fault == f"{path}: no column is left to learn from; drop fewer"


@pytest.mark.parametrize("text", ["", "a,y\n1,2\n1,2,3,4\n"])
def test_a_file_that_is_no_csv_is_refused(write, text):
    path = write("x.csv", text)
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert fault.startswith(f"{path}: cannot be read as CSV: ")
