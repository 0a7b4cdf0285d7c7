"""What any Keras model here needs around its training: a session, batches, predictions, its state on disk."""

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.contract import WEIGHTS, Fold, TrainError
from trainers.keras_backend import import_keras
from trainers.keras_draws import quick_draws
from trainers.keras_formats import FORMATS

_MOST_ROWS_AT_ONCE = 256  # when predicting, so that memory stays bounded


@contextmanager
def fresh_session(seed: int, precision: str) -> Iterator[None]:
    """As ``seeded``, and nothing is left of the last model."""
    import_keras().utils.clear_session()  # a warm worker trains hundreds of models
    with seeded(seed, precision):
        yield


@contextmanager
def seeded(seed: int, precision: str) -> Iterator[None]:
    """First weights and random layers made inside follow from ``seed``.

    Layers calculate in ``precision``, their weights are float32 in any case.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed % 2**32)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        with quick_draws():
            yield
    finally:
        keras.config.set_dtype_policy(before)


def ready_to_train(optimizer: Any, variables: list[Any]) -> None:
    """Give an optimizer its variables, so that there is a state to restore."""
    optimizer.build(variables)
    # One replica has nothing to sum, and TensorFlow's all_reduce keeps the model's graph in its registry of
    # gradients for ever (5 MB a trial). Keras has no public way around it; other backends never call it.
    rule = getattr(optimizer, "inner_optimizer", optimizer)
    rule._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def train_epoch(
    model: Any,
    fold: Fold,
    batch_size: int,
    number: int,
    batch_of: Callable[[NDArray[np.int64]], tuple[NDArray[Any], NDArray[Any]]],
) -> dict[str, float]:
    """Train on every row once; returns the learning rate and the mean loss, of each row as its batch met it.

    ``batch_of`` gives what the model is shown, rows and labels, for places in ``fold.train``.
    """
    loss = 0.0
    for places, counts in zip(*batches(len(fold.train), batch_size, fold.seed, number), strict=True):
        x, y = batch_of(places)
        weights = counts * (len(places) / counts.sum())  # Keras divides by the length, filled up or not
        told = model.train_on_batch(x, y, sample_weight=weights, return_dict=True)  # of this batch alone
        loss += counts.sum() / len(fold.train) * told["loss"]
    return {"train_loss": float(loss), "learning_rate": float(model.optimizer.learning_rate)}


def batches(
    num_rows: int, batch_size: int, seed: int, number: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row indices and weights (batches, batch size) of an epoch, in an order that follows from its number.

    All batches are equally long, since another length is another trace (0.6 s): the last is filled up
    with rows of weight 0, which batch normalisation sees as rows and the loss does not see at all.
    """
    size = min(batch_size, num_rows)
    order = np.random.default_rng([seed, number]).permutation(num_rows)
    filled = np.resize(order, (math.ceil(num_rows / size), size))  # begins again with the first rows
    weights = (np.arange(filled.size) < num_rows).astype(np.float32)
    return filled, weights.reshape(filled.shape)


def predict_rows(model: Any, x: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probabilities of the rows of these numbers, by batches whose lengths are powers of two: few lengths, so
    few traces."""
    from keras import ops

    size = min(_MOST_ROWS_AT_ONCE, 1 << max(len(numbers) - 1, 0).bit_length())
    logits = np.empty((len(numbers), model.output_shape[-1]), np.float32)
    for first in range(0, len(numbers), size):
        rows = x[numbers[first : first + size]]
        filled = np.zeros((size, *x.shape[1:]), np.float32)
        filled[: len(rows)] = rows
        logits[first : first + size] = model.predict_on_batch(filled)[: len(rows)]
    return np.asarray(ops.convert_to_numpy(ops.softmax(logits)))


def save_state(
    model: Any,
    training_state: list[Any],
    about: dict[str, Any],
    scores: list[float],
    folder: Path,
    score: float,
) -> None:
    """``weights.npz`` holds what using the model takes, ``training.npz`` what going on takes besides: the
    variables of ``training_state``."""
    save_model(model, about, [*scores, score], folder)
    np.savez(folder / "training.npz", *map(np.asarray, training_state))


def save_model(model: Any, about: dict[str, Any], scores: list[float], folder: Path) -> None:
    """``about`` is JSON, and all it takes to build the model again; ``scores`` has one for each epoch."""
    np.savez(folder / "weights.npz", *map(np.asarray, model.variables))
    (folder / "about.json").write_text(json.dumps({**about, "scores": scores}), encoding="utf-8")


def restore_state(model: Any, training_state: list[Any], about: dict[str, Any], folder: Path) -> list[float]:
    """Put back all that `save_state` wrote; returns the score of every epoch it had been trained for."""
    saved, scores = read_about(folder)
    differing = [name for name in about if saved.get(name) != about[name]]
    if differing:
        raise TrainError(
            f"cannot go on from {folder}: it was written by a trial that differs in {', '.join(differing)}"
        )
    assign(model.variables, read_arrays(folder / "weights.npz"))
    assign(training_state, read_arrays(folder / "training.npz"))
    return scores


def read_about(folder: Path) -> tuple[dict[str, Any], list[float]]:
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about, about.pop("scores")


def read_arrays(path: Path) -> list[NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{i}"] for i in range(len(file.files))]


def assign(variables: list[Any], arrays: list[NDArray[Any]]) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


@dataclass
class KerasPredictor:
    """A trained Keras model."""

    classes: tuple[str, ...]
    model: Any
    save_whole: Callable[[Path], None] | None = None
    """Writes into a folder all that loading it takes; None where it was loaded from such a folder."""

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return predict_rows(self.model, x, np.arange(len(x)))

    def export(self, folder: Path, formats: Sequence[str]) -> None:
        """Write ``model.keras`` ("keras"), ``model.h5`` ("h5"), ``savedmodel/`` and ``model.onnx``.

        Each maps stored rows to probabilities and needs nothing of ours to be loaded. A model whose backbone
        came from elsewhere is also written whole into ``weights/``, in place of the head that lies there.
        Raises TrainError for a format that is unknown or needs a package that is not there.
        """
        if unknown := [name for name in formats if name not in FORMATS]:
            raise TrainError(
                f"a Keras model cannot be exported as {', '.join(map(repr, unknown))}; "
                f"known: {', '.join(FORMATS)}"
            )
        if self.save_whole:
            weights = folder / WEIGHTS
            weights.mkdir(exist_ok=True)
            self.save_whole(weights)
        import keras

        inputs = keras.Input(self.model.input_shape[1:])
        outputs = keras.layers.Softmax(dtype="float32")(self.model(inputs))
        model = keras.Model(inputs, outputs)
        with warnings.catch_warnings():
            # Keras hands its variables to numpy 2 the way numpy 1 had it.
            warnings.filterwarnings("ignore", "__array__ implementation doesn't accept", DeprecationWarning)
            for name in formats:
                FORMATS[name].write(model, folder)
