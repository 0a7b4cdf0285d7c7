"""The space of a KerasTuner hypermodel, found by building it: its Settings, and its part of a sweep file."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from spaces.layers import dump_yaml
from spaces.params import Fault, SpaceError, Value, among, did_you_mean
from trainers.imports import first_line, import_for
from trainers.keras_backend import import_keras

MakeHyperModel = Callable[[tuple[int, ...], int], Any]
"""(shape of a row, number of classes) -> keras_tuner.HyperModel."""

_STAND_INS = ((96, 96, 3), (96, 96, 1), (96,))
"""Shapes to build with before the data is known: the first that the hypermodel takes."""
_STAND_IN_CLASSES = 10
_MOST_BUILDS = 256
_MOST_LISTED = 64


@dataclass(frozen=True)
class HyperSpace:
    """All hyperparameters that were found, in the order in which they were first asked for."""

    hypermodel: str
    params: Mapping[str, Any]
    """KerasTuner's own definition of each."""
    scoped: tuple[Any, ...]
    """Every definition in every conditional scope: one name can stand in several."""
    when: Mapping[str, Mapping[str, tuple[Value, ...]]]
    """{name: {other: values}}: where each is asked for, as far as "all of these" can say it."""
    notes: tuple[str, ...]
    """What a sweep cannot say as KerasTuner does, one line each."""

    def values(self, chosen: Mapping[str, Any]) -> Any:
        """The keras_tuner.HyperParameters to build with: of ``chosen``, only what is active."""
        import keras_tuner

        hp = keras_tuner.HyperParameters()
        hp.merge(list(self.scoped))
        hp.values = {}
        for param in hp.space:  # parents come first
            if hp.is_active(param):
                hp.values[param.name] = chosen[param.name]
        return hp


# ---- loading ----


def load_hypermodel(name: str) -> MakeHyperModel:
    """What makes the hypermodel that "module:attribute" names; a SpaceError if there is none.

    A class is given ``input_shape`` and ``classes`` if it takes them, as KerasTuner's own applications do;
    an instance or a function ``build(hp)`` knows its data itself.
    """
    found = _imported(name)
    import keras_tuner

    if isinstance(found, keras_tuner.HyperModel):
        return lambda shape, classes: found
    if isinstance(found, type) and issubclass(found, keras_tuner.HyperModel):
        return partial(_instance, found, _arguments(name, found))
    if isinstance(found, type) or not callable(found):
        message = f"{name!r} is no hypermodel: it must be a keras_tuner.HyperModel or a function build(hp)"
        raise _fault(message)
    return lambda shape, classes: _from_function(found)


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise _fault(f"a hypermodel is named module:attribute, such as my_models:Net, got {name!r}")
    import_keras()  # before the module does, which knows nothing of our settings
    found = import_for(name, module)
    if not hasattr(found, attribute):
        raise _fault(f"module {module} has no {attribute!r}{did_you_mean(attribute, dir(found))}")
    return getattr(found, attribute)


def _from_function(build: Callable[[Any], Any]) -> Any:
    import keras_tuner

    class FromFunction(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            return build(hp)

    return FromFunction()


def _arguments(name: str, made_by: type) -> set[str]:
    """Those of input_shape and classes that the class takes; it must need no others."""
    params = inspect.signature(made_by).parameters
    given = {"input_shape", "classes"} & params.keys()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        param.name
        for param in params.values()
        if param.default is param.empty and param.kind not in optional and param.name not in given
    ]
    if missing:
        raise _fault(
            f"{name!r} needs {', '.join(missing)}; a hypermodel is given input_shape and classes at most: "
            "name an instance, or a subclass that knows the rest"
        )
    return given


def _instance(made_by: type, arguments: set[str], shape: tuple[int, ...], classes: int) -> Any:
    known = {"input_shape": shape, "classes": classes}
    return made_by(**{argument: known[argument] for argument in arguments})


def _fault(message: str) -> SpaceError:
    return SpaceError(Fault((), message))


@contextmanager
def no_downloads() -> Iterator[None]:
    """Within, HyperEfficientNet starts from random weights: its space and size need no ImageNet."""
    from keras_tuner.src.applications.efficientnet import EFFICIENTNET_MODELS  # it has no option for this

    original = dict(EFFICIENTNET_MODELS)
    EFFICIENTNET_MODELS.update({size: partial(make, weights=None) for size, make in original.items()})
    try:
        yield
    finally:
        EFFICIENTNET_MODELS.update(original)


# ---- finding the space ----


