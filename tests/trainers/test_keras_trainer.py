"""The Keras training loop: batches, curves, options, going on, memory, export; and what fits a cnn."""

import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers import keras_programs
from trainers.contract import Epoch, Fold, Infeasible, Trainer, TrainError
from trainers.keras_models import batches, import_keras
from trainers.keras_trainer import KerasTrainer, TrainingSettings, _is_out_of_patience, _share_of_rate

MakeFold = Callable[..., Fold]
SMALL: dict[str, Any] = {"conv_layers": 1, "filters": 4, "dense_units": 8}


@pytest.fixture
def trainer() -> Trainer:
    return KerasTrainer("cnn")


def train(
    trainer: Trainer,
    fold: Fold,
    start: Path | None = None,
    *,
    scores: Sequence[float] = (0.5,) * 100,
    save_2: Path | None = None,
    **settings: Any,
) -> list[Epoch]:
    """All epochs; epoch n's score is ``scores[n - 1]``, and the second one is saved into ``save_2``."""
    epochs = trainer.train(trainer.Settings(**{**SMALL, **settings}), fold, start)
    seen: list[Epoch] = []
    try:
        seen.append(next(epochs))
        while True:
            score = scores[seen[-1].number - 1]
            if save_2 and seen[-1].number == 2:
                seen[-1].save(save_2, score)
            seen.append(epochs.send(score))
    except StopIteration:
        return seen


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


RARE: dict[str, Any] = {"rebalance": "class_weight", "strength": 0.5}
CHANGES: dict[str, Any] = {
    "flip": "both",
    "rotation": 0.1,
    "zoom": 0.2,
    "shear": 0.2,
    "shift": 0.1,
    "contrast": 0.3,
    "erasing": 0.5,
}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "schedule": "cosine"},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "nadam", "schedule": "plateau", "plateau_patience": 1},
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, "precision": "mixed_float16"},
        {"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 1e-3},
        {"optimizer": "adagrad", "patience": 2},
        {"optimizer": "adadelta", "label_smoothing": 0.2, **RARE},
        {"precision": "mixed_bfloat16", **CHANGES},
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


def test_loss_is_smoothed_and_weighted_and_accuracy_is_neither(
    trainer: Trainer, make_fold: MakeFold, fold: Fold, tmp_path: Path
) -> None:
    """Each row's loss, from its definition; the weights stand still, and the last batch is filled up."""
    rows = np.flatnonzero((fold.y_train < 3) | (np.arange(100) < 40))
    rare = make_fold(train=rows, y_train=fold.y_train[rows])
    frozen: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 1e-12, "batch_size": 32}
    (epoch, *_) = train(trainer, rare, label_smoothing=0.3, **frozen, **RARE)
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

    monkeypatch.setattr(keras_programs, "KEPT", 1)
    counted = []
    for filters in (2, 3, 4):
        made = trainer.Settings(**{**SMALL, "filters": filters, "dropout": 0.1, **settings})
        epochs = trainer.train(made, fold, None)
        next(epochs)
        epochs.close()
        counted.append(graphs())
    assert counted[0] == counted[1] == counted[2]


class Vectors:
    """An architecture for rows of any shape: one dense layer."""

    Settings: type[TrainingSettings] = TrainingSettings

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential, layers

        return Sequential([Input(shape), layers.Flatten(), layers.Dense(num_classes)])


class TransferSettings(TrainingSettings):
    is_frozen: bool = True


class Transfer(Vectors):
    """A backbone that may stay as it is, and a head; counts its backbones."""

    Settings: type[TrainingSettings] = TransferSettings
    made = 0

    def backbone_key(self, settings: Any) -> dict[str, str] | None:
        return {"backbone": "pool"} if settings.is_frozen else None

    def backbone(self, settings: Any, shape: tuple[int, ...], scale: float) -> Any:
        from keras import Input, Sequential, initializers, layers

        self.made += 1
        start = initializers.GlorotUniform(seed=1)
        convolution = layers.Conv2D(3, 3, kernel_initializer=start, trainable=not settings.is_frozen)
        return Sequential([Input(shape), layers.Rescaling(1 / scale), convolution, layers.Flatten()])

    def head(self, settings: Any, feature_shape: tuple[int, ...], num_classes: int) -> Any:
        return super().build(settings, feature_shape, num_classes, 1.0)

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential

        body = self.backbone(settings, shape, scale)
        return Sequential([Input(shape), body, self.head(settings, body.output_shape[1:], num_classes)])


