"""The Keras training loop: batches, curves, options, going on, memory."""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.keras_training import CHANGES, SMALL, MakeFold, Vectors, train
from trainers import keras_programs
from trainers.contract import Epoch, Fold, Infeasible, Trainer, TrainError
from trainers.keras_backend import import_keras
from trainers.keras_models import batches
from trainers.keras_trainer import KerasTrainer, TrainingSettings, _is_out_of_patience, _share_of_rate

RARE: dict[str, Any] = {"rebalance": "class_weight", "strength": 0.5}


def logits_of(epoch: Epoch, trainer: Trainer, fold: Fold, folder: Path) -> np.ndarray:
    epoch.save(folder, 0.0)
    return np.log(trainer.load(folder).predict(fold.x_train))


def test_every_row_counts_once_in_batches_of_one_length() -> None:
    rows, weights = batches(num_rows=10, batch_size=4, seed=0, number=1)
    assert rows.shape == weights.shape == (3, 4)
    assert sorted(rows[weights == 1]) == list(range(10))


def test_batches_are_never_longer_than_the_data() -> None:
    (rows,), (weights,) = batches(num_rows=3, batch_size=64, seed=0, number=1)
    assert sorted(rows) == [0, 1, 2] and weights.tolist() == [1, 1, 1]


def test_order_follows_from_seed_and_epoch_number() -> None:
    def order(seed: int, number: int) -> list[int]:
        return batches(50, 50, seed, number)[0].ravel().tolist()

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2) != order(2, 1)


@pytest.mark.jax
def test_curves_are_means_over_all_rows(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    # At this learning rate the weights stand still: each batch, the filled-up last one too, meets one model.
    # With few units there are rows that all of them pass by, whose classes are all alike.
    (epoch, *_) = train(trainer, fold, optimizer="sgd", learning_rate=1e-12, batch_size=32, dense_units=32)
    logs = logits_of(epoch, trainer, fold, tmp_path)
    assert epoch.curves["train_loss"] == pytest.approx(-logs[np.arange(100), fold.y_train].mean(), rel=1e-5)
    assert epoch.curves["train_accuracy"] == pytest.approx((logs.argmax(axis=1) == fold.y_train).mean())


def test_schedule_runs_over_the_epochs_of_the_fold(trainer: Trainer, fold: Fold) -> None:
    def actual(schedule: str) -> list[float]:
        epochs = train(trainer, fold, schedule=schedule, learning_rate=0.1)
        return [epoch.curves["learning_rate"] for epoch in epochs]

    assert actual("constant") == pytest.approx([0.1] * 4)
    assert actual("cosine") == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)


def rates(settings: dict[str, Any], scores: Sequence[float], last: int = 100) -> list[float]:
    """The learning rate of each epoch, as a share of the first, if epochs end in these scores."""
    made = TrainingSettings(**settings)
    return [_share_of_rate(made, scores[:epochs], last) for epochs in range(len(scores))]


def test_plateau_lowers_the_rate_each_time_scores_stand_still() -> None:
    scores = [0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7, 0.6, 0.6, 0.6]
    plateau = {"schedule": "plateau", "plateau_patience": 2, "plateau_factor": 0.5}
    assert rates(plateau, scores) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, under numpy 2
def test_plateau_does_what_the_callback_of_keras_does() -> None:
    keras = import_keras()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    callback = keras.callbacks.ReduceLROnPlateau("score", factor=0.5, patience=3, mode="max")
    callback.set_model(model)
    callback.on_train_begin()
    # Steps on both sides of the least difference that counts, 1e-4, which no sum of them is.
    scores = np.cumsum(np.random.default_rng(0).choice([-1e-3, 0, 4e-5, 2e-4], 60)).tolist()
    expected = []
    for number, score in enumerate(scores):
        expected.append(float(model.optimizer.learning_rate))
        callback.on_epoch_end(number, {"score": score})
    plateau = {"schedule": "plateau", "plateau_patience": 3, "plateau_factor": 0.5}
    assert rates(plateau, scores) == expected
    assert len(set(expected)) > 5


def test_a_score_that_is_not_a_number_is_no_better() -> None:
    nan = float("nan")
    plateau = {"schedule": "plateau", "plateau_patience": 1, "plateau_factor": 0.5}
    assert rates(plateau, [nan, 0.1, nan, 0.2]) == [1, 0.5, 0.5, 0.25]
    assert _is_out_of_patience(TrainingSettings(patience=2), [0.1, nan, nan])


@pytest.mark.parametrize(
    ("patience", "scores", "ends"),
    [
        (0, [0.5] * 9, False),
        (2, [], False),
        (2, [0.5, 0.4], False),
        (2, [0.5, 0.4, 0.5], True),
        (2, [0.5, 0.4, 0.500001], False),
        (1, [-0.5, -0.6], True),
    ],
)
def test_patience_counts_epochs_since_the_best(patience: int, scores: list[float], ends: bool) -> None:
    assert _is_out_of_patience(TrainingSettings(patience=patience), scores) is ends


