"""A Gaussian process over (params, epoch): proposes what has the highest expected improvement per second.

Every value at a rung teaches it, also that of a trial which went no further: how a configuration would end is
extrapolated along the epochs. Values are replaced by their ranks, so that neither a loss that explodes nor
accuracies crowded below 1 bend the model, and NaN, failed and infeasible are simply the worst there is.

Improvement counts by the second, as seconds per epoch may differ a hundredfold: Snoek, Larochelle & Adams,
"Practical Bayesian Optimization of Machine Learning Algorithms", NIPS 2012, section 3.2. But only where other
trials are in flight: then who ends first decides what is known anyway, while a search that trains one trial
at a time is the same every time.

Time per ask is bounded: the memory holds at most ``MEMORY`` values, the length scales are fitted to at most
``FITTED`` of them, and only each time that a fifth more has been learned.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from search.events import Ending
from search.gaussian_process import Array, Process, expected_improvement, fit, normal_scores, ridge
from spaces.params import Choice, Param, Space, Value, among

_ALGEBRA = ThreadpoolController()
"""One thread: more of them only wait for each other at this size, and could round differently elsewhere."""

MEMORY = 280
KEPT = 200
"""What is left of a full memory: half of it the best, half by chance, to know where not to look."""
FITTED = 128
GROWTH = 1.2
SCATTERED, NEAR, NEARER = 128, 64, 64
"""Candidates: anywhere, around the best known configurations, and around the best candidate of those."""
BELIEVED = 64
"""Trials in flight that count as known, the latest to start or go on."""
BEST = 8
"""Configurations that the improvement is counted from and candidates are drawn around."""


class GaussianProcessSuggester:
    """Proposes at random until there is enough to fit.

    ``rungs`` are the epochs whose values are learned from, beside the last one; where a trial ended by
    itself, its last value is taken for that of the last epoch.
    """

    def __init__(self, space: Space, seed: int, epochs: int, rungs: Collection[int] = ()) -> None:
        self._cube = Cube(space)
        self._seed = seed
        self._epochs = epochs
        self._rungs = {*rungs, epochs}
        self._points: dict[int, Array] = {}
        self._encoded: dict[int, Array] = {}
        """Each of the points as the process sees it, without its progress."""
        self._tried: set[bytes] = set()
        self._in_flight: dict[int, None] = {}
        self._last: dict[int, tuple[int, float]] = {}
        """The last epoch of each trial that is not over, and its value."""
        self._values: dict[tuple[int, int], float] = {}
        """By trial and epoch; NaN for what ended badly."""
        self._seconds: dict[int, float] = {}
        """Of each trial's shortest epoch: the first one may hold compiling."""
        self._num_learned = 0
        self._next_fit = len(space.params) + 2
        self._theta: Array | None = None
        self._process: Process | None = None
        """As it was at the last ask: most of what it knew stays known."""

    def suggest(self, number: int) -> dict[str, Value]:
        with _ALGEBRA.limit(limits=1):
            params = self._propose(number)
        self._start(number, params)
        return params

    def restore(self, number: int, params: dict[str, Value]) -> None:
        with _ALGEBRA.limit(limits=1):
            self._fit_if_due()
        self._start(number, params)

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        self._last[number] = epoch, value
        self._seconds[number] = min(seconds, self._seconds.get(number, math.inf))
        self._in_flight.setdefault(number)  # a promoted trial is in flight again, which nobody else tells
        if math.isnan(value):
            self._learn(number, self._epochs, value)  # at the last epoch: it would be no better there
        elif epoch in self._rungs:
            self._learn(number, epoch, value)

    def rest(self, number: int) -> None:
        self._in_flight.pop(number, None)

    def finish(self, number: int, ending: Ending, value: float) -> None:
        self._in_flight.pop(number, None)
        epoch, last = self._last.get(number, (0, math.nan))
        if ending != "failed":  # which may be retried
            self._last.pop(number, None)
        if ending in ("failed", "infeasible"):
            self._learn(number, self._epochs, math.nan)
        elif ending == "complete" and epoch < self._epochs:  # it ended by itself: more would change nothing
            self._learn(number, self._epochs, last)

    def retry(self, number: int) -> None:
        if self._values.pop((number, self._epochs), None) is not None:
            self._num_learned -= 1
        self._in_flight[number] = None

    def take(self, number: int, params: dict[str, Value]) -> None:
        self.restore(number, params)

    def _propose(self, number: int) -> dict[str, Value]:
        self._fit_if_due()
        chance = np.random.default_rng([self._seed, number])
        if self._theta is None or not self._values:
            return self._cube.params(chance.random(self._cube.dims))
        return self._most_promising(self._theta, chance)

    def _start(self, number: int, params: Mapping[str, Value]) -> None:
        self._points[number] = self._cube.point(params)
        self._encoded[number] = self._cube.encode(self._points[number][None])[0]
        self._tried.add(self._points[number].tobytes())
        self._in_flight[number] = None

    def _learn(self, number: int, epoch: int, value: float) -> None:
        self._values[number, epoch] = value
        self._num_learned += 1
        if len(self._values) > MEMORY:
            latest = {trial: epoch for trial, epoch in self._values}
            last = [key for key in self._values if latest[key[0]] == key[1]]
            self._values = {key: self._values[key] for key in self._thinned(last, KEPT)}

    def _thinned(self, keys: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
        """At most ``size`` of ``keys``: one half those with the best values, one half any others."""
        if len(keys) <= size:
            return keys
        ordered = sorted(keys, key=lambda key: _ascending(self._values[key]), reverse=True)
        chance = np.random.default_rng([self._seed, self._num_learned])
        others = chance.choice(np.arange(size // 2, len(ordered)), size - size // 2, replace=False)
        kept = {*ordered[: size // 2], *(ordered[i] for i in others)}
        return [key for key in keys if key in kept]

    def _fit_if_due(self) -> None:
        if self._values and self._num_learned >= self._next_fit:
            self._next_fit = math.ceil(GROWTH * self._num_learned)
            x, y = self._data(self._thinned(list(self._values), FITTED))
            self._theta = fit(x, y, self._cube.groups, self._theta)

    def _data(self, keys: Collection[tuple[int, int]]) -> tuple[Array, Array]:
        epochs = np.array([epoch for _, epoch in keys])
        progress = np.log(epochs) / math.log(self._epochs) if self._epochs > 1 else np.ones(len(epochs))
        x = np.column_stack([[self._encoded[trial] for trial, _ in keys], progress])
        return x, normal_scores(np.array([self._values[key] for key in keys]))

    def _at_the_end(self, trials: Sequence[int]) -> Array:
        """What the process sees of these trials when they are trained."""
        width = len(self._cube.groups) - 1
        return _with_ones(np.array([self._encoded[trial] for trial in trials]).reshape(-1, width))

    def _most_promising(self, theta: Array, chance: np.random.Generator) -> dict[str, Value]:
        x, y = self._data(self._values)
        believed = self._at_the_end(list(self._in_flight)[-BELIEVED:])
        process = Process(x, y, theta, self._cube.groups, believed, self._process)
        self._process = process
        best = self._best()
        incumbent = float(process.at(self._at_the_end(best))[0].max())
        slopes = self._slopes_of_time(x)

        def improvement(points: Array) -> Array:
            rows = _with_ones(self._cube.encode(points))
            return expected_improvement(*process.at(rows), incumbent) * np.exp(-rows @ slopes)

        scattered = chance.random((SCATTERED, self._cube.dims))
        around = np.array([self._points[trial] for trial in best])
        points = np.vstack([scattered, self._cube.neighbours(around, NEAR, chance)])
        gain = improvement(points)
        nearer = self._cube.neighbours(points[[int(gain.argmax())]], NEARER, chance)
        points, gain = np.vstack([points, nearer]), np.concatenate([gain, improvement(nearer)])
        return self._first_untried(points[np.argsort(-gain, kind="stable")])

    def _slopes_of_time(self, x: Array) -> Array:
        """How the logarithm of an epoch's seconds grows along each column of ``x``, a row for each value."""
        seconds = np.array([self._seconds.get(trial, 0.0) for trial, _ in self._values])
        is_timed = seconds > 0  # what never ended an epoch has none
        if not self._in_flight or not is_timed.any():
            return np.zeros(x.shape[1])
        return ridge(x[is_timed], np.log(seconds[is_timed]))

    def _best(self) -> list[int]:
        values = np.array(list(self._values.values()))
        keys = list(self._values)
        ordered = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
        best: dict[int, None] = {}
        for i in ordered:
            best[keys[i][0]] = None
            if len(best) == BEST:
                break
        return list(best)

    def _first_untried(self, points: Array) -> dict[str, Value]:
        """Of a space with few values, a configuration that was tried may look best again."""
        for point in points:
            params = self._cube.params(point)
            if self._cube.point(params).tobytes() not in self._tried:
                return params
        return self._cube.params(points[0])


def _with_ones(encoded: Array) -> Array:
    """At the end of training."""
    return np.column_stack([encoded, np.ones(len(encoded))])


class Cube:
    """The unit cube that a space fills: one coordinate a param, of no account where it does not exist."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._index = {name: i for i, name in enumerate(space.params)}
        params = list(space.params.values())
        widths = [_width(param) for param in params]
        self.groups = np.repeat(np.arange(len(widths) + 1), [*widths, 1])
        """The length scale of each encoded column: one a param, the last one for the epoch."""
        self._starts = np.cumsum([0, *widths])
        """The first of each param's columns."""
        self._is_choice = np.array([isinstance(param, Choice) for param in params], bool)
        self._numbers = np.flatnonzero(~self._is_choice)
        self._hot = {i: np.eye(p.size) / math.sqrt(2) for i, p in enumerate(params) if isinstance(p, Choice)}
        """Of each choice, the columns of each of its values."""

    @property
    def dims(self) -> int:
        return len(self._index)

    def params(self, point: Array) -> dict[str, Value]:
        return self._space.fill(lambda name, param: param.from_unit(float(point[self._index[name]])))

    def point(self, params: Mapping[str, Value]) -> Array:
        space = self._space.params.items()
        return np.array([param.to_unit(params[name]) if name in params else 0.5 for name, param in space])

    def neighbours(self, points: Array, amount: int, chance: np.random.Generator) -> Array:
        """``amount`` points around ``points`` in turn; every other one differs in few coordinates only."""
        around = np.resize(points, (amount, self.dims))
        width = 10 ** chance.uniform(-2, -0.5, (amount, 1))
        moved = around + width * chance.standard_normal(around.shape)
        moved = 1 - np.abs(1 - np.abs(moved) % 2)  # a step across a face is reflected
        moved = np.where(
            self._is_choice & (chance.random(around.shape) < 0.3), chance.random(around.shape), moved
        )
        share = np.where(np.arange(amount) % 2, 1.0, min(1.0, 2 / self.dims))
        return np.where(chance.random(around.shape) < share[:, None], moved, around)

    def encode(self, points: Array) -> Array:
        """Numbers as they are, a choice one-hot; what does not exist lies in the middle, a column says so.

        Two different choices lie as far apart as the two ends of a range.
        """
        encoded = np.empty((len(points), len(self.groups) - 1))
        encoded[:, self._starts[self._numbers]] = points[:, self._numbers]
        for i, hot in self._hot.items():
            encoded[:, self._starts[i] : self._starts[i] + len(hot)] = hot[_chosen(len(hot), points[:, i])]
        for name, exists in self._exists(points).items():
            i = self._index[name]
            first, last = self._starts[i], self._starts[i + 1] - 1
            encoded[~exists, first:last] = 1 / (last - first) / math.sqrt(2) if i in self._hot else 0.5
            encoded[:, last] = exists
        return encoded

    def _exists(self, points: Array) -> dict[str, NDArray[np.bool_]]:
        """Whether each param with conditions exists at each point; what they are about comes before it."""
        exists: dict[str, NDArray[np.bool_]] = {}
        for name, param in self._space.params.items():
            if param.when:
                here = [exists[other] for other in param.when if self._space.params[other].when]
                here += [self._is_among(other, wanted, points) for other, wanted in param.when.items()]
                exists[name] = np.logical_and.reduce(here)
        return exists

    def _is_among(self, name: str, wanted: Collection[Any], points: Array) -> NDArray[np.bool_]:
        param, column = self._space.params[name], points[:, self._index[name]]
        if isinstance(param, Choice):
            return np.array([among(value, wanted) for value in param.values])[_chosen(param.size, column)]
        return np.array([among(param.from_unit(float(u)), wanted) for u in column], bool)


def _width(param: Param) -> int:
    return (param.size if isinstance(param, Choice) else 1) + bool(param.when)


def _chosen(size: int, column: Array) -> NDArray[np.int64]:
    return np.minimum((column * size).astype(np.int64), size - 1)


def _ascending(value: float) -> float:
    return -math.inf if math.isnan(value) else value
