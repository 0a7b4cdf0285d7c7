"""The formats in which a Keras model leaves for other tools: how each is written, and what it is good for."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainers.contract import TrainError
from trainers.keras_backend import quiet_import


class Format(NamedTuple):
    write: Callable[[Any, Path], None]
    """``write(model, folder)``: a keras.Model from stored rows to probabilities, into a folder."""
    use: str
    """What a reader of the model's card is told about it, in Markdown."""


def _write_keras(model: Any, folder: Path) -> None:
    model.save(folder / "model.keras")


def _write_h5(model: Any, folder: Path) -> None:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # Keras would rather be asked for its newer format
    try:
        model.save(folder / "model.h5")
    finally:
        log.setLevel(level)


def _write_savedmodel(model: Any, folder: Path) -> None:
    with quiet_import("tensorflow"):  # which Keras needs for it on another backend too
        import tensorflow  # noqa: F401

    with warnings.catch_warnings():
        # Keras passes JAX a parameter that JAX no longer wants.
        warnings.filterwarnings("ignore", "The `native_serialization` parameter", DeprecationWarning)
        model.export(folder / "savedmodel", format="tf_saved_model", verbose=False)


def _write_onnx(model: Any, folder: Path) -> None:
    model(np.zeros((1, *model.input_shape[1:]), np.float32))  # Keras exports what was called
    try:
        model.export(folder / "model.onnx", format="onnx", verbose=False)
    except ImportError as error:
        needed = "onnx and tf2onnx (pip install onnx tf2onnx)"
        raise TrainError(f"export as 'onnx' needs the packages {needed}: {error}") from error


FORMATS: dict[str, Format] = {
    "keras": Format(
        _write_keras,
        '`model.keras`: `keras.models.load_model("model.keras")`, from rows as stored to probabilities.',
    ),
    "h5": Format(_write_h5, "`model.h5`: Keras's HDF5 format, for older tools."),
    "savedmodel": Format(_write_savedmodel, "`savedmodel/`: `tf.saved_model.load`, TensorFlow Serving."),
    "onnx": Format(_write_onnx, "`model.onnx`: ONNX Runtime and others."),
}
