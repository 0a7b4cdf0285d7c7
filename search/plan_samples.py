"""Configurations of a sweep, tried out here: many are built, three of them trained for two epochs."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from types import FrameType

import numpy as np
from pydantic import ValidationError

from search.events import RunError
from search.search import Ended, Report, Stretch, derived_seed, reported
from search.suggesters import first_configurations
from search.trial_loop import NO_REASON, Training, Worker, faults_of
from spaces.params import Fault, SpaceError, Value
from spaces.sweep import Sweep, trainer_name
from trainers.catalog import load_trainer
from trainers.contract import Fold, Infeasible, Trainer, TrainError

BUILDING_S = 30.0
SAMPLE_S = 60.0
"""A sample that takes longer is given up; one whose first epoch takes half of it trains no second."""
NOTICEABLE_S = 2.0
"""What is done once is told apart from what each stretch takes where it takes longer than this."""


@dataclass(frozen=True)
class Build:
    """One configuration, built and let go again."""

    params: dict[str, Value]
    weights: int = 0
    """0 where the trainer has none before it is fitted."""
    reason: str = ""
    """Why there is no such model; empty where there is one."""


@dataclass(frozen=True)
class Draws:
    """Configurations of the space, built without training."""

    params: int
    size: int | None
    """Configurations in the space; None where it is continuous."""
    asked: int
    drawn: int
    """Fewer than asked where building took too long."""
    seconds: float
    infeasible: dict[str, int]
    """How many had no model, by reason, the most frequent first."""
    smallest: Build
    largest: Build

    @property
    def feasible(self) -> int:
        return self.drawn - sum(self.infeasible.values())

    @property
    def is_whole(self) -> bool:
        """Whether these are all configurations there are."""
        return self.drawn == self.size


@dataclass(frozen=True)
class Sample:
    """One configuration, trained for two epochs on this machine, over all folds."""

    params: dict[str, Value]
    weights: int
    epoch_s: float | None
    """Seconds of the second epoch, of the first where there was no second; None where training failed."""
    is_given_up: bool
    """Whether not even the first epoch ended: ``epoch_s`` is then what it took at least."""
    once_s: float
    """What no later trial has to do again, such as to run frozen layers over all rows, and no other figure
    counts; 0 where that is not noticeable."""
    startup_s: float | None
    """What the first epoch took longer than the second: building, tracing, reading; None without one."""
    checkpoint_bytes: int
    line_bytes: int
    """What a report takes in the log."""
    ends_after_one: bool
    problem: str
    """Why it was not measured, or not wholly."""


# ---- the space, built ----


def dry_draws(sweep: Sweep, fold: Fold, num_draws: int) -> Iterator[str]:
    """Draw configurations and build their models: for each, why it has none, or an empty text if it has."""
    return (build.reason for build in _builds(sweep, fold, _sampled(sweep, num_draws)))


def first_faults(sweep: Sweep, fold: Fold) -> Iterator[tuple[int, str]]:
    """Those of the configurations to try first that have no model, counted from 0, and why."""
    for number, build in enumerate(_builds(sweep, fold, first_configurations(sweep))):
        if build.reason:
            yield number, build.reason


def built(sweep: Sweep, fold: Fold, num_draws: int) -> list[Build]:
    """Builds of the whole space if it is that small, of draws otherwise, as many as there is time for."""
    size = sweep.space.size
    whole = size is not None and size <= num_draws
    points = _shuffled_grid(sweep) if whole else _sampled(sweep, num_draws)
    builds: list[Build] = []
    begun = math.nan
    for build in _builds(sweep, fold, points):
        builds.append(build)
        if len(builds) == 1:
            begun = time.perf_counter()  # the first one also imported the libraries
        elif time.perf_counter() - begun > BUILDING_S:
            break
    return builds


def _sampled(sweep: Sweep, num_draws: int) -> Iterator[dict[str, Value]]:
    for draw in range(num_draws):
        yield sweep.space.sample(np.random.default_rng([sweep.search.seed, draw]))


def _shuffled_grid(sweep: Sweep) -> Iterator[dict[str, Value]]:
    grid = sweep.space.grid()  # shuffled, since time may end before it does
    return (grid[i] for i in np.random.default_rng(sweep.search.seed).permutation(len(grid)))


def _builds(sweep: Sweep, fold: Fold, points: Iterable[dict[str, Value]]) -> Iterator[Build]:
    trainer = load_trainer(sweep.trainer)
    known: dict[str, Build] = {}
    for params in points:
        key = repr(params)
        if key not in known:
            known[key] = _build(trainer, sweep, params, fold)
        yield known[key]


def _build(trainer: Trainer, sweep: Sweep, params: dict[str, Value], fold: Fold) -> Build:
    try:
        return Build(params, trainer.check(trainer.Settings(**sweep.fixed, **params), fold))
    except ValidationError as error:
        return Build(params, reason=faults_of(error))
    except Infeasible as error:
        return Build(params, reason=str(error) or NO_REASON)
    except TrainError as error:  # the fault of no configuration: none could be trained
        raise RunError(f"{trainer_name(sweep.trainer)} cannot train here: {error}") from error
    except Exception as error:  # whatever a hypermodel's author may raise: a worker would go on as well
        return Build(params, reason=f"fails: {type(error).__name__}: {error}".splitlines()[0])


def draws_of(sweep: Sweep, builds: Sequence[Build], asked: int, seconds: float) -> Draws:
    reasons = Counter(build.reason for build in builds if build.reason)
    feasible = sorted((build for build in builds if not build.reason), key=lambda build: build.weights)
    if not feasible:
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        message = f"none of {len(builds)} configurations has a model; narrow the space: {listed}"
        raise SpaceError(Fault(("space",), message))
    size = sweep.space.size
    return Draws(
        params=len(sweep.space.params),
        size=size,
        asked=asked if size is None else min(asked, size),
        drawn=len(builds),
        seconds=seconds,
        infeasible=dict(reasons.most_common()),
        smallest=feasible[0],
        largest=feasible[-1],
    )


# ---- epochs, measured ----


def measured(worker: Worker, sweep: Sweep, feasible: Sequence[Build]) -> Iterator[Sample]:
    """The smallest, the median and the largest of these models, each once."""
    ordered = sorted({repr(build.params): build for build in feasible}.values(), key=lambda b: b.weights)
    for place in sorted({0, len(ordered) // 2, len(ordered) - 1}):
        yield _sample(worker, ordered[place], derived_seed(sweep.search.seed, place + 1))


def _sample(worker: Worker, build: Build, seed: int) -> Sample:
    stretch = Stretch(
        trial=1,
        params=build.params,
        seed=seed,
        start=0,
        reported=0,
        best=math.nan,
        rungs=(1,),  # where it may pause, it must save: this is how large a checkpoint is
        may_pause=True,
    )
    once_s = _done_once(worker.training, stretch)
    _forget(worker)
    reports: list[Report] = []
    ended: Ended | None = None
    with _time_limit(SAMPLE_S), closing(worker.train(stretch, None)) as messages:
        for message in messages:
            if isinstance(message, Ended):
                ended = message
                break
            reports.append(message)
            if len(reports) == 2 or message.seconds > SAMPLE_S / 2:
                break
    seconds = [report.seconds for report in reports]
    is_given_up = not reports and ended is None
    return Sample(
        params=build.params,
        weights=build.weights,
        epoch_s=SAMPLE_S if is_given_up else seconds[-1] if seconds else None,
        is_given_up=is_given_up,
        once_s=once_s,
        startup_s=max(0.0, seconds[0] - seconds[1]) if len(seconds) == 2 else None,
        checkpoint_bytes=sum(map(len, (reports[0].checkpoint or {}).values())) if reports else 0,
        line_bytes=_line_bytes(reports[0]) if reports else 0,
        ends_after_one=ended is not None and ended.ending == "complete" and len(reports) == 1,
        problem=_problem(reports, ended),
    )


def _done_once(training: Training, stretch: Stretch) -> float:
    """Do what is done once and then serves all trials; the seconds that it took.

    An epoch on a row of each class does it, without a limit of time: given up, it would be lost and begun
    anew by the next sample. A second such epoch has nothing of it left to do.
    """
    worker = Worker(_of_few_rows(training))
    first_s = _first_epoch_s(worker, stretch)
    return max(0.0, first_s - _first_epoch_s(worker, stretch)) if first_s > NOTICEABLE_S else 0.0


def _of_few_rows(training: Training) -> Training:
    """One row of each class to train on and one to predict, among all rows as they are."""
    fold, y_valid = training.folds[0], training.y_valid[0]
    _, few = np.unique(fold.y_train, return_index=True)
    fold = replace(fold, train=fold.train[few], y_train=fold.y_train[few], valid=fold.valid[:1])
    return replace(training, folds=(fold,), y_valid=(y_valid[:1],))


def _forget(worker: Worker) -> None:
    """Leave nothing that the next trial could start with: each is to start anew."""
    getattr(worker.trainer, "forget", lambda: None)()


def _first_epoch_s(worker: Worker, stretch: Stretch) -> float:
    _forget(worker)
    begun = time.perf_counter()
    with closing(worker.train(stretch, None)) as messages:
        next(messages)  # be it that these rows are too few for it
    return time.perf_counter() - begun


def _problem(reports: Sequence[Report], ended: Ended | None) -> str:
    if ended and ended.ending != "complete":
        return f"{ended.ending}: {ended.reason.splitlines()[0]}"
    if ended or len(reports) == 2:
        return ""
    if not reports:
        return f"its first epoch takes more than {SAMPLE_S:g} s: given up"
    return "its first epoch took so long that there was no second; start-up is part of it"


def _line_bytes(report: Report) -> int:
    return len(reported(report, time.time(), "continue").model_dump_json())


class _TimeIsUp(BaseException):
    """No Exception: a worker would take that for a fault of the trial."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Leave the block when time is up, as soon as Python is at work again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeIsUp:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
