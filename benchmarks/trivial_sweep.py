"""A sweep whose trials train nothing, and reports of trials that never were."""

import time
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

Framework = Literal["tensorflow", "nothing"]
CLASSES = 10


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    framework: Framework = "nothing"
    learning_rate: float = 0.1
    units: int = 16
    epoch_s: float = 0.0


class Trivial:
    """Sleeps through its epochs, if at all, each as good as the one before, so that no rung stops it."""

    Settings = Settings

    def check(self, settings: Settings, fold: Any) -> int:
        return 0

    def train(self, settings: Settings, fold: Any, start: Path | None) -> Generator[Any, float, None]:
        from trainers.contract import Epoch

        import_framework(settings.framework)
        probabilities = np.full((len(fold.x_valid), len(fold.classes)), 1 / len(fold.classes), np.float32)
        for number in range(int((start / "epoch").read_text()) + 1 if start else 1, fold.epochs + 1):

            def save(folder: Path, score: float, number: int = number) -> None:
                (folder / "epoch").write_text(str(number))

            time.sleep(settings.epoch_s)
            yield Epoch(number, probabilities, {"train_loss": 1.0}, save)

    def load(self, folder: Path) -> Any:
        raise NotImplementedError("a model of nothing")


def import_framework(framework: Framework) -> None:
    """What every real trial needs before its first step; free in a process that has it already."""
    if framework != "nothing":
        import_module(framework)


SPACE: dict[str, Any] = {
    "learning_rate": {"float": [1e-4, 1e-1], "log": True},
    "units": {"int": [8, 256], "log": True},
}


def trivial_sweep(trials: int, reports: int, **more: Any) -> Any:
    from spaces.sweep import Sweep

    sections = {
        "dataset": {"kind": "sklearn", "name": "iris"},  # scoring is a trial's own work: little of it
        "trainer": "benchmarks.trivial_sweep:Trivial",
        "objective": "accuracy",
        "epochs": reports,
        "search": {"suggester": "random", "trials": trials, "seed": 0},
        "asha": {"grace": 1, "reduction": 3, "rule": "stop"},  # the rule that Tune's ASHA has
        "space": SPACE,
    }
    return Sweep.from_dict(sections | more)


def report_payload(rng: np.random.Generator, epoch: int) -> dict[str, Any]:
    """One report of ten classes and some 12,000 validation rows, in plain Python values."""
    confusion = rng.integers(0, 60, (CLASSES, CLASSES)) + np.diag(rng.integers(900, 1100, CLASSES))
    names = [*import_module("trainers.metrics").METRICS]
    return {
        "epoch": epoch,
        "metrics": dict(zip(names, rng.random(len(names)).tolist(), strict=True)),
        "confusion": tuple(map(tuple, confusion.tolist())),
        "curves": {"train_loss": float(rng.random()), "learning_rate": 0.001},
        "seconds": float(rng.random()),
    }
