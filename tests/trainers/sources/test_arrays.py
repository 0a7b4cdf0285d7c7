"""Arrays and their labels are read as images or vectors, and labels find their rows."""

import numpy as np
import pytest

from tests.trainers.sources.conftest import faults_of, labels_of
from trainers.datasets import load_dataset


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


@pytest.mark.parametrize(("white", "scale"), [(1.0, 1.0), (200.0, 255.0)])
def test_broken_values_do_not_change_the_scale_of_the_others(write, white, scale):
    images = np.full((6, 2, 2), white)
    images[0, 0, 0], images[1, 1, 1] = np.nan, np.inf
    labels = write("y.csv", "label\na\na\na\nb\nb\na\n")
    spec = {"kind": "npy", "path": write("x.npy", images), "labels": labels, "missing": "drop"}
    dataset = load_dataset(spec)
    assert (len(dataset.y), dataset.scale) == (4, scale)


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


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        (np.array([{}, []], dtype=object), "cannot be read as .npy: Object arrays cannot be loaded"),
        ("no array", "cannot be read as .npy"),
        (np.zeros((0, 2, 2)), "expected one array of numbers in .npy format, not empty"),
        (np.zeros((4, 2), complex), "expected one array of numbers"),
        (np.zeros(4), "has shape (4,); expected (n, features) for vectors or (n, height"),
        (np.array([["a"], ["b"]]), "expected one array of numbers"),
        (np.full((4, 2, 2), -1), "images hold values from -1 to -1; expected 0 to 255 or 0 to 1"),
        (np.full((4, 2, 2), 256.0), "images hold values from 256.0 to 256.0"),
        (np.stack([np.full((4, 2), 256.0), np.full((4, 2), np.nan)]), "images hold values from 256.0 to"),
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
        ("", "is empty; expected a first line with the names of columns"),
        ("0\n1\n", "column 'label' (labels) is not there; it has 0"),
        ("index,label\n8,a\n9,b\n", "none of its 2 indices is one of the 4 rows of "),
        (
            "index,label\n0,a\n0,b\n",
            "column 'index' holds 1 numbers a second time (0); it holds each row's number",
        ),
        (
            "index,label\n0,a\nx,b\n-1,c\n",
            "column 'index' holds 2 values that are no row numbers ('x', '-1')",
        ),
        ("label,label\na,b\n", "columns named more than once: label"),
        (
            "index,label\n0,a\n1\n2,b,c\n",
            "2 lines have more or fewer values than the 2 columns of the first line (lines 3, 4)",
        ),
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


def test_different_numbers_of_rows_and_labels_are_both_given(write):
    spec = {
        "kind": "npy",
        "path": write("x.npy", np.zeros((3, 2))),
        "labels": write("y.npy", np.array([0, 1] * 2)),
    }
    (fault,) = faults_of(spec)
    assert fault.endswith(": 3 rows but 4 labels; each row needs one label")


def test_rows_that_no_index_names_are_left_out_and_told(write):
    images = write("images.npy", np.arange(6, dtype=np.uint8)[:, None, None])
    labels = write("labels.csv", "index,label\n5,a\n0,b\n1,a\n4,b\n")
    dataset = load_dataset({"kind": "npy", "path": images, "labels": labels})
    assert dataset.x.ravel().tolist() == [0, 1, 4, 5]
    assert labels_of(dataset) == ["b", "a", "b", "a"]
    assert dataset.notes == (f"{images}: 2 rows without a label left out (index 2, 3)",)


def test_labels_without_a_row_are_a_fault_or_left_out(write):
    images = write("images.npy", np.arange(4, dtype=np.uint8)[:, None, None])
    labels = write("labels.csv", "index,label\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(10)))
    spec = {"kind": "npy", "path": images, "labels": labels}
    (fault,) = faults_of(spec)
    assert fault.endswith("labels.csv: 6 labels without a row (index 4, 5, 6, 7, 8, ...)")
    dataset = load_dataset({**spec, "missing": "drop"})
    assert len(dataset.y) == 4
    assert dataset.notes[0].endswith("6 labels without a row (index 4, 5, 6, 7, 8, ...)")


def test_a_test_pair_becomes_the_test_rows(write):
    spec = {
        "kind": "npy",
        "path": write("x.npy", np.arange(4, dtype=np.uint8)[:, None, None]),
        "labels": write("y.csv", "label,who\na,1\nb,1\na,2\nb,2\n"),
        "test": write("x2.npy", np.array([7, 9], np.uint8)[:, None, None]),
        "test_labels": write("y2.csv", "who,label\n9,b\n9,a\n"),
        "group": "who",
    }
    dataset = load_dataset(spec)
    assert dataset.x.ravel().tolist() == [0, 1, 2, 3, 7, 9]
    assert labels_of(dataset) == ["a", "b", "a", "b", "b", "a"]
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [4, 5]
    assert dataset.groups is not None and dataset.groups.tolist() == [0, 0, 1, 1, 2, 2]


def test_half_a_test_pair_or_one_of_another_shape_is_refused(write):
    spec = {
        "kind": "npy",
        "path": write("x.npy", np.zeros((4, 2, 2), np.uint8)),
        "labels": write("y.csv", "label\n"),
    }
    test = write("x2.npy", np.zeros((4, 3, 2), np.uint8))
    assert faults_of({**spec, "test": test}) == [
        "options 'test' and 'test_labels' belong together; give both or neither"
    ]
    labels = write("y.csv", "label\na\nb\na\nb\n")
    (fault,) = faults_of({**spec, "test": test, "test_labels": labels})
    assert "rows are (3, 2, 1), those of" in fault


def test_labels_in_an_array_have_no_groups(write):
    spec = {"kind": "npy", "path": write("x.npy", np.zeros((4, 2))), "labels": write("y.npy", np.arange(4))}
    (fault,) = faults_of({**spec, "group": "person"})
    assert fault.endswith("y.npy: has no column 'person' (group); give the labels as a CSV")


def test_parts_of_different_scales_are_refused_and_black_ones_have_none(write):
    bytes_, shares, black = (
        np.arange(16).reshape(4, 2, 2) * 17,
        np.linspace(0, 1, 16).reshape(4, 2, 2),
        np.zeros((4, 2, 2)),
    )
    labels = write("y.csv", "label\na\nb\na\nb\n")
    spec = {"kind": "npy", "path": write("x.npy", bytes_), "labels": labels, "test_labels": labels}
    (fault,) = faults_of(spec | {"test": write("t.npy", shares)})
    assert "values from 0 to 255 in" in fault and "0 to 1 in" in fault
    assert load_dataset(spec | {"test": write("b.npy", black)}).scale == 255.0