@dataclass(frozen=True)
class _Build:
    """What one build asked for."""

    point: Mapping[str, Value]
    """The values given to it; all others are defaults."""
    asked: Mapping[str, Value]
    """Active names in the order in which they were asked for, each with its value."""
    defined: tuple[Any, ...]
    """Definitions of all of them, and of those in scopes that were not active."""
    error: Exception | None

    @property
    def structure(self) -> frozenset[str]:
        return frozenset(self.asked)


@dataclass
class _Search:
    """Builds a hypermodel until no value that was tried makes it ask for anything new.

    A hyperparameter is tried at its values (a range at its ends) where it is first met. If that changes
    which others are asked for, it is a deciding one, and is tried at all values wherever it is met.
    """

    hypermodel: Any
    builds: list[_Build] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    scoped: list[Any] = field(default_factory=list)
    deciding: set[str] = field(default_factory=set)

    def run(self) -> None:
        self._build({})
        if self.builds[0].error:
            return
        while len(self.builds) < _MOST_BUILDS and (point := self._untried()) is not None:
            self._build(point)

    @property
    def is_whole(self) -> bool:
        return len(self.builds) < _MOST_BUILDS

    def _untried(self) -> dict[str, Value] | None:
        tried = {frozenset(build.point.items()) for build in self.builds}
        for build, name in self._places():
            for value in self._probes(name):
                point = {**build.point, name: value}
                if among(value, [self.params[name].default]):
                    del point[name]
                if frozenset(point.items()) not in tried:
                    return point
        return None

    def _places(self) -> Iterator[tuple[_Build, str]]:
        """Each name in the build that asked for it first, and each deciding name in every structure."""
        met: set[str] = set()
        structures: set[frozenset[str]] = set()
        for build in self.builds:
            if build.structure not in structures and not build.error:
                structures.add(build.structure)
                yield from ((build, name) for name in build.asked if name in self.deciding or name not in met)
                met |= build.structure

    def _probes(self, name: str) -> list[Value]:
        param = self.params[name]
        if _is_written_by_keras_tuner(self.hypermodel):
            return []  # asks for everything in every build, and such a build can take seconds
        values = _listed(param)
        if values is None or (len(values) > 2 and name not in self.deciding and _is_range(param)):
            values = (param.min_value, param.max_value)
        return [*values, *(value for value in self._scope_values(name) if not among(value, values))]

    def _scope_values(self, name: str) -> Iterator[Value]:
        """Values of ``name`` that open a conditional scope."""
        for param in self.scoped:
            for condition in param.conditions:
                if condition.name == name:
                    yield from _possible(self.params[name], condition.values)

    def _build(self, point: dict[str, Value]) -> None:
        build = _build(self.hypermodel, point)
        for param in build.defined:
            self.params.setdefault(param.name, param)
            if not any(_is_same_place(param, known) for known in self.scoped):
                self.scoped.append(param)
        if not build.error:
            self.deciding |= {
                name
                for other in self.builds
                if not other.error and other.structure != build.structure
                for name in _single_difference(build, other)
            }
        self.builds.append(build)


@cache  # whoever checks a sweep makes its trainer several times
def find_space(name: str) -> HyperSpace:
    """The space of the hypermodel that "module:attribute" names; a SpaceError if it cannot be built.

    It is found before the data is known, with a stand-in shape and number of classes: a hypermodel whose
    space depends on them is seen with those of the stand-in.
    """
    make = load_hypermodel(name)
    search = _searched(name, make)
    _refuse(name, search)
    explicit = {param: _scope_of(param, search) for param in search.params}
    seen = {param: _box(param, search) if search.is_whole else {} for param in search.params}
    return HyperSpace(
        hypermodel=name,
        params=search.params,
        scoped=tuple(search.scoped),
        when={param: {**explicit[param], **seen[param]} for param in search.params},
        notes=tuple(_notes(search)),
    )


def _searched(name: str, make: MakeHyperModel) -> _Search:
    reasons = []
    for shape in _STAND_INS:
        try:
            search = _Search(make(shape, _STAND_IN_CLASSES))
        except Exception as error:  # whatever its author's code may raise
            raise _fault(f"{name!r} cannot be made: {first_line(error)}") from error
        with no_downloads():
            search.run()
        if not search.builds[0].error:
            return search
        reasons.append(first_line(search.builds[0].error))
    raise _fault(f"{name!r} cannot be built with its defaults: {'; '.join(dict.fromkeys(reasons))}")