def test_training_ends_when_patience_does_and_stays_ended(
    trainer: Trainer, make_fold: MakeFold, tmp_path: Path
) -> None:
    fold = make_fold(epochs=20)
    scores = [0.5, 0.4, 0.3]
    assert len(train(trainer, fold, scores=scores, save_2=tmp_path, patience=1)) == 2
    assert train(trainer, fold, tmp_path, patience=1) == []


def test_plateau_acts_on_the_optimizer(trainer: Trainer, fold: Fold) -> None:
    epochs = train(trainer, fold, schedule="plateau", plateau_patience=1, learning_rate=0.1)
    actual = [epoch.curves["learning_rate"] for epoch in epochs]
    assert actual == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_epochs_of_the_settings_end_training_and_its_cosine(trainer: Trainer, make_fold: MakeFold) -> None:
    epochs = train(trainer, make_fold(epochs=20), epochs=2, schedule="cosine", learning_rate=0.1)
    assert [epoch.curves["learning_rate"] for epoch in epochs] == pytest.approx([0.1, 0.05])
    assert len(train(trainer, make_fold(epochs=1), epochs=2)) == 1


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"optimizer": "adam", "schedule": "cosine"}, marks=pytest.mark.jax),
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "nadam", "schedule": "plateau", "plateau_patience": 1},
        pytest.param(
            {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, "precision": "mixed_float16"},
            marks=pytest.mark.jax,
        ),
        {"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 1e-3},
        {"optimizer": "adagrad", "patience": 2},
        {"optimizer": "adadelta", "label_smoothing": 0.2, **RARE},
        pytest.param({"precision": "mixed_bfloat16", **CHANGES}, marks=pytest.mark.jax),
    ],
    ids=lambda settings: str(next(iter(settings.values()))),
)
def test_every_option_resumes_bit_for_bit(
    trainer: Trainer, make_fold: MakeFold, tmp_path: Path, settings: dict[str, Any]
) -> None:
    fold = make_fold(epochs=5)
    scores = [0.2, 0.1, 0.3, 0.2, 0.1]  # a resumed one must remember the first
    settings = {**settings, "dropout": 0.4, "batch_size": 32}
    straight = train(trainer, fold, scores=scores, save_2=tmp_path, **settings)
    resumed = train(KerasTrainer("cnn"), fold, tmp_path, scores=scores, **settings)
    assert [epoch.number for epoch in resumed] == [epoch.number for epoch in straight[2:]] != []
    for one, other in zip(straight[2:], resumed, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.curves == other.curves


@pytest.mark.jax
def test_loss_is_smoothed_and_weighted_and_accuracy_is_neither(
    trainer: Trainer, make_fold: MakeFold, fold: Fold, tmp_path: Path
) -> None:
    """Each row's loss, from its definition; the weights stand still, and the last batch is filled up."""
    rows = np.flatnonzero((fold.y_train < 3) | (np.arange(100) < 40))
    rare = make_fold(train=rows, y_train=fold.y_train[rows])
    frozen: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-12, "batch_size": 32}
    (epoch, *_) = train(trainer, rare, label_smoothing=0.3, dense_units=32, **frozen, **RARE)
    logs = logits_of(epoch, trainer, rare, tmp_path)
    y, each = rare.y_train, np.arange(len(rows))
    losses = -(0.7 * logs[each, y] + 0.3 * logs.mean(axis=1))
    weights = np.bincount(y)[y] ** -0.5
    assert np.ptp(weights) > 0.1
    expected = (losses * weights / weights.mean()).mean()
    assert epoch.curves["train_loss"] == pytest.approx(expected, rel=1e-5)
    assert epoch.curves["train_accuracy"] == pytest.approx((logs.argmax(axis=1) == y).mean())


def test_class_weights_help_a_class_that_is_outnumbered(trainer: Trainer, make_fold: MakeFold) -> None:
    x = np.random.default_rng(0).normal(size=(400, 2, 2, 1)).astype(np.float32)
    y = (np.arange(400) >= 380).astype(np.int64)
    x[y == 1] += 1
    fold = make_fold(x=x, train=np.arange(400), y_train=y, valid=np.arange(400), classes=("a", "b"), scale=1)

    def recall(**settings: Any) -> float:
        layers: dict[str, Any] = {"conv_layers": 0, "dense_units": 0}
        last = train(trainer, fold, learning_rate=0.05, **layers, **settings)[-1]
        return float((last.probabilities.argmax(axis=1)[y == 1] == 1).mean())

    assert recall() < 0.7 < 0.9 < recall(rebalance="class_weight")


def test_validation_rows_are_never_augmented(trainer: Trainer, fold: Fold) -> None:
    frozen: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-12, "epochs": 1}
    (plain,), (changed,) = (train(trainer, fold, **frozen, **more) for more in ({}, CHANGES))
    assert np.array_equal(plain.probabilities, changed.probabilities)
    assert plain.curves["train_loss"] != pytest.approx(changed.curves["train_loss"], rel=1e-4)


