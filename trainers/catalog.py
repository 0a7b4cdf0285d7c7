"""Trainers by name, and what is wrong with a sweep that only its trainer, data set and metrics can tell."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from spaces.layers import dump_yaml
from spaces.params import Choice, Fault, Param, SpaceError, Value, did_you_mean, shown
from spaces.sweep import trainer_name
from trainers.contract import Trainer
from trainers.datasets import located_faults
from trainers.hypermodel import HyperModelTrainer
from trainers.hypermodel_space import hypermodel_yaml
from trainers.imports import first_line, import_for
from trainers.keras_backend import import_keras
from trainers.keras_trainer import KerasTrainer
from trainers.metrics import METRICS
from trainers.sklearn_trainer import ESTIMATORS, EstimatorTrainer
from trainers.spark_trainer import SparkMLPTrainer

ARCHITECTURES = ("cnn", "glassmodel", "alexnet", "lenet5", "lung_cnn", "resnet50")
TRAINERS: dict[str, Callable[..., Trainer]] = {
    **{f"keras/{name}": partial(KerasTrainer, name, None) for name in ARCHITECTURES},
    **{f"sklearn/{name}": make for name, make in ESTIMATORS.items()},
    "spark/mlp": SparkMLPTrainer,
}
"""What a sweep may name as its trainer; "module:Class" names any other importable one."""

MADE_FROM: dict[str, Callable[..., Trainer]] = {
    "hypermodel": HyperModelTrainer,
    "estimator": EstimatorTrainer,
}
"""Trainers made around what a mapping names by this key, such as ``{hypermodel: "my_models:Net"}``."""


def load_trainer(spec: str | Mapping[str, Any]) -> Trainer:
    """The trainer that a sweep asks for: a name, or a mapping of a name and the trainer's own options.

    Raises SpaceError with all that is wrong with ``spec``.
    """
    try:
        return _made(spec)
    except SpaceError as error:
        raise SpaceError(
            *(replace(fault, where=("trainer", *fault.where)) for fault in error.faults)
        ) from error


def _made(spec: str | Mapping[str, Any]) -> Trainer:
    make, options = _maker(spec)
    known = [
        name for name, param in inspect.signature(make).parameters.items() if param.kind != param.VAR_KEYWORD
    ]
    faults = [
        Fault((name,), _unknown_option(trainer_name(spec), name, known))
        for name in options
        if name not in known
    ]
    if faults:
        raise SpaceError(*faults)
    try:
        made = make(**options)
    except SpaceError:
        raise  # it says what is wrong
    except Exception as error:  # a trainer of the user's own
        raise _fault(f"{trainer_name(spec)!r} cannot be made: {first_line(error)}") from error
    if missing := [name for name in ("Settings", "check", "load") if not hasattr(made, name)]:
        raise _fault(
            f"{trainer_name(spec)!r} is no trainer: it has no {', '.join(missing)}; see trainers/contract.py"
        )
    return made


def _maker(spec: str | Mapping[str, Any]) -> tuple[Callable[..., Trainer], dict[str, Any]]:
    if isinstance(spec, str):
        return _named(spec), {}
    keys = [key for key in ("name", *MADE_FROM) if key in spec]
    if len(keys) != 1 or not isinstance(spec[keys[0]], str):
        raise _fault(
            f"must be a name, or a mapping with one of name, {', '.join(MADE_FROM)}; got {shown(dict(spec))}"
        )
    if keys == ["name"]:
        return _named(spec["name"]), {key: value for key, value in spec.items() if key != "name"}
    return MADE_FROM[keys[0]], dict(spec)


def _named(name: str) -> Callable[..., Trainer]:
    if name in TRAINERS:
        return TRAINERS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = f"{', '.join(TRAINERS)}, or module:Class"
        raise _fault(f"unknown trainer {name!r}; known: {known}{did_you_mean(name, TRAINERS)}")
    there = import_for(name, module)
    if not hasattr(there, attribute):
        raise _fault(f"module {module} has no {attribute!r}; a trainer is named module:Class")
    made_by = getattr(there, attribute)
    if not isinstance(made_by, type) or not hasattr(made_by, "train"):
        what = "it has no method train" if isinstance(made_by, type) else "it is no class"
        raise _fault(f"{name!r} is no trainer: {what}; see trainers/contract.py")
    return cast(Callable[..., Trainer], made_by)


def _unknown_option(trainer: str, name: str, known: list[str]) -> str:
    options = f"it has {', '.join(known)}{did_you_mean(name, known)}" if known else "it has none"
    return f"trainer {trainer} has no such option; {options}"


def _fault(message: str) -> SpaceError:
    return SpaceError(Fault((), message))


def space_yaml(name: str) -> str:
    """What a sweep may say of a trainer, as YAML: of a hypermodel its space, of any other its params.

    ``name`` is one that ``trainer:`` takes, or the path of a scikit-learn classifier, or "module:attribute"
    of a hypermodel. Raises SpaceError if it is none of them.
    """
    module, colon, attribute = name.partition(":")
    if colon:
        import_keras()  # before the module does, which knows nothing of our settings
    if colon and not hasattr(getattr(import_for(name, module), attribute, None), "train"):
        return hypermodel_yaml(name)
    is_path = "." in name and not colon
    spec = {"estimator": name} if is_path else name
    settings = load_trainer(spec).Settings
    schemas = settings.model_json_schema(by_alias=False)["properties"]
    params = [_param_yaml(name, field, schemas[name]) for name, field in settings.model_fields.items()]
    head = "# Any of these may vary under `space:`, or be set under `fixed:`, as here to its default.\n"
    return f"{head}{_entry('trainer', spec)}\nfixed:\n{''.join(params)}"


def _param_yaml(name: str, field: FieldInfo, schema: Mapping[str, Any]) -> str:
    """What the param is, and its default; as a comment if a sweep cannot say it."""
    about = "; ".join(filter(None, (schema.get("description"), _allowed(name, schema))))
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool | int | float | str):
        return f"  # {about}\n  {_entry(name, default)}\n"
    return f"  # {about}\n  # {name}: {'has no default' if field.is_required() else default}\n"


def _entry(name: str, value: Any) -> str:
    """A line of a mapping in YAML."""
    line = dump_yaml({name: value}).strip()
    return line[1:-1] if line.startswith("{") else line


def trainer_faults(sections: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of a sweep beyond its form: unknown names, and params or values that its trainer refuses."""
    if "dataset" in sections:
        for option, message in located_faults(sections["dataset"]):
            yield Fault(("dataset", option) if option else ("dataset",), message)
    if "objective" in sections and sections["objective"] not in METRICS:
        name = sections["objective"]
        message = f"unknown metric {name!r}; known: {', '.join(METRICS)}{did_you_mean(name, METRICS)}"
        yield Fault(("objective",), message)
    if "trainer" in sections:
        try:
            settings = load_trainer(sections["trainer"]).Settings
        except SpaceError as error:
            yield from error.faults
        else:
            yield from _param_faults(settings, sections)


