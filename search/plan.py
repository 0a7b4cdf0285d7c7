"""What a sweep will meet and what it will cost, found out before anything is spent on it.

Rows are counted here, configurations tried out in ``plan_samples``; what follows from these is expected, and
given as a range: ``plan_cost``.
"""

import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from search.driver import load_rows, structure_of, training_of
from search.plan_cost import Cost, Ladder, cost_of, ladder_of, machine
from search.plan_samples import Build, Draws, Sample, built, draws_of, measured
from search.trial_loop import Worker
from spaces.sweep import Sweep, trainer_name
from trainers.datasets import Dataset
from trainers.folds import Splits, class_counts
from trainers.keras_backend import no_gpu
from trainers.metrics import FEW_ROWS, score, wilson

DRAWS = 200
IMBALANCED = 4.0


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
    training = training_of(sweep, dataset, splits, runs, sweep.resources.threads)
    worker = Worker(training)  # before anything is built: it sets the threads that libraries will use
    begun = time.perf_counter()
    builds = built(sweep, training.folds[0], draws)
    drawn = draws_of(sweep, builds, draws, time.perf_counter() - begun)
    feasible = [build for build in builds if not build.reason]
    samples = tuple(measured(worker, sweep, feasible)) if measure else ()
    data = _data(sweep, dataset, splits)
    ladder = ladder_of(sweep, drawn, feasible, samples)
    cost = cost_of(sweep, training.folds, ladder, samples, _num_structures(sweep, feasible))
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


def _num_structures(sweep: Sweep, feasible: Sequence[Build]) -> float:
    """Among as many draws as there will be trials; infinite where workers keep nothing that they built."""
    structure = structure_of(sweep)
    structures = {structure(build.params) for build in feasible[: sweep.search.trials]}
    return math.inf if None in structures else len(structures)


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


def _warnings(
    sweep: Sweep, runs: Path, data: Data, draws: Draws, samples: Sequence[Sample], cost: Cost | None
) -> Iterator[str]:
    yield from _class_warnings(sweep, data)
    if draws.size is not None and draws.size < sweep.search.trials:
        yield f"{sweep.search.trials} trials are more than the {draws.size} configurations of the space"
    for sample in samples:
        if sample.problem:
            yield f"the sample of {shown_weights(sample.weights)} weights: {sample.problem}"
    cpus, gpus = machine()
    if sweep.resources.cpu > cpus:
        yield f"a trial asks for {sweep.resources.cpu:g} CPUs, this machine has {cpus}"
    if sweep.resources.gpu > gpus:
        there = "times are those of its CPUs" if cost and not gpus else "it cannot run here"
        yield f"a trial asks for {sweep.resources.gpu:g} GPUs, this machine has {gpus}: {there}"
    elif sweep.resources.gpu and (why := no_gpu()):
        yield why
    if cost is None:
        return
    free = _free_bytes(runs)
    if cost.disk_bytes and cost.disk_bytes.high > free:
        yield f"the disk may not do: {shown_bytes(free)} are free where runs lie"
    busy = os.getloadavg()[0] - 1  # one is us
    if busy > 0.75 * cpus:
        yield f"this machine was busy (load {busy:.1f} on {cpus} CPUs): what was measured is too long"


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
