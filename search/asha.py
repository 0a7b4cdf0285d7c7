"""Asynchronous successive halving: which trials go on past a rung, in pure Python and knowing no clock.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020 (algorithm 2 is rule
``promote``); rule ``stop`` is the variant that lets a trial run on unless it is already behind.

Both rules share three principles. A result counts for exactly the rung whose epoch it has, never for a lower
one it arrived late at. A result that is NaN stops its trial and enters no rung. The last epoch is no rung:
whoever reaches it is complete.

While a rung holds fewer than ``reduction`` results:

* ``promote``: nobody there is promoted, since a third (say) of fewer than three is nobody. Only when nothing
  else is left to do does the best of the highest such rung go on (``promote_last``), so that every search
  trains at least one trial to its end.
* ``stop``: the first result goes on whatever it is; the next ones go on if they reach the same percentile of
  the results before them that holds later on. With one result before it, that means: if it is no worse.
"""

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from search.events import Decision

Rule = Literal["promote", "stop"]


@dataclass
class Rung:
    """The results at one epoch; larger is better."""

    epoch: int
    values: list[float] = field(default_factory=list)
    """Ascending."""
    waiting: list[tuple[float, int]] = field(default_factory=list)
    """(-value, trial), ascending: paused here, the best one first, the earlier trial of equals."""
    num_promoted: int = 0

    def promotable(self, reduction: int) -> list[int]:
        """The trials that wait here and are among the best ``1/reduction`` of all results, best first.

        Of equals those that went on already come first, then the earlier trials: a rung where all are equal
        promotes no more than any other.
        """
        quota = len(self.values) // reduction
        among_best = takewhile(lambda place: self._num_before(place) < quota, range(len(self.waiting)))
        return [self.waiting[place][1] for place in among_best]

    def _num_before(self, place: int) -> int:
        """How many results rank before that of the trial at this place of ``waiting``."""
        negative = self.waiting[place][0]
        num_as_good = len(self.values) - bisect_left(self.values, -negative)
        num_waiting_from_here = bisect_right(self.waiting, (negative, math.inf)) - place
        return num_as_good - num_waiting_from_here


class Asha:
    """The rungs of one search, and what becomes of a trial at each.

    ``grace`` is the epoch of the lowest rung, each further rung lies ``reduction`` times higher, all of them
    below ``epochs``. ``rule=None`` has no rungs: every trial trains to its end unless it turns NaN.
    """

    def __init__(
        self, epochs: int, grace: int = 1, reduction: int = 3, rule: Rule | None = "promote"
    ) -> None:
        self._epochs = epochs
        self.reduction = reduction
        self.rule = rule
        self.rungs: dict[int, Rung] = {}
        epoch = grace
        while rule and epoch < epochs:
            self.rungs[epoch] = Rung(epoch)
            epoch *= reduction

    def report(self, trial: int, epoch: int, value: float) -> Decision:
        """Enter the result of ``trial`` after ``epoch`` (larger is better) and say how it goes on.

        Every report of a trial comes here once, in the order in which it was made.
        """
        if math.isnan(value):
            return "stop"
        rung = self.rungs.get(epoch)
        if rung is None:
            return "continue"
        if self.rule == "stop":
            cutoff = _percentile(rung.values, 1 - 1 / self.reduction)
            insort(rung.values, value)
            return "continue" if cutoff is None or value >= cutoff else "stop"
        insort(rung.values, value)
        insort(rung.waiting, (-value, trial))
        if rung.promotable(self.reduction)[:1] == [trial]:
            self.promote(trial)
            return "continue"
        return "pause"

    def promotable(self) -> int | None:
        """The paused trial that is to go on next, from the highest rung that has one."""
        return next(iter(self.all_promotable()), None)

    def all_promotable(self) -> list[int]:
        """The paused trials that may go on now, of the highest rung that has any: the best one first.

        Whichever of them goes on, the others still may.
        """
        for rung in reversed(self.rungs.values()):
            if trials := rung.promotable(self.reduction):
                return trials
        return []

    @property
    def num_promotable(self) -> int:
        """How many may go on now, of all rungs."""
        return sum(len(rung.promotable(self.reduction)) for rung in self.rungs.values())

    def last_promotable(self) -> int | None:
        """When nothing else is left to do: the best of the highest rung reached, if that promoted nobody."""
        reached = [rung for rung in self.rungs.values() if rung.values]
        if reached and not reached[-1].num_promoted and reached[-1].waiting:
            return reached[-1].waiting[0][1]
        return None

    def promote(self, trial: int) -> None:
        """Let a trial go on that ``all_promotable`` or ``last_promotable`` named."""
        for rung in self.rungs.values():
            trials = rung.promotable(self.reduction) or [number for _, number in rung.waiting[:1]]
            if trial in trials:
                del rung.waiting[trials.index(trial)]
                rung.num_promoted += 1
                return
        raise ValueError(f"trial {trial} is not the next of any rung")

    def expected_epochs(self, trials: int) -> int:
        """About how many epochs a search of so many trials trains, given who was promoted so far."""
        total, at, alive = 0, 0, trials
        for rung in self.rungs.values():
            total += alive * (rung.epoch - at)
            at, alive = rung.epoch, max(1, alive // self.reduction, rung.num_promoted)
        return total + alive * (self._epochs - at)


def _percentile(ascending: list[float], share: float) -> float | None:
    """The value below which ``share`` of the values lie, linear between neighbours; None of none."""
    if not ascending:
        return None
    position = share * (len(ascending) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (position - below) * (ascending[above] - ascending[below])