def _param_faults(settings: type[BaseModel], sections: Mapping[str, Any]) -> Iterator[Fault]:
    fixed = {("fixed", name): (value,) for name, value in sections.get("fixed", {}).items()}
    space = {("space", name): _ends(param) for name, param in sections.get("space", {}).items()}
    for where, values in {**fixed, **space}.items():
        name = where[1]
        if name not in settings.model_fields:
            known = ", ".join(settings.model_fields)
            hint = did_you_mean(name, settings.model_fields)
            yield Fault(
                where,
                f"trainer {trainer_name(sections['trainer'])} has no such setting; it has {known}{hint}",
            )
            continue
        for value in values:
            if message := _value_fault(settings, name, value):
                yield Fault(where, message)
    for name, param in sections.get("space", {}).items():
        for other, wanted in param.when.items():
            for value in (
                wanted if other in sections.get("fixed", {}) and other in settings.model_fields else ()
            ):
                if message := _value_fault(settings, other, value):
                    yield Fault(("space", name, "when"), f"{other}: {message}")


def _ends(param: Param) -> tuple[Value, ...]:
    """Values that are allowed only if all that the param can take are: settings are bounded by intervals."""
    return param.values if isinstance(param, Choice) else (param.from_unit(0.0), param.from_unit(1.0))


def _value_fault(settings: type[BaseModel], name: str, value: Value) -> str | None:
    """What is wrong with one setting's value; all other settings keep their defaults."""
    try:
        settings.model_validate({name: value})
    except ValidationError as error:
        for detail in error.errors():
            if detail["loc"][:1] == (name,):
                if detail["type"] == "value_error":  # a setting that explains itself
                    return f"{shown(value)}: {detail['ctx']['error']}"
                schema = settings.model_json_schema()["properties"][name]
                hint = did_you_mean(value, map(str, schema.get("enum", ())))
                what = _WHAT.get(detail["type"], "not allowed")
                return f"{shown(value)} is {what}; allowed: {_allowed(name, schema)}{hint}"
    return None


_WHAT = {
    "less_than": "too large",
    "less_than_equal": "too large",
    "greater_than": "too small",
    "greater_than_equal": "too small",
}


def _allowed(name: str, schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a text",
        "boolean": "true or false",
    }
    kind = kinds.get(schema.get("type", ""), "see its documentation")
    low = [f"{schema[key]} {sign} " for key, sign in _LOW.items() if key in schema]
    high = [f" {sign} {schema[key]}" for key, sign in _HIGH.items() if key in schema]
    return f"{kind}, {''.join([*low, name, *high])}" if low or high else kind


_LOW = {"minimum": "<=", "exclusiveMinimum": "<"}
_HIGH = {"maximum": "<=", "exclusiveMaximum": "<"}
