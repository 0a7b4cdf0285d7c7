"""The Keras training loop: any architecture of `trainers.architectures`, one epoch at a time, any backend."""

import json
import math
import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trainers.contract import Epoch, Fold, TrainError

_MOST_ROWS_AT_ONCE = 256  # when predicting, so that memory stays bounded


class TrainingSettings(BaseModel):
    """How any Keras model is trained; an architecture's own `Settings` add its layers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    optimizer: Literal["adam", "adamw", "nadam", "rmsprop", "sgd", "adagrad", "adadelta"] = Field(
        "adam", description="update rule; adamw is adam with a weight_decay"
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="step size of the optimizer")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning rate over the epochs; cosine falls to nearly 0 at the last one"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd and rmsprop; others have none")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay, times learning_rate")
    batch_size: int = Field(64, ge=1, le=8192, description="rows per update; at most all rows")


class Architecture(Protocol):
    """What a module of `trainers.architectures` holds."""

    Settings: type[TrainingSettings]

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        """An uncompiled keras.Model from stored rows to logits. Raises Infeasible where there is none."""
        ...


class KerasTrainer:
    """Trains one architecture on whichever backend Keras runs on."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        module = cast(Architecture, import_module(f"trainers.architectures.{architecture}"))
        self.Settings: type[BaseModel] = module.Settings
        self._build = module.build

    def check(self, settings: TrainingSettings, fold: Fold) -> None:
        self._new_model(self._describe(settings, fold), fold.seed)

    def train(
        self, settings: TrainingSettings, fold: Fold, start: Path | None
    ) -> Generator[Epoch, float, None]:
        about = self._describe(settings, fold)
        model = self._new_model(about, fold.seed)
        _compile(model, settings)
        trained = _restore(model, about, start) if start else 0
        for number in range(trained + 1, fold.epochs + 1):
            model.optimizer.learning_rate = _learning_rate(settings, number, fold.epochs)
            curves = _train_epoch(model, settings, fold, number)
            probabilities = _predict(model, fold.x_valid)
            yield Epoch(number, probabilities, curves, save=partial(_save, model, about, number))

    def load(self, folder: Path) -> "KerasPredictor":
        about, _ = _read_about(folder)
        if about["architecture"] != self.architecture:
            raise TrainError(
                f"{folder} holds a model of the architecture {about['architecture']!r}, "
                f"not {self.architecture!r}; load it with the trainer that wrote it"
            )
        model = self._new_model(about, seed=0)
        _assign(model.variables, _read_arrays(folder)[: len(model.variables)])
        return KerasPredictor(classes=tuple(about["classes"]), model=model)

    def _describe(self, settings: TrainingSettings, fold: Fold) -> dict[str, Any]:
        """All it takes to build the model again, as plain JSON."""
        return {
            "architecture": self.architecture,
            "settings": settings.model_dump(),
            "shape": list(fold.x_train.shape[1:]),
            "classes": list(fold.classes),
            "scale": fold.scale,
        }

    def _new_model(self, about: dict[str, Any], seed: int) -> Any:
        keras = _import_keras()
        keras.utils.clear_session()  # a warm worker trains hundreds of models
        keras.utils.set_random_seed(seed % 2**32)  # first weights, and the state of every dropout layer
        settings = self.Settings.model_validate(about["settings"])
        return self._build(settings, tuple(about["shape"]), len(about["classes"]), about["scale"])


@dataclass
class KerasPredictor:
    """A trained Keras model."""

    classes: tuple[str, ...]
    model: Any

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return _predict(self.model, x)


