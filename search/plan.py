"""What a sweep will meet and what it will cost, found out before anything is spent on it.

Rows are counted, models built, the ladder climbed by ``Asha`` itself with random scores, epochs measured on
this machine; what follows from these is expected, and given as a range.
"""

import math
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError

from search.asha import Asha
from search.driver import load_rows, training_of
from search.events import RunError
from search.search import Ended, Report, Stretch, derived_seed, reported
from search.trial_loop import Training, Worker, faults_of
from spaces.params import Fault, SpaceError, Value
from spaces.sweep import Sweep, trainer_name
from trainers.catalog import load_trainer
from trainers.contract import Fold, Infeasible, Trainer, TrainError
from trainers.datasets import Dataset
from trainers.folds import Splits, class_counts
from trainers.metrics import FEW_ROWS, score, wilson

DRAWS = 200
BUILDING_S = 30.0
SAMPLE_S = 60.0
"""A sample that takes longer is given up; one whose first epoch takes half of it trains no second."""
SIMULATED_TRIALS = 20_000
"""Trials over all simulated searches: enough to see how far chance goes, done in a moment."""
NOTICEABLE_S = 2.0
"""What is done once is told apart from what each stretch takes where it takes longer than this."""
NOTICEABLE_BYTES = 1_000_000
IMBALANCED = 4.0
BYTES_A_WEIGHT = 16
"""The most that training holds of a float32 weight: itself, its gradient, and the two moments of Adam."""


# ---- what a plan says ----


@dataclass(frozen=True)
class Range:
    """An expected number: as low and as high as it may be, and the best guess."""

    low: float
    central: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], tail: float = 0.0) -> Self:
        """The median of some values, and what a share ``tail`` of them lies below or above."""
        low, central, high = np.quantile(values, (tail, 0.5, 1 - tail))
        return cls(float(low), float(central), float(high))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.low + other.low, self.central + other.central, self.high + other.high)

    def __mul__(self, other: Self | float) -> Self:
        by = other if isinstance(other, Range) else Range(other, other, other)
        return type(self)(self.low * by.low, self.central * by.central, self.high * by.high)

    def at_least(self, other: Self) -> Self:
        return type(self)(
            max(self.low, other.low), max(self.central, other.central), max(self.high, other.high)
        )


@dataclass(frozen=True)
class Data:
    """The rows, counted."""

    name: str
    source: str
    notes: tuple[str, ...]
    shape: tuple[int, ...]
    """Of one row."""
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    """Rows of each class in train and valid of the first fold, and in test."""
    num_folds: int
    ranked_on: tuple[int, ...]
    """Distinct rows of each class that rank the trials: the validation rows of all folds."""
    guessing: dict[str, float]
    """Accuracy and objective of a model that always answers with the classes' shares in training."""


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
class Ladder:
    """Who is expected to get how far when scores come in random order, from simulated searches."""

    rule: str
    """promote, stop, or off."""
    trials: int
    reached: dict[int, float]
    """Mean number of trials that reach each rung's epoch; the highest key is the last epoch."""
    epochs: Range
    """Trained by all trials together; an epoch of k folds counts once."""
    stretches: Range
    """Times that a trial is taken up: its start, and each promotion after a pause."""
    full_epochs: float
    """The same trials, all trained to their end."""
    other_rules: dict[str, float]
    """Mean epochs under the rules that the sweep does not use."""


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


@dataclass(frozen=True)
class Cost:
    """What the whole sweep is expected to cost here, from the samples and the ladder."""

    cpus: int
    parallel: int
    """Trials at a time."""
    work_s: Range
    """Seconds of all trials one after the other."""
    wall_s: Range
    once_s: float
    """Seconds on top of these, if what is done once is not done yet; 0 where that is not noticeable."""
    disk_bytes: Range | None
    """None where no sample got as far as a checkpoint."""
    cache_bytes: int
    """What lies in the cache beside the runs by now; 0 where that is not noticeable."""
    is_more: bool
    """Whether a sample was given up, so that all of this may be more."""
    gpu_hours: Range | None
    cut_off: float | None
    """The share of the work that ``budget.minutes`` leaves time for, where that is less than all."""


@dataclass(frozen=True)
class Plan:
    """All of it: data is counted, draws are built, samples measured, ladder and cost expected."""

    trainer: str
    objective: str
    data: Data
    draws: Draws
    ladder: Ladder
    samples: tuple[Sample, ...]
    """Those with the fewest, the median and the most weights of the feasible draws."""
    cost: Cost | None
    """None where nothing was measured."""
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan in JSON's types."""
        plan: dict[str, Any] = _PLAN.dump_python(self, mode="json")
        return plan


