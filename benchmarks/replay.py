"""How soon searches find good configurations: recorded learning curves replayed at simulated workers.

    python benchmarks/replay.py --curves FILE.npz --workers 4 --seeds 10

The search that is measured is the product's own ``Search`` with its suggesters and ASHA; only training is
looked up instead of done, and the clock jumps from the end of one epoch to the next.

Curves exist for a few recorded configurations only. So every proposal is replaced by the nearest recorded
one that was not used yet, in the unit cube, and the suggester is told that it had proposed that one: for
every arm alike. For each peer the table gives the share of the peer's budget after which an arm reaches the
regret that the peer ends with: the median over tasks, with a 95 % bootstrap interval over tasks. Regret is
how far the best value seen so far, at whatever epoch, lies from the best recorded one; its mean over seeds
is compared. An arm may take twice the budget; one that needs longer counts as 2. Our arms stop when they
have caught up with every peer, which changes no share.
"""

import argparse
import heapq
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from search.events import Ending, SweepStarted
from search.gp_suggester import Cube
from search.search import Report, Search
from search.suggesters import Suggester
from spaces.params import Choice, Float, Int, Param, Space, Value
from spaces.sweep import Sweep

Array = NDArray[np.float64]
PATIENCE = 2.0
"""How many times the peer's budget an arm may take."""
RESAMPLES = 4000
LOOKS = 100
"""How many times an arm is asked, at even times, whether it has caught up with all peers and may stop."""
GRID = 50
"""A param with at most so many recorded values was recorded on a grid."""


# ---- what was recorded ----


@dataclass(frozen=True)
class Task:
    """The learning curves of ``n`` configurations over ``L`` epochs; larger is better, NaN diverged."""

    name: str
    space: Space
    configs: list[dict[str, Value]]
    rows: Array
    """(n, columns) the configurations in the unit cube, a choice one-hot."""
    curve: Array
    """(n, L)"""
    cost: Array
    """(n, L) seconds of each epoch."""

    @property
    def epochs(self) -> int:
        return self.curve.shape[1]

    @property
    def best(self) -> float:
        return float(np.nanmax(self.curve))

    def budget(self, trainings: float | None, workers: int) -> float:
        """Seconds in which ``workers`` could train so many average configurations to their end; by default
        a twenty-fifth of all, and one each."""
        whole = float(self.cost.sum(1).mean())
        return whole * (trainings or max(len(self.configs) / 25, workers)) / workers


def load_tasks(path: Path, wanted: Iterable[str] | None = None) -> list[Task]:
    with np.load(path, allow_pickle=False) as file:
        names = [str(name) for name in file["tasks"]]
        if unknown := set(wanted or ()) - set(names):
            raise SystemExit(f"{path} has no task {', '.join(sorted(unknown))}; it has {', '.join(names)}")
        shape = json.loads(str(file["space"]))
        return [_task(file, name, shape) for name in names if not wanted or name in wanted]


def _task(file: Any, name: str, shape: dict[str, list[Any]]) -> Task:
    recorded = json.loads(str(file[f"{name}/configs"]))
    axes = {
        key: _axis(kind, ends, [config[key] for config in recorded]) for key, (kind, *ends) in shape.items()
    }
    space = Space({key: param for key, (param, _) in axes.items()})
    columns = [values for _, values in axes.values()]
    configs = [dict(zip(axes, row, strict=True)) for row in zip(*columns, strict=True)]
    curve = file[f"{name}/curve"].astype(float) * (1 if file[f"{name}/maximize"] else -1)
    cube = Cube(space)
    rows = cube.encode(np.array([cube.point(config) for config in configs]))
    cost = np.broadcast_to(file[f"{name}/cost"].astype(float), curve.shape)
    return Task(name, space, configs, rows, np.where(np.isfinite(curve), curve, np.nan), cost)


