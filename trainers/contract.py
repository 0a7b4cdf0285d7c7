"""The whole vocabulary of training: what a trainer is given, what it yields, what it may raise."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

WEIGHTS = "weights"
"""The folder of an exported model that ``Trainer.load`` reads."""
ROWS = "rows.npz"
"""Among them, of a trainer that can only load by fitting again: the training rows."""
KEPT_STRUCTURES = 8
"""Of so many structures that it trained last (see ``Trainer``) a worker may keep what it built."""


class Infeasible(Exception):
    """This configuration has no model (a kernel larger than its map, say); the text is the reason."""


class TrainError(RuntimeError):
    """A trial could not be trained for a reason that its configuration did not cause."""


class DataError(ValueError):
    """Rows or labels that nothing can be trained on; the text says which rows and what to do."""


@dataclass(frozen=True)
class Fold:
    """What one trial sees of the data. Validation labels are missing on purpose: trainers never score."""

    x: NDArray[Any]
    """(n, ...) rows as stored: uint8 or float32, read-only, possibly in memory shared by processes. Folds of
    one run share it, so that five folds cost no more memory than one; take from it what is needed."""
    train: NDArray[np.int64]
    """(n_train,) the numbers of the rows to learn from."""
    y_train: NDArray[np.int64]
    """(n_train,) their class indices in [0, len(classes))."""
    valid: NDArray[np.int64]
    """(n_valid,) the numbers of the rows to predict after each epoch."""
    classes: tuple[str, ...]
    scale: float
    """``x / scale`` lies in [0, 1] for images; 1.0 where rows need no scaling."""
    epochs: int
    """The most epochs a trial is ever given; a learning-rate schedule needs this horizon."""
    seed: int
    """Everything random in the trial follows from this and the epoch's number."""
    cache: Path | None = None
    """A folder for what is computed once and serves all trials; None: nothing is kept."""

    @property
    def x_train(self) -> NDArray[Any]:
        """(n_train, ...) the rows to learn from: a copy, unless they lie together."""
        return take(self.x, self.train)

    @property
    def x_valid(self) -> NDArray[Any]:
        """(n_valid, ...) the rows to predict: a copy, unless they lie together."""
        return take(self.x, self.valid)


def take(array: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """The rows of these numbers, read-only; a view where they lie together in rising order."""
    first, last = (rows[0], rows[-1]) if len(rows) else (0, -1)
    lie_together = last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all())
    taken = array[first : last + 1] if lie_together else array[rows]
    taken.flags.writeable = False
    return taken


@dataclass(frozen=True)
class Epoch:
    """One trained epoch, as its trainer saw it."""

    number: int
    """1-based, rising by one."""
    probabilities: NDArray[np.float32]
    """(n_valid, n_classes), rows in the order of ``Fold.valid``."""
    curves: Mapping[str, float]
    """Numbers to draw (train_loss, learning_rate, ...); nothing is ever ranked by them."""
    save: Callable[[Path, float], None]
    """``save(folder, score)`` writes into an existing empty folder all that ``start`` needs to go on bit for
    bit; ``score`` is what this epoch's yield is about to return. Valid until the generator is resumed."""


class Predictor(Protocol):
    """A trained model, loaded for use."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What the columns of its probabilities stand for."""
        ...

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities (n, n_classes) for rows (n, ...) as the data set stores them."""
        ...

    def export(self, folder: Path, formats: Sequence[str]) -> None:
        """Write the model into ``folder`` in formats that other tools read.

        What ``load`` reads is in ``folder / WEIGHTS``; afterwards it needs nothing from outside. A predictor
        without such formats writes nothing for none and raises TrainError for any, with what it knows.
        """
        ...


class Trainer(Protocol):
    """Trains one configuration, one epoch at a time.

    One that keeps compiled models between trials also has ``structure(settings)``, a text that is equal for
    trials of which the second starts at once, or None; and ``forget()``, which lets go of what it keeps.

    Making a trainer is cheap: a driver makes one to read its ``Settings``, so heavy libraries are
    imported by the methods that use them. A worker makes one and trains trial after trial with it, so what it
    keeps in ``self`` must change no trial's numbers.
    """

    Settings: type[BaseModel]
    """Every param a sweep may set: typed, bounded, with defaults, frozen, unknown names refused."""

    def check(self, settings: Any, fold: Fold) -> int:
        """Build the model and let it go again; its number of trainable and other weights, 0 where it has none
        before it is fitted. Raises Infeasible with the reason where there is no model."""
        ...

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        """Yield epochs until ``fold.epochs``, or fewer if training ends by itself.

        ``score = yield epoch`` hands the objective back, turned so that larger is better; with several folds
        it is that of all of them together. ``start`` is a folder written by ``Epoch.save``: training goes on
        with the epoch after it, to the same numbers, bit for bit, as if it had never stopped. Raises
        Infeasible before the first epoch; may be closed at any yield.
        """
        ...

    def load(self, folder: Path) -> Predictor:
        """The model that ``Epoch.save`` wrote into ``folder``."""
        ...
