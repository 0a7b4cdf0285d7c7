"""The sweep file: what may vary and how far to go, as a frozen model; its faults, each with file and line."""

import math
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import ErrorDetails

from spaces.layers import dump_yaml, read_layers
from spaces.params import (
    Choice,
    Fault,
    Float,
    Int,
    Param,
    Space,
    SpaceError,
    Value,
    among,
    check_value,
    did_you_mean,
    shown,
)

Check = Callable[[Mapping[str, Any]], Iterable[Fault]]
"""Given the sections that are valid by themselves, yields what else is wrong with them."""


# ---- the model ----

MOST_POINTS = 1_000_000
"""A grid is listed whole."""


class _Section(BaseModel):
    """Every field's description says what is allowed, in words that can follow "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Validation(_Section):
    """Which rows rank the trials, by hold-out or by folds, and which share is set apart before that."""

    holdout: float | None = Field(None, gt=0, lt=1, description="a share above 0 and below 1")
    """0.2 if neither this nor ``kfold`` is given."""
    kfold: int | None = Field(None, ge=2, description="a whole number of folds from 2 up")
    repeat: int = Field(1, ge=1, description="a whole number from 1 up")
    """How often the rows are divided anew; a trial then trains that many times as many folds."""
    test: float = Field(0.2, ge=0, lt=1, description="a share from 0 up to below 1")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.holdout is None and self.kfold is None:
            object.__setattr__(self, "holdout", 0.2)
        return self


class Suggest(_Section):
    """What proposes the next configuration, and how many it may propose."""

    suggester: Literal["random", "grid", "gp", "tpe", "cmaes", "qmc", "nsga2"] = Field(
        "gp", description="one of random, grid, gp, tpe, cmaes, qmc, nsga2"
    )
    trials: int = Field(40, ge=1, description="a whole number from 1 up")
    """Left out for a grid, it becomes the number of points in the grid."""
    seed: int = Field(0, ge=0, description="a whole number from 0 up")
    first: list[dict[str, Annotated[Value, PlainValidator(check_value)]]] = Field(
        [], description="a list of configurations, such as [{learning_rate: 0.001}]"
    )
    """Tried before the suggester is asked; a param left out is the trainer's default, where the space holds
    that, or the middle of its range. Left out for gp, it becomes [{}], which is all defaults."""


class Asha(_Section):
    """Early stopping: rungs at grace, grace * reduction, ... epochs; 1/reduction of a rung goes on."""

    grace: int = Field(1, ge=1, description="a whole number of epochs from 1 up")
    """Left out, it becomes ``default_grace`` of the sweep's epochs."""
    reduction: int = Field(3, ge=2, description="a whole number from 2 up")
    rule: Literal["promote", "stop"] = Field("promote", description="promote or stop")


def default_grace(epochs: int) -> int:
    """Three rungs of reduction 3 below the end: in replays of recorded curves (docs/performance.md) better
    than a ninth, a sixteenth or a fortieth of the epochs."""
    return max(1, round(epochs / 27))


def _shareable(amount: float) -> float:
    if amount > 1 and amount != int(amount):  # Ray lets trials share one device, but gives no one and a half
        raise ValueError
    return amount


class Resources(_Section):
    """What one trial occupies while it runs."""

    cpu: Annotated[float, AfterValidator(_shareable)] = Field(
        1, gt=0, description="above 0: a share of one, or a whole number"
    )
    gpu: Annotated[float, AfterValidator(_shareable)] = Field(
        0, ge=0, description="0, a share of one, or a whole number"
    )

    @property
    def threads(self) -> int:
        """How many threads one trial may use."""
        return max(1, int(self.cpu))


class Budget(_Section):
    """When to end before all trials are done; None is no limit."""

    minutes: float | None = Field(None, gt=0, description="a number of minutes above 0")
    target: float | None = Field(None, description="a value of the objective")


def _read_asha(tree: Any) -> Any:
    return None if tree == "off" else tree


def _asha_tree(asha: Asha | None) -> Any:
    return asha.model_dump(mode="json") if asha else "off"


def _read_space(tree: Any) -> Space:
    if isinstance(tree, Space):
        return tree
    if not isinstance(tree, dict):
        raise ValueError
    params, faults = _read_params(tree)
    if faults:
        raise SpaceError(*faults)
    return Space(params)


def _space_tree(space: Space) -> dict[str, Any]:
    return {name: _param_tree(param) for name, param in space.params.items()}