def _axis(kind: str, ends: list[Any], recorded: list[Any]) -> tuple[Param, list[Value]]:
    """One param and the value of each configuration; of one recorded on a grid, the places in that grid."""
    if kind == "cat":
        return Choice(tuple(ends[0])), recorded
    if kind not in ("int", "logint", "lin", "log", "log1m"):
        raise SystemExit(f"a space knows cat, int, logint, lin, log and log1m, got {kind!r}")
    if kind == "log1m":  # how far below 1, on a logarithmic scale
        recorded = [1 - value for value in recorded]
    grid = sorted(set(recorded))
    if len(grid) <= GRID:
        return Int(0, len(grid) - 1), [grid.index(value) for value in recorded]
    low, high = ends
    inside = [min(max(value, low), high) for value in recorded]
    if kind.endswith("int"):
        return Int(low, high, log=kind == "logint"), [round(value) for value in inside]
    return Float(low, high, log=kind != "lin"), [float(value) for value in inside]


# ---- simulated workers ----


@dataclass(frozen=True)
class Piece:
    """Work for one worker: a trial's configuration from an epoch on."""

    trial: int
    config: int
    start: int


class Pilot(Protocol):
    """What decides; ``report`` answers whether the piece goes on."""

    def next_piece(self) -> Piece | None: ...

    def report(self, piece: Piece, epoch: int, value: float, seconds: float) -> bool: ...


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Trace:
    """When a better value was seen, and which; with what the whole search took."""

    times: Array
    values: Array
    end: float
    """When the budget was used up, or all work done."""
    trials: int
    wall_s: float


class Simulation:
    """One search; each event is the end of an epoch, when a worker that found nothing to do asks again."""

    def __init__(self, pilot: Pilot, task: Task, workers: int, clock: Clock) -> None:
        self._pilot, self._task, self._workers, self._clock = pilot, task, workers, clock
        self._events: list[tuple[float, int, Piece, int]] = []
        self._order = count()
        self._better: list[tuple[float, float]] = []
        self._trials: set[int] = set()
        self._wall_s = 0.0

    def run(self, until: float) -> None:
        """Up to that second of the clock, from where the last call stopped."""
        began = time.perf_counter()
        while True:
            while len(self._events) < self._workers and (piece := self._pilot.next_piece()):
                self._trials.add(piece.trial)
                self._train(piece, piece.start + 1)
            if not self._events or self._events[0][0] > until:
                break
            self._finish_epoch()
        self._wall_s += time.perf_counter() - began

    def trace(self, horizon: float) -> Trace:
        times, values = np.array(self._better).reshape(-1, 2).T
        end = horizon if self._events else self._clock.now
        return Trace(times, values, end, len(self._trials), self._wall_s)

    @property
    def best(self) -> float:
        return self._better[-1][1] if self._better else -math.inf

    def _finish_epoch(self) -> None:
        self._clock.now, _, piece, epoch = heapq.heappop(self._events)
        value = float(self._task.curve[piece.config, epoch - 1])
        if value > self.best:
            self._better.append((self._clock.now, value))
        seconds = float(self._task.cost[piece.config, epoch - 1])
        if self._pilot.report(piece, epoch, value, seconds) and epoch < self._task.epochs:
            self._train(piece, epoch + 1)

    def _train(self, piece: Piece, epoch: int) -> None:
        end = self._clock.now + self._task.cost[piece.config, epoch - 1]
        heapq.heappush(self._events, (end, next(self._order), piece, epoch))


# ---- the product's own search ----


class Recorded:
    """The trainer that a sweep over recorded curves names; nothing is ever trained."""

    class Settings(BaseModel):
        """No param has a default, so the first trial lies in the middle of the space."""

    def check(self, settings: Any, fold: Any) -> int:
        return 0

    def train(self, settings: Any, fold: Any, start: Path | None) -> Any:
        raise NotImplementedError("its curves are recorded")

    def load(self, folder: Path) -> Any:
        raise NotImplementedError("it has no models")


class Nearest:
    """Replaces each proposal by the nearest recorded configuration that is left, and says so."""

    def __init__(self, suggester: Suggester, task: Task) -> None:
        self._suggester, self._task, self._cube = suggester, task, Cube(task.space)
        self._is_left = np.ones(len(task.configs), bool)
        self.chosen: dict[int, int] = {}

    def suggest(self, number: int) -> dict[str, Value] | None:
        proposal = self._suggester.suggest(number)
        if proposal is None or not self._is_left.any():
            return None
        row = self._cube.encode(self._cube.point(proposal)[None])
        distances = ((self._task.rows - row) ** 2).sum(1)
        config = int(np.where(self._is_left, distances, np.inf).argmin())
        self._is_left[config] = False
        self.chosen[number] = config
        self._correct(number, self._task.configs[config])
        return self._task.configs[config]

    def _correct(self, number: int, params: dict[str, Value]) -> None:
        self._suggester.restore(number, params)

    def restore(self, number: int, params: dict[str, Value]) -> None:
        raise NotImplementedError("a simulated search is not resumed")

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        self._suggester.report(number, epoch, value, seconds)

    def rest(self, number: int) -> None:
        self._suggester.rest(number)

    def finish(self, number: int, ending: Ending, value: float) -> None:
        self._suggester.finish(number, ending, value)


