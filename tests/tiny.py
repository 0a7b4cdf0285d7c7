"""A small honest trainer for tests: softmax regression in numpy, with every mishap on demand."""

import math
import os
import signal
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trainers.contract import Epoch, Fold, Infeasible, TrainError


class TinySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: float = Field(0.1, gt=0)
    batch_size: int = Field(16, ge=1)
    epoch_s: float = Field(0.0, ge=0)
    """How long an epoch takes at least."""
    mishap: Literal["none", "infeasible", "raises", "diverges", "kills"] = "none"
    mishap_epoch: int = 2


class Softmax:
    """Multinomial logistic regression by stochastic gradient descent."""

    Settings = TinySettings

    def check(self, settings: TinySettings, fold: Fold) -> int:
        if settings.mishap == "infeasible":
            raise Infeasible("mishap: this configuration has no model")
        return (math.prod(fold.x.shape[1:]) + 1) * len(fold.classes)

    def train(self, settings: TinySettings, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        self.check(settings, fold)
        x, x_valid = _flat(fold.x_train, fold.scale), _flat(fold.x_valid, fold.scale)
        targets = np.eye(len(fold.classes))[fold.y_train]
        weights, first = np.zeros((x.shape[1], len(fold.classes))), 1
        if start:
            with np.load(start / "weights.npz", allow_pickle=False) as saved:
                weights, first = saved["weights"], int(saved["epoch"]) + 1
        _note(f"start {fold.seed} {first - 1} {os.getpid()}")
        for number in range(first, fold.epochs + 1):
            time.sleep(settings.epoch_s)
            if number == settings.mishap_epoch:
                weights = _suffer(settings.mishap, weights)
            order = np.random.default_rng([fold.seed, number]).permutation(len(x))
            for rows in np.array_split(order, max(1, len(x) // settings.batch_size)):
                error = _softmax(x[rows] @ weights) - targets[rows]
                weights = weights - settings.learning_rate / len(rows) * x[rows].T @ error
            loss = float(-np.log(np.maximum(_softmax(x @ weights)[targets > 0], 1e-30)).mean())

            def save(
                folder: Path, score: float, weights: NDArray[Any] = weights, number: int = number
            ) -> None:
                np.savez(
                    folder / "weights.npz",
                    weights=weights,
                    epoch=number,
                    classes=fold.classes,
                    scale=fold.scale,
                )

            yield Epoch(number, _softmax(x_valid @ weights).astype(np.float32), {"train_loss": loss}, save)
            _note(f"acknowledged {fold.seed} {number} {os.getpid()}")

    def load(self, folder: Path) -> "SoftmaxPredictor":
        with np.load(folder / "weights.npz", allow_pickle=False) as saved:
            classes = tuple(map(str, saved["classes"]))
            return SoftmaxPredictor(classes, saved["weights"], float(saved["scale"]))


@dataclass
class SoftmaxPredictor:
    """A trained one."""

    classes: tuple[str, ...]
    weights: NDArray[Any]
    scale: float

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return _softmax(_flat(x, self.scale) @ self.weights).astype(np.float32)

    def export(self, folder: Path, formats: Sequence[str]) -> None:
        if formats:
            raise TrainError(f"cannot export as {', '.join(formats)}: this trainer knows no other formats")


def _note(line: str) -> None:
    """What a worker knows by itself, beside the log: one line to the file that $TINY_JOURNAL names, if
    any."""
    if path := os.environ.get("TINY_JOURNAL"):
        journal = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(journal, f"{line}\n".encode())
        os.close(journal)


def _flat(x: NDArray[Any], scale: float) -> NDArray[np.float64]:
    rows = x.reshape(len(x), -1) / scale
    return np.hstack([rows, np.ones((len(rows), 1))])


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _suffer(mishap: str, weights: NDArray[Any]) -> NDArray[Any]:
    match mishap:
        case "raises":
            raise ZeroDivisionError("the trainer has a fault")
        case "diverges":
            return weights * math.nan
        case "kills":
            os.kill(os.getpid(), signal.SIGKILL)
    return weights
