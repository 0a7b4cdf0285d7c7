"""The Keras training loop: batches, curves, schedules, going on, memory; and what fits a cnn."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.contract import Epoch, Fold, Infeasible, Trainer, TrainError
from trainers.keras_trainer import KerasTrainer, _batches

MakeFold = Callable[..., Fold]
SMALL: dict[str, Any] = {"conv_layers": 1, "filters": 4, "dense_units": 8}


@pytest.fixture
def trainer() -> Trainer:
    return KerasTrainer("cnn")


def train(trainer: Trainer, fold: Fold, start: Path | None = None, **settings: Any) -> list[Epoch]:
    return list(trainer.train(trainer.Settings(**{**SMALL, **settings}), fold, start))


def logits_of(epoch: Epoch, trainer: Trainer, fold: Fold, folder: Path) -> np.ndarray:
    epoch.save(folder)
    return np.log(trainer.load(folder).predict(fold.x_train))


def test_every_row_counts_once_in_batches_of_one_length() -> None:
    batches = list(_batches(num_rows=10, batch_size=4, seed=0, number=1))
    assert [len(rows) for rows, _ in batches] == [4, 4, 4]
    counted = [row for rows, weights in batches for row in rows[weights == 1]]
    assert sorted(counted) == list(range(10))


def test_batches_are_never_longer_than_the_data() -> None:
    ((rows, weights),) = _batches(num_rows=3, batch_size=64, seed=0, number=1)
    assert sorted(rows) == [0, 1, 2] and weights.tolist() == [1, 1, 1]


def test_order_follows_from_seed_and_epoch_number() -> None:
    def order(seed: int, number: int) -> list[int]:
        return [int(row) for rows, _ in _batches(50, 50, seed, number) for row in rows]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2) != order(2, 1)


def test_curves_are_means_over_all_rows(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    # At this learning rate the weights stand still: each batch, the filled-up last one too, meets one model.
    (epoch, *_) = train(trainer, fold, optimizer="sgd", learning_rate=1e-12, batch_size=32)
    logs = logits_of(epoch, trainer, fold, tmp_path)
    assert epoch.curves["train_loss"] == pytest.approx(-logs[np.arange(100), fold.y_train].mean(), rel=1e-5)
    assert epoch.curves["train_accuracy"] == pytest.approx((logs.argmax(axis=1) == fold.y_train).mean())


def test_schedule_runs_over_the_epochs_of_the_fold(trainer: Trainer, fold: Fold) -> None:
    def rates(schedule: str) -> list[float]:
        epochs = train(trainer, fold, schedule=schedule, learning_rate=0.1)
        return [epoch.curves["learning_rate"] for epoch in epochs]

    assert rates("constant") == pytest.approx([0.1] * 4)
    assert rates("cosine") == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "schedule": "cosine"},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "nadam"},
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05},
        {"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 1e-3},
        {"optimizer": "adagrad"},
        {"optimizer": "adadelta"},
    ],
    ids=lambda settings: settings["optimizer"],
)
def test_every_optimizer_resumes_bit_for_bit(
    trainer: Trainer, fold: Fold, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {**SMALL, **settings, "dropout": 0.4, "batch_size": 32}
    straight = []
    for epoch in trainer.train(trainer.Settings(**settings), fold, None):
        straight.append(epoch)
        if epoch.number == 2:
            epoch.save(tmp_path)
    resumed = train(KerasTrainer("cnn"), fold, tmp_path, **settings)
    assert [epoch.number for epoch in resumed] == [3, 4]
    for one, other in zip(straight[2:], resumed, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.curves == other.curves


def test_momentum_and_weight_decay_make_a_difference(trainer: Trainer, fold: Fold) -> None:
    def loss(**settings: Any) -> float:
        return train(trainer, fold, optimizer="sgd", learning_rate=0.1, **settings)[-1].curves["train_loss"]

    assert len({loss(), loss(momentum=0.9), loss(weight_decay=1.0)}) == 3


def test_a_trial_never_goes_on_from_other_settings(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(trainer.train(trainer.Settings(**SMALL), fold, None)).save(tmp_path)
    with pytest.raises(TrainError, match="differs in settings"):
        train(trainer, fold, tmp_path, filters=5)


def test_load_refuses_another_architecture(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(trainer.train(trainer.Settings(**SMALL), fold, None)).save(tmp_path)
    about = json.loads((tmp_path / "about.json").read_text())
    (tmp_path / "about.json").write_text(json.dumps({**about, "architecture": "os"}))
    with pytest.raises(TrainError, match="'os', not 'cnn'"):
        trainer.load(tmp_path)


def test_divergence_is_told_by_nan_and_not_raised(trainer: Trainer, make_fold: MakeFold) -> None:
    fold = make_fold(scale=1e-30, epochs=3)  # inputs so large that the first update overflows
    *_, last = train(trainer, fold, optimizer="sgd", activation="leaky_relu")
    assert last.number == 3
    assert np.isnan(last.probabilities).all()
    assert np.isnan(last.curves["train_loss"])


def test_fold_longer_than_one_batch_of_predictions(trainer: Trainer, make_fold: MakeFold, fold: Fold) -> None:
    repeated = np.concatenate([fold.x_valid] * 5)  # 300 rows: two batches
    (epoch,) = train(trainer, make_fold(x_valid=repeated, epochs=1))
    np.testing.assert_allclose(epoch.probabilities[:60], epoch.probabilities[240:], atol=1e-6)


def test_a_warm_worker_keeps_nothing_of_past_trials(trainer: Trainer, fold: Fold) -> None:
    def graphs() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    before = graphs()
    for filters in (2, 3):
        epochs = trainer.train(trainer.Settings(**{**SMALL, "filters": filters, "dropout": 0.1}), fold, None)
        next(epochs)
        epochs.close()
    del epochs
    assert graphs() <= before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"conv_layers": 3, "kernel_size": 5}, "conv layer 3: a 5x5 kernel does not fit its 2x2 map"),
        ({"conv_layers": 4}, "conv layer 4: a 3x3 kernel does not fit its 1x1 map"),
        ({"conv_layers": 1, "kernel_size": 9, "padding": "valid"}, "a 9x9 kernel does not fit its 8x8 map"),
        ({"conv_layers": 2, "pool_size": 3}, "conv layer 2: a 3x3 pool does not fit its 2x2 map"),
    ],
)
def test_cnn_says_which_layer_does_not_fit(
    trainer: Trainer, fold: Fold, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Infeasible, match=reason):
        trainer.check(trainer.Settings(**settings), fold)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv_layers": 3},
        {"conv_layers": 1, "kernel_size": 8, "padding": "valid", "pool_size": 1},
        {"conv_layers": 0, "dense_units": 0},
        {"conv_layers": 2, "kernel_size": 7, "pool_size": 2},
        {"conv_layers": 1, "pool_size": 8},
    ],
)
def test_cnn_builds_whatever_it_does_not_refuse(
    trainer: Trainer, fold: Fold, settings: dict[str, Any]
) -> None:
    trainer.check(trainer.Settings(**settings), fold)


def test_cnn_needs_images(trainer: Trainer, fold: Fold, make_fold: MakeFold) -> None:
    vectors = make_fold(x_train=fold.x_train.reshape(100, 64))
    with pytest.raises(Infeasible, match=r"shape \(64,\)"):
        trainer.check(trainer.Settings(), vectors)