class Sweep(_Section):
    """One whole sweep, with everything left out of its file filled in."""

    dataset: str | dict[str, JsonValue] = Field(
        description="a name such as digits, or a mapping such as {kind: folder, path: images}"
    )
    trainer: str | dict[str, JsonValue] = Field(
        description="the name of a trainer, such as keras/cnn, "
        "or a mapping such as {hypermodel: my_models:Net}"
    )
    objective: str = Field(description="the metric to rank by, such as macro_f1")
    validation: Validation = Field(
        Validation(), description="a mapping such as {holdout: 0.2, test: 0.2} or {kfold: 5}"
    )
    epochs: int = Field(ge=1, description="a whole number from 1 up")
    search: Suggest = Field(Suggest(), description="a mapping such as {suggester: gp, trials: 40, seed: 0}")
    asha: Annotated[Asha | None, BeforeValidator(_read_asha), PlainSerializer(_asha_tree)] = Field(
        Asha(), description="off, or a mapping such as {grace: 1, reduction: 3, rule: promote}"
    )
    resources: Resources = Field(Resources(), description="a mapping such as {cpu: 1, gpu: 0}")
    budget: Budget = Field(Budget(), description="a mapping such as {minutes: 10, target: 0.995}")
    fixed: dict[str, Annotated[Value, PlainValidator(check_value)]] = Field(
        {}, description="a mapping of params to values, such as {activation: relu}"
    )
    space: Annotated[Space, PlainValidator(_read_space), PlainSerializer(_space_tree)] = Field(
        description="a mapping of params to what they may be, such as {filters: [16, 32]}"
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if faults := tuple(_conflicts({**dict(self), "space": self.space.params})):
            raise SpaceError(*faults)
        if self.search.suggester == "grid":
            asked = {} if "trials" in self.search.model_fields_set else {"trials": self.space.size}
            whole_grid = self.search.model_copy(update={"first": [], **asked})
            object.__setattr__(self, "search", whole_grid)
        if self.search.suggester == "gp" and "first" not in self.search.model_fields_set:
            object.__setattr__(self, "search", self.search.model_copy(update={"first": [{}]}))
        if self.asha and "grace" not in self.asha.model_fields_set:
            early = self.asha.model_copy(update={"grace": default_grace(self.epochs)})
            object.__setattr__(self, "asha", early)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The sweep as JSON can hold it; ``from_dict`` gives an equal sweep back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Sweep":
        return _sweep(*_read_sections(tree))

    def to_yaml(self) -> str:
        """The sweep as a file that ``load_sweep`` reads back to an equal sweep."""
        return dump_yaml(self.to_dict())


def trainer_name(trainer: str | Mapping[str, Any]) -> str:
    """What to call a sweep's trainer in a sentence: keras/cnn, or my_models:Net where a mapping has that."""
    if isinstance(trainer, str):
        return trainer
    return str(trainer.get("name", next(iter(trainer.values()), "no trainer")))


_MODELS: dict[str, type[_Section]] = {
    "validation": Validation,
    "search": Suggest,
    "asha": Asha,
    "resources": Resources,
    "budget": Budget,
}
_ALONE: dict[str, type[_Section]] = {
    name: create_model(name, __base__=_Section, **{name: (field.annotation, field)})  # type: ignore[call-overload]
    for name, field in Sweep.model_fields.items()
}
"""A model of each field by itself, since one bad section must not hide what the others hold."""


# ---- loading ----


def load_sweep(path: str | Path, overrides: Sequence[str] = (), check: Check | None = None) -> Sweep:
    """The sweep in the file at ``path``, or a SpaceError with all its faults, each with file and line.

    ``overrides`` are texts such as "search.seed=3" that win over the file; their values are YAML.
    """
    root, faults = read_layers(Path(path), overrides)
    sections, wrong = _read_sections(root.plain(), check)
    faults += map(root.located, wrong)
    return _sweep(sections, sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line)))


def _sweep(sections: dict[str, Any], faults: Sequence[Fault]) -> Sweep:
    if faults:
        raise SpaceError(*faults)
    return Sweep(**{**sections, "space": Space(_settled(sections["space"], sections["fixed"]))})


def _settled(params: Mapping[str, Param], fixed: Mapping[str, Value]) -> dict[str, Param]:
    """The params that can exist beside ``fixed``, their conditions on fixed params decided for good."""
    never = {
        name
        for name, param in params.items()
        if any(other in fixed and not among(fixed[other], wanted) for other, wanted in param.when.items())
    }
    while more := {name for name in params.keys() - never if params[name].when.keys() & never}:
        never |= more
    return {name: _freed(param, fixed) for name, param in params.items() if name not in never}