def epochs_of(trainer: Trainer, fold: Fold, **settings: Any) -> Iterable[Epoch]:
    return trainer.train(trainer.Settings(**settings), fold, None)


def test_a_frozen_backbone_sees_each_row_once_for_all_trials(fold: Fold, tmp_path: Path) -> None:
    architecture = Transfer()
    trainer: Trainer = KerasTrainer("transfer", architecture)
    for learning_rate in (1e-3, 1e-2):
        *_, last = epochs_of(trainer, fold, learning_rate=learning_rate)
    assert architecture.made == 1
    last.save(tmp_path, 0.5)
    predictor = trainer.load(tmp_path)
    np.testing.assert_allclose(predictor.predict(fold.x_valid), last.probabilities, atol=1e-6)
    assert trainer.check(trainer.Settings(), fold) == 30 + 108 * 10 + 10


@pytest.mark.parametrize("settings", [{"is_frozen": False}, {"shift": 0.1}], ids=lambda d: [*d][0])
def test_a_backbone_is_part_of_training_where_features_would_change(
    fold: Fold, tmp_path: Path, settings: dict[str, Any]
) -> None:
    architecture = Transfer()
    trainer: Trainer = KerasTrainer("transfer", architecture)
    for _ in range(2):
        *_, last = epochs_of(trainer, fold, epochs=2, **settings)
    assert architecture.made == 2
    last.save(tmp_path, 0.5)
    assert np.array_equal(trainer.load(tmp_path).predict(fold.x_valid), last.probabilities)


def test_features_of_a_frozen_backbone_train_what_the_whole_would(fold: Fold) -> None:
    trainer: Trainer = KerasTrainer("transfer", Transfer())

    class Whole(Transfer):
        def backbone_key(self, settings: Any) -> None:
            return None

    sgd = {"optimizer": "sgd", "learning_rate": 0.05}
    falls = []
    for made in (trainer, KerasTrainer("whole", Whole())):
        epochs = [epoch.curves["train_loss"] for epoch in epochs_of(made, fold, **sgd)]
        falls.append(epochs[-1] / epochs[0])  # their first weights are drawn differently
    assert falls[0] == pytest.approx(falls[1], rel=0.1)


class FromFileSettings(TransferSettings):
    file: str = "nowhere"


class FromFile(Transfer):
    """A backbone whose first weights are the numbers in a file."""

    Settings: type[TrainingSettings] = FromFileSettings

    def untrained(self, settings: Any) -> Any:
        return settings.model_copy(update={"file": ""})

    def backbone_key(self, settings: Any) -> dict[str, str] | None:
        return {"file": Path(settings.file).read_text()} if settings.is_frozen else None

    def backbone(self, settings: Any, shape: tuple[int, ...], scale: float) -> Any:
        model = super().backbone(settings, shape, scale)
        if settings.file:
            model.variables[0].assign(0 * model.variables[0] + float(Path(settings.file).read_text()))
        return model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "first-weights"
    path.write_text("0.1")
    return path


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_export_writes_needs_no_weights_from_elsewhere(
    fold: Fold, file: Path, tmp_path: Path, is_frozen: bool
) -> None:
    trainer: Trainer = KerasTrainer("from_file", FromFile())
    (epoch,) = epochs_of(trainer, fold, epochs=1, is_frozen=is_frozen, file=str(file))
    weights = tmp_path / "weights"
    weights.mkdir()
    epoch.save(weights, 0.5)
    trainer.load(weights).export(tmp_path, [])
    file.unlink()
    again = trainer.load(weights)
    np.testing.assert_allclose(again.predict(fold.x_valid), epoch.probabilities, atol=1e-6)
    again.export(tmp_path, [])  # nothing to make whole


def test_changed_first_weights_of_a_frozen_backbone_are_noticed(
    fold: Fold, file: Path, tmp_path: Path
) -> None:
    trainer: Trainer = KerasTrainer("from_file", FromFile())
    folder = tmp_path / "epoch"
    folder.mkdir()
    next(iter(epochs_of(trainer, fold, file=str(file)))).save(folder, 0.5)
    file.write_text("0.2")
    with pytest.raises(TrainError, match="another backbone than its settings give now.*put it back"):
        trainer.load(folder)
    with pytest.raises(TrainError, match="differs in backbone"):
        next(trainer.train(trainer.Settings(file=str(file)), fold, folder))


