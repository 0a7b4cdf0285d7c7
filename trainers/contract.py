"""The whole vocabulary of training: what a trainer is given, what it yields, what it may raise."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel


class Infeasible(Exception):
    """This configuration has no model (a kernel larger than its map, say); the text is the reason."""


class TrainError(RuntimeError):
    """A trial could not be trained for a reason that its configuration did not cause."""


class DataError(ValueError):
    """Rows or labels that nothing can be trained on; the text says which rows and what to do."""


@dataclass(frozen=True)
class Fold:
    """What one trial sees of the data. Validation labels are missing on purpose: trainers never score."""

    x_train: NDArray[Any]
    """(n_train, ...) rows as stored: uint8 or float32, read-only, possibly in memory shared by processes."""
    y_train: NDArray[np.int64]
    """(n_train,) class indices in [0, len(classes))."""
    x_valid: NDArray[Any]
    """(n_valid, ...) rows to predict after each epoch."""
    classes: tuple[str, ...]
    scale: float
    """``x / scale`` lies in [0, 1] for images; 1.0 where rows need no scaling."""
    epochs: int
    """The most epochs a trial is ever given; a learning-rate schedule needs this horizon."""
    seed: int
    """Everything random in the trial follows from this and the epoch's number."""


@dataclass(frozen=True)
class Epoch:
    """One trained epoch, as its trainer saw it."""

    number: int
    """1-based, rising by one."""
    probabilities: NDArray[np.float32]
    """(n_valid, n_classes), rows in the order of ``Fold.x_valid``."""
    curves: Mapping[str, float]
    """Numbers to draw (train_loss, learning_rate, ...); nothing is ever ranked by them."""
    save: Callable[[Path], None]
    """Writes into an existing empty folder all that ``start`` needs to go on bit for bit.
    Valid until the generator is resumed."""


class Predictor(Protocol):
    """A trained model, loaded for use."""

    classes: tuple[str, ...]

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, n_classes) for rows (n, ...) as the data set stores them."""
        ...


class Trainer(Protocol):
    """Trains one configuration, one epoch at a time.

    Making a trainer is cheap: a driver makes one to read its ``Settings``, so heavy libraries are
    imported by the methods that use them.
    """

    Settings: type[BaseModel]
    """Every param a sweep may set: typed, bounded, with defaults, frozen, unknown names refused."""

    def check(self, settings: Any, fold: Fold) -> None:
        """Build the model and let it go again. Raises Infeasible with the reason where there is none."""
        ...

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        """Yield epochs until ``fold.epochs``, or fewer if training ends by itself.

        ``score = yield epoch`` hands the objective back. ``start`` is a folder written by
        ``Epoch.save``: training goes on with the epoch after it, to the same numbers, bit for bit, as
        if it had never stopped. Raises Infeasible before the first epoch; may be closed at any yield.
        """
        ...

    def load(self, folder: Path) -> Predictor:
        """The model that ``Epoch.save`` wrote into ``folder``."""
        ...