def _build(hypermodel: Any, point: dict[str, Value]) -> _Build:
    import keras
    import keras_tuner

    keras.utils.clear_session()  # else every model stays in memory
    hp = keras_tuner.HyperParameters()
    hp.values = dict(point)
    error: Exception | None = None
    try:
        model = hypermodel.build(hp)
        if not isinstance(model, keras.Model):
            error = TypeError(f"build must return the compiled keras.Model, got {type(model).__name__}")
    except Exception as raised:  # whatever its author's code may raise: this point just has no model
        error = raised
    asked = {param.name: hp.values[param.name] for param in hp.space if hp.is_active(param)}
    return _Build(point, asked, tuple(hp.space), error)


def _single_difference(one: _Build, other: _Build) -> set[str]:
    """The one name whose value makes the difference between two builds, if there is just one."""
    names = one.point.keys() | other.point.keys()
    differing = {name for name in names if one.point.get(name, ...) != other.point.get(name, ...)}
    return differing if len(differing) == 1 else set()


def _box(name: str, search: _Search) -> dict[str, tuple[Value, ...]]:
    """The values of deciding hyperparameters at which ``name`` is asked for: the smallest box around them."""
    with_name = [build for build in search.builds if name in build.asked]
    perhaps = [build for build in search.builds if name in build.asked or build.error]
    box = {}
    for other in search.params.keys() & search.deciding:
        # It can only decide over those that are asked for after it.
        if not all(_comes_before(other, name, build) for build in with_name):
            continue
        all_values = _listed(search.params[other]) or ()
        tried, wanted = (
            [value for value in all_values if among(value, _values_in(builds, other))]
            for builds in (search.builds, perhaps)
        )
        if len(wanted) < len(tried):
            box[other] = tuple(wanted)
    return {other: box[other] for other in search.params if other in box}


def _values_in(builds: Iterable[_Build], name: str) -> list[Value]:
    return [build.asked[name] for build in builds if name in build.asked]


def _comes_before(one: str, other: str, build: _Build) -> bool:
    order = list(build.asked)
    return one in order and order.index(one) < order.index(other)


def _scope_of(name: str, search: _Search) -> dict[str, tuple[Value, ...]]:
    """The conditional scope of ``name``, unless it stands in several."""
    scopes = [param.conditions for param in search.scoped if param.name == name]
    if len(scopes) > 1:
        return {}
    return {
        condition.name: tuple(_possible(search.params[condition.name], condition.values))
        for condition in scopes[0]
    }


def _possible(param: Any, wanted: list[Any]) -> list[Value]:
    """Those of ``wanted`` that the hyperparameter can take, as it spells them itself."""
    if _is_range(param):
        return [value for value in wanted if param.min_value <= value <= param.max_value]
    return [value for value in param.values if value in wanted]


def _is_same_place(one: Any, other: Any) -> bool:
    return bool(one.name == other.name and one.conditions == other.conditions)


def _refuse(name: str, search: _Search) -> None:
    """Raise for what KerasTuner takes and a sweep cannot say."""
    faults = []
    for param in search.scoped:
        if _definition(param) != _definition(search.params[param.name]):
            faults.append(f"{param.name!r} has other values in another scope; give each a name of its own")
        if param.name.startswith("_") or hasattr(BaseModel, param.name):
            faults.append(f"{param.name!r} cannot be the name of a setting; choose another")
    if faults:
        raise SpaceError(*(Fault((), f"hypermodel {name!r}: {text}") for text in dict.fromkeys(faults)))


def _definition(param: Any) -> dict[str, Any]:
    config = {key: value for key, value in param.get_config().items() if key != "conditions"}
    return {"kind": _kind(param), **config}


def _is_written_by_keras_tuner(hypermodel: Any) -> bool:
    return type(hypermodel).__module__.startswith("keras_tuner.")


def _kind(param: Any) -> str:
    """Int, Float, Choice, Boolean or Fixed."""
    return type(param).__name__


def _is_range(param: Any) -> bool:
    return _kind(param) in ("Int", "Float")


def _listed(param: Any) -> tuple[Value, ...] | None:
    """All values of a hyperparameter in order, or None if they are too many to list."""
    if not _is_range(param):
        return tuple(dict.fromkeys(param.values))
    if param.min_value == param.max_value:
        return (param.min_value,)
    is_int = _kind(param) == "Int"
    if param.step is None:
        size = param.max_value - param.min_value + 1 if is_int else math.inf
        return tuple(range(param.min_value, param.max_value + 1)) if size <= _MOST_LISTED else None
    values = _steps(param)
    if values is None:
        return None
    if is_int:
        return tuple(map(round, values))
    # 0.1 * 3 is 0.30000000000000004; and an end, such as 1/3, is not to be rounded out of the range
    short = (float(f"{value:.12g}") for value in values)
    return tuple(min(max(value, param.min_value), param.max_value) for value in short)


