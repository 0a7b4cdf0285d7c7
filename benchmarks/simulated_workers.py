"""Recorded learning curves, and simulated workers that train by looking them up."""

import heapq
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search.gp_suggester import Cube
from spaces.params import Choice, Float, Int, Param, Space, Value

Array = NDArray[np.float64]
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