def _freed(param: Param, names: Container[str]) -> Param:
    """``param`` without its conditions on ``names``."""
    return replace(param, when={other: wanted for other, wanted in param.when.items() if other not in names})


# ---- from a plain tree to sections ----


def _read_sections(tree: Mapping[str, Any], check: Check | None = None) -> tuple[dict[str, Any], list[Fault]]:
    """Every section that is valid by itself (of the space: a dict of its valid params), and all faults."""
    sections: dict[str, Any] = {}
    known = [*Sweep.model_fields, "extends"]
    faults = [Fault((key,), _unknown(key, known)) for key in tree if key not in Sweep.model_fields]
    for name in Sweep.model_fields:
        if name == "space" and isinstance(tree.get(name), dict):
            sections[name], wrong = _read_params(tree[name], tree.get("fixed"))
            faults += _under((name,), wrong)
            continue
        try:
            sections[name] = _read_section(name, tree)
        except SpaceError as error:
            faults += error.faults
    is_space_known = not any(fault.where[:1] in (("space",), ("fixed",)) for fault in faults)
    faults += _conflicts(sections, is_space_known)
    return sections, [*faults, *(check(sections) if check else ())]


def _read_section(name: str, tree: Mapping[str, Any]) -> Any:
    given = {name: tree[name]} if name in tree else {}
    if given.get(name, ...) is None:  # only Python says None for "asha: off"; in YAML it is a value forgotten
        raise SpaceError(_key_fault(name, tree, Sweep))
    try:
        return getattr(_ALONE[name].model_validate(given), name)
    except ValidationError as error:
        raise SpaceError(*(fault for details in error.errors() for fault in _plain(details, given))) from None


def _conflicts(sections: Mapping[str, Any], is_space_known: bool = True) -> Iterator[Fault]:
    """What is wrong between sections that are each valid by themselves."""
    search, asha, epochs = (sections.get(name) for name in ("search", "asha", "epochs"))
    fixed = sections.get("fixed", {})
    space = _settled(sections.get("space", {}), fixed)
    validation = sections.get("validation")
    if validation and validation.holdout and validation.kfold:
        message = "is given beside holdout; keep one of the two: set the other one to null"
        yield Fault(("validation", "kfold"), message)
    for name in fixed:
        if name in space:
            yield Fault(("fixed", name), "is also in space; keep one of the two")
    if search and search.suggester == "grid":
        yield from (_endless(name, param) for name, param in space.items() if param.size is None)
        if (size := _grid_size(space)) > MOST_POINTS:
            message = f"grid would list {size:,} configurations or more, {MOST_POINTS:,} may be"
            yield Fault(("space",), f"{message}; leave some out")
    if search and any(search.first) and search.suggester == "grid":
        message = "a grid is tried whole, in its own order; set it to [], or choose another suggester"
        yield Fault(("search", "first"), message)
    elif search and is_space_known:
        never = {name: "never exists beside what is fixed" for name in sections.get("space", {})}
        elsewhere = never | {name: "is under fixed already" for name in fixed}
        for number, given in enumerate(search.first):
            where = ("search", "first", str(number))
            yield from _under(where, _first_faults(given, Space(space), elsewhere))
    if search and search.suggester == "nsga2" and asha:
        message = "nsga2 learns from whole trials, and few are under asha"
        yield Fault(("search", "suggester"), f"{message}; set asha: off, or choose another suggester")
    if asha and epochs and asha.grace > epochs:
        yield Fault(("asha", "grace"), f"must be at most epochs, which is {epochs}, got {asha.grace}")


def _first_faults(given: Mapping[str, Value], space: Space, elsewhere: Mapping[str, str]) -> Iterator[Fault]:
    """``elsewhere`` says why a name may be no param."""
    misplaced = [name for name in given if name in elsewhere and name not in space.params]
    for name in misplaced:
        yield Fault((name,), f"{elsewhere[name]}; leave it out")
    yield from space.faults_of({name: value for name, value in given.items() if name not in misplaced})


def _grid_size(space: Mapping[str, Param]) -> int:
    """How many configurations; of too many perhaps only those of the params that conditions name."""
    deciding = {other for param in space.values() for other in param.when}
    num_decisions = math.prod(space[name].size or 1 for name in deciding & space.keys())
    if num_decisions > MOST_POINTS:
        return num_decisions
    try:
        return Space(dict(space)).size or 0
    except SpaceError:
        return 0  # told elsewhere


