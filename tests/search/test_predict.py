"""Predicting files with exported models: what is read, what is told, what is refused."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from search.driver import run_sweep
from search.export import export_trial
from search.picture_grid import picture_grid
from search.predict import Predictions, predict
from search.results import load_run
from spaces.sweep import Sweep
from tests.search.conftest import make_sweep
from trainers.contract import DataError

COLUMNS = ("length", "width", "height", "mass")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of the 8x8 digits, whose white is 16."""
    folder = tmp_path_factory.mktemp("digits")
    knn: dict[str, Any] = {"n_neighbors": [3]}
    sections = {"dataset": "digits", "trainer": "sklearn/knn", "objective": "macro_f1", "epochs": 1}
    sweep = Sweep.from_dict({**sections, "asha": "off", "search": {"suggester": "grid"}, "space": knn})
    run_sweep(sweep, folder / "run", "local")
    return export_trial(load_run(folder / "run"), None, folder / "model")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of CSV rows of four columns with a row number, a label "NA", and own code."""
    folder = tmp_path_factory.mktemp("blobs")
    write_csv(folder / "rows.csv", *blobs())
    data = {"kind": "csv", "path": str(folder / "rows.csv"), "label": "kind", "drop": ["number"]}
    few = {"epochs": 3, "asha": "off", "search": {"suggester": "random", "trials": 1}}
    run_sweep(make_sweep(dataset=data, **few), folder / "run", "local")
    return export_trial(load_run(folder / "run"), None, folder / "model")


def blobs(num_rows: int = 60) -> tuple[Any, list[str]]:
    chance = np.random.default_rng(0)
    classes = np.arange(num_rows) % 2
    return (4 * classes[:, None] + chance.normal(size=(num_rows, 4))).round(4), [
        ("NA", "b")[k] for k in classes
    ]


def write_csv(path: Path, rows: Any, labels: list[str] | None, columns: tuple[str, ...] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", *columns, *(["kind"] if labels else [])])
        for number, row in enumerate(rows):
            writer.writerow([number, *row, *([labels[number]] if labels else [])])
    return path


def digit(row: int) -> tuple[Any, int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images[row].astype(np.uint8), int(digits.target[row])


def save_image(path: Path, pixels: Any) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder_of_digits(tmp_path: Path) -> Path:
    """Six digits in folders of their classes, but one in the wrong one and one in a folder of no class."""
    for row in range(6):
        pixels, label = digit(row)
        folder = {4: "3", 5: "others"}.get(row, str(label))
        save_image(tmp_path / "images" / folder / f"{row}.png", np.rint(pixels * (255 / 16)).astype(np.uint8))
    return tmp_path / "images"


# ---- what is read ----


def test_images_are_read_as_the_model_was_trained(
    images: Path, folder_of_digits: Path, tmp_path: Path
) -> None:
    from_files = predict(images, sorted(folder_of_digits.rglob("*.png")))
    np.save(tmp_path / "rows.npy", np.stack([digit(int(Path(name).stem))[0] for name in from_files.names]))
    from_array = predict(images, [tmp_path / "rows.npy"])
    np.testing.assert_array_equal(from_files.x, from_array.x)
    np.testing.assert_array_equal(from_files.probabilities, from_array.probabilities)
    assert from_files.x.dtype == np.uint8 and from_files.x.shape == (6, 8, 8, 1)
    assert from_array.known == (None,) * 6


def test_folder_per_class_gives_known_labels(images: Path, folder_of_digits: Path) -> None:
    predictions = predict(images, [folder_of_digits])
    told = dict(zip((Path(name).stem for name in predictions.names), predictions.known, strict=True))
    assert told == {"0": "0", "1": "1", "2": "2", "3": "3", "4": "3", "5": None}
    assert predictions.verdict == ": 1 of 5 with known labels are wrong"


def test_topmost_folder_of_a_class_gives_the_label_as_for_training(images: Path, tmp_path: Path) -> None:
    for folder in ("0/1", "0/deep/er", "others/1"):
        save_image(tmp_path / "3" / folder / "a.png", digit(0)[0])
    known = predict(images, [tmp_path / "3"]).known
    assert known == ("0", "0", "1")
    (tmp_path / "3" / "more").mkdir()
    save_image(tmp_path / "3" / "more" / "a.png", digit(0)[0])
    assert predict(images, [tmp_path / "3"]).known == ("0", "0", "3", "1")


def test_folders_are_searched_as_for_training(images: Path, folder_of_digits: Path) -> None:
    for hidden in ("__MACOSX/0", ".trash/0"):
        shutil.copytree(folder_of_digits / "0", folder_of_digits / hidden)
    assert len(predict(images, [folder_of_digits])) == 6


def test_labels_in_files_may_be_other_texts_than_the_classes(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(images, model)
    about = json.loads((model / "model.json").read_text())
    _edit(model, input={**about["input"], "labels": {"zero": "0"}})
    assert predict(model, [save_image(tmp_path / "zero" / "a.png", digit(0)[0])]).known == ("0",)


def test_large_coloured_image_is_made_to_fit(images: Path, tmp_path: Path) -> None:
    pixels = np.repeat(np.kron(digit(0)[0] * 15, np.ones((9, 9), np.uint8))[..., None], 3, axis=-1)
    predictions = predict(images, [save_image(tmp_path / "large.jpg", pixels)])
    assert predictions.predicted == ["0"] and predictions.names == (str(tmp_path / "large.jpg"),)


def test_floats_up_to_one_are_images_of_the_same_white(images: Path, tmp_path: Path) -> None:
    pixels = digit(7)[0]
    np.save(tmp_path / "bytes.npy", pixels[None])
    np.save(tmp_path / "floats.npy", pixels[None] / 16)
    both = predict(images, [tmp_path / "bytes.npy", tmp_path / "floats.npy"])
    np.testing.assert_array_equal(both.x[0], both.x[1])


def test_csv_is_read_by_column_names_with_known_labels(vectors: Path, tmp_path: Path) -> None:
    rows, labels = blobs()
    with_labels = predict(vectors, [write_csv(tmp_path / "a.csv", rows, labels)], trust=True)
    backwards = write_csv(tmp_path / "b.csv", rows[:, ::-1], None, COLUMNS[::-1])
    without = predict(vectors, [backwards], trust=True)
    np.testing.assert_array_equal(with_labels.probabilities, without.probabilities)
    assert list(with_labels.known) == labels and not any(without.known)
    assert with_labels.names[59].endswith("a.csv[59]")
    np.save(tmp_path / "rows.npy", rows)
    from_array = predict(vectors, [tmp_path / "rows.npy"], trust=True)
    np.testing.assert_array_equal(with_labels.probabilities, from_array.probabilities)


# ---- what is told ----


def made(num_classes: int = 3, known: tuple[str | None, ...] = ("a", None)) -> Predictions:
    probabilities = np.zeros((2, num_classes), np.float32)
    probabilities[0, 1], probabilities[0, 0], probabilities[1, 2] = 0.75, 0.25, 1
    classes = tuple("abcdefghijklmnop"[:num_classes])
    x = np.zeros((2, 4, 4, 1), np.uint8)
    return Predictions(classes, ("one[bold]", "two"), x, 255.0, probabilities, known)


def printed(predictions: Predictions) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(predictions.table())
    return capture.get()


def test_table_shows_every_class_and_what_is_wrong() -> None:
    lines = [line.split() for line in printed(made()).splitlines()]
    assert lines[0] == ["name", "predicted", "probability", "known", "a", "b", "c"]
    assert lines[1] == ["one[bold]", "b", "0.750", "a", "0.250", "0.750", "0.000"]
    assert lines[2] == ["two", "c", "1.000", "0.000", "0.000", "1.000"]
    assert " ".join(lines[3]) == "2 rows: 1 of 1 with known labels are wrong"


def test_table_of_many_classes_shows_the_next_one_only() -> None:
    lines = [line.split() for line in printed(made(16, known=(None, None))).splitlines()]
    assert lines[0] == ["name", "predicted", "probability", "next", "probability"]
    assert lines[1] == ["one[bold]", "b", "0.750", "a", "0.250"]


def test_csv_and_json_hold_everything() -> None:
    lines = made().csv().splitlines()
    assert lines[0] == "name,predicted,probability,known,probability.a,probability.b,probability.c"
    assert lines[1:] == ["one[bold],b,0.75,a,0.25,0.75,0.0", "two,c,1.0,,0.0,0.0,1.0"]
    probabilities = {"a": 0.0, "b": 0.0, "c": 1.0}
    two = {"name": "two", "predicted": "c", "probability": 1.0, "known": None, "probabilities": probabilities}
    assert json.loads(made().json())[1] == two


def test_grid_shows_wrong_ones_in_red(images: Path, folder_of_digits: Path, tmp_path: Path) -> None:
    from PIL import Image

    for paths, is_red in (([folder_of_digits / "0"], False), ([folder_of_digits], True)):
        picture_grid(predict(images, paths), tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as page:
            pixels = np.asarray(page).astype(int)
        assert bool((pixels[..., 0] - pixels[..., 1] > 100).any()) == is_red


def test_grid_of_many_images_shows_the_first_ones(tmp_path: Path) -> None:
    many = made()
    x = np.zeros((150, 30, 60, 3), np.uint8)
    known = ("a",) * 150
    probabilities = many.probabilities[np.zeros(150, int)]
    picture_grid(
        Predictions(many.classes, ("n" * 30,) * 150, x, 255.0, probabilities, known), tmp_path / "grid.png"
    )
    from PIL import Image

    with Image.open(tmp_path / "grid.png") as page:
        assert page.size == (12 * 148 + 36, 1919)


# ---- what is refused ----


def refused(model: Path, *paths: Path, trust: bool = True) -> str:
    with pytest.raises(DataError) as raised:
        predict(model, paths, trust)
    return str(raised.value)


def test_everything_that_cannot_be_read_is_told_at_once(images: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "._hidden.png").touch()
    (tmp_path / "rows.csv").touch()
    paths = [tmp_path / name for name in ("broken.png", "empty", "rows.csv", "nowhere.png")]
    lines = refused(images, *paths).splitlines()
    assert "broken.png" in lines[0] and "cannot be read" in lines[0]
    assert "no images in this folder" in lines[1]
    assert "rows.csv: this model takes images of 8x8, grey; give image files" in lines[2]
    assert "nowhere.png: not found" in lines[3]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 9, 9), np.uint8), r"has shape (3, 9, 9, 1); this model takes (n, 8, 8, 1)"),
        (np.zeros((0, 8, 8, 1), np.uint8), "expected one array of numbers in .npy format, not empty"),
        (np.full((1, 8, 8), 17, np.uint8), "holds values from 17 to 17; this model takes 0 to 16"),
        (np.full((1, 8, 8), -0.5), "holds values from -0.5"),
        (np.full((2, 8, 8), np.nan), "row 0 (counted from 0) holds NaN"),
        (np.array(["text"]), "expected one array of numbers"),
    ],
)
def test_array_that_does_not_fit_is_told(images: Path, array: Any, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", array)
    assert words in refused(images, tmp_path / "rows.npy")


def test_model_of_other_channels_takes_no_image_files(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(images, model)
    about = json.loads((model / "model.json").read_text())
    _edit(model, input={**about["input"], "shape": [8, 8, 4]})
    picture = save_image(tmp_path / "a.png", digit(0)[0])
    assert "no image file has this model's 4 channels; give .npy files" in refused(model, picture)


def test_file_that_is_no_array_is_told(images: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.npy").write_text("1, 2, 3")
    assert "cannot be read as .npy" in refused(images, tmp_path / "rows.npy")


def test_csv_that_does_not_fit_is_told(vectors: Path, tmp_path: Path) -> None:
    rows, labels = blobs(4)
    lines = refused(
        vectors, write_csv(tmp_path / "a.csv", rows, labels, ("lenght", "w", "height", "mass"))
    ).splitlines()
    assert "column 'length' is missing" in lines[0] and "did you mean 'lenght'?" in lines[0]
    assert "column 'width' is missing" in lines[1]
    text = write_csv(tmp_path / "b.csv", np.where(np.eye(4), "x", rows.astype(str)), None)
    assert "'x' in row 0 (counted from 0), column 'length', is no finite number" in refused(vectors, text)
    other = write_csv(tmp_path / "c.csv", rows, ["NA", "b", "B", "NA"])
    assert "column 'kind' holds 'B', which is none of the model's classes: NA, b" in refused(vectors, other)
    assert "has no rows" in refused(vectors, write_csv(tmp_path / "d.csv", [], ["NA"]))
    (tmp_path / "e.csv").touch()
    assert "is empty; expected a first line" in refused(vectors, tmp_path / "e.csv")
    assert "takes vectors of 4 numbers; give .csv files" in refused(vectors, tmp_path)


def test_number_that_is_infinite_to_the_model_is_told(vectors: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 1e39, 3.0, 4.0]]))
    told = refused(vectors, tmp_path / "rows.npy")
    assert "row 1 (counted from 0) holds NaN or infinite values" in told


def test_vectors_have_no_picture(vectors: Path, tmp_path: Path) -> None:
    predictions = predict(vectors, [write_csv(tmp_path / "a.csv", *blobs(4))], trust=True)
    with pytest.raises(DataError, match="vectors of 4 numbers, not images; leave --grid out"):
        picture_grid(predictions, tmp_path / "grid.png")
    with pytest.raises(DataError, match="leave --grid out"):  # before any file is read
        predict(vectors, [tmp_path / "nowhere.csv"], trust=True, grid=True)


def test_grid_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--grid .*cannot be written: No such file"):
        picture_grid(made(), tmp_path / "nowhere" / "grid.png")


def test_nothing_to_predict_is_told(images: Path) -> None:
    assert "no files" in refused(images)


# ---- the folder itself ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: (model / "weights" / "new.json").touch(), "new.json was added after export"),
        (lambda model: next((model / "weights").iterdir()).write_text("x"), "was changed after export"),
        (lambda model: next((model / "weights").iterdir()).unlink(), "was removed after export"),
        (lambda model: (model / "model.json").unlink(), "is no exported model"),
        (lambda model: (model / "model.json").write_text("{"), "model.json cannot be read: Invalid JSON"),
        (lambda model: _edit(model, format=2), "it is of format 2, this Rungwise reads up to 1; upgrade"),
        (lambda model: _edit(model, epoch="?"), "model.json cannot be read: epoch: "),
        (lambda model: _edit(model, trainer="os:system"), "loading it runs that code"),
        (lambda model: _edit(model, trainer={"estimator": "os.system"}), "loading it runs that code"),
    ],
)
def test_folder_that_is_not_as_exported_is_refused(
    change: Callable[[Path], Any], words: str, images: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(images, model)
    change(model)
    assert words in refused(model, tmp_path, trust=False)


def _edit(model: Path, **changes: Any) -> None:
    about = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**about, **changes}))


def test_own_code_is_loaded_only_on_demand(vectors: Path, tmp_path: Path) -> None:
    rows = write_csv(tmp_path / "a.csv", *blobs(4))
    assert "'tests.tiny:Softmax' is not one of Rungwise's own" in refused(vectors, rows, trust=False)
    assert len(predict(vectors, [rows], trust=True)) == 4


def test_own_code_that_is_gone_is_told(vectors: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(vectors, model)
    _edit(model, trainer="tests.gone:Softmax")
    assert "its model cannot be loaded: " in refused(model, write_csv(tmp_path / "a.csv", *blobs(4)))


def test_weights_of_another_trainer_are_told(images: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(images, model)
    _edit(model, trainer="sklearn/random_forest")
    assert "its model cannot be loaded: " in refused(model, tmp_path)


def test_card_may_be_written_into(images: Path, folder_of_digits: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(images, model)
    (model / "README.md").write_text("ours")
    assert len(predict(model, [folder_of_digits])) == 6