def test_check_takes_no_first_weights(fold: Fold, file: Path) -> None:
    trainer: Trainer = KerasTrainer("from_file", FromFile())
    file.write_text("this is no number, and building with it fails")
    assert trainer.check(trainer.Settings(file=str(file)), fold) == 30 + 108 * 10 + 10


def test_features_of_another_keras_are_computed_anew(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = Transfer()
    trainer: Trainer = KerasTrainer("transfer", architecture)
    other = replace(fold, x=fold.x[::-1].copy())
    for version in ("1.0", "1.0", "2.0"):
        monkeypatch.setattr(import_keras(), "__version__", version)
        next(iter(epochs_of(trainer, other)))
    assert architecture.made == 2


FILES = {"keras": "model.keras", "h5": "model.h5", "savedmodel": "savedmodel"}
IN_A_FRESH_PROCESS = """
import sys
import keras
import numpy as np
import tensorflow

rows = np.load("rows.npy").astype("float32")
for file in sys.argv[1:]:
    if file.endswith("savedmodel"):
        model = tensorflow.saved_model.load(file)
        made = model.serve(rows)
    else:
        made = keras.saving.load_model(file, safe_mode=True)(rows)
    np.save(f"{file}.npy", np.asarray(made))
assert not {"trainers", "search", "spaces"} & set(sys.modules)
"""


def test_exports_give_probabilities_of_stored_rows_without_our_code(
    trainer: Trainer, fold: Fold, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {}
    for precision, formats in {"float32": [*FILES], "mixed_bfloat16": ["keras"]}.items():
        folder = tmp_path / precision
        folder.mkdir()
        (epoch,) = train(trainer, fold, epochs=1, dropout=0.3, flip="both", erasing=0.5, precision=precision)
        epoch.save(folder, 0.5)
        trainer.load(folder).export(folder, formats)
        expected |= {f"{precision}/{FILES[name]}": epoch.probabilities for name in formats}
    np.save(tmp_path / "rows.npy", fold.x_valid)
    code = [sys.executable, "-I", "-c", IN_A_FRESH_PROCESS, *expected]
    subprocess.run(code, check=True, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    for file, probabilities in expected.items():
        close = 1e-2 if file.startswith("mixed") else 1e-6
        np.testing.assert_allclose(np.load(tmp_path / f"{file}.npy"), probabilities, atol=close)


ONEDNN_AND_XLA = """
import os
from trainers.keras_models import import_keras
import_keras()
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled(), os.environ["XLA_FLAGS"])
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "True --xla_gpu_deterministic_ops=true"),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, "True --xla_dump_to=x --xla_gpu_deterministic_ops=true"),
        (
            {"TF_ENABLE_ONEDNN_OPTS": "0", "XLA_FLAGS": "--xla_gpu_deterministic_ops=false"},
            "False --xla_gpu_deterministic_ops=false",
        ),
    ],
    ids=["left out", "another flag", "both given"],
)
def test_kernels_are_the_fast_and_exact_ones_unless_their_user_says_otherwise(
    given: dict[str, str], told: str
) -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", ONEDNN_AND_XLA],
        env={**inherited, "KERAS_BACKEND": "tensorflow", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told


def test_export_refuses_what_it_cannot_write(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(iter(epochs_of(trainer, fold))).save(tmp_path, 0.5)
    predictor = trainer.load(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TrainError, match=r"as 'pickle', 'pt'; known: keras, h5, savedmodel, onnx"):
        predictor.export(tmp_path, ["keras", "pickle", "pt"])
    predictor.export(tmp_path, [])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_export_names_the_packages_that_onnx_needs(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(iter(epochs_of(trainer, fold))).save(tmp_path, 0.5)
    with pytest.raises(TrainError, match=r"pip install onnx tf2onnx"):
        trainer.load(tmp_path).export(tmp_path, ["onnx"])


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
    vectors = make_fold(x=fold.x.reshape(160, 64))
    with pytest.raises(Infeasible, match=r"shape \(64,\)"):
        trainer.check(trainer.Settings(), vectors)
