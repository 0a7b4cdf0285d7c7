"""What a sweep is expected to cost: how far its trials will get, times what samples took on this machine.

The ladder is climbed by ``Asha`` itself with random scores, many times over, so that every figure is a range.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from search.asha import Asha
from search.plan_samples import NOTICEABLE_S, Build, Draws, Sample
from spaces.sweep import Sweep
from trainers.contract import Fold

SIMULATED_TRIALS = 20_000
"""Trials over all simulated searches: enough to see how far chance goes, done in a moment."""
NOTICEABLE_BYTES = 1_000_000
GPUS = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver has a folder for each."""
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux tells a container of its share: microseconds that it may calculate in each so many."""


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

    def at_most(self, limit: float) -> Self:
        return type(self)(min(self.low, limit), min(self.central, limit), min(self.high, limit))

    def at_least(self, other: Self) -> Self:
        return type(self)(
            max(self.low, other.low), max(self.central, other.central), max(self.high, other.high)
        )


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
class Cost:
    """What the whole sweep is expected to cost here, from the samples and the ladder."""

    cpus: int
    gpus: int
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


# ---- the ladder, simulated ----


def ladder_of(sweep: Sweep, draws: Draws, feasible: Sequence[Build], samples: Sequence[Sample]) -> Ladder:
    horizons = _horizons(sweep, feasible, samples)
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


def _horizons(sweep: Sweep, feasible: Sequence[Build], samples: Sequence[Sample]) -> list[int]:
    """How many epochs trials have if nobody stops them, one number for each feasible draw."""
    if samples and all(sample.ends_after_one for sample in samples):
        return [1]
    settings = ({**sweep.fixed, **build.params}.get("epochs") for build in feasible)
    return [min(sweep.epochs, own) if isinstance(own, int) else sweep.epochs for own in settings]


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


# ---- what follows ----


def machine() -> tuple[int, int]:
    """The CPUs and GPUs that a run has here: what this process is allowed and shown of them."""
    gpus, shown = len(list(GPUS.glob("*"))), os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        gpus = min(gpus, sum(device.strip() not in ("", "-1") for device in shown.split(",")))
    return _num_cpus(), gpus


def _num_cpus() -> int:
    cpus = os.cpu_count() or 1
    try:
        quota, period = map(int, CPU_MAX.read_text().split())
    except (OSError, ValueError):  # no such file, or no limit: "max 100000"
        return cpus
    return min(cpus, max(1, quota // period))


def cost_of(
    sweep: Sweep, folds: Sequence[Fold], ladder: Ladder, samples: Sequence[Sample], structures: float
) -> Cost | None:
    """``structures``: how many of those that a worker builds once its trials are expected to have."""
    times = [sample.epoch_s for sample in samples if sample.epoch_s is not None]
    if not times:
        return None
    epoch_s = Range.of(times)
    startup_s = Range.of([sample.startup_s for sample in samples if sample.startup_s is not None] or [0.0])
    cpus, gpus = machine()
    slots = [
        cpus / sweep.resources.cpu,
        *([gpus / sweep.resources.gpu] if gpus and sweep.resources.gpu else []),
    ]
    parallel = min(ladder.trials, max(1, int(min(slots))))
    work_s = ladder.epochs * epoch_s + ladder.stretches.at_most(structures * parallel) * startup_s
    one_trial_s = epoch_s * max(ladder.reached) + startup_s
    wall_s = (work_s * (1 / parallel)).at_least(one_trial_s)
    once_s = sum(sample.once_s for sample in samples)
    cache_bytes = _bytes_in(folds[0].cache)
    budget_s = 60 * (sweep.budget.minutes or math.inf)
    return Cost(
        cpus=cpus,
        gpus=gpus,
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
