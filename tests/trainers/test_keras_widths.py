"""Widths as data: what a model of open widths calculates is what Keras's own layers would."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.test_keras_programs import OTHER_NUMBERS, OTHER_WIDTHS, SMALL, settings_of, trained
from trainers import keras_programs
from trainers.contract import Fold, TrainError
from trainers.keras_trainer import KerasTrainer, TrainingSettings

WITH_WIDTHS = [name for name, widths in OTHER_WIDTHS.items() if widths]


@pytest.mark.parametrize("architecture", WITH_WIDTHS)
def test_architecture_tells_the_widths_of_the_layers_it_builds(architecture: str, fold: Fold) -> None:
    trainer = KerasTrainer(architecture)
    for sizes in (SMALL[architecture], SMALL[architecture] | OTHER_WIDTHS[architecture], {}):
        settings = settings_of(trainer, **sizes)
        model = trainer._whole(settings, fold.x.shape[1:], 10, 1.0, seed=0)
        *inner, last = (getattr(x, "filters", None) or x.units for x in model.layers if x.weights)
        assert trainer._widths(settings) == inner
        assert last == 10


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("architecture", WITH_WIDTHS)
def test_what_a_used_program_saves_predicts_the_same_in_a_model_of_fixed_widths(
    architecture: str, precision: str, fold: Fold, tmp_path: Path
) -> None:
    """Also where the program was built for other widths, wider and narrower ones."""
    trainer = KerasTrainer(architecture)
    keras_programs.forget()
    trained(trainer, fold, **SMALL[architecture], precision=precision)
    sizes: dict[str, Any] = {**SMALL[architecture], **OTHER_WIDTHS[architecture], **OTHER_NUMBERS}
    settings = settings_of(trainer, **sizes, precision=precision)
    epochs = trainer.train(settings, replace(fold, epochs=2), None)
    first = next(epochs)
    first.save(tmp_path, 0.5)
    assert len(keras_programs._idle) == 0, "the program of the first trial is in use"
    predicted = trainer.load(tmp_path).predict(fold.x[fold.valid])
    tolerance = 1e-6 if precision == "float32" else 2e-2
    np.testing.assert_allclose(predicted, first.probabilities, atol=tolerance)
    epochs.close()


class Normalized:
    """An architecture that tells widths and has a layer whose width nobody could change."""

    Settings = TrainingSettings

    def widths(self, settings: Any) -> list[int]:
        return [3]

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential, layers

        stack = [layers.Flatten(), layers.Dense(3), layers.BatchNormalization(), layers.Dense(num_classes)]
        return Sequential([Input(shape), *stack])


def test_other_layers_with_weights_are_refused_by_name(fold: Fold) -> None:
    with pytest.raises(TrainError, match="model with BatchNormalization; known: Conv2D, Dense"):
        trained(KerasTrainer("normalized", Normalized()), fold)


def test_what_an_optimizer_remembers_has_the_shape_of_its_weights(fold: Fold) -> None:
    trainer = KerasTrainer("cnn")
    keras_programs.forget()
    for sizes in (SMALL["cnn"], SMALL["cnn"] | OTHER_WIDTHS["cnn"]):
        trained(trainer, fold, **sizes)
        ((_, program),) = keras_programs._idle
        slots = [slot for slot in program.optimizer.variables if len(slot.shape)]
        weights = [weight for weight in program.model.trainable_variables for _ in "mv"]
        assert [tuple(slot.shape) for slot in slots] == [tuple(weight.shape) for weight in weights]
        assert [np.asarray(slot).shape for slot in slots] == [tuple(slot.shape) for slot in slots]


def test_rows_predicted_at_once_follow_the_largest_layer_of_a_model_in_a_model() -> None:
    from keras import Input, Model, Sequential, layers

    image = Input((32, 32, 3))
    body = Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(64, 3, padding="same")(image)))
    model = Sequential([Input((32, 32, 3)), body, layers.Dense(2)])
    assert keras_programs._rows_at_once(model) == keras_programs.OUTPUT_BYTES // (4 * 4 * 32 * 32 * 64)


def test_rows_predicted_at_once_follow_the_widths_of_the_trial(fold: Fold) -> None:
    trainer = KerasTrainer("cnn")
    keras_programs.forget()
    at_once = []
    for filters in (3, 30):
        trained(trainer, fold, **SMALL["cnn"] | {"filters": filters})
        ((_, program),) = keras_programs._idle
        at_once.append(keras_programs._rows_at_once(program.model))
        widest = 4 * 8 * 8 * filters
        assert at_once[-1] < keras_programs.OUTPUT_BYTES / widest
    assert at_once[0] > 2 * at_once[1]