class NearestOfOptuna(Nearest):
    """Optuna has opened its trial when it answers, so the params are put right in there."""

    def __init__(self, suggester: Suggester, task: Task) -> None:
        from optuna.samplers._tpe import _truncnorm
        from scipy.special import log_ndtr

        super().__init__(suggester, task)
        _truncnorm._log_ndtr = log_ndtr  # one value at a time in Python, it takes three quarters of an hour

    def _correct(self, number: int, params: dict[str, Value]) -> None:
        from search.optuna_suggesters import OptunaSuggester, _distribution

        assert isinstance(self._suggester, OptunaSuggester)
        trial = self._suggester._id(number)
        for name, value in params.items():
            known = _distribution(self._task.space.params[name])
            self._suggester._storage.set_trial_param(trial, name, known.to_internal_repr(value), known)


class AsRayTells(NearestOfOptuna):
    """Ray's OptunaSearch is told of a trial's last value alone, as if the trial were complete; NaN never."""

    def __init__(self, suggester: Suggester, task: Task) -> None:
        super().__init__(suggester, task)
        self._last: dict[int, float] = {}

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        self._last[number] = value

    def finish(self, number: int, ending: Ending, value: float) -> None:
        if not math.isnan(last := self._last.pop(number)):
            self._suggester.finish(number, "complete", last)


class SearchPilot:
    """A whole ``Search`` at the wheel."""

    def __init__(
        self,
        task: Task,
        seed: int,
        clock: Clock,
        nearest: type[Nearest],
        suggester: str,
        asha: dict[str, Any],
    ) -> None:
        sections = {
            "dataset": "digits",
            "trainer": "benchmarks.replay:Recorded",
            "objective": "accuracy",
            "epochs": task.epochs,
            "search": {"suggester": suggester, "trials": len(task.configs), "seed": seed},
            "asha": asha,
            "space": task.space,
        }
        sweep = Sweep.model_validate(sections)
        first = SweepStarted(time=0, sweep=sections, direction="max", classes=(), data={}, versions={})
        events: list[Any] = []
        self._search = Search.replay(sweep, [first], lambda *more: events.extend(more), clock)
        self._nearest = self._search._suggester = nearest(self._search._suggester, task)

    def next_piece(self) -> Piece | None:
        stretch = self._search.next_trial()
        if stretch is None:
            return None
        return Piece(stretch.trial, self._nearest.chosen[stretch.trial], stretch.start)

    def report(self, piece: Piece, epoch: int, value: float, seconds: float) -> bool:
        report = Report(piece.trial, epoch, {"accuracy": value}, seconds=seconds, checkpoint={})
        return self._search.report(report) == "continue"


def searching(suggester: str, nearest: type[Nearest] = Nearest, **asha: Any) -> Callable[..., Pilot]:
    """An arm that is a ``Search``; what ``asha`` leaves out is the sweep's own default."""

    def pilot(task: Task, seed: int, clock: Clock, workers: int, budget: float) -> Pilot:
        return SearchPilot(task, seed, clock, nearest, suggester, asha)

    return pilot


# ---- peers that are no Search ----


