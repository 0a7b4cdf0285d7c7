"""The arms of replay.py: the product's own ``Search``, and peers that are none."""

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from benchmarks.simulated_workers import Clock, Piece, Pilot, Task
from search.events import Ending, SweepStarted
from search.gp_suggester import Cube
from search.search import Report, Search
from search.suggesters import Suggester
from spaces.params import Value
from spaces.sweep import Sweep

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

    def take(self, number: int, params: dict[str, Value]) -> None:
        raise NotImplementedError("it only corrects what is proposed")

    def retry(self, number: int) -> None:
        raise NotImplementedError("no recorded trial fails")


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
            "trainer": "benchmarks.replay_arms:Recorded",
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