def _import_keras() -> Any:
    # Read once, when a backend is first imported. Whoever set them before wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # workers may share a GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the same for JAX
    with _stderr_closed():
        import keras

    if keras.config.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()  # else a GPU adds up in any order
        tensorflow.get_logger().setLevel("ERROR")  # it warns of a new trace for every new model
    return keras


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """TensorFlow's libraries greet from C++ while they load, and heed no setting about it."""
    if "keras" in sys.modules:
        yield
        return
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _compile(model: Any, settings: TrainingSettings) -> None:
    import keras

    config = {"learning_rate": settings.learning_rate, "weight_decay": settings.weight_decay or None}
    if settings.optimizer in ("sgd", "rmsprop"):
        config["momentum"] = settings.momentum
    rule = settings.optimizer.removesuffix("w")  # Keras's adamw is its adam with another default weight_decay
    model.compile(
        optimizer=keras.optimizers.get({"class_name": rule, "config": config}),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        ),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        # XLA costs TensorFlow more time on a CPU than it saves; other backends know best.
        jit_compile=False if keras.config.backend() == "tensorflow" else "auto",
    )
    model.optimizer.build(model.trainable_variables)  # else there is no state to restore yet
    # One replica has nothing to sum, and TensorFlow's all_reduce keeps the model's graph in its registry of
    # gradients for ever (5 MB a trial). Keras has no public way around it; other backends never call it.
    model.optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def _learning_rate(settings: TrainingSettings, number: int, epochs: int) -> float:
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * (number - 1) / epochs)) / 2


def _train_epoch(model: Any, settings: TrainingSettings, fold: Fold, number: int) -> dict[str, float]:
    loss = accuracy = 0.0
    for rows, weights in _batches(len(fold.x_train), settings.batch_size, fold.seed, number):
        x = fold.x_train[rows].astype(np.float32)
        # Its metrics are those of this batch alone.
        batch = model.train_on_batch(x, fold.y_train[rows], sample_weight=weights, return_dict=True)
        share = weights.sum() / len(fold.x_train)
        loss += share * batch["loss"]
        accuracy += share * batch["accuracy"]
    return {
        "train_loss": float(loss),
        "train_accuracy": float(accuracy),
        "learning_rate": float(model.optimizer.learning_rate),
    }


def _batches(
    num_rows: int, batch_size: int, seed: int, number: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Row indices and weights of every batch of an epoch, in an order that follows from its number.

    All batches are equally long, since another length is another trace (0.6 s): the last is filled up
    with rows of weight 0, which batch normalisation sees as rows and the loss does not see at all.
    """
    size = min(batch_size, num_rows)
    order = np.random.default_rng([seed, number]).permutation(num_rows)
    filled = np.resize(order, math.ceil(num_rows / size) * size)  # begins again with the first rows
    weights = (np.arange(len(filled)) < num_rows).astype(np.float32)
    for first in range(0, len(filled), size):
        yield filled[first : first + size], weights[first : first + size]


def _predict(model: Any, x: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities by batches whose lengths are powers of two: few lengths, so few traces."""
    from keras import ops

    size = min(_MOST_ROWS_AT_ONCE, 1 << max(len(x) - 1, 0).bit_length())
    logits = np.empty((len(x), model.output_shape[-1]), np.float32)
    for first in range(0, len(x), size):
        rows = x[first : first + size].astype(np.float32)
        filled = np.zeros((size, *x.shape[1:]), np.float32)
        filled[: len(rows)] = rows
        logits[first : first + size] = model.predict_on_batch(filled)[: len(rows)]
    return np.asarray(ops.convert_to_numpy(ops.softmax(logits)))


def _state(model: Any) -> list[Any]:
    """Every variable that training changes: weights, moving averages, random states, the optimizer's own."""
    return [*model.variables, *model.optimizer.variables]


def _save(model: Any, about: dict[str, Any], number: int, folder: Path) -> None:
    np.savez(folder / "variables.npz", *map(np.asarray, _state(model)))
    (folder / "about.json").write_text(json.dumps({**about, "epoch": number}), encoding="utf-8")


def _restore(model: Any, about: dict[str, Any], folder: Path) -> int:
    """Put back all state that `_save` wrote; returns how many epochs it had been trained for."""
    saved, trained = _read_about(folder)
    differing = [name for name in about if saved[name] != about[name]]
    if differing:
        raise TrainError(
            f"cannot go on from {folder}: it was written by a trial that differs in {', '.join(differing)}"
        )
    _assign(_state(model), _read_arrays(folder))
    return trained


def _read_about(folder: Path) -> tuple[dict[str, Any], int]:
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about, about.pop("epoch")


def _read_arrays(folder: Path) -> list[NDArray[Any]]:
    with np.load(folder / "variables.npz", allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def _assign(variables: list[Any], arrays: list[NDArray[Any]]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
