"""Exported models: the very one of the search, whole or not at all, and told truly by its card."""

import gzip
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.card import model_card
from search.driver import run_sweep
from search.events import RunError
from search.export import export_trial
from search.exported import Evaluation, ExportedModel, load_model, read_about
from search.predict import predict
from search.results import Results, load_run
from spaces.sweep import Sweep
from tests.search.conftest import TINY, make_sweep
from tests.tiny import Softmax
from trainers.contract import DataError, Epoch, Fold, take
from trainers.datasets import load_dataset
from trainers.folds import split_rows
from trainers.metrics import wilson

DIGITS: dict[str, Any] = {
    "dataset": "digits",
    "trainer": "keras/cnn",
    "objective": "macro_f1",
    "validation": {"holdout": 0.3, "test": 0.4},
    "epochs": 3,
    "search": {"suggester": "random", "trials": 2, "seed": 0},
    "asha": "off",
    "space": {"filters": [4, 8]},
    "fixed": {"conv_layers": 1, "dense_units": 16, "batch_size": 128},
}

Run = Callable[..., Results]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(epochs=3)``: a searched run of the tiny trainer."""

    def search(name: str = "tiny", **sections: Any) -> Results:
        few: dict[str, Any] = {"epochs": 4, "asha": "off", "search": {"suggester": "random", "trials": 2}}
        run_sweep(make_sweep(**{**few, **sections}), tmp_path / "runs" / name, "local")
        return load_run(tmp_path / "runs" / name)

    return search


def validation_rows(results: Results) -> Any:
    sweep = Sweep.from_dict(results.run.sweep)
    dataset = load_dataset(sweep.dataset)
    return take(dataset.x, split_rows(dataset, sweep.validation, sweep.search.seed).folds[0].valid)


def kept(results: Results, trial: int) -> Any:
    with np.load(results.folder.predictions(trial), allow_pickle=False) as file:
        return file["probabilities"]


def in_a_fresh_process(folder: Path, rows: Path) -> Any:
    code = "import sys; from pathlib import Path; from search.predict import predict; "
    code += "print(predict(Path(sys.argv[1]), [Path(sys.argv[2])]).json())"
    done = subprocess.run(
        [sys.executable, "-c", code, folder, rows], capture_output=True, text=True, check=True
    )
    return np.array([list(row["probabilities"].values()) for row in json.loads(done.stdout)])


@pytest.mark.parametrize("trainer", [pytest.param("keras/cnn", marks=pytest.mark.slow), "sklearn/knn"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, while it saves
def test_exported_model_is_the_one_of_the_search_in_a_fresh_process_too(trainer: str, tmp_path: Path) -> None:
    of_knn = {"epochs": 1, "trainer": trainer, "space": {"n_neighbors": [1, 5]}, "fixed": {}}
    sweep = Sweep.from_dict(DIGITS | (of_knn if trainer == "sklearn/knn" else {}))
    run_sweep(sweep, tmp_path / "digits", "local")
    results = load_run(tmp_path / "digits")
    folder = export_trial(results, None, tmp_path / "model")
    np.save(tmp_path / "rows.npy", validation_rows(results))
    best = results.best(1)[0].number
    again = in_a_fresh_process(folder, tmp_path / "rows.npy")
    np.testing.assert_allclose(again, kept(results, best), atol=1e-4)
    assert (folder / "model.keras").exists() == (trainer == "keras/cnn")


def test_model_without_its_checkpoints_is_trained_anew_to_the_same_numbers(run: Run, tmp_path: Path) -> None:
    results = run()
    for folder in results.folder.path.glob("trials/*/epoch-*"):
        shutil.rmtree(folder)
    _, predictor = load_model(export_trial(results, 2, tmp_path / "model"), trust=True)
    np.testing.assert_array_equal(predictor.predict(validation_rows(results)), kept(results, 2))


def test_model_goes_on_from_a_checkpoint_before_the_best_epoch(run: Run, tmp_path: Path) -> None:
    results = run()
    trial = results.run.trials[1]
    trial.best_checkpoint = min(
        int(folder.name.removeprefix("epoch-")) for folder in results.folder.trial(1).glob("epoch-*")
    )
    _, predictor = load_model(export_trial(results, 1, tmp_path / "model"), trust=True)
    np.testing.assert_array_equal(predictor.predict(validation_rows(results)), kept(results, 1))


def test_test_rows_are_scored_and_validation_scores_are_those_of_the_trial(run: Run, tmp_path: Path) -> None:
    results = run()
    about = read_about(export_trial(results, None, tmp_path / "model"))
    best = results.best(1)[0]
    assert about.validation.values == dict(best.metrics)
    assert about.test and np.sum(about.test.confusion) == sum(about.data["class_counts"]["test"]) == 30
    assert list(about.trained_on) == about.data["class_counts"]["train"]


def test_without_test_rows_there_are_validation_scores_only(run: Run, tmp_path: Path) -> None:
    about = read_about(export_trial(run(validation={"holdout": 0.2, "test": 0.0}), None, tmp_path / "model"))
    assert about.test is None
    assert "No test rows were set apart" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("validation", "refit"), [({"kfold": 3, "test": 0.2}, False), ({"holdout": 0.2, "test": 0.2}, True)]
)
def test_folds_and_refit_train_once_more_on_all_but_the_test_rows(
    validation: dict[str, Any], refit: bool, run: Run, tmp_path: Path
) -> None:
    folder = export_trial(run(validation=validation), None, tmp_path / "model", refit=refit)
    about = read_about(folder)
    assert about.refit and about.trained_on == (40, 40, 40) and about.epoch >= about.best_epoch
    card = (folder / "README.md").read_text()
    assert "once more after the search" in card and "ended there by itself" not in card
    valid = 40 if "kfold" in validation else 8
    assert f"| 1 | 40 | {valid} | 10 |" in card and "learned from them after the search" in card


@pytest.mark.parametrize(
    ("objective", "values", "epochs"),
    [
        ("macro_f1", [0.5, 0.87, 0.82, 0.6], 3),  # its standard error is about 0.07
        ("macro_f1", [0.5, 0.87, 0.75, 0.6], 2),
        ("worst_class_recall", [0.5, 0.75, 0.63, 0.5], 3),  # of eight rows: 0.15
        ("log_loss", [0.9, 0.1, 0.11, 0.9], 2),
    ],
)
def test_refit_trains_as_long_as_epochs_were_as_good_as_the_best_one(
    objective: str, values: list[float], epochs: int, run: Run, tmp_path: Path
) -> None:
    results = run(objective=objective, search={"suggester": "random", "trials": 1})
    log = results.folder.events
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        if event["kind"] == "reported":
            event["metrics"][objective] = values[event["epoch"] - 1]
            event["confusion"] = [[8, 0, 0], [0, 7, 1], [1, 1, 6]]
    log.write_text("".join(json.dumps(event) + "\n" for event in events))
    folder = export_trial(load_run(results.folder.path), None, tmp_path / "model", refit=True)
    about = read_about(folder)
    assert (about.epoch, about.best_epoch) == (epochs, 2)
    told = "the trial's best epoch in the search was 2, and later ones were as good"
    assert (told in (folder / "README.md").read_text()) == (epochs > 2)


class Sooner(Softmax):
    """Ends after two epochs where it has more than a fold's rows, as a solver may that has converged."""

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        yield from super().train(settings, replace(fold, epochs=2) if len(fold.train) > 100 else fold, start)


