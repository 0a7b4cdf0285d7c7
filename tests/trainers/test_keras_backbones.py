"""A frozen backbone: its features are computed once for all trials, and are those that its weights give."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.keras_training import Vectors, epochs_of
from trainers.contract import Fold, Trainer, TrainError
from trainers.keras_backend import import_keras
from trainers.keras_trainer import KerasTrainer, TrainingSettings


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


@pytest.mark.jax
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


@pytest.mark.jax
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
