"""What may vary: float, int and choice params, the conditions between them, and the space they span."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeGuard, cast

import numpy as np

Value = bool | int | float | str
"""What a param can be set to; never None, so that a missing param and a null one cannot be mixed up."""

_FLOAT_LIMIT = 1e300  # keeps high - low finite
_INT_LIMIT = 2**53  # beyond it a float no longer tells neighbouring integers apart


@dataclass(frozen=True)
class Fault:
    """One thing wrong, where it is wrong, and how to put it right."""

    where: tuple[str, ...]
    """Keys from the outside in, such as ("space", "filters"); empty for the whole."""
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:" if self.line else self.file
        name = f"{'.'.join(self.where)}:" if self.where else ""
        return " ".join(part for part in (place, name, self.message) if part)


class SpaceError(ValueError):
    """A param, a space or a sweep that cannot be used; one line for every fault."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


@dataclass(frozen=True)
class Param(ABC):
    """One name that may vary. Every param maps the unit interval onto its values, both ends included."""

    when: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """{other: value or values}: the param exists only where each other has one of those values.
    Kept as {other: (value, ...)}."""

    def __post_init__(self) -> None:
        if faults := tuple(self._faults()):
            raise SpaceError(*faults)
        object.__setattr__(self, "when", {other: _listed(wanted) for other, wanted in self.when.items()})

    def _faults(self) -> Iterator[Fault]:
        yield from _condition_faults(self.when)

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many values there are; None for a continuous range."""

    @abstractmethod
    def from_unit(self, u: float) -> Value:
        """The value at ``u`` in [0, 1]; equal steps of ``u`` are equally likely under ``sample``."""

    @abstractmethod
    def to_unit(self, value: Any) -> float:
        """Where ``value`` lies in [0, 1]: the middle of its share if the values are countable."""

    @abstractmethod
    def contains(self, value: object) -> bool: ...

    def own(self, value: Any) -> Value:
        """``value``, which it contains, of the type in which it would be drawn."""
        return cast(Value, value)

    @abstractmethod
    def grid(self) -> tuple[Value, ...]:
        """Every value once, in order."""

    def sample(self, rng: np.random.Generator) -> Value:
        return self.from_unit(rng.random())


@dataclass(frozen=True)
class Float(Param):
    """A number between ``low`` and ``high``; with ``log``, each factor of ten is equally likely."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        yield from _range_faults("float", self.low, self.high, self.log, _FLOAT_LIMIT)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    @property
    def size(self) -> None:
        return None

    def from_unit(self, u: float) -> float:
        if u in (0.0, 1.0):
            return self.high if u else self.low  # exp(log(x)) can miss x by a rounding error
        return min(max(_spread(self.low, self.high, self.log, u), self.low), self.high)

    def to_unit(self, value: float) -> float:
        return _share(self.low, self.high, self.log, value)

    def contains(self, value: object) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def own(self, value: Any) -> float:
        return float(value)

    def grid(self) -> tuple[Value, ...]:
        raise SpaceError(Fault((), f"a grid needs a list or an int range, got a float range {self}"))


@dataclass(frozen=True)
class Int(Param):
    """A whole number from ``low`` to ``high``, each equally likely unless ``log``.

    The range is widened by one half on each side before rounding; otherwise the two ends would get
    half the chance of the others.
    """

    low: int
    high: int
    log: bool = False

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        yield from _range_faults("int", self.low, self.high, self.log, _INT_LIMIT)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def from_unit(self, u: float) -> int:
        return min(max(round(_spread(self.low - 0.5, self.high + 0.5, self.log, u)), self.low), self.high)

    def to_unit(self, value: int) -> float:
        return _share(self.low - 0.5, self.high + 0.5, self.log, value)

    def contains(self, value: object) -> bool:
        return _is_whole(value) and self.low <= value <= self.high

    def grid(self) -> tuple[Value, ...]:
        return tuple(range(self.low, self.high + 1))