@pytest.mark.jax
def test_every_epoch_is_augmented_anew(trainer: Trainer, fold: Fold) -> None:
    epochs = train(trainer, fold, optimizer="sgd", learning_rate=1e-12, shift=0.3, batch_size=100)
    assert len({round(epoch.curves["train_loss"], 6) for epoch in epochs}) == 4


def test_augmentation_of_vectors_is_infeasible(fold: Fold, make_fold: MakeFold) -> None:
    vectors = make_fold(x=fold.x.reshape(160, 64))
    trainer: Trainer = KerasTrainer("vectors", Vectors())
    assert trainer.check(trainer.Settings(), vectors) == 650
    for settings in (trainer.Settings(flip="both"), trainer.Settings(erasing=0.1)):
        with pytest.raises(Infeasible, match="augmentation needs images"):
            trainer.check(settings, vectors)
        with pytest.raises(Infeasible, match="augmentation needs images"):
            next(trainer.train(settings, vectors, None))


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_near_full_precision_and_ends_with_its_trial(
    trainer: Trainer, fold: Fold, precision: str
) -> None:
    full = train(trainer, fold, epochs=2)[-1]
    mixed = train(trainer, fold, epochs=2, precision=precision)[-1]
    assert 0 < np.abs(mixed.probabilities - full.probabilities).max() < 0.02
    assert mixed.probabilities.dtype == np.float32
    np.testing.assert_allclose(mixed.probabilities.sum(axis=1), 1, rtol=1e-6)
    assert np.array_equal(train(trainer, fold, epochs=2)[-1].probabilities, full.probabilities)
    assert import_keras().config.dtype_policy().name == "float32"


def test_gradients_too_small_for_half_precision_are_scaled(trainer: Trainer, make_fold: MakeFold) -> None:
    fold = make_fold(scale=3e8)  # inputs, and so gradients, near the smallest number of float16

    def moved(precision: str) -> float:
        first, last = (
            train(trainer, fold, precision=precision, conv_layers=0, dense_units=0, epochs=epochs)[-1]
            for epochs in (1, 2)
        )
        return float(np.abs(first.probabilities - last.probabilities).max())

    assert moved("mixed_float16") == pytest.approx(moved("float32"), rel=0.2)


def test_momentum_and_weight_decay_make_a_difference(trainer: Trainer, fold: Fold) -> None:
    def loss(**settings: Any) -> float:
        return train(trainer, fold, optimizer="sgd", learning_rate=0.1, **settings)[-1].curves["train_loss"]

    assert len({loss(), loss(momentum=0.9), loss(weight_decay=1.0)}) == 3


def test_a_trial_never_goes_on_from_other_settings(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(trainer.train(trainer.Settings(**SMALL), fold, None)).save(tmp_path, 0.0)
    with pytest.raises(TrainError, match="differs in settings"):
        train(trainer, fold, tmp_path, filters=5)


def test_load_refuses_another_architecture(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(trainer.train(trainer.Settings(**SMALL), fold, None)).save(tmp_path, 0.0)
    about = json.loads((tmp_path / "about.json").read_text())
    (tmp_path / "about.json").write_text(json.dumps({**about, "architecture": "os"}))
    with pytest.raises(TrainError, match="'os', not 'cnn'"):
        trainer.load(tmp_path)


@pytest.mark.jax
def test_divergence_is_told_by_nan_and_not_raised(trainer: Trainer, make_fold: MakeFold) -> None:
    fold = make_fold(scale=1e-30, epochs=3)  # inputs so large that the first update overflows
    *_, last = train(trainer, fold, optimizer="sgd", activation="leaky_relu")
    assert last.number == 3
    assert np.isnan(last.probabilities).all()
    assert np.isnan(last.curves["train_loss"])


def test_fold_longer_than_one_batch_of_predictions(trainer: Trainer, make_fold: MakeFold, fold: Fold) -> None:
    repeated = np.tile(fold.valid, 5)  # 300 rows: two batches
    (epoch,) = train(trainer, make_fold(valid=repeated, epochs=1))
    np.testing.assert_allclose(epoch.probabilities[:60], epoch.probabilities[240:], atol=1e-6)


@pytest.mark.parametrize("settings", [{}, CHANGES, {"precision": "mixed_float16"}], ids=lambda d: [*d][:1])
def test_a_warm_worker_keeps_few_models_of_past_trials(
    trainer: Trainer, fold: Fold, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def graphs() -> int:
        gc.collect()
        return sum(type(thing).__name__ == "FuncGraph" for thing in gc.get_objects())

    monkeypatch.setattr(keras_programs, "KEPT_STRUCTURES", 1)
    counted = []
    for filters in (2, 3, 4):
        made = trainer.Settings(**{**SMALL, "filters": filters, "dropout": 0.1, **settings})
        epochs = trainer.train(made, fold, None)
        next(epochs)
        epochs.close()
        counted.append(graphs())
    assert counted[0] == counted[1] == counted[2]
