"""CSV files of vectors are read as numbers, labels and groups."""

import gzip

import numpy as np
import pytest

from tests.trainers.sources.conftest import faults_of
from trainers.datasets import load_dataset


def test_a_csv_of_vectors_is_all_its_numbers_but_label_and_dropped_columns(write):
    path = write("latent.csv", "id,V1,glasses,V2\nx,1,yes,0.5\ny,2,None,-1\nz,3,yes,1e3\nw,4, None,7\n")
    dataset = load_dataset({"kind": "csv", "path": path, "label": "glasses", "drop": ["id"]})
    assert dataset.x.dtype == np.float32
    assert dataset.x.tolist() == [[1, 0.5], [2, -1], [3, 1000], [4, 7]]
    assert dataset.classes == ("None", "yes")  # "None" is a class here, no missing value
    assert (dataset.name, dataset.scale, dataset.y.tolist()) == ("latent", 1.0, [1, 0, 1, 0])


def test_a_value_too_large_for_float32_counts_as_infinite(write):
    path = write("x.csv", "v,y\n1,a\n1e300,a\n3,b\n4,b\n")
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert "infinite or missing values in 1 of 4 rows (counted from 0: 1)" in fault


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
        "data set x: no label in 1 of 4 rows (counted from 0: 3);"
        " mend them, or leave the rows out with missing: drop",
        "data set x: one row only of class b; each class needs at least 2",
    ]


@pytest.mark.parametrize("line", ["7,{},1,a", "{},1,a,", "{},1,9,a"])
def test_lines_with_a_value_more_than_there_are_columns_do_not_shift_them(write, line):
    path = write("x.csv", "V1,V2,y\n\n" + "".join(f"{line.format(row)}\n" for row in range(4)))
    (fault,) = faults_of({"kind": "csv", "path": path, "label": "y"})
    assert fault.startswith(f"{path}: cannot be read as CSV: ")
    assert fault.endswith("Expected 3 fields in line 3, saw 4")


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4, 5), (10, 11, "", 40, 41)])
def test_columns_that_number_the_rows_are_told(write, numbers):
    rows = zip(numbers, (0.5, 1, 2, 3, 4), (1, 2, 2, 3, 4), "aabbb", strict=True)
    path = write("x.csv", "id,V1,V2,y\n" + "".join(f"{a},{b},{c},{y}\n" for a, b, c, y in rows))
    spec = {"kind": "csv", "path": path, "label": "y", "missing": "drop"}
    assert load_dataset(spec).notes[0] == (
        "numbers that count up with the rows are learned from (column id); drop: [id] leaves them out"
    )
    assert load_dataset({**spec, "drop": ["id"]}).notes == ()


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


def test_a_second_csv_becomes_the_test_rows_whatever_the_order_of_its_columns(write):
    path = write("x.csv", "a,b,y\n1,2,p\n3,4,q\n5,6,p\n7,8,q\n")
    spec = {"kind": "csv", "path": path, "label": "y", "test": write("t.csv", "y,b,a\np,20,10\nq,40,30\n")}
    dataset = load_dataset(spec)
    assert dataset.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8], [10, 20], [30, 40]]
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [4, 5]
    spec["test"] = write("t.csv", "y,c,a\np,20,10\n")
    (fault,) = faults_of(spec)
    assert "t.csv: lacks b, has besides c; its columns must be those of" in fault


def test_a_group_column_is_no_feature(write):
    path = write("x.csv", "who,a,y\nann,1,p\nbob,2,q\nann,3,p\ncid,4,q\n")
    dataset = load_dataset({"kind": "csv", "path": path, "label": "y", "group": "who"})
    assert dataset.x.tolist() == [[1], [2], [3], [4]]
    assert dataset.groups is not None and dataset.groups.tolist() == [0, 1, 0, 2]
    with pytest.raises(ValueError, match="read-only"):
        dataset.groups[0] = 1


def test_null_rows_are_a_fault_or_left_out(write):
    path = write("x.csv", "who,a,y\n1,2,p\n1,,q\n1,3,p\n1,1,q\n1,5,\n,6,p\n1,7,q\n")
    spec = {"kind": "csv", "path": path, "label": "y", "group": "who"}
    assert faults_of(spec) == [
        f"data set x: {what} in 1 of 7 rows (counted from 0: {row});"
        " mend them, or leave the rows out with missing: drop"
        for what, row in (("NaN, infinite or missing values", 1), ("no label", 4), ("no group", 5))
    ]
    dataset = load_dataset({**spec, "missing": "drop"})
    assert dataset.x.tolist() == [[2], [3], [1], [7]]
    assert dataset.groups is not None and dataset.groups.tolist() == [0, 0, 0, 0]
    assert [note.split(" in ")[0] for note in dataset.notes] == [
        "NaN, infinite or missing values",
        "no label",
        "no group",
    ]


def test_a_column_that_stands_twice_is_refused(write):
    path = write("x.csv", "a, y,y\n1,0,0\n2,1,1\n3,0,0\n4,1,1\n")
    assert "columns named more than once: y" in faults_of({"kind": "csv", "path": path, "label": "y"})[0]
    unnamed = {"kind": "csv", "path": write("z.csv", "a,y,,\n1,0,,\n2,1,,\n3,0,,\n4,1,,\n"), "label": "y"}
    assert load_dataset(unnamed | {"drop": ["Unnamed: 2", "Unnamed: 3"]}).x.tolist() == [[1], [2], [3], [4]]


def test_damaged_packed_files_are_faults(write, tmp_path):
    packed = gzip.compress(b"a,y\n" + b"1,0\n2,1\n" * 500)
    (tmp_path / "x.csv.gz").write_bytes(packed[:-20])
    (tmp_path / "x.npy").write_bytes(b"PK\x03\x04 and no zip")
    csv = {"kind": "csv", "path": str(tmp_path / "x.csv.gz"), "label": "y"}
    npy = {"kind": "npy", "path": str(tmp_path / "x.npy"), "labels": write("y.csv", "label\n0\n")}
    assert "cannot be read as CSV" in faults_of(csv)[0]
    assert "cannot be read as .npy" in faults_of(npy)[0]
