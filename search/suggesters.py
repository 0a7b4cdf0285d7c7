"""Who proposes the params of the next trial: at random, over a grid, along a Sobol sequence, or a model.

A suggester's randomness follows from (seed, trial number) and its knowledge from what it was told, so the
same log gives the same next suggestion, before and after a crash.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from search.asha import Asha
from search.events import Ending
from spaces.params import Space, Value
from spaces.sweep import Sweep
from trainers.catalog import load_trainer


class Suggester(Protocol):
    """Asked for params, told what became of them. Values are told so that larger is better."""

    def suggest(self, number: int) -> dict[str, Value] | None:
        """The params of trial ``number`` (1, 2, ..., each asked for once, in order); None after the last."""
        ...

    def restore(self, number: int, params: dict[str, Value]) -> None:
        """Stand as if ``suggest(number)`` had just returned ``params``."""
        ...

    def take(self, number: int, params: dict[str, Value]) -> None:
        """Trial ``number`` has these params by somebody else's choice."""
        ...

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        """The trial's next epoch gave ``value`` and took ``seconds``."""
        ...

    def rest(self, number: int) -> None:
        """The trial was paused; it may go on later, or never."""
        ...

    def finish(self, number: int, ending: Ending, value: float) -> None:
        """The trial is over; ``value`` is that of its best epoch, NaN if it has none."""
        ...

    def retry(self, number: int) -> None:
        """The trial failed, and goes on after all."""
        ...


def load_suggester(sweep: Sweep) -> Suggester:
    """The suggester that a sweep names, behind the configurations that it names too."""
    suggester, first = _named(sweep), first_configurations(sweep)
    return First(first, suggester) if first else suggester


def first_configurations(sweep: Sweep) -> list[dict[str, Value]]:
    """Those that are tried before the suggester is asked, completed by the trainer's defaults."""
    if not sweep.search.first:
        return []
    defaults = _defaults(sweep)
    return [sweep.space.completed(given, defaults) for given in sweep.search.first]


def _named(sweep: Sweep) -> Suggester:
    name, space, seed = sweep.search.suggester, sweep.space, sweep.search.seed
    if not space.params and name != "grid":
        return Random(space, seed)  # one configuration, trained with as many seeds as there are trials
    match name:
        case "random":
            return Random(space, seed)
        case "grid":
            return Grid(space)
        case "qmc":
            return Sobol(space, seed)
        case "gp":
            from search.gp_suggester import GaussianProcessSuggester  # SciPy takes a third of a second

            return GaussianProcessSuggester(space, seed, sweep.epochs, _rungs(sweep))
    from search.optuna_suggesters import OptunaSuggester  # Optuna takes half a second to import

    return OptunaSuggester(name, space, seed)


def _rungs(sweep: Sweep) -> Collection[int]:
    if sweep.asha is None:
        return Asha(sweep.epochs).rungs
    return Asha(sweep.epochs, sweep.asha.grace, sweep.asha.reduction).rungs


def _defaults(sweep: Sweep) -> dict[str, Any]:
    """What the trainer would use for a param that a sweep leaves alone."""
    fields = load_trainer(sweep.trainer).Settings.model_fields
    return {name: field.default for name, field in fields.items() if not field.is_required()}


class First:
    """Proposes ``configurations`` before it asks ``suggester``, who is told of them."""

    def __init__(self, configurations: Sequence[dict[str, Value]], suggester: Suggester) -> None:
        self._configurations = configurations
        self._suggester = suggester
        self.take = suggester.take
        self.report = suggester.report
        self.rest = suggester.rest
        self.finish = suggester.finish
        self.retry = suggester.retry

    def suggest(self, number: int) -> dict[str, Value] | None:
        if number > len(self._configurations):
            return self._suggester.suggest(number)
        params = self._configurations[number - 1]
        self.take(number, params)
        return params

    def restore(self, number: int, params: dict[str, Value]) -> None:
        if number > len(self._configurations):
            self._suggester.restore(number, params)
        else:
            self.take(number, params)


class _Deaf:
    """A suggester that learns nothing from what it is told."""

    def restore(self, number: int, params: dict[str, Value]) -> None: ...

    def take(self, number: int, params: dict[str, Value]) -> None: ...

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None: ...

    def rest(self, number: int) -> None: ...

    def finish(self, number: int, ending: Ending, value: float) -> None: ...

    def retry(self, number: int) -> None: ...


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
