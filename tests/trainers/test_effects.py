"""Every param takes effect: changing a single one changes the model that is built or what training gives.

A sweep over a param that does nothing would look like a param that does not matter.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, get_args

import numpy as np
import pytest
from pydantic.fields import FieldInfo

from trainers.catalog import TRAINERS, load_trainer
from trainers.contract import Fold
from trainers.keras_trainer import TrainingSettings
from trainers.spark_trainer import java_fault

LIGHT = "keras/lenet5"
"""Training settings are the same class for every architecture: they are tried with one, layers with each."""

BASE: dict[str, dict[str, Any]] = {
    "keras/lenet5": {"padding": "same"},
    "keras/resnet50": {"weights": "none", "train_from": "all"},
    "sklearn/hist_gradient_boosting": {"min_samples_leaf": 2},
    "sklearn/random_forest": {"iterations_per_epoch": 2},
    "spark/mlp": {"layers": "5", "iterations_per_epoch": 2},
}
"""What a trainer needs to train on the few small pictures here, or to be quick."""

BESIDE: dict[str, dict[str, Any]] = {
    "optimizer": {"weight_decay": 0.5},
    "weight_decay": {"optimizer": "adamw"},
    "schedule": {"plateau_patience": 1},
    "plateau_patience": {"schedule": "plateau"},
    "plateau_factor": {"schedule": "plateau", "plateau_patience": 1},
    "momentum": {"optimizer": "sgd"},
    "strength": {"rebalance": "class_weight"},
    "erasing_area_min": {"erasing": 1.0},
    "erasing_area_max": {"erasing": 1.0},
    "erasing_aspect_max": {"erasing": 1.0},
    "l1_ratio": {"solver": "saga"},
    "p": {"weights": "distance"},
    "sklearn/knn.standardize": {"weights": "distance"},
    "criterion": {"iterations_per_epoch": 20},
    "tol": {"iterations_per_epoch": 30},
    "sklearn/mlp.momentum": {"solver": "sgd"},
    "step_size": {"solver": "gd"},
}
"""What must hold beside a param for it to mean anything, as a sweep says with `when`."""

OTHER: dict[str, Any] = {
    # augmentation and training
    "rotation": 0.2,
    "zoom": 0.3,
    "shear": 0.3,
    "shift": 0.3,
    "contrast": 0.5,
    "erasing": 0.5,
    "erasing_area_min": 0.3,
    "erasing_area_max": 0.1,
    "erasing_aspect_max": 1.0,
    "learning_rate": 0.01,
    "plateau_patience": 1,
    "plateau_factor": 0.5,
    "patience": 1,
    "epochs": 1,
    "momentum": 0.5,
    "weight_decay": 0.5,
    "batch_size": 7,
    "label_smoothing": 0.2,
    "strength": 0.5,
    # architectures
    "conv_layers": 1,
    "filters": 5,
    "filters_ratio": 0.5,
    "kernel_size": 4,
    "pool_size": 3,
    "stride": 1,
    "conv_dropout": 0.4,
    "conv_dropout_step": 0.2,
    "dropout": 0.2,
    "leak": 0.1,
    "width": 0.5,
    "filters_1": 7,
    "filters_2": 7,
    "dense_units": 9,
    "dense_1": 9,
    "dense_2": 9,
    "head_units": 9,
    "norm_momentum": 0.5,
    # scikit-learn and Spark
    "n_neighbors": 3,
    "p": 1.0,
    "C": 0.01,
    "l1_ratio": 0.5,
    "max_iter": 3,
    "iterations_per_epoch": 3,
    "max_depth": 1,
    "min_samples_leaf": 5,
    "max_samples": 0.5,
    "max_leaf_nodes": 3,
    "max_bins": 4,
    "l2_regularization": 10.0,
    "max_features": 0.3,
    "sklearn/mlp.layers": 2,
    "units": 9,
    "learning_rate_init": 0.01,
    "alpha": 1.0,
    "layers": "9",
    "step_size": 0.5,
    "tol": 0.5,
    "block_size": 1,
    "partitions": 2,
}
"""What to change a param to, by "trainer.param" where names collide; choices change to each other one."""

ELSEWHERE = {("keras/resnet50", "weights"): "test_architectures.py reads a file; nothing here may download"}


def cases() -> list[Any]:
    return [
        pytest.param(name, param, value, id=f"{name}-{param}-{value}")
        for name in TRAINERS
        for param, field in load_trainer(name).Settings.model_fields.items()
        if name == LIGHT or not (name.startswith("keras/") and param in TrainingSettings.model_fields)
        if (name, param) not in ELSEWHERE
        for value in other_values(name, param, field)
    ]


def other_values(name: str, param: str, field: FieldInfo) -> list[Any]:
    if f"{name}.{param}" in OTHER:
        return [OTHER[f"{name}.{param}"]]
    if isinstance(field.default, bool):
        return [not field.default]
    default = BASE.get(name, {}).get(param, field.default)
    if choices := get_args(field.annotation):
        return [choice for choice in choices if choice != default]
    return [OTHER[param]]  # a new param has to be given a value to change to


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small() -> Fold:
    """Pictures (32, 32, 3) of three unequal classes: large enough for every architecture."""
    chance = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [20, 10, 6])
    x = chance.integers(0, 160, (36, 32, 32, 3)) + 30 * y[:, None, None, None]
    rows = chance.permutation(36)
    return Fold(
        x.astype(np.uint8), rows[:24], y[rows[:24]], rows[24:], ("a", "b", "c"), 255.0, epochs=3, seed=0
    )


@pytest.mark.parametrize(("name", "param", "value"), cases())
def test_param_takes_effect(name: str, param: str, value: Any, small: Fold) -> None:
    if name == "spark/mlp" and (fault := java_fault()):
        pytest.skip(fault)
    trainer = load_trainer(name)
    beside = {**BASE.get(name, {}), **BESIDE.get(f"{name}.{param}", BESIDE.get(param, {}))}
    beside = {key: value for key, value in beside.items() if key in trainer.Settings.model_fields}
    before, after = trainer.Settings(**beside), trainer.Settings(**{**beside, param: value})
    if not name.startswith("keras/"):
        fold = replace(small, x=small.x[:, ::4, ::4, 0])
        assert once(outcome, name, before, fold) != once(outcome, name, after, fold)
    elif once(structure, name, before, small) == once(structure, name, after, small):
        assert once(outcome, name, before, small) != once(outcome, name, after, small)


_KNOWN: dict[tuple[str, str, str], Any] = {}


def once(what: Callable[[str, Any, Fold], Any], name: str, settings: Any, fold: Fold) -> Any:
    """What it gives for these settings; most cases differ from the same ones."""
    key = (what.__name__, name, settings.model_dump_json())
    if key not in _KNOWN:
        _KNOWN[key] = what(name, settings, fold)
    return _KNOWN[key]


def structure(name: str, settings: Any, fold: Fold) -> str:
    """The layers and their own settings, without the names that Keras counts up."""
    module = import_module(f"trainers.architectures.{name.removeprefix('keras/')}")
    model = module.build(settings, fold.x.shape[1:], len(fold.classes), fold.scale)
    layers = [[type(layer).__name__, nameless(layer.get_config())] for layer in model.layers]
    return json.dumps(layers, default=str)


def nameless(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: nameless(value) for key, value in config.items() if key not in ("name", "inbound_nodes")}
    return [nameless(value) for value in config] if isinstance(config, list | tuple) else config


def outcome(name: str, settings: Any, fold: Fold) -> list[Any]:
    """What training gives: predictions and curves of each epoch, with a score that never gets better."""
    epochs = load_trainer(name).train(settings, fold, None)
    told: list[Any] = []
    score = None
    while True:
        try:
            epoch = epochs.send(score)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration:
            return told
        told.append((epoch.number, epoch.probabilities.tolist(), dict(epoch.curves)))
        score = 0.5
