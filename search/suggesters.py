"""Who proposes the params of the next trial: at random, over a grid, or along a Sobol sequence.

A suggester's randomness follows from (seed, trial number) and its knowledge from what it was told, so the
same log gives the same next suggestion, before and after a crash.
"""

from typing import Any, Protocol

import numpy as np

from search.events import Ending
from spaces.params import Space, Value
from spaces.sweep import Sweep


class Suggester(Protocol):
    """Asked for params, told what became of them. Values are told so that larger is better."""

    def suggest(self, number: int) -> dict[str, Value] | None:
        """The params of trial ``number`` (1, 2, ..., each asked for once, in order); None after the last."""
        ...

    def restore(self, number: int, params: dict[str, Value]) -> None:
        """Stand as if ``suggest(number)`` had just answered ``params``."""
        ...

    def report(self, number: int, epoch: int, value: float) -> None: ...

    def rest(self, number: int) -> None:
        """The trial was paused; it may go on later, or never."""
        ...

    def finish(self, number: int, ending: Ending, value: float) -> None:
        """The trial is over; ``value`` is that of its best epoch, NaN if it has none."""
        ...


def load_suggester(sweep: Sweep) -> Suggester:
    """The suggester that a sweep names."""
    name, space, seed = sweep.search.suggester, sweep.space, sweep.search.seed
    match name:
        case "random":
            return Random(space, seed)
        case "grid":
            return Grid(space)
        case "qmc":
            return Sobol(space, seed)
    from search.optuna_suggesters import OptunaSuggester  # Optuna takes half a second to import

    return OptunaSuggester(name, space, seed)


class _Deaf:
    """A suggester that learns nothing from what it is told."""

    def restore(self, number: int, params: dict[str, Value]) -> None: ...

    def report(self, number: int, epoch: int, value: float) -> None: ...

    def rest(self, number: int) -> None: ...

    def finish(self, number: int, ending: Ending, value: float) -> None: ...


class Random(_Deaf):
    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def suggest(self, number: int) -> dict[str, Value]:
        return self._space.sample(np.random.default_rng([self._seed, number]))


class Grid(_Deaf):
    """Every configuration of a space without continuous params, once."""

    def __init__(self, space: Space) -> None:
        self._points = space.grid()

    def suggest(self, number: int) -> dict[str, Value] | None:
        return self._points[number - 1] if number <= len(self._points) else None


class Sobol(_Deaf):
    """A scrambled Sobol sequence: covers the space more evenly than chance does.

    Source: Owen, "Scrambling Sobol' and Niederreiter-Xing points", J. Complexity 14 (1998), as in SciPy.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def suggest(self, number: int) -> dict[str, Value]:
        point = dict(zip(self._space.params, self._point(number), strict=True))
        return self._space.fill(lambda name, param: param.from_unit(point[name]))

    def _point(self, number: int) -> list[float]:
        from scipy.stats import qmc

        sequence: Any = qmc.Sobol(len(self._space.params), scramble=True, rng=self._seed)
        if number > 1:  # SciPy 1.17 cannot go forward by nothing
            sequence.fast_forward(number - 1)
        return [float(u) for u in sequence.random(1)[0]]