def test_refit_that_ends_by_itself_is_exported_as_far_as_it_came(run: Run, tmp_path: Path) -> None:
    results = run(
        trainer="tests.search.test_export:Sooner",
        validation={"kfold": 3, "test": 0.2},
        fixed={"learning_rate": 0.01},
        space={"batch_size": [8]},
        search={"suggester": "grid"},
    )
    folder = export_trial(results, None, tmp_path / "model")
    about, predictor = load_model(folder, trust=True)
    assert (about.epoch, about.best_epoch) == (2, results.run.trials[1].best_epoch) and about.best_epoch > 2
    with np.load(folder / "weights" / "weights.npz") as saved:
        assert saved["epoch"] == 2
    ended = "for 2 epochs on all 120 rows but the test rows; it ended there by itself, the trial's best "
    assert f"{ended}epoch in the search was {about.best_epoch}" in (folder / "README.md").read_text()


def test_rows_judged_again_and_again_count_once(run: Run, tmp_path: Path) -> None:
    folder = export_trial(run(validation={"kfold": 3, "repeat": 4, "test": 0.2}), None, tmp_path / "model")
    about, card = read_about(folder), (folder / "README.md").read_text()
    confusion = np.array(about.validation.confusion)
    assert confusion.sum() == 480 and about.repeat == 4
    low, high = wilson(round(confusion[1, 1] / 4), 40)
    row = next(line for line in card[card.index("### Validation") :].splitlines() if line.startswith("| 1 |"))
    assert f"| {low:.3f} to {high:.3f} |" in row
    assert row.endswith(f"| 40 | {round(confusion[:, 1].sum() / 4)} |")
    assert "divided anew 4 times: the table counts as many as are judged in one such" in card
    assert "| 1 | 40 | 40 | 10 |" in card


