"""The contract of `trainers.contract`, over every trainer of the catalog."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trainers.catalog import TRAINERS, load_trainer
from trainers.contract import Epoch, Fold, Infeasible, Trainer
from trainers.spark_trainer import java_fault

# One architecture stands for all: they differ in what they build, which test_architectures.py looks at.
NAMES = [name for name in TRAINERS if not name.startswith("keras/") or name == "keras/cnn"]
# The defaults would draw no random numbers while training, be slow, or need a cluster's worth of rows.
SETTINGS: dict[str, dict[str, Any]] = {
    "keras/cnn": {"filters": 4, "dropout": 0.3},
    "sklearn/random_forest": {"iterations_per_epoch": 3},
    "sklearn/hist_gradient_boosting": {
        "iterations_per_epoch": 2,
        "max_leaf_nodes": 4,
        "learning_rate": 0.5,
        "max_features": 0.3,
    },
    "sklearn/mlp": {"units": 20},
    "spark/mlp": {"layers": "20", "iterations_per_epoch": 2},
}
# Sixty iterations in one piece: each piece starts Spark's solver anew, and a job of Spark's takes its time.
LEARNING: dict[str, dict[str, Any]] = {
    "spark/mlp": {"layers": "20", "max_iter": 60, "iterations_per_epoch": 60},
}
INFEASIBLE: dict[str, dict[str, Any]] = {
    "keras/cnn": {"kernel_size": 9, "padding": "valid"},
    "sklearn/knn": {"n_neighbors": 101},
    "sklearn/logistic_regression": {"l1_ratio": 0.5},
    "sklearn/random_forest": {"min_samples_leaf": 51},
    "sklearn/hist_gradient_boosting": {"min_samples_leaf": 51},
}
RANDOM = ["keras/cnn", "sklearn/random_forest", "sklearn/hist_gradient_boosting", "sklearn/mlp", "spark/mlp"]

MakeFold = Callable[..., Fold]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "spark/mlp" and (fault := java_fault()):
        pytest.skip(fault)
    return str(request.param)


@pytest.fixture
def trainer(name: str) -> Trainer:
    return load_trainer(name)


@pytest.fixture
def settings(name: str, trainer: Trainer) -> Any:
    return trainer.Settings(**SETTINGS.get(name, {}))


def train(trainer: Trainer, settings: Any, fold: Fold, start: Path | None = None) -> list[Epoch]:
    return list(trainer.train(settings, fold, start))


def test_epochs_rise_from_one(trainer: Trainer, settings: Any, fold: Fold) -> None:
    numbers = [epoch.number for epoch in trainer.train(settings, fold, None)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 1 <= len(numbers) <= fold.epochs


def test_probabilities_are_a_distribution_for_every_row(trainer: Trainer, settings: Any, fold: Fold) -> None:
    for epoch in trainer.train(settings, fold, None):
        assert epoch.probabilities.shape == (60, 10)
        assert epoch.probabilities.dtype == np.float32
        assert (epoch.probabilities >= 0).all()
        np.testing.assert_allclose(epoch.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_a_class_missing_from_training_keeps_its_column(
    trainer: Trainer, settings: Any, fold: Fold, make_fold: MakeFold
) -> None:
    kept = fold.y_train != 4
    lacking = make_fold(train=fold.train[kept], y_train=fold.y_train[kept], epochs=1)
    assert train(trainer, settings, lacking)[-1].probabilities.shape == (60, 10)


def test_curves_are_numbers(trainer: Trainer, settings: Any, fold: Fold) -> None:
    for epoch in trainer.train(settings, fold, None):
        assert all(type(value) is float for value in epoch.curves.values())


def test_it_learns_its_training_rows(name: str, trainer: Trainer, fold: Fold, make_fold: MakeFold) -> None:
    settings = trainer.Settings(**LEARNING.get(name, {}))
    *_, last = trainer.train(settings, make_fold(valid=fold.train, epochs=30), None)
    assert (last.probabilities.argmax(axis=1) == fold.y_train).mean() > 0.9


def test_same_seed_same_numbers(trainer: Trainer, settings: Any, make_fold: MakeFold) -> None:
    one, other = (train(trainer, settings, make_fold(seed=7, epochs=2))[-1] for _ in range(2))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.curves == other.curves


@pytest.mark.parametrize("name", RANDOM)
def test_other_seed_other_numbers(trainer: Trainer, settings: Any, make_fold: MakeFold) -> None:
    one, other = (train(trainer, settings, make_fold(seed=seed, epochs=1))[-1] for seed in (1, 2))
    assert not np.array_equal(one.probabilities, other.probabilities)


def test_trials_in_step_do_not_disturb_each_other(
    trainer: Trainer, settings: Any, make_fold: MakeFold
) -> None:
    folds = [make_fold(seed=seed, epochs=2) for seed in (1, 2)]
    alone = [train(trainer, settings, fold)[-1].probabilities for fold in folds]
    *_, last = zip(*(trainer.train(settings, fold, None) for fold in folds), strict=True)
    assert all(np.array_equal(one, epoch.probabilities) for one, epoch in zip(alone, last, strict=True))


def test_resumed_goes_on_bit_for_bit(
    name: str, trainer: Trainer, settings: Any, fold: Fold, tmp_path: Path
) -> None:
    straight = []
    for epoch in trainer.train(settings, fold, None):
        straight.append(epoch)
        if epoch.number == 2 or not epoch.curves:
            epoch.save(tmp_path, 0.0)
    saved = min(2, len(straight))
    resumed = train(load_trainer(name), settings, fold, start=tmp_path)
    assert [epoch.number for epoch in resumed] == [epoch.number for epoch in straight[saved:]]
    for one, other in zip(straight[saved:], resumed, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.curves == other.curves


def test_loaded_predicts_what_the_epoch_did(
    name: str, trainer: Trainer, settings: Any, fold: Fold, tmp_path: Path
) -> None:
    epoch = next(trainer.train(settings, fold, None))
    epoch.save(tmp_path, 0.0)
    predictor = load_trainer(name).load(tmp_path)
    assert predictor.classes == fold.classes
    assert np.array_equal(predictor.predict(fold.x_valid), epoch.probabilities)
    np.testing.assert_allclose(predictor.predict(fold.x_valid[:1]), epoch.probabilities[:1], atol=1e-6)
    assert predictor.predict(fold.x_valid[:0]).shape == (0, 10)


def test_nothing_saved_needs_pickle(trainer: Trainer, settings: Any, fold: Fold, tmp_path: Path) -> None:
    next(trainer.train(settings, fold, None)).save(tmp_path, 0.0)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert [arrays[key] for key in arrays.files]


def test_it_can_be_closed_at_any_epoch(trainer: Trainer, settings: Any, fold: Fold) -> None:
    epochs = trainer.train(settings, fold, None)
    next(epochs)
    epochs.close()
    assert list(epochs) == []


def test_a_misspelt_setting_is_refused(trainer: Trainer) -> None:
    with pytest.raises(ValidationError, match="n_neighbours"):
        trainer.Settings(n_neighbours=3)


def test_settings_are_described_and_have_defaults(trainer: Trainer) -> None:
    trainer.Settings()
    for field in trainer.Settings.model_fields.values():
        assert field.description


@pytest.mark.parametrize("name", INFEASIBLE)
def test_infeasible_is_raised_before_the_first_epoch(name: str, trainer: Trainer, fold: Fold) -> None:
    settings = trainer.Settings(**INFEASIBLE[name])
    with pytest.raises(Infeasible, match=r"\w{4}"):
        next(trainer.train(settings, fold, None))
    with pytest.raises(Infeasible, match=r"\w{4}"):
        trainer.check(settings, fold)


def test_check_accepts_what_can_be_trained(trainer: Trainer, settings: Any, fold: Fold) -> None:
    trainer.check(settings, fold)