_PLAN = TypeAdapter(Plan)


def make_plan(sweep: Sweep, runs: Path, measure: bool = True, draws: int = DRAWS) -> Plan:
    """Read the data, build ``draws`` configurations and, to ``measure``, train three of them for two epochs.

    Raises DataError for data that nothing can be trained on, SpaceError where no draw has a model, RunError
    where the trainer lacks something that every model needs.
    """
    dataset, splits = load_rows(sweep, runs)
    training = training_of(sweep, dataset, splits, runs)
    worker = Worker(training)  # before anything is built: it sets the threads that libraries will use
    begun = time.perf_counter()
    builds = _built(sweep, training.folds[0], draws)
    drawn = _draws(sweep, builds, draws, time.perf_counter() - begun)
    feasible = [build for build in builds if not build.reason]
    samples = tuple(_measured(worker, sweep, feasible)) if measure else ()
    data = _data(sweep, dataset, splits)
    ladder = _ladder(sweep, drawn, _horizons(sweep, feasible, samples))
    cost = _cost(sweep, training.folds, ladder, samples)
    return Plan(
        trainer=trainer_name(sweep.trainer),
        objective=sweep.objective,
        data=data,
        draws=drawn,
        ladder=ladder,
        samples=samples,
        cost=cost,
        warnings=tuple(_warnings(sweep, runs, data, drawn, samples, cost)),
    )


# ---- the data, counted ----


def _data(sweep: Sweep, dataset: Dataset, splits: Splits) -> Data:
    first = splits.folds[0]
    parts = {"train": first.train, "valid": first.valid, "test": splits.test}
    counts = {name: class_counts(dataset, rows) for name, rows in parts.items()}
    ranked = np.unique(np.concatenate([split.valid for split in splits.folds]))
    shares = counts["train"] / counts["train"].sum()
    values = score(dataset.y[ranked], np.tile(shares, (len(ranked), 1))).values
    return Data(
        name=dataset.name,
        source=dataset.source,
        notes=dataset.notes,
        shape=dataset.x.shape[1:],
        classes=dataset.classes,
        counts={name: tuple(map(int, count)) for name, count in counts.items()},
        num_folds=len(splits.folds),
        ranked_on=tuple(map(int, class_counts(dataset, ranked))),
        guessing={name: values[name] for name in dict.fromkeys(("accuracy", sweep.objective))},
    )


# ---- the space, built ----


def dry_draws(sweep: Sweep, fold: Fold, num_draws: int) -> Iterator[str]:
    """Draw configurations and build their models: for each, why it has none, or an empty text if it has."""
    return (build.reason for build in _builds(sweep, fold, _sampled(sweep, num_draws)))


def _built(sweep: Sweep, fold: Fold, num_draws: int) -> list[Build]:
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
        return Build(params, reason=str(error))
    except TrainError as error:  # the fault of no configuration: none could be trained
        raise RunError(f"{trainer_name(sweep.trainer)} cannot train here: {error}") from error
    except Exception as error:  # whatever a hypermodel's author may raise: a worker would go on as well
        return Build(params, reason=f"fails: {type(error).__name__}: {error}".splitlines()[0])


def _draws(sweep: Sweep, builds: Sequence[Build], asked: int, seconds: float) -> Draws:
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


# ---- the ladder, simulated ----


def _horizons(sweep: Sweep, feasible: Sequence[Build], samples: Sequence[Sample]) -> list[int]:
    """How many epochs trials have if nobody stops them, one number for each feasible draw."""
    if samples and all(sample.ends_after_one for sample in samples):
        return [1]
    settings = ({**sweep.fixed, **build.params}.get("epochs") for build in feasible)
    return [min(sweep.epochs, own) if isinstance(own, int) else sweep.epochs for own in settings]