class Hyperband:
    """Hyperband as KerasTuner runs it: a round is filled before the next begins, brackets in turn from the
    one with most trials, over and over; a worker that would have to wait starts the next bracket instead.

    Source: Li et al., "Hyperband", JMLR 18 (2018); sizes and epochs as KerasTuner 1.4 rounds them up.
    """

    factor = 3

    def __init__(self, task: Task, seed: int, clock: Clock, workers: int, budget: float) -> None:
        self._task = task
        self._unused = iter(_shuffled(task, seed))
        self._most = math.floor(math.log(task.epochs, self.factor) + 1e-9)
        self._trial = count(1)
        self._brackets: list[list[dict[int, float | None]]] = []
        """Of each bracket its rounds, each the value of each configuration, None while it trains."""
        self._place: dict[int, tuple[int, int]] = {}

    def next_piece(self) -> Piece | None:
        for i, rounds in enumerate(self._brackets):
            for level in range(len(rounds)):
                if len(rounds[level]) < self._size(i, level) and (piece := self._fill(i, level)):
                    return piece
        self._brackets.append([{} for _ in range(self._most - len(self._brackets) % (self._most + 1) + 1)])
        return self._fill(len(self._brackets) - 1, 0)

    def report(self, piece: Piece, epoch: int, value: float, seconds: float) -> bool:
        bracket, level = self._place[piece.trial]
        if epoch < self._epochs(bracket, level):
            return True
        self._brackets[bracket][level][piece.config] = -math.inf if math.isnan(value) else value
        return False

    def _fill(self, bracket: int, level: int) -> Piece | None:
        rounds = self._brackets[bracket]
        if level == 0:
            config = next(self._unused, None)
        else:
            before = rounds[level - 1]
            done = {c: value for c, value in before.items() if value is not None}
            full = len(done) == self._size(bracket, level - 1)
            waiting = [c for c in done if c not in rounds[level]] if full else []
            config = max(waiting, key=lambda c: done[c], default=None)
        if config is None:
            return None
        rounds[level][config] = None
        trial = next(self._trial)
        self._place[trial] = (bracket, level)
        return Piece(trial, config, self._epochs(bracket, level - 1) if level else 0)

    def _number(self, bracket: int) -> int:
        """From the most rounds down to none, and again."""
        return self._most - bracket % (self._most + 1)

    def _size(self, bracket: int, level: int) -> int:
        number = self._number(bracket)
        last = math.ceil((self._most + 1) / (number + 1))
        return math.ceil(last * self.factor ** (number - level))

    def _epochs(self, bracket: int, level: int) -> int:
        return math.ceil(self._task.epochs / self.factor ** (self._number(bracket) - level))


class TopK:
    """One epoch of as many configurations as half the budget allows; the best of them trained to the end."""

    def __init__(self, task: Task, seed: int, clock: Clock, workers: int, budget: float) -> None:
        affordable = budget * workers / 2 / float(task.cost[:, 0].mean())
        self._unused = _shuffled(task, seed)[: max(1, int(affordable))]
        self._number = len(self._unused)
        self._ranked: list[tuple[float, int]] = []
        self._trial = count(1)

    def next_piece(self) -> Piece | None:
        if self._unused:
            return Piece(next(self._trial), self._unused.pop(0), 0)
        if len(self._ranked) < self._number or not self._ranked:
            return None
        return Piece(next(self._trial), self._ranked.pop()[1], 1)

    def report(self, piece: Piece, epoch: int, value: float, seconds: float) -> bool:
        if epoch > 1:
            return not math.isnan(value)
        self._ranked.append((-math.inf if math.isnan(value) else value, piece.config))
        if len(self._ranked) == self._number:
            self._ranked.sort()
            self._number = 0
        return False


def _shuffled(task: Task, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).permutation(len(task.configs))]


OURS: dict[str, Callable[..., Pilot]] = {
    "random, promote": searching("random"),
    "tpe, promote": searching("tpe", NearestOfOptuna),
    "gp, promote": searching("gp"),
}
PEERS: dict[str, Callable[..., Pilot]] = {
    "Ray ASHA (4, grace 1) + random": searching("random", rule="stop", reduction=4, grace=1),
    "Ray ASHA tuned (3, grace 3) + random": searching("random", rule="stop", reduction=3, grace=3),
    "Ray ASHA + OptunaSearch (TPE)": searching("tpe", AsRayTells, rule="stop", reduction=4, grace=1),
    "KerasTuner Hyperband": Hyperband,
    "one-epoch top-K": TopK,
}
ARMS = OURS | PEERS


# ---- what is compared ----


