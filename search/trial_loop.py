"""One trial on a worker: pulls epochs out of its trainer, scores them, and yields a report for each.

With several folds, all of them train one epoch, then all the next: their predictions are scored as one set,
so that a bad configuration can be stopped before its folds are all paid for, and no rare class is judged by
the two or three rows that one fold has of it (see ``score_folds``).
"""

import logging
import os
import tempfile
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from threadpoolctl import threadpool_limits

from search.events import is_better
from search.folder import read_files
from search.search import Ended, Report, Stretch, derived_seed
from spaces.params import Value
from trainers.catalog import load_trainer
from trainers.contract import Epoch, Fold, Infeasible
from trainers.metrics import METRICS, score_folds

_LOG = logging.getLogger(__name__)
NO_REASON = "no reason was given"
SAVING_SHARE = 0.02
"""At most this part of the training time goes into checkpoints nobody asked for."""


@dataclass(frozen=True)
class Training:
    """What all trials of a run have in common; goes to each worker once."""

    trainer: str | Mapping[str, Any]
    objective: str
    fixed: dict[str, Value]
    threads: int
    """For TensorFlow and OpenMP. The same everywhere, since a sum's last bits depend on who adds what."""
    folds: tuple[Fold, ...]
    """One for a hold-out. Their seeds are replaced by each trial's own."""
    y_valid: tuple[NDArray[np.int64], ...]
    """The labels of each fold's validation rows."""


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

    def save(self, epochs: Sequence[Epoch], score: float) -> dict[str, bytes]:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="rungwise-") as folder:
            for number, epoch in enumerate(epochs, 1):
                part = fold_folder(Path(folder), number)
                part.mkdir()
                epoch.save(part, score)
            files = read_files(Path(folder))
        self.last_s = time.perf_counter() - begun
        self.spent_s += self.last_s
        return files


@dataclass
class Worker:
    """Trains stretch after stretch for one run; keeps whatever stays the same between them.

    Raises SpaceError where the run's trainer cannot be loaded: that is no trial's fault.
    """

    training: Training
    saving: Saving = field(default_factory=Saving)

    def __post_init__(self) -> None:
        limit_threads(self.training.threads)
        self.trainer = load_trainer(self.training.trainer)

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
            yield Ended(stretch.trial, "infeasible", str(error) or NO_REASON)
        except Exception as error:  # a failing trial is data
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            yield Ended(stretch.trial, "failed", reason)

    def _reports(self, stretch: Stretch, start: Path | None) -> Generator[Report]:
        training, trainer = self.training, self.trainer
        settings = trainer.Settings(**training.fixed, **stretch.params)
        sign = 1 if METRICS[training.objective] == "max" else -1
        best = stretch.best
        score: float | None = None
        """What the trainer is handed back: the objective, turned so that larger is better."""
        with ExitStack() as stack:
            in_step = [
                stack.enter_context(
                    _closing(trainer.train(settings, fold, start and fold_folder(start, number)))
                )
                for number, fold in enumerate(seeded(training.folds, stretch.seed), 1)
            ]
            while True:
                begun = time.perf_counter()
                try:
                    epochs = [fold.send(score) for fold in in_step]  # type: ignore[arg-type]  # None starts it
                except StopIteration:  # the first fold that ends ends the trial
                    return
                seconds = time.perf_counter() - begun
                self.saving.trained_s += seconds
                probabilities = [epoch.probabilities for epoch in epochs]
                scores, by_fold = score_folds(training.y_valid, probabilities)
                value, number = scores.values[training.objective], epochs[0].number
                score = sign * value
                if number <= stretch.reported:
                    continue
                is_best = is_better(value, best, METRICS[training.objective])
                best = value if is_best else best
                saves = (stretch.may_pause and number in stretch.rungs) or self.saving.is_due()
                yield Report(
                    trial=stretch.trial,
                    epoch=number,
                    metrics=scores.values,
                    folds=tuple(fold.values[training.objective] for fold in by_fold),
                    confusion=tuple(map(tuple, scores.confusion.tolist())),
                    curves=_mean_curves(epochs),
                    seconds=seconds,
                    checkpoint=self.saving.save(epochs, score) if saves else None,
                    probabilities=np.concatenate(probabilities) if is_best else None,
                )


@contextmanager
def _closing(epochs: Generator[Epoch, float, None]) -> Iterator[Generator[Epoch, float, None]]:
    """What a trainer fails to clean up costs neither the trial, which has its scores, nor the run."""
    try:
        yield epochs
    finally:
        try:
            epochs.close()
        except Exception:
            _LOG.warning("the trainer failed to clean up after a trial", exc_info=True)


def use_threads(num_threads: int) -> None:
    """Read by TensorFlow and OpenMP when they are first imported."""
    for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # A model is one operation after the other; a second pool would only take turns with the first.
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"


def limit_threads(num_threads: int) -> None:
    """In all of this process from now on, also where they were asked for already: NumPy is loaded."""
    use_threads(num_threads)
    threadpool_limits(num_threads)


def seeded(folds: Sequence[Fold], seed: int) -> list[Fold]:
    """The folds of one trial, each with a seed of its own that follows from the trial's."""
    seeds = [seed, *(derived_seed(seed, number) for number in range(1, len(folds)))]
    return [replace(fold, seed=own) for fold, own in zip(folds, seeds, strict=True)]


def fold_folder(checkpoint: Path, number: int) -> Path:
    """Where a checkpoint holds the state of its fold ``number``, counted from 1."""
    return checkpoint / f"fold-{number}"


def _mean_curves(epochs: Sequence[Epoch]) -> dict[str, float]:
    names = epochs[0].curves
    return {name: float(np.mean([epoch.curves[name] for epoch in epochs])) for name in names}


def faults_of(error: ValidationError) -> str:
    """Settings that contradict each other, in one line."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