def _ladder(sweep: Sweep, draws: Draws, horizons: Sequence[int]) -> Ladder:
    trials = sweep.search.trials
    if sweep.search.suggester == "grid":  # has no others in place of those without a model
        trials = max(1, round(trials * draws.feasible / draws.drawn))
    rule = sweep.asha.rule if sweep.asha else "off"
    times = min(100, max(5, SIMULATED_TRIALS // trials))
    chances = [np.random.default_rng([sweep.search.seed, number]) for number in range(times)]
    simulated = {
        other: [_simulate(_asha(sweep, other), trials, horizons, chance) for chance in chances]
        for other in (("promote", "stop", "off") if sweep.asha else ("off",))
    }
    means = {other: float(np.mean([climb.epochs for climb in climbs])) for other, climbs in simulated.items()}
    own = simulated[rule]
    return Ladder(
        rule=rule,
        trials=trials,
        reached=_mean_reached(own, [*_asha(sweep, rule).rungs, sweep.epochs], max(horizons)),
        epochs=Range.of([climb.epochs for climb in own], tail=0.05),
        stretches=Range.of([climb.stretches for climb in own], tail=0.05),
        full_epochs=means["off"],
        other_rules={other: mean for other, mean in means.items() if other not in (rule, "off")},
    )


def _asha(sweep: Sweep, rule: str) -> Asha:
    if sweep.asha is None or rule == "off":
        return Asha(sweep.epochs, rule=None)
    return Asha(
        sweep.epochs, sweep.asha.grace, sweep.asha.reduction, "promote" if rule == "promote" else "stop"
    )


@dataclass(frozen=True)
class _Climb:
    """One simulated search."""

    trained: tuple[int, ...]
    """Epochs of each trial."""
    stretches: int

    @property
    def epochs(self) -> int:
        return sum(self.trained)


def _simulate(asha: Asha, trials: int, horizons: Sequence[int], chance: np.random.Generator) -> _Climb:
    """A search on one worker whose trials keep their rank from rung to rung; it asks as ``Search`` does."""
    scores = chance.permutation(trials)
    ends = chance.choice(horizons, size=trials)
    trained, stretches, fresh = [0] * trials, 0, iter(range(trials))
    while (trial := _next_trial(asha, fresh)) is not None:
        stretches += 1
        end = int(ends[trial])
        ahead = {epoch for epoch in (*asha.rungs, end) if trained[trial] < epoch <= end}
        for epoch in sorted(ahead):
            trained[trial] = epoch
            if asha.report(trial, epoch, float(scores[trial])) != "continue":
                break
    return _Climb(tuple(trained), stretches)


def _next_trial(asha: Asha, fresh: Iterator[int]) -> int | None:
    trial = asha.promotable()
    if trial is None and (new := next(fresh, None)) is not None:
        return new
    if trial is None:
        trial = asha.last_promotable()
    if trial is not None:
        asha.promote(trial)
    return trial


def _mean_reached(climbs: Sequence[_Climb], levels: Sequence[int], last: int) -> dict[int, float]:
    return {
        level: float(np.mean([sum(epochs >= level for epochs in climb.trained) for climb in climbs]))
        for level in sorted({min(level, last) for level in levels})
    }


# ---- epochs, measured ----


def _measured(worker: Worker, sweep: Sweep, feasible: Sequence[Build]) -> Iterator[Sample]:
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
    forget = getattr(load_trainer(training.trainer), "forget", lambda: None)  # each trial is to start anew
    first_s = _first_epoch_s(worker, stretch)
    forget()
    if first_s <= NOTICEABLE_S:
        return 0.0
    again_s = _first_epoch_s(worker, stretch)
    forget()
    return max(0.0, first_s - again_s)


def _of_few_rows(training: Training) -> Training:
    """One row of each class to train on and one to predict, among all rows as they are."""
    fold, y_valid = training.folds[0], training.y_valid[0]
    _, few = np.unique(fold.y_train, return_index=True)
    fold = replace(fold, train=fold.train[few], y_train=fold.y_train[few], valid=fold.valid[:1])
    return replace(training, folds=(fold,), y_valid=(y_valid[:1],))


def _first_epoch_s(worker: Worker, stretch: Stretch) -> float:
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


# ---- what follows ----


def _cost(sweep: Sweep, folds: Sequence[Fold], ladder: Ladder, samples: Sequence[Sample]) -> Cost | None:
    times = [sample.epoch_s for sample in samples if sample.epoch_s is not None]
    if not times:
        return None
    epoch_s = Range.of(times)
    startup_s = Range.of([sample.startup_s for sample in samples if sample.startup_s is not None] or [0.0])
    cpus = os.cpu_count() or 1
    parallel = min(ladder.trials, max(1, int(cpus / sweep.resources.cpu)))
    work_s = ladder.epochs * epoch_s + ladder.stretches * startup_s
    one_trial_s = epoch_s * max(ladder.reached) + startup_s
    wall_s = (work_s * (1 / parallel)).at_least(one_trial_s)
    once_s = sum(sample.once_s for sample in samples)
    cache_bytes = _bytes_in(folds[0].cache)
    budget_s = 60 * (sweep.budget.minutes or math.inf)
    return Cost(
        cpus=cpus,
        parallel=parallel,
        work_s=work_s,
        wall_s=wall_s,
        once_s=once_s if once_s > NOTICEABLE_S else 0.0,
        disk_bytes=_disk(folds, ladder, [sample for sample in samples if sample.checkpoint_bytes]),
        cache_bytes=cache_bytes if cache_bytes > NOTICEABLE_BYTES else 0,
        is_more=any(sample.is_given_up for sample in samples),
        gpu_hours=work_s * (sweep.resources.gpu / 3600) if sweep.resources.gpu else None,
        cut_off=budget_s / wall_s.central if budget_s < wall_s.central else None,
    )


def _disk(folds: Sequence[Fold], ladder: Ladder, samples: Sequence[Sample]) -> Range | None:
    """Of each trial the predictions and one checkpoint, or two where its last epoch is not its best."""
    if not samples:
        return None
    predictions = 4 * sum(len(fold.valid) for fold in folds) * len(folds[0].classes)
    checkpoint = Range.of([sample.checkpoint_bytes for sample in samples]) * Range(1, 1.5, 2)
    lines = ladder.epochs * Range.of([sample.line_bytes for sample in samples])
    trial = checkpoint + Range(predictions, predictions, predictions)
    return trial * ladder.trials + lines


def _bytes_in(cache: Path | None) -> int:
    return sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache else 0


def _warnings(
    sweep: Sweep, runs: Path, data: Data, draws: Draws, samples: Sequence[Sample], cost: Cost | None
) -> Iterator[str]:
    yield from _class_warnings(sweep, data)
    if draws.size is not None and draws.size < sweep.search.trials:
        yield f"{sweep.search.trials} trials are more than the {draws.size} configurations of the space"
    for sample in samples:
        if sample.problem:
            yield f"the sample of {shown_weights(sample.weights)} weights: {sample.problem}"
    if cost is None:
        return
    if sweep.resources.cpu > cost.cpus:
        yield f"a trial asks for {sweep.resources.cpu:g} CPUs, this machine has {cost.cpus}"
    free = _free_bytes(runs)
    if cost.disk_bytes and cost.disk_bytes.high > free:
        yield f"the disk may not do: {shown_bytes(free)} are free where runs lie"
    busy = os.getloadavg()[0] - 1  # one is us
    if busy > 0.75 * cost.cpus:
        yield f"this machine was busy (load {busy:.1f} on {cost.cpus} CPUs): what was measured is too long"


def _free_bytes(runs: Path) -> int:
    """On the disk of a runs folder that may not be there yet."""
    return shutil.disk_usage(
        next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    ).free


def _class_warnings(sweep: Sweep, data: Data) -> Iterator[str]:
    few = sorted((rows, name) for rows, name in zip(data.ranked_on, data.classes, strict=True))
    few = [(rows, name) for rows, name in few if 0 < rows < FEW_ROWS]
    if few:
        rows, name = few[0]
        others = f" ({len(few) - 1} more classes have under {FEW_ROWS})" if len(few) > 1 else ""
        low, high = wilson(0.5 * rows, rows)
        advice = "more rows are needed" if sweep.validation.kfold else "use kfold"
        yield (
            f"class {name!r} is ranked on {rows} rows{others}: a recall of .5 there means "
            f"{low:.2f} to {high:.2f} (Wilson, 95 %); {advice}"
        )
    for part, counts in data.counts.items():
        if missing := [name for name, rows in zip(data.classes, counts, strict=True) if not rows]:
            if sum(counts):
                yield f"{part} rows have none of class {', '.join(map(repr, missing))}"
    train = data.counts["train"]
    if sweep.objective == "accuracy" and max(train) > IMBALANCED * min(train):
        rare = data.classes[train.index(min(train))]
        yield (
            f"accuracy hides a rare class: a model that never finds {rare!r} "
            f"({min(train) / sum(train):.1%} of the rows) loses next to nothing; rank by macro_f1, "
            "balanced_accuracy or worst_class_recall"
        )


def shown_weights(weights: int) -> str:
    return f"{weights:,}" if weights else "-"


def shown_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