@dataclass(frozen=True)
class Choice(Param):
    """One of a few values without an order, each equally likely."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "values", tuple(self.values))

    def _faults(self) -> Iterator[Fault]:
        yield from super()._faults()
        yield from _choice_faults(self.values)

    def __str__(self) -> str:
        return ", ".join(map(shown, self.values))

    @property
    def size(self) -> int:
        return len(self.values)

    def from_unit(self, u: float) -> Value:
        return self.values[min(int(u * self.size), self.size - 1)]

    def to_unit(self, value: Value) -> float:
        index = next(i for i, known in enumerate(self.values) if _same(known, value))
        return (index + 0.5) / self.size

    def own(self, value: Any) -> Value:
        return next(known for known in self.values if _same(known, value))

    def contains(self, value: object) -> bool:
        return among(value, self.values)

    def grid(self) -> tuple[Value, ...]:
        return self.values


@dataclass(frozen=True)
class Space:
    """Named params, kept in an order in which each comes after those its ``when`` refers to."""

    params: Mapping[str, Param]

    def __post_init__(self) -> None:
        if faults := (*_when_faults(self.params), *_circle_faults(self.params)):
            raise SpaceError(*faults)
        ordered = {name: self.params[name] for name in _order(self.params).static_order()}
        object.__setattr__(self, "params", ordered)

    @property
    def size(self) -> int | None:
        """How many configurations there are; None if any param is continuous."""
        if any(param.size is None for param in self.params.values()):
            return None
        # Only params that others depend on have to be tried out; the rest multiply.
        deciding = {other for param in self.params.values() for other in param.when}
        rest = [param for name, param in self.params.items() if name not in deciding]
        return sum(
            math.prod(param.size or 1 for param in rest if _exists(param, point))
            for point in self._points(deciding)
        )

    def fill(self, draw: Callable[[str, Param], Value]) -> dict[str, Value]:
        """One configuration: ``draw`` is asked only for params that exist given those already drawn."""
        drawn: dict[str, Value] = {}
        for name, param in self.params.items():
            if _exists(param, drawn):
                drawn[name] = draw(name, param)
        return drawn

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        return self.fill(lambda _, param: param.sample(rng))

    def completed(self, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Value]:
        """One configuration: each param as ``given``, else as in ``defaults``, else the middle of its range;
        a value that it cannot take counts for nothing."""

        def value(name: str, param: Param) -> Value:
            known = (values[name] for values in (given, defaults) if name in values)
            return next((param.own(v) for v in known if param.contains(v)), param.from_unit(0.5))

        return self.fill(value)

    def faults_of(self, given: Mapping[str, Any]) -> Iterator[Fault]:
        """What keeps ``completed`` from taking all that is ``given``."""
        for name, value in given.items():
            param = self.params.get(name)
            if param is None:
                hint = did_you_mean(name, self.params) or "; add it there, or leave it out"
                yield Fault((name,), f"is no param of the space{hint}")
            elif not param.contains(value):
                yield Fault((name,), f"can never be {shown(value)}; allowed: {param}")
            elif not _exists(param, given):
                where = " and ".join(f"{k} is {' or '.join(map(shown, v))}" for k, v in param.when.items())
                yield Fault((name,), f"exists only where {where}; say so beside it")

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether ``params`` holds exactly the params that exist, each with a value it can take."""
        existing = {name: param for name, param in self.params.items() if _exists(param, params)}
        return params.keys() == existing.keys() and all(
            param.contains(params[name]) for name, param in existing.items()
        )

    def grid(self) -> list[dict[str, Value]]:
        """Each distinct configuration once; raises SpaceError if any param is continuous."""
        return self._points(self.params.keys())

    def _points(self, names: Iterable[str]) -> list[dict[str, Value]]:
        wanted = set(names)
        points: list[dict[str, Value]] = [{}]
        for name, param in self.params.items():
            if name in wanted:
                points = [longer for point in points for longer in _extended(point, name, param)]
        return points


def check_value(value: Any) -> Value:
    """``value`` itself, if a param can be set to it."""
    if isinstance(value, bool | str) or (_is_number(value) and abs(value) < math.inf):
        return value
    raise SpaceError(Fault((), f"must be a finite number, a text, true or false, got {shown(value)}"))