def _endless(name: str, param: Param) -> Fault:
    advice = "list its values, or choose another suggester"
    return Fault(("space", name), f"grid needs a list or int range, got the float range {param}; {advice}")


# ---- params as YAML writes them ----

_KINDS = ("float", "int", "choice")
_SHAPES = "a list of values, or a mapping such as {int: [1, 3]} or {float: [0.1, 0.9], log: true}"


def _read_params(tree: dict[str, Any], fixed: Any = None) -> tuple[dict[str, Param], list[Fault]]:
    """The params that are valid; the faults of the others, and of the conditions between all of them."""
    params: dict[str, Param] = {}
    faults: list[Fault] = []
    for name, shape in tree.items():
        try:
            params[name] = _read_param(shape)
        except SpaceError as error:
            faults += _under((name,), error.faults)
    broken = tree.keys() - params.keys()
    unjudged = broken | fixed.keys() if isinstance(fixed, dict) else broken
    try:
        Space({name: _freed(param, unjudged) for name, param in params.items()})
    except SpaceError as error:
        faults += error.faults
    return params, faults


def _read_param(tree: Any) -> Param:
    if isinstance(tree, list):
        return Choice(tuple(tree))
    if not isinstance(tree, dict):
        raise SpaceError(Fault((), f"must be {_SHAPES}, got {shown(tree)}; a constant belongs under fixed"))
    kinds = [kind for kind in _KINDS if kind in tree]
    if len(kinds) != 1:
        hints = "".join(did_you_mean(key, _KINDS) for key in tree if key not in _KINDS)
        raise SpaceError(Fault((), f"must be {_SHAPES}, got {shown(tree)}{hints}"))
    return _read_kind(kinds[0], tree)


def _read_kind(kind: str, tree: dict[str, Any]) -> Param:
    options = ("when",) if kind == "choice" else ("log", "when")
    faults = [Fault((key,), _unknown(key, options)) for key in tree if key not in (kind, *options)]
    try:
        param = _made(kind, tree[kind], {key: tree[key] for key in options if key in tree})
    except SpaceError as error:
        raise SpaceError(*faults, *error.faults) from None
    if faults:
        raise SpaceError(*faults)
    return param


def _made(kind: str, values: Any, options: dict[str, Any]) -> Param:
    if kind == "choice":
        return Choice(values, **options)
    if not isinstance(values, list) or len(values) != 2:
        raise SpaceError(Fault((kind,), f"must be [low, high], got {shown(values)}"))
    return Float(*values, **options) if kind == "float" else Int(*values, **options)


def _param_tree(param: Param) -> Any:
    when = {"when": {other: list(wanted) for other, wanted in param.when.items()}} if param.when else {}
    if isinstance(param, Float | Int):
        kind = "float" if isinstance(param, Float) else "int"
        return {kind: [param.low, param.high], **({"log": True} if param.log else {}), **when}
    values = list(param.grid())
    return {"choice": values, **when} if when else values


# ---- faults in plain words ----


def _plain(details: ErrorDetails, tree: Mapping[str, Any]) -> list[Fault]:
    """What pydantic found wrong with a section, without its jargon."""
    section, *keys = map(str, details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, SpaceError):
        return _under((section, *keys), cause.faults)
    if section in _MODELS and keys:
        return _under((section,), [_key_fault(keys[0], tree[section], _MODELS[section])])
    return [_key_fault(section, tree, Sweep)]


def _key_fault(key: str, tree: Mapping[str, Any], model: type[_Section]) -> Fault:
    if key not in model.model_fields:
        return Fault((key,), _unknown(key, model.model_fields))
    field = model.model_fields[key]
    if key not in tree:
        return Fault((key,), f"is missing; it must be {field.description}")
    options = [option for option in get_args(field.annotation) if isinstance(option, str)]
    hint = did_you_mean(tree[key], options)
    return Fault((key,), f"must be {field.description}, got {shown(tree[key])}{hint}")


def _unknown(key: str, known: Collection[str]) -> str:
    return f"unknown key{did_you_mean(key, known) or '; known: ' + ', '.join(known)}"


def _under(where: tuple[str, ...], faults: Iterable[Fault]) -> list[Fault]:
    return [replace(fault, where=(*where, *fault.where)) for fault in faults]