def test_no_file_is_left_out_of_the_hashes_but_the_one_that_holds_them(run: Run, tmp_path: Path) -> None:
    folder = export_trial(run(), 1, tmp_path / "deep" / "er" / "model")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert read_about(folder).files.keys() == files - {"model.json"} == {"README.md", "weights/weights.npz"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


# ---- what cannot be exported ----


def test_model_that_comes_out_otherwise_is_not_exported(run: Run, tmp_path: Path) -> None:
    results = run()
    changed = np.roll(kept(results, 1), 1, axis=0)
    results.folder.write_predictions(1, results.run.trials[1].best_epoch, changed)
    with pytest.raises(RunError, match="trial 1 does not come out as in the search.*--refit"):
        export_trial(results, 1, tmp_path / "model")
    assert not list(tmp_path.glob("*model*"))


def test_missing_or_other_predictions_are_told(run: Run, tmp_path: Path) -> None:
    results = run()
    results.folder.write_predictions(1, 99, kept(results, 1))
    with pytest.raises(RunError, match="holds epoch 99, but the best one is"):
        export_trial(results, 1, tmp_path / "model")
    whole = results.folder.predictions(1).read_bytes()
    for left in (whole[: len(whole) // 2], b""):
        results.folder.predictions(1).write_bytes(left)
        with pytest.raises(RunError, match="cannot be read.*nothing to compare the model with"):
            export_trial(results, 1, tmp_path / "model")
    results.folder.predictions(1).unlink()
    with pytest.raises(RunError, match="nothing to compare the model with"):
        export_trial(results, 1, tmp_path / "model")


def test_changed_data_is_refused(run: Run, tmp_path: Path) -> None:
    data = {name: tmp_path / f"{name}.npy" for name in ("path", "labels")}
    for name, file in data.items():
        shutil.copy(TINY["dataset"][name], file)
    results = run(dataset={"kind": "npy", **{name: str(file) for name, file in data.items()}})
    np.save(data["path"], np.load(data["path"]) + 1)
    with pytest.raises(RunError, match="changed since it was started"):
        export_trial(results, 1, tmp_path / "model")


def test_folder_that_is_taken_is_refused_and_an_empty_one_filled(run: Run, tmp_path: Path) -> None:
    results = run()
    (tmp_path / "empty").mkdir()
    assert read_about(export_trial(results, 1, tmp_path / "empty")).trial == 1
    with pytest.raises(RunError, match="not an empty folder; choose another name"):
        export_trial(results, 1, tmp_path / "empty")


class Unreadable(Softmax):
    """Cannot read something of its own when its model is loaded."""

    def load(self, folder: Path) -> Any:
        return (folder / "not-there").read_bytes()


def test_what_cannot_be_read_is_not_told_as_what_cannot_be_written(run: Run, tmp_path: Path) -> None:
    results = run(trainer="tests.search.test_export:Unreadable")
    with pytest.raises(FileNotFoundError, match="not-there"):
        export_trial(results, 1, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_folder_that_cannot_be_made_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write .*model"):
        export_trial(run(), 1, tmp_path / "file" / "model")


def test_format_that_the_trainer_cannot_write_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be exported.*onnx"):
        export_trial(run(), 1, tmp_path / "model", formats=("onnx",))
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_trial_that_is_not_there_or_has_no_result_is_told(run: Run, tmp_path: Path) -> None:
    results = run(space={"mishap": ["infeasible"]}, search={"suggester": "grid"})
    with pytest.raises(RunError, match="no result to export yet"):
        export_trial(results, None, tmp_path / "model")
    with pytest.raises(RunError, match="has no trial 7; it has 1 to 1"):
        export_trial(results, 7, tmp_path / "model")
    with pytest.raises(RunError, match="it is infeasible: mishap"):
        export_trial(results, 1, tmp_path / "model")


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "weights/../../x"])
def test_file_of_no_name_is_told(name: str, run: Run, tmp_path: Path) -> None:
    folder = export_trial(run(), 1, tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    about["files"][name] = "0" * 64
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=f"model.json cannot be read: files.*'{name}' is no file in the mo"):
        load_model(folder, trust=True)


# ---- where rows and weights come from ----


def test_columns_of_a_compressed_table_are_told(run: Run, tmp_path: Path) -> None:
    chance, y = np.random.default_rng(0), np.arange(60) % 2
    lines = [f"{y[i]},{i},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(chance.normal(size=(60, 2)))]
    path = tmp_path / "rows.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join([" label,number,left, right", *lines, lines[0]]))
    dataset = {"kind": "csv", "path": str(path), "label": " label", "drop": ["number"]}
    about = read_about(export_trial(run(dataset=dataset), 1, tmp_path / "model"))
    assert (about.input.columns, about.input.label) == (("left", "right"), "label")
    assert any("copies" in note or "copy" in note for note in about.notes) and about.notes[0] in model_card(
        about
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, while it saves
def test_exported_transfer_needs_its_first_weights_no_more(tmp_path: Path) -> None:
    import keras

    file = tmp_path / "own.weights.h5"
    keras.applications.ResNet50(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(file)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 1)).astype(np.uint8)
    np.save(tmp_path / "rows.npy", images)
    np.save(tmp_path / "labels.npy", np.arange(24) % 2)
    sweep = DIGITS | {
        "dataset": {
            "kind": "npy",
            "path": str(tmp_path / "rows.npy"),
            "labels": str(tmp_path / "labels.npy"),
        },
        "trainer": "keras/resnet50",
        "validation": {"holdout": 0.5, "test": 0.0},
        "epochs": 1,
        "search": {"suggester": "grid"},
        "space": {"learning_rate": [0.01]},
        "fixed": {"weights": str(file), "pooling": "average", "head_units": 0},
    }
    run_sweep(Sweep.from_dict(sweep), tmp_path / "run", "local")
    results = load_run(tmp_path / "run")
    folder = export_trial(results, None, tmp_path / "model", formats=())
    np.save(tmp_path / "rows.npy", validation_rows(results))
    file.unlink()
    again = predict(folder, [tmp_path / "rows.npy"]).probabilities
    np.testing.assert_allclose(again, kept(results, 1), atol=1e-4)


# ---- the card ----


@pytest.fixture
def about(run: Run, tmp_path: Path) -> ExportedModel:
    return read_about(export_trial(run(), None, tmp_path / "model"))


def test_card_warns_of_lost_and_of_rare_classes(about: ExportedModel) -> None:
    test = Evaluation(values=about.validation.values, confusion=((90, 0, 0), (10, 30, 0), (4, 1, 0)))
    card = model_card(about.model_copy(update={"test": test}))
    assert "The class 2 is lost: none of the test rows is given it" in card
    assert "The class 2 has 5 test rows only" in card
    assert "The class 1 has" not in card
    assert "| 2 | 0.000 | 0.000 | 0.000 to 0.434 | 0.000 | 5 | 0 |" in card
    assert "| 1 | 10 | 30 | 0 |" in card


def test_class_name_cannot_break_the_card(about: ExportedModel) -> None:
    card = model_card(about.model_copy(update={"classes": ("a|b", "<script>", "c\nd")}))
    assert "a\\|b" in card and "<script" not in card and "c d" in card
    tables = [line for line in card.splitlines() if line.startswith("| c d")]
    assert len(tables) == 5


def test_card_shows_what_is_not_estimable_as_such(about: ExportedModel) -> None:
    values = dict.fromkeys(about.validation.values, math.nan)
    none = Evaluation(values=values, confusion=((1, 0, 0), (0, 1, 0), (0, 0, 0)))
    again = ExportedModel.model_validate_json(about.model_copy(update={"test": none}).model_dump_json())
    assert again.test and math.isnan(again.test.values["mcc"])
    assert "| 2 | 0.000 | - | 0.000 to 1.000 | - | 0 | 0 |" in model_card(again)


def test_card_of_images_says_how_to_ask(tmp_path: Path) -> None:
    about_knn = Sweep.from_dict(
        DIGITS | {"epochs": 1, "trainer": "sklearn/knn", "space": {"n_neighbors": [3]}, "fixed": {}}
    )
    run_sweep(about_knn, tmp_path / "run", "local")
    card = (export_trial(load_run(tmp_path / "run"), None, tmp_path / "model") / "README.md").read_text()
    assert "images of 8x8, grey" in card and "--grid out.png" in card
    assert "`weights/rows.npz` holds the training rows" in card and "copies" not in card
    assert len(predict(tmp_path / "model", [_png(tmp_path)])) == 1


def _png(folder: Path) -> Path:
    from PIL import Image

    Image.new("L", (20, 20), 255).save(folder / "white.png")
    return folder / "white.png"
