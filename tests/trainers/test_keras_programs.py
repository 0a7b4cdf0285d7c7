"""Compiled models that are used again: a trial on one gives the very numbers of a trial on a new one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers import keras_programs
from trainers.contract import Epoch, Fold
from trainers.keras_backend import backend
from trainers.keras_trainer import KerasTrainer, TrainingSettings

MakeFold = Callable[..., Fold]
OPTIMIZERS = get_args(TrainingSettings.model_fields["optimizer"].annotation)
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {
        "conv_layers": 2,
        "filters": 3,
        "dense_units": 5,
        "conv_dropout": 0.1,
        "conv_dropout_step": 0.1,
        "dropout": 0.2,
    },
    "glassmodel": {"filters_1": 3, "filters_2": 4, "dropout": 0.2},
    "alexnet": {"width": 0.05, "dense_units": 5, "dropout": 0.2},
    "lenet5": {"dense_1": 6, "dense_2": 5, "dropout": 0.2},
    "lung_cnn": {"filters": 2, "dense_units": 5},
    "resnet50": {"weights": "none", "pooling": "average", "head_units": 6, "dropout": 0.2},
}
OTHER_WIDTHS: dict[str, dict[str, Any]] = {
    "cnn": {"filters": 6, "filters_ratio": 0.5, "dense_units": 9},
    "glassmodel": {"filters_1": 5, "filters_2": 2},
    "alexnet": {"width": 0.08, "dense_units": 3},
    "lenet5": {"filters_1": 4, "filters_2": 20, "dense_1": 3, "dense_2": 8},
    "lung_cnn": {"filters": 4, "dense_units": 3},
    "resnet50": {},
}
SAME_GRAPH = OTHER_WIDTHS if backend() == "tensorflow" else dict.fromkeys(OTHER_WIDTHS, {})
"""Settings of other layers that are no other graph: on JAX there are none."""
ON_JAX = {("glassmodel", "adamw"), ("lenet5", "rmsprop")}
"""Few of all, since JAX takes long to compile them."""
OTHER_NUMBERS: dict[str, Any] = {
    "learning_rate": 0.02,
    "batch_size": 48,
    "dropout": 0.45,
    "label_smoothing": 0.1,
    "rebalance": "class_weight",
}
CHANGES: dict[str, Any] = {
    "flip": "horizontal",
    "rotation": 0.1,
    "shift": 0.1,
    "contrast": 0.2,
    "erasing": 0.5,
}
OTHER_CHANGES: dict[str, Any] = {"rotation": 0.2, "shift": 0.3, "contrast": 0.4, "erasing": 0.1}


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    keras_programs.forget()
    yield
    keras_programs.forget()


def settings_of(trainer: KerasTrainer, **settings: Any) -> Any:
    return trainer.Settings(**settings)


def trained(trainer: KerasTrainer, fold: Fold, **settings: Any) -> list[Epoch]:
    """Two epochs."""
    epochs = trainer.train(settings_of(trainer, **settings), replace(fold, epochs=2), None)
    return [next(epochs), epochs.send(0.5), *epochs]


def arrays(epochs: list[Epoch]) -> list[NDArray[Any]]:
    curves = [np.array([epoch.curves["train_loss"], epoch.curves["train_accuracy"]]) for epoch in epochs]
    return [*(epoch.probabilities for epoch in epochs), *curves]


def momentum_of(optimizer: str, value: float) -> dict[str, float]:
    decay = {"weight_decay": value / 10} if optimizer != "adam" else {}
    return {**decay, "momentum": value} if optimizer in ("sgd", "rmsprop") else decay


@pytest.mark.parametrize(
    ("architecture", "optimizer"),
    [
        pytest.param(*both, marks=[pytest.mark.jax] if both in ON_JAX else [])
        for both in product(SMALL, OPTIMIZERS)
    ],
)
def test_a_used_program_trains_as_a_new_one(
    architecture: str, optimizer: str, fold: Fold, make_fold: MakeFold
) -> None:
    if architecture == "resnet50":
        fold = make_fold(x=np.resize(fold.x, (len(fold.x), 32, 32, 1)))
    trainer = KerasTrainer(architecture)
    one = {**SMALL[architecture], "optimizer": optimizer, **momentum_of(optimizer, 0.3)}
    other = {**one, **OTHER_NUMBERS, **SAME_GRAPH[architecture], **momentum_of(optimizer, 0.8)}
    trained(trainer, fold, **one)
    kept = len(keras_programs._idle)
    again = trained(trainer, replace(fold, seed=7), **other)
    assert kept == len(keras_programs._idle) == 1, "both are to have been trained by one program"
    keras_programs.forget()
    new = trained(trainer, replace(fold, seed=7), **other)
    for a, b in zip(arrays(again), arrays(new), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CHANGES, CHANGES | OTHER_CHANGES),
        (
            {"precision": "mixed_float16"},
            {"precision": "mixed_float16", "label_smoothing": 0.3} | SAME_GRAPH["cnn"],
        ),
        ({"schedule": "cosine", "patience": 3}, {"schedule": "plateau", "epochs": 2}),
    ],
    ids=["augmentation", "precision", "schedule"],
)
def test_whatever_changes_no_graph_is_held(one: dict[str, Any], other: dict[str, Any], fold: Fold) -> None:
    trainer = KerasTrainer("cnn")
    trained(trainer, fold, **SMALL["cnn"], **one)
    again = trained(trainer, replace(fold, seed=7), **{**SMALL["cnn"], **other})
    assert len(keras_programs._idle) == 1
    keras_programs.forget()
    new = trained(trainer, replace(fold, seed=7), **{**SMALL["cnn"], **other})
    for a, b in zip(arrays(again), arrays(new), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.jax
@pytest.mark.parametrize(
    "different",
    [
        {"kernel_size": 5},
        {"dense_units": 0},
        {"dropout": 0.0},
        {"optimizer": "sgd"},
        {"weight_decay": 0.1, "optimizer": "adamw"},
        {"momentum": 0.5, "optimizer": "sgd"},
        {"flip": "vertical"},
        {"precision": "mixed_bfloat16"},
    ],
    ids=str,
)
def test_what_changes_the_graph_changes_the_structure(different: dict[str, Any]) -> None:
    trainer = KerasTrainer("cnn")
    one = trainer.structure(settings_of(trainer, **SMALL["cnn"]))
    assert one is not None
    alike = SMALL["cnn"] | OTHER_NUMBERS | SAME_GRAPH["cnn"]
    assert one == trainer.structure(settings_of(trainer, **alike))
    assert one != trainer.structure(settings_of(trainer, **SMALL["cnn"] | different))


def test_folds_in_step_have_a_program_each_and_leave_them_to_the_next_trial(fold: Fold) -> None:
    trainer = KerasTrainer("cnn")
    settings = settings_of(trainer, **SMALL["cnn"])
    alone = trained(trainer, fold, **SMALL["cnn"])
    in_step = [trainer.train(settings, replace(fold, seed=seed, epochs=2), None) for seed in (fold.seed, 5)]
    firsts = [next(epochs) for epochs in in_step]
    seconds = [epochs.send(0.5) for epochs in in_step]
    for a, b in zip(arrays(alone), arrays([firsts[0], seconds[0]]), strict=True):
        np.testing.assert_array_equal(a, b)
    for epochs in in_step:
        epochs.close()
    assert len(keras_programs._idle) == 2


def test_few_programs_are_kept_and_fewer_large_ones(fold: Fold, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = KerasTrainer("cnn")
    monkeypatch.setattr(keras_programs, "KEPT_STRUCTURES", 2)
    for kernel_size in (1, 2, 3):
        trained(trainer, fold, conv_layers=1, kernel_size=kernel_size, filters=2, dense_units=0)
    assert len(keras_programs._idle) == 2
    monkeypatch.setattr(keras_programs, "KEPT_WEIGHTS", 10)
    trained(trainer, fold, conv_layers=1, kernel_size=2, filters=2, dense_units=0)
    assert len(keras_programs._idle) == 1, "the latest one stays, however large"


def test_rows_that_do_not_fit_go_over_piece_by_piece_to_the_same_numbers(
    fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = KerasTrainer("cnn")
    whole = trained(trainer, fold, **SMALL["cnn"], batch_size=16)
    monkeypatch.setattr(keras_programs, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(keras_programs, "PIECE_BYTES", 3 * 16 * fold.x[:1].nbytes)  # three batches
    in_pieces = trained(trainer, fold, **SMALL["cnn"], batch_size=16)
    for a, b in zip(whole, in_pieces, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
        assert a.curves == pytest.approx(b.curves, rel=1e-6)


def test_predictions_of_few_rows_at_once_are_those_of_all_at_once(
    fold: Fold, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = KerasTrainer("cnn")
    at_once = trained(trainer, fold, **SMALL["cnn"])
    keras_programs.forget()
    monkeypatch.setattr(keras_programs, "OUTPUT_BYTES", 20_000)
    in_parts = trained(trainer, fold, **SMALL["cnn"])
    np.testing.assert_allclose(at_once[1].probabilities, in_parts[1].probabilities, atol=1e-6)


class Pretrained:
    """An architecture whose weights are not those that its layers would draw."""

    Settings = TrainingSettings

    def backbone_key(self, settings: Any) -> None:
        """All of it is trained."""

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential, layers

        model = Sequential([Input(shape), layers.Flatten(), layers.Dense(num_classes)])
        kernel, bias = model.weights
        kernel.assign(np.zeros(kernel.shape, np.float32))
        bias.assign(np.arange(num_classes, dtype=np.float32))
        return model


def test_weights_that_a_model_comes_with_are_not_drawn_anew(fold: Fold) -> None:
    trainer = KerasTrainer("pretrained", Pretrained())
    expected = np.exp(np.arange(10)) / np.exp(np.arange(10)).sum()
    for _ in range(2):
        first, _ = trained(trainer, fold, optimizer="sgd", learning_rate=1e-12)
        np.testing.assert_allclose(first.probabilities, np.tile(expected, (60, 1)), rtol=1e-5)
    assert not keras_programs._idle


class Dropping:
    """An architecture that does not say which rates its dropout layers have."""

    Settings = TrainingSettings

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential, layers

        return Sequential([Input(shape), layers.Flatten(), layers.Dropout(0.5), layers.Dense(num_classes)])


def test_rates_that_no_setting_tells_are_those_of_the_build(fold: Fold) -> None:
    trainer = KerasTrainer("dropping", Dropping())
    one, again = (trained(trainer, fold) for _ in range(2))
    for a, b in zip(arrays(one), arrays(again), strict=True):
        np.testing.assert_array_equal(a, b)
