"""One trial on a worker: pulls epochs out of its trainer, scores them, and yields a report for each."""

import math
import os
import tempfile
import time
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from search.events import is_better
from search.search import Ended, Report, Stretch
from spaces.params import Value
from trainers.catalog import load_trainer
from trainers.contract import Epoch, Fold, Infeasible
from trainers.metrics import METRICS, score

BATCH_S = 0.02
SAVING_SHARE = 0.02
"""At most this part of the training time goes into checkpoints nobody asked for."""


@dataclass(frozen=True)
class Training:
    """What all trials of a run have in common; goes to each worker once."""

    trainer: str
    objective: str
    fixed: dict[str, Value]
    threads: int
    """For TensorFlow and OpenMP. The same everywhere, since a sum's last bits depend on who adds what."""
    fold: Fold
    """Its seed is replaced by each trial's own."""
    y_valid: NDArray[np.int64]


@dataclass
class Saving:
    """When a checkpoint is worth its time. A worker has one, over all its trials.

    A rung where the trial may pause needs a checkpoint whatever it costs. Any other epoch gets one as soon
    as all saving so far, this one included, stays within ``SAVING_SHARE`` of the training time.
    """

    trained_s: float = 0.0
    spent_s: float = 0.0
    last_s: float = 0.0

    def is_due(self) -> bool:
        return self.spent_s + self.last_s <= SAVING_SHARE * self.trained_s

    def save(self, epoch: Epoch) -> dict[str, bytes]:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="rungwise-") as folder:
            epoch.save(Path(folder))
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        self.last_s = time.perf_counter() - begun
        self.spent_s += self.last_s
        return files


@dataclass
class Worker:
    """Trains stretch after stretch for one run; keeps whatever stays the same between them."""

    training: Training
    saving: Saving = field(default_factory=Saving)

    def __post_init__(self) -> None:
        # Read by TensorFlow and OpenMP when they are first imported.
        for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(self.training.threads)

    def train(self, stretch: Stretch, start: Path | None) -> Generator[Report | Ended]:
        """Yield each epoch's report, then how the trial ended if it ended by itself.

        ``start`` is the checkpoint folder of epoch ``stretch.start``, None to begin anew. Whatever goes wrong
        in the trainer is an ending, never an exception. Close the iterator to stop the trial.
        """
        try:
            yield from self._reports(stretch, start)
            yield Ended(stretch.trial, "complete")
        except ValidationError as error:
            yield Ended(stretch.trial, "infeasible", faults_of(error))
        except Infeasible as error:
            yield Ended(stretch.trial, "infeasible", str(error))
        except Exception as error:  # a failing trial is data
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            yield Ended(stretch.trial, "failed", reason)

    def batches(self, stretch: Stretch, start: Path | None) -> Generator[list[Report | Ended]]:
        """What ``train`` yields, in pieces that can travel together.

        Where the answer can only be to go on, waiting for it costs a short epoch more than the epoch: reports
        gather for ``BATCH_S`` unless one of them is answered by comparison, diverged, or brings files along.
        """
        gathered: list[Report | Ended] = []
        begun = time.perf_counter()
        with closing(self.train(stretch, start)) as messages:
            for message in messages:
                gathered.append(message)
                if self._needs_answer(message, stretch) or time.perf_counter() - begun >= BATCH_S:
                    yield gathered
                    gathered, begun = [], time.perf_counter()

    def _needs_answer(self, message: Report | Ended, stretch: Stretch) -> bool:
        return (
            isinstance(message, Ended)
            or message.epoch in stretch.rungs
            or math.isnan(message.metrics[self.training.objective])
            or message.checkpoint is not None
            or message.probabilities is not None
        )

    def _reports(self, stretch: Stretch, start: Path | None) -> Generator[Report]:
        training = self.training
        trainer = load_trainer(training.trainer)
        settings = trainer.Settings(**training.fixed, **stretch.params)
        fold = replace(training.fold, seed=stretch.seed)
        best = stretch.best
        value: float | None = None
        with closing(trainer.train(settings, fold, start)) as epochs:
            while True:
                begun = time.perf_counter()
                try:
                    epoch = epochs.send(value)  # type: ignore[arg-type]  # None starts a generator
                except StopIteration:
                    return
                seconds = time.perf_counter() - begun
                self.saving.trained_s += seconds
                scores = score(training.y_valid, epoch.probabilities)
                value = scores.values[training.objective]
                if epoch.number <= stretch.reported:
                    continue
                is_best = is_better(value, best, METRICS[training.objective])
                best = value if is_best else best
                saves = (stretch.may_pause and epoch.number in stretch.rungs) or self.saving.is_due()
                yield Report(
                    trial=stretch.trial,
                    epoch=epoch.number,
                    metrics=scores.values,
                    confusion=tuple(map(tuple, scores.confusion.tolist())),
                    curves=epoch.curves,
                    seconds=seconds,
                    checkpoint=self.saving.save(epoch) if saves else None,
                    probabilities=epoch.probabilities if is_best else None,
                )


def faults_of(error: ValidationError) -> str:
    """Settings that contradict each other, in one line."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