def search_for(
    task: Task, arm: str, workers: int, trainings: float | None, seeds: int, goal: float | None = None
) -> list[Trace]:
    """Searches with seeds 0, 1, ..., for the whole budget; given a ``goal``, until their mean regret is that
    low, for ``PATIENCE`` budgets at most."""
    budget = task.budget(trainings, workers)
    clocks = [Clock() for _ in range(seeds)]
    searches = [
        Simulation(ARMS[arm](task, seed, clock, workers, budget), task, workers, clock)
        for seed, clock in enumerate(clocks)
    ]
    horizon = budget if goal is None else PATIENCE * budget
    for until in [horizon] if goal is None else np.linspace(0, horizon, LOOKS + 1)[1:]:
        for search in searches:
            search.run(until)
        if goal is not None and np.mean([task.best - search.best for search in searches]) <= goal:
            break
    return [search.trace(horizon) for search in searches]


def mean_regret(traces: list[Trace], task: Task) -> tuple[Array, Array]:
    """When the mean over searches of the regret falls, and to what; before that some have seen nothing."""
    times = np.unique(np.concatenate([trace.times for trace in traces]))
    regrets = [
        np.append(np.inf, task.best - trace.values)[np.searchsorted(trace.times, times, side="right")]
        for trace in traces
    ]
    return times, np.mean(regrets, axis=0)


def share(ours: list[Trace], peer: list[Trace], task: Task) -> float:
    """The share of the peer's time after which ours are as good as the peer's are at its end."""
    budget = float(np.mean([trace.end for trace in peer]))
    _, regret = mean_regret(peer, task)
    times, falling = mean_regret(ours, task)
    reached = falling <= regret[-1] + 1e-12
    return min(PATIENCE, float(times[reached.argmax()]) / budget) if reached.any() else PATIENCE


def interval(shares: Array) -> str:
    chance = np.random.default_rng(0)
    medians = np.median(chance.choice(shares, (RESAMPLES, len(shares))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return f"{np.median(shares):.2f} [{low:.2f}, {high:.2f}]"


def compare(task: Task, options: argparse.Namespace) -> dict[str, list[Trace]]:
    """Of each arm the traces of all seeds; ours go on until they have caught up with the best peer."""
    run = partial(search_for, task, workers=options.workers, trainings=options.trainings, seeds=options.seeds)
    traces = {peer: run(peer) for peer in _chosen(PEERS, options)}
    goal = min((mean_regret(each, task)[1][-1] for each in traces.values()), default=-math.inf)
    return traces | {arm: run(arm, goal=goal) for arm in _chosen(OURS, options)}


def _chosen(arms: Iterable[str], options: argparse.Namespace) -> list[str]:
    return [arm for arm in arms if arm in options.arms]


def table_of(file: Path, tasks: list[Task], options: argparse.Namespace) -> Table:
    ours, peers = _chosen(OURS, options), _chosen(PEERS, options)
    with ProcessPoolExecutor(options.processes) as pool:
        traces = list(pool.map(partial(compare, options=options), tasks))
    table = Table("peer", *ours, title=f"{file.stem}: {len(tasks)} tasks, {_title(options)}")
    for peer in peers:
        cells = [
            [share(of[arm], of[peer], task) for task, of in zip(tasks, traces, strict=True)] for arm in ours
        ]
        table.add_row(peer, *(interval(np.array(shares)) for shares in cells))
    speeds = [[trace for of in traces for trace in of[arm]] for arm in ours]
    table.add_section()
    table.add_row(
        "simulated trials a minute",
        *(f"{60 * sum(t.trials for t in each) / sum(t.wall_s for t in each):,.0f}" for each in speeds),
    )
    return table


def _title(options: argparse.Namespace) -> str:
    amount = (
        f"{options.trainings:g} whole trainings"
        if options.trainings
        else "max(n / 25, workers) whole trainings"
    )
    return f"{options.workers} workers, {options.seeds} seeds, budget {amount}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--curves", type=Path, nargs="+", required=True, help="recorded curves, .npz")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", help="names of tasks; all if left out")
    usual = [arm for arm in ARMS if arm != "tpe, promote"]  # as slow as all others together
    parser.add_argument(
        "--arms", nargs="+", default=usual, choices=list(ARMS), metavar="ARM", help="; ".join(ARMS)
    )
    parser.add_argument(
        "--trainings", type=float, help="the budget, in whole trainings; max(n / 25, workers) if left out"
    )
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    for file in options.curves:
        Console(width=150).print(table_of(file, load_tasks(file, options.tasks), options))


if __name__ == "__main__":
    main()