def among(value: object, values: Iterable[object]) -> bool:
    """Whether ``value`` is one of ``values``, true and 1 being different."""
    return any(_same(value, known) for known in values)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or nothing."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """``value`` as the author of a sweep would write it, cut short if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(wanted: Any) -> tuple[Any, ...]:
    return tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)


def _condition_faults(when: Any) -> Iterator[Fault]:
    if not isinstance(when, Mapping):
        yield Fault(("when",), f"must be a mapping such as {{optimizer: sgd}}, got {shown(when)}")
        return
    for other, wanted in when.items():
        where = ("when", str(other))
        if not _listed(wanted):
            yield Fault(where, "must be a value or a list of values, got an empty list")
        yield from _value_faults(where, _listed(wanted))


def _choice_faults(values: Any) -> Iterator[Fault]:
    if not isinstance(values, list | tuple):
        yield Fault((), f"a choice needs a list of values, got {shown(values)}")
        return
    if not values:
        yield Fault((), "a choice needs at least one value, got an empty list")
    yield from _value_faults((), values)
    for i, value in enumerate(values):
        if among(value, values[:i]):
            yield Fault((), f"a choice needs distinct values, got {shown(value)} twice")


def _value_faults(where: tuple[str, ...], values: Iterable[Any]) -> Iterator[Fault]:
    for value in values:
        try:
            check_value(value)
        except SpaceError as error:
            yield Fault(where, f"each value {error}")


def _range_faults(kind: str, low: Any, high: Any, log: Any, limit: float) -> Iterator[Fault]:
    if not isinstance(log, bool):
        yield Fault(("log",), f"must be true or false, got {shown(log)}")
    if faults := [*_end_faults(kind, "low", low, limit), *_end_faults(kind, "high", high, limit)]:
        yield from faults
        return
    if low == high:
        yield Fault((kind,), f"low must be below high, got {low} for both; a constant belongs under fixed")
    if low > high:
        yield Fault((kind,), f"low must be below high, got low={low}, high={high}")
    if log is True and low <= 0:
        yield Fault((kind,), f"a log range must start above 0, got low={low}")


def _end_faults(kind: str, name: str, end: Any, limit: float) -> Iterator[Fault]:
    is_right, allowed = (_is_whole, "a whole number") if kind == "int" else (_is_number, "a number")
    if not is_right(end):
        yield Fault((kind,), f"{name} must be {allowed}, got {shown(end)}")
    elif not abs(end) <= limit:  # put this way round, nan is refused too
        yield Fault((kind,), f"{name} must lie within ±{limit}, got {shown(end)}")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)  # bool is an int in Python


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _same(one: object, other: object) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _spread(low: float, high: float, log: bool, u: float) -> float:
    if log:
        return math.exp(_spread(math.log(low), math.log(high), False, u))
    return low * (1 - u) + high * u


def _share(low: float, high: float, log: bool, value: float) -> float:
    if log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _exists(param: Param, drawn: Mapping[str, Any]) -> bool:
    return all(other in drawn and among(drawn[other], wanted) for other, wanted in param.when.items())


def _extended(point: dict[str, Value], name: str, param: Param) -> list[dict[str, Value]]:
    return [{**point, name: value} for value in param.grid()] if _exists(param, point) else [point]


def _when_faults(params: Mapping[str, Param]) -> Iterator[Fault]:
    for name, param in params.items():
        for other, wanted in param.when.items():
            where = (name, "when", other)
            if other not in params:
                yield Fault(where, f"unknown param{did_you_mean(other, params)}")
                continue
            for value in wanted:
                if not params[other].contains(value):
                    yield Fault(where, f"can never be {shown(value)}; allowed: {params[other]}")


def _order(params: Mapping[str, Param]) -> TopologicalSorter[str]:
    return TopologicalSorter({name: param.when.keys() for name, param in params.items()})


def _circle_faults(params: Mapping[str, Param]) -> Iterator[Fault]:
    try:
        _order(params).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]  # graphlib names the one depended on first
        yield Fault((circle[0], "when"), f"conditions must not run in a circle: {' -> '.join(circle)}")