def _steps(param: Any) -> list[float] | None:
    """From the low end on by its step, the high end included where a step meets it; None if too many to list.

    KerasTuner itself counts with a rounding error: to it, 0 to 0.3 by 0.1 ends at 0.2.
    """
    low, high, step = param.min_value, param.max_value, param.step
    is_linear = param.sampling == "linear"
    last = (high - low) / step if is_linear else math.log(high / low, step)
    numbers = range(math.floor(last + 1e-9) + 1)
    if len(numbers) > _MOST_LISTED:
        return None
    if is_linear:
        return [low + number * step for number in numbers]
    factors = [low * step**number for number in numbers]
    return factors if param.sampling == "log" else sorted(high + low - factor for factor in factors)


def _notes(search: _Search) -> Iterator[str]:
    import keras_tuner

    if not search.is_whole:
        yield f"looked at {_MOST_BUILDS} builds and no more: some hyperparameters may be missing"
    if type(search.hypermodel).fit is not keras_tuner.HyperModel.fit:
        yield "its own fit() is not called, and hyperparameters that only fit() asks for are not seen"
    for name, param in search.params.items():
        if getattr(param, "sampling", None) == "reverse_log":
            yield f"{name} is drawn evenly, not by KerasTuner's reverse_log"
        if _listed(param) is None and param.step not in (None, 1):
            yield f"{name} may be anything in its range: a step of {param.step} gives too many values to list"


# ---- as Settings ----


def settings_of(space: HyperSpace, extra: Mapping[str, Any]) -> type[BaseModel]:
    """A frozen model with a field for each hyperparameter, and those of ``extra`` that it does not have.

    A hyperparameter that is not active keeps its default, of which a build takes no notice.
    """
    fields = {name: _field(space, name) for name in space.params}
    return create_model(
        "HyperModelSettings",
        __config__=ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False),
        **{**extra, **fields},
    )


def _field(space: HyperSpace, name: str) -> tuple[Any, Any]:
    param = space.params[name]
    about = f"hyperparameter of {space.hypermodel}{_where(space.when[name])}"
    if _kind(param) == "Boolean":
        return bool, Field(param.default, description=about)
    if not _is_range(param):
        return Literal[tuple(param.values)], Field(param.default, description=about)
    kind = int if _kind(param) == "Int" else float
    return kind, Field(kind(param.default), ge=param.min_value, le=param.max_value, description=about)


def _where(when: Mapping[str, tuple[Value, ...]]) -> str:
    conditions = [f"{other} is {' or '.join(map(str, values))}" for other, values in when.items()]
    return f", where {' and '.join(conditions)}" if conditions else ""


# ---- as part of a sweep ----


def space_of(hypermodel: str) -> dict[str, Any]:
    """The ``space:`` section of a sweep over the whole space of a hypermodel."""
    space = find_space(hypermodel)
    return {
        name: _tree(param, space.when[name])
        for name, param in space.params.items()
        if not _is_constant(param)
    }


def fixed_of(hypermodel: str) -> dict[str, Value]:
    """Its ``fixed:`` section: hyperparameters with a single value."""
    params = find_space(hypermodel).params
    return {name: param.default for name, param in params.items() if _is_constant(param)}


def hypermodel_yaml(hypermodel: str) -> str:
    """The trainer, fixed and space sections of a sweep, as YAML with what it cannot say as comments."""
    tree: dict[str, Any] = {"trainer": {"hypermodel": hypermodel}}
    if fixed := fixed_of(hypermodel):
        tree["fixed"] = fixed
    comments = [f"# {note}\n" for note in find_space(hypermodel).notes]
    return "".join(comments) + dump_yaml({**tree, "space": space_of(hypermodel)})


def _is_constant(param: Any) -> bool:
    values = _listed(param)
    return values is not None and len(values) == 1


def _tree(param: Any, when: Mapping[str, tuple[Value, ...]]) -> Any:
    conditions = {"when": {other: list(values) for other, values in when.items()}} if when else {}
    values = _listed(param)
    if _is_range(param) and (values is None or _is_dense(param)):
        kind = _kind(param).lower()
        log = {"log": True} if param.sampling == "log" else {}
        return {kind: [param.min_value, param.max_value], **log, **conditions}
    return {"choice": list(values or ()), **conditions} if conditions else list(values or ())


def _is_dense(param: Any) -> bool:
    """Whether its range leaves nothing out."""
    return param.step is None or (_kind(param) == "Int" and param.step == 1)
