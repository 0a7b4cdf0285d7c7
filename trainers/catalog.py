"""Trainers by name, and what is wrong with a sweep that only its trainer, data set and metrics can tell."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from spaces.params import Choice, Fault, Param, SpaceError, Value, did_you_mean, shown
from spaces.sweep import trainer_name
from trainers.contract import Trainer
from trainers.datasets import dataset_faults
from trainers.hypermodel import HyperModelTrainer
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
    make, options = _maker(spec)
    known = [
        name for name, param in inspect.signature(make).parameters.items() if param.kind != param.VAR_KEYWORD
    ]
    faults = [
        Fault(("trainer", name), _unknown_option(trainer_name(spec), name, known))
        for name in options
        if name not in known
    ]
    if faults:
        raise SpaceError(*faults)
    try:
        return make(**options)
    except SpaceError as error:
        raise SpaceError(
            *(replace(fault, where=("trainer", *fault.where)) for fault in error.faults)
        ) from error


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
    try:
        made_by = getattr(import_module(module), attribute)
    except (ImportError, ValueError) as error:  # a ValueError if the module's name is empty
        raise _fault(f"cannot import the module of {name!r}: {error}") from error
    except AttributeError as error:
        raise _fault(f"module {module} has no {attribute!r}; a trainer is named module:Class") from error
    if not hasattr(made_by, "train"):
        raise _fault(f"{name!r} is no trainer: it has no method train; see trainers/contract.py")
    return cast(Callable[..., Trainer], made_by)


def _unknown_option(trainer: str, name: str, known: list[str]) -> str:
    options = f"it has {', '.join(known)}{did_you_mean(name, known)}" if known else "it has none"
    return f"trainer {trainer} has no such option; {options}"


def _fault(message: str) -> SpaceError:
    return SpaceError(Fault(("trainer",), message))


def trainer_faults(sections: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of a sweep beyond its form: unknown names, and params or values that its trainer refuses."""
    if "dataset" in sections:
        for message in dataset_faults(sections["dataset"]):
            yield Fault(("dataset",), message)
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
