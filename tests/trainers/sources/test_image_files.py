"""Images in class folders, and images that a CSV names in a folder or zip, find their labels."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.sources.conftest import faults_of, labels_of
from trainers.datasets import load_dataset


def values_of(dataset):
    """The value that each image is filled with."""
    return dataset.x[:, 0, 0, 0].tolist()


# Kind folder


@pytest.fixture
def pets(draw, tmp_path):
    """cat/0.png, cat/2.png, cat/deep/4.png; dog/1.png, dog/3.JPG."""
    for k, name in enumerate(["cat/0.png", "dog/1.png", "cat/2.png", "dog/3.JPG", "cat/deep/4.png"]):
        draw(f"pets/{name}", k * 10)
    return tmp_path / "pets"


def test_the_folder_of_an_image_is_its_class(pets):
    dataset = load_dataset({"kind": "folder", "path": str(pets)})
    assert (dataset.name, dataset.x.shape, dataset.x.dtype, dataset.scale) == (
        "pets",
        (5, 4, 4, 1),
        np.uint8,
        255.0,
    )
    assert values_of(dataset) == [0, 20, 40, 10, 30]
    assert labels_of(dataset) == ["cat"] * 3 + ["dog"] * 2
    assert dataset.test_rows is None and dataset.notes == ()


def test_a_second_folder_is_the_test_split(pets, draw, tmp_path):
    draw("held/dog/1.png", 99)
    dataset = load_dataset({"kind": "folder", "path": str(pets), "test": str(tmp_path / "held")})
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [5]
    assert (values_of(dataset)[5], labels_of(dataset)[5]) == (99, "dog")


def test_files_that_are_no_images_in_a_class_folder_are_told_and_hidden_ones_ignored(pets):
    for name in ("cat/notes.txt", "readme.md", ".DS_Store", "dog/._1.png"):
        (pets / name).write_text("x")
    dataset = load_dataset({"kind": "folder", "path": str(pets)})
    assert dataset.notes == (
        f"{pets}: 2 files left out that are no images in a class folder: cat/notes.txt, readme.md",
    )


def test_empty_class_folders_are_named(pets):
    (pets / "fish").mkdir()
    (pets / "bird").mkdir()
    assert faults_of({"kind": "folder", "path": str(pets)}) == [
        f"{pets}: 2 class folders hold no images: bird, fish"
    ]


def test_a_folder_without_class_folders_or_no_folder_is_refused(pets):
    (fault,) = faults_of({"kind": "folder", "path": str(pets / "cat" / "deep")})
    assert fault.endswith("deep: holds no folders; expected one for each class, with its images")
    (fault,) = faults_of({"kind": "folder", "path": str(pets / "cat" / "0.png")})
    assert fault.endswith("0.png: is no folder; expected one with a folder for each class")


# Kind files


@pytest.fixture
def faces(draw, write, tmp_path):
    """Six images of three people, filled with their number, and a CSV of them."""
    for k in range(6):
        draw(f"faces/images/face-{k}.png", k)
    lines = [f"{k},{'ann bob cid'.split()[k // 2]},{k % 2}" for k in range(6)]
    labels = write("faces/labels.csv", "id,person,glasses\n" + "\n".join(lines))
    images = str(tmp_path / "faces" / "images")
    return {"kind": "files", "path": images, "labels": labels, "file": "face-{id}.png", "label": "glasses"}


def test_a_pattern_of_columns_names_each_file(faces):
    dataset = load_dataset({**faces, "group": "person"})
    assert (dataset.name, values_of(dataset), labels_of(dataset)) == (
        "faces",
        [0, 1, 2, 3, 4, 5],
        list("010101"),
    )
    assert dataset.groups is not None and dataset.groups.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("column", ["filename", "file", "picture"])
def test_a_column_names_each_file(faces, write, column):
    labels = write("l.csv", f"{column},label\n" + "".join(f"face-{k}.png,{k % 2}\n" for k in range(6)))
    spec = {"kind": "files", "path": faces["path"], "labels": labels}
    assert len(load_dataset(spec | ({"file": column} if column == "picture" else {})).y) == 6


def pack(tmp_path, faces, inside="pics/"):
    packed = tmp_path / "faces.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for k in range(6):
            file.write(f"{faces['path']}/face-{k}.png", f"{inside}face-{k}.png")
        file.writestr("__MACOSX/pics/._face-0.png", "x")
        file.writestr("pics/", "")
    return str(packed)


def test_images_in_a_zip_are_found_with_and_without_their_folders(faces, write, tmp_path):
    packed = pack(tmp_path, faces)
    assert values_of(load_dataset({**faces, "path": packed})) == [0, 1, 2, 3, 4, 5]
    assert values_of(load_dataset({**faces, "path": packed, "file": "pics/face-{id}.png"})) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert values_of(load_dataset({**faces, "path": packed, "file": "all/pics/face-{id}.png"})) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert not list(tmp_path.rglob("pics"))


def test_a_second_csv_holds_the_test_rows(faces, write):
    train = write("train.csv", "file,label\nface-0.png,a\nface-1.png,b\nface-4.png,a\nface-5.png,b\n")
    test = write("test.csv", "label,file\nb,face-3.png\na,face-2.png\n")
    dataset = load_dataset({"kind": "files", "path": faces["path"], "labels": train, "test": test})
    assert values_of(dataset) == [0, 1, 4, 5, 3, 2]
    assert dataset.test_rows is not None and dataset.test_rows.tolist() == [4, 5]


def test_images_without_a_label_are_left_out_and_told(faces, draw):
    for k in range(7):
        draw(f"faces/images/new-{k}.png")
    assert load_dataset(faces).notes[0] == (
        f"{faces['path']}: 7 images without a label left out: new-0.png, new-1.png, new-2.png, new-3.png,"
        " new-4.png, ..."
    )


def test_labels_without_an_image_are_a_fault_or_left_out(faces, tmp_path):
    labels = tmp_path / "faces" / "labels.csv"
    labels.write_text(labels.read_text() + "\n77,dan,1\n78,dan,0\n")
    told = f"{faces['path']}: 2 labels without an image: face-77.png, face-78.png"
    assert faults_of(faces) == [f"data set faces: {told}"]
    dataset = load_dataset({**faces, "missing": "drop"})
    assert len(dataset.y) == 6 and dataset.notes[0] == told


def test_labels_none_of_which_has_an_image_are_refused(faces):
    (fault,) = faults_of({**faces, "file": "{id}.png"})
    assert "none of the 6 images named in " in fault
    assert fault.endswith("it has face-0.png, face-1.png, face-2.png, face-3.png, face-4.png, face-5.png")


def test_file_names_that_stand_twice_are_listed(faces, write):
    train = write("train.csv", "file,label\nface-0.png,a\nface-1.png,b\nface-0.png,a\nface-5.png,b\n")
    test = write("test.csv", "file,label\nface-5.png,b\n")
    (fault,) = faults_of({"kind": "files", "path": faces["path"], "labels": train, "test": test})
    assert fault.endswith("2 file names stand there more than once: face-0.png, face-5.png; keep one")


def test_names_and_images_that_do_not_fit_one_to_one_are_listed(draw, write, tmp_path):
    for name in ("cats/1.png", "dogs/1.png", "dogs/2.png"):
        draw(f"pets/{name}")
    labels = write("l.csv", "file,label\n1.png,a\n2.png,b\ndogs/2.png,b\ncats/2.png,a\n")
    path = str(tmp_path / "pets")
    assert faults_of({"kind": "files", "path": path, "labels": labels}) == [
        f"{path}: 1 names fit several images: 1.png (cats/1.png, dogs/1.png); name them with their folders",
        f"{path}: 1 images fit several names: dogs/2.png; name them with their folders",
    ]


@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({"file": ""}, ["no column 'filename' or 'file'; it has id, person, glasses; name the column"]),
        ({"file": "nr"}, ["column 'nr' (file) is not there; it has id, person, glasses"]),
        ({"file": "{no}.png"}, ["column 'no' (file) is not there"]),
        ({"file": "{id"}, ["file '{id' is no pattern such as 'face-{id}.png' (expected '}'"]),
        ({"file": "{id.real}"}, ["column 'id.real' (file) is not there"]),
        ({"file": "{id:04}"}, ["file '{id:04}' may have nothing but names of columns in its braces"]),
        ({"file": "{}.png"}, ["file '{}.png' may have nothing but names"]),
        (
            {"label": "glass", "group": "who"},
            ["column 'glass' (label) is not", "column 'who' (group) is not"],
        ),
    ],
)
def test_columns_and_patterns_that_cannot_be_used_are_told(faces, options, faults):
    found = faults_of({**faces, **options})
    for line, fault in zip(found, faults, strict=True):
        assert line.startswith(f"{faces['labels']}: {fault}")


def test_rows_without_a_file_name_are_counted(faces, write):
    labels = write("l.csv", "file,label\nface-0.png,a\n,b\n ,a\n")
    (fault,) = faults_of({"kind": "files", "path": faces["path"], "labels": labels})
    assert fault == f"{labels}: no file name in 2 of 3 rows (counted from 0: 1, 2)"


def test_a_broken_zip_is_told_with_the_other_faults(faces, write):
    broken = write("broken.zip", "PK but no more")
    found = faults_of({**faces, "path": broken, "label": "glass"})
    assert found[0] == f"{broken}: cannot be read as a zip (File is not a zip file); fetch it again"
    assert "column 'glass' (label)" in found[1]


def test_a_damaged_member_of_a_zip_is_named(faces, tmp_path):
    packed = pack(tmp_path, faces)
    data = bytearray(Path(packed).read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    Path(packed).write_bytes(data)
    (fault,) = faults_of({**faces, "path": packed})
    assert "1 images cannot be read: pics/face-0.png (" in fault


def test_a_pattern_may_name_a_column_with_a_dot_or_a_number(draw, write, tmp_path):
    for k in range(4):
        draw(f"faces/{k}-a.png", k + 20)
    labels = write("faces.csv", "patient.no,0,label\n0,a,x\n1,a,y\n2,a,x\n3,a,y\n")
    spec = {"kind": "files", "path": str(tmp_path / "faces"), "labels": labels}
    assert sorted(values_of(load_dataset(spec | {"file": "{patient.no}-{0}.png"}))) == [20, 21, 22, 23]


def test_images_that_are_all_nearly_black_are_told(draw, tmp_path):
    for k in range(4):
        draw(f"dark/{'ab'[k % 2]}/{k}.png", k)
    spec = {"kind": "folder", "path": str(tmp_path / "dark")}
    (note,) = load_dataset(spec).notes
    assert "no pixel is above 3 of 255; if 12 bits lie in files of 16" in note
    draw("dark/a/bright.png", 90)
    assert load_dataset(spec).notes == ()
