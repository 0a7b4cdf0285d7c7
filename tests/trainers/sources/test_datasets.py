"""Data sets are read by name or kind, with options that all kinds share; faults are told in plain words."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spaces.layers import read_layers
from tests.trainers.sources.conftest import faults_of
from trainers import datasets
from trainers.datasets import DATASETS, KINDS, dataset_faults, load_dataset


def test_digits_are_grey_images_from_0_to_16():
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    digits = load_dataset("digits")
    assert (digits.x.shape, digits.x.dtype, digits.x.max()) == ((1797, 8, 8, 1), np.uint8, digits.scale)
    assert (digits.x[..., 0] == bunch.images).all()
    assert (digits.y == bunch.target).all()
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
    assert (dataset.x == bunch.data.astype(np.float32)).all()
    assert (dataset.y == bunch.target).all()
    assert dataset.classes == tuple(map(str, bunch.target_names))


def test_importing_the_module_and_reading_digits_loads_no_heavy_library():
    heavy = "{'sklearn', 'pandas', 'keras', 'tensorflow'} & set(sys.modules)"
    code = (
        "import sys, trainers.datasets, trainers.folds, trainers.metrics; "
        f"trainers.datasets.load_dataset('digits'); sys.exit(bool({heavy}))"
    )
    root = Path(datasets.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        (
            "fashion_mnits",
            ["data set 'fashion_mnits' is unknown; known: digits, fashion_mnist; did you mean 'fashion"],
        ),
        (7, ["data set 7 is neither a name (digits, fashion_mnist) nor a mapping with a 'kind' (idx, npy,"]),
        ({"path": "a.csv"}, ["data set {'path': 'a.csv'} is neither a name"]),
        (
            {"kind": "cvs"},
            ["kind 'cvs' is unknown; known: idx, npy, csv, folder, files, sklearn; did you mean 'csv'?"],
        ),
        ({"kind": ["csv"]}, ["kind ['csv'] is unknown"]),
        (
            {"kind": "sklearn", "name": "irsi"},
            ["option 'name': 'irsi' is unknown; known: digits, iris, wine, br"],
        ),
        (
            {"kind": "csv", "lable": "glasses", "path": "/no/such.csv", "drop": "id"},
            [
                "kind csv: option 'lable' is unknown; known: path, label, drop, test, group, size, chan",
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
    assert set(KINDS) == {"idx", "npy", "csv", "folder", "files", "sklearn"}
    assert not any(dataset_faults(name) for name in DATASETS)
    assert dataset_faults({"kind": "idx", "path": str(tmp_path)}) == []
    assert dataset_faults({"kind": "csv", "path": str(tmp_path), "label": "y"}) == []


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
        " mend them, or leave the rows out with missing: drop",
        "no label in 2 of 9 rows (counted from 0: 6, 8); mend them, or leave the rows out with missing: drop",
        "one row only of class c, d; each class needs at least 2",
    ]


def test_one_class_is_not_enough(write):
    (fault,) = faults_of({"kind": "csv", "path": write("x.csv", "v,y\n1,a\n2,a\n"), "label": "y"})
    assert fault == "data set x: only one class (a); at least 2 are needed"


def test_a_csv_without_rows_has_no_class(write):
    (fault,) = faults_of({"kind": "csv", "path": write("x.csv", "v,y\n"), "label": "y"})
    assert fault == "data set x: only one class (none); at least 2 are needed"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 0}, "option 'size' is 0; expected a number of pixels from 1 to 4096, or a list of two: h"),
        ({"size": [8]}, "option 'size' is [8]; expected a number of pixels"),
        ({"size": True}, "option 'size' is True; expected"),
        (
            {"channels": "gray"},
            "option 'channels': 'gray' is unknown; known: grey, rgb; did you mean 'grey'?",
        ),
        ({"classes": {}}, "option 'classes' is {}; expected a mapping such as {negative: healt"),
        ({"classes": {"a": None}}, "option 'classes' is {'a': None}; expected a mapping"),
        (
            {"fractions": {"a": 0}},
            "option 'fractions' is {'a': 0}; expected a mapping such as {ill: 0.2}, with s",
        ),
        ({"fractions": {1: 1.5}}, "option 'fractions' is {1: 1.5}; expected"),
        ({"balance": 1}, "option 'balance' is 1; expected true or false"),
        ({"sample_seed": -1}, "option 'sample_seed' is -1; expected a whole number from 0 up"),
        ({"missing": "keep"}, "option 'missing': 'keep' is unknown; known: error, drop"),
        ({"duplicates": False}, "option 'duplicates': False is unknown; known: keep, drop"),
    ],
)
def test_options_of_all_kinds_are_checked_without_reading(options, expected):
    (fault,) = dataset_faults({"kind": "sklearn", "name": "iris", **options})
    assert fault.startswith(expected)


def test_examples_of_the_manual_name_options_that_there_are(write):
    text = (Path(datasets.__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    kinds = set()
    for example in examples:
        root, faults = read_layers(Path(write("example.yaml", example)), [])
        spec = root.plain()["dataset"]
        assert faults == []
        assert [fault for fault in dataset_faults(spec) if "not found" not in fault] == []
        kinds.add(spec["kind"])
    assert kinds == set(KINDS)


# Where files are looked for


def test_a_relative_path_starts_at_the_working_directory_or_else_at_the_own_data_folder(
    tmp_path, write, monkeypatch
):
    write("here/x.csv", "v,y\n1,a\n2,b\n3,a\n4,b\n")
    write("data/x.csv", "v,y\n9,a\n9,b\n9,a\n9,b\n")
    write("data/z.csv", "v,y\n5,a\n6,b\n7,a\n8,b\n")
    monkeypatch.chdir(tmp_path / "here")
    spec = {"kind": "csv", "label": "y"}
    assert dataset_faults({**spec, "path": "z.csv"}) == [
        f"z.csv: not found (option 'path'), neither in {tmp_path / 'here'} nor in $RUNGWISE_DATA (not set)"
    ]
    assert dataset_faults({**spec, "path": "~nobody-here/z.csv"})[0].startswith(
        "~nobody-here/z.csv: not found"
    )
    monkeypatch.setenv("RUNGWISE_DATA", str(tmp_path / "data"))
    assert load_dataset({**spec, "path": "x.csv"}).x[0] == 1
    assert load_dataset({**spec, "path": "z.csv"}).x[0] == 5


# Options of every kind


@pytest.fixture
def vectors(write):
    """A CSV of 12 rows of a, 8 of b and 4 of c, each row holding its number and a half."""
    labels = "aaabbc" * 2 + "aaabbc" * 2
    path = write("v.csv", "v,y\n" + "".join(f"{k}.5,{label}\n" for k, label in enumerate(labels)))
    return {"kind": "csv", "path": path, "label": "y"}


def counts_of(dataset, rows=slice(None)):
    return dict(
        zip(dataset.classes, np.bincount(dataset.y[rows], minlength=len(dataset.classes)), strict=True)
    )


def test_labels_get_new_names_and_several_may_get_the_same(vectors):
    dataset = load_dataset({**vectors, "classes": {"a": "none", "b": 1, "c": 1}})
    assert dataset.classes == ("none", "1")
    assert counts_of(dataset) == {"none": 12, "1": 12}


def test_classes_named_by_numbers_keep_their_order(write):
    path = write("v.csv", "v,y\n" + "".join(f"{k},{k % 3}\n" for k in range(9)))
    spec = {"kind": "csv", "path": path, "label": "y", "classes": {0: "well", "1": "ill", 2: "dying"}}
    dataset = load_dataset(spec)
    assert dataset.classes == ("well", "ill", "dying")
    assert dataset.y.tolist() == [0, 1, 2] * 3


def test_labels_that_classes_does_not_name_are_listed(vectors):
    assert faults_of({**vectors, "classes": {"a": "x", "d": "z"}}) == [
        "data set v: 2 labels are unknown to option 'classes': 'b' (8 rows), 'c' (4 rows); it names a, d;"
        " write 'b': 'b' to keep one as it is"
    ]


def test_fractions_draw_the_same_share_of_each_class_every_time(vectors):
    spec = {**vectors, "fractions": {"a": 0.5, "b": 0.3}}
    dataset = load_dataset(spec)
    assert counts_of(dataset) == {"a": 6, "b": 2, "c": 4}
    assert dataset.notes == ("fractions kept 6 of 12 rows of class a, 2 of 8 rows of class b",)
    assert (np.diff(dataset.x[:, 0]) > 0).all()
    assert (load_dataset(spec).x == dataset.x).all()
    assert (load_dataset({**spec, "sample_seed": 1}).x != dataset.x).any()


def test_fractions_of_unknown_classes_are_refused(vectors):
    assert faults_of({**vectors, "fractions": {"d": 0.5}}) == [
        "data set v: option 'fractions' names no class with d; there are a, b, c"
    ]


def test_a_fraction_that_leaves_too_few_rows_is_refused(vectors):
    assert faults_of({**vectors, "fractions": {"c": 0.2, "b": 0.01}}) == [
        "data set v: no row is left of class b; each class needs at least 2",
        "data set v: one row only of class c; each class needs at least 2",
    ]


def test_balance_leaves_as_many_rows_of_each_class_as_of_the_smallest(vectors):
    dataset = load_dataset({**vectors, "balance": True})
    assert counts_of(dataset) == {"a": 4, "b": 4, "c": 4}
    assert dataset.notes == ("balance kept 4 of 12 rows of class a, 4 of 8 rows of class b",)


def test_fractions_and_balance_apply_to_training_and_test_rows_alike(vectors, write):
    test = write("t.csv", "v,y\n" + "".join(f"{100 + k},{label}\n" for k, label in enumerate("aaaabbcc")))
    dataset = load_dataset({**vectors, "test": test, "fractions": {"a": 0.75}})
    assert dataset.test_rows is not None
    assert counts_of(dataset, dataset.test_rows) == {"a": 3, "b": 2, "c": 2}
    assert counts_of(dataset) == {"a": 12, "b": 10, "c": 6}
    dataset = load_dataset({**vectors, "test": test, "balance": True})
    assert dataset.test_rows is not None
    assert counts_of(dataset, dataset.test_rows) == {"a": 2, "b": 2, "c": 2}
    assert dataset.x[dataset.test_rows].min() == 100


def test_a_class_of_test_rows_only_is_unknown(vectors, write):
    test = write("t.csv", "v,y\n1,a\n2,d\n3,d\n")
    assert faults_of({**vectors, "test": test}) == [
        "data set v: label d is unknown outside the test rows; nothing could learn it"
    ]


def test_exact_copies_are_counted_and_left_out_if_asked(write):
    path = write("v.csv", "v,y\n1,a\n2,b\n1,a\n2,a\n3,b\n4,a\n")
    test = write("t.csv", "v,y\n4,a\n5,b\n5,b\n")
    spec = {"kind": "csv", "path": path, "label": "y", "test": test}
    told = (
        "exact copies of earlier rows: 4 (counted from 0: 2, 3, 6, 8), 1 of them with another label,"
        " 1 of them test rows that copy others"
    )
    dataset = load_dataset(spec)
    assert len(dataset.y) == 9
    assert dataset.notes == (f"{told}; kept; duplicates: drop leaves them out",)
    dataset = load_dataset({**spec, "duplicates": "drop"})
    assert dataset.x.ravel().tolist() == [1, 2, 3, 4, 5]
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [4]
    assert dataset.notes == (f"{told}; left out",)


def test_a_class_whose_rows_all_are_incomplete_is_not_lost_unseen(write):
    path = write("v.csv", "v,y\n1,a\n2,a\n3,b\n4,b\n,c\n,c\n")
    assert faults_of({"kind": "csv", "path": path, "label": "y", "missing": "drop"}) == [
        "data set v: no row is left of class c; each class needs at least 2"
    ]


def test_arrays_are_resized_and_recoloured():
    digits = load_dataset("digits")
    dataset = load_dataset({"kind": "sklearn", "name": "digits", "size": [16, 4], "channels": "rgb"})
    assert (dataset.x.shape, dataset.x.dtype, dataset.scale) == ((1797, 16, 4, 3), np.uint8, 16.0)
    assert (dataset.x[..., 0] == dataset.x[..., 2]).all()
    assert dataset.x.mean() == pytest.approx(digits.x.mean(), abs=0.4)


def test_arrays_of_numbers_with_a_point_stay_so(write):
    x = np.zeros((4, 2, 2, 3))
    x[..., 1] = 0.5
    labels = write("y.csv", "label\na\nb\na\nb\n")
    spec = {"kind": "npy", "path": write("x.npy", x), "labels": labels, "channels": "grey", "size": 3}
    dataset = load_dataset(spec)
    assert (dataset.x.shape, dataset.x.dtype) == ((4, 3, 3, 1), np.float32)
    assert dataset.x == pytest.approx(0.587 * 0.5)


def test_images_of_two_channels_cannot_be_recoloured(write):
    x, labels = np.zeros((4, 2, 2, 2), np.uint8), "label\na\nb\na\nb\n"
    spec = {"kind": "npy", "path": write("x.npy", x), "labels": write("y.csv", labels), "channels": "rgb"}
    (fault,) = faults_of(spec)
    assert fault.endswith("images have 2 channels; option 'channels' can turn only 1 or 3 into others")


@pytest.mark.parametrize("option", [{"size": 8}, {"channels": "rgb"}])
def test_vectors_have_no_size_and_no_channels(option):
    assert faults_of({"kind": "sklearn", "name": "iris", **option}) == [
        f"data set iris: option {next(iter(option))!r} is for images; these rows are vectors of 4 numbers"
    ]
