"""Trainers by name, and the faults of a sweep that only they can tell."""

import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from spaces.params import Choice, Float, Int, Param, SpaceError
from spaces.sweep import Sweep
from tests.tiny import Softmax
from trainers.catalog import TRAINERS, load_trainer, space_yaml, trainer_faults

GOOD: dict[str, Any] = {
    "dataset": "digits",
    "trainer": "keras/cnn",
    "objective": "macro_f1",
    "fixed": {"batch_size": 32},
    "space": {
        "filters": Int(8, 64, log=True),
        "learning_rate": Float(1e-4, 1e-1, log=True),
        "optimizer": Choice(values=("adam", "sgd")),
        "dropout": Choice(values=(0, 0.5)),
    },
}


def faults(**sections: Any) -> list[str]:
    return [str(fault) for fault in trainer_faults({**GOOD, **sections})]


class Half:
    """Cannot load what it trains, and says nothing of its settings."""

    def check(self) -> None: ...

    def train(self) -> None: ...


class Needy(Softmax):
    def __init__(self, path: str) -> None: ...


@pytest.mark.parametrize("name", [*TRAINERS, "sklearn.svm.SVC", "tests.tiny:Softmax"])
def test_space_of_a_trainer_is_a_sweep_of_its_defaults(name: str) -> None:
    text = space_yaml(name)
    sections = YAML(typ="safe").load(text)
    settings = load_trainer(sections["trainer"]).Settings
    assert all(f" {param}: " in text for param in settings.model_fields)
    assert sections["fixed"].items() <= settings().model_dump().items()
    search = {"suggester": "random", "trials": 2, "seed": 0}
    sweep = Sweep.from_dict({**GOOD, **sections, "space": {}, "epochs": 3, "search": search})
    assert list(trainer_faults({"trainer": sweep.trainer, "fixed": sweep.fixed})) == []


def test_space_says_what_a_param_may_be() -> None:
    text = space_yaml("keras/cnn")
    assert "  # filters of the first convolution; a whole number, 1 <= filters <= 1024\n  filters: " in text
    with pytest.raises(SpaceError, match="did you mean 'keras/cnn'"):
        space_yaml("keras/cn")


@pytest.mark.parametrize("name", TRAINERS)
def test_every_name_loads(name: str) -> None:
    assert load_trainer(name).Settings()


def test_any_importable_class_is_a_trainer() -> None:
    assert isinstance(load_trainer("tests.tiny:Softmax"), Softmax)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras/cn", "unknown trainer 'keras/cn'; known: .*; did you mean 'keras/cnn'?"),
        ("no_such_module:Trainer", "cannot import .*No module named 'no_such_module'"),
        (":Trainer", "cannot import"),
        ("trainers.sklearn_trainer:KMMTrainer", "has no 'KMMTrainer'"),
        ("trainers.sklearn_trainer:", "has no ''"),
        ("json:dumps", "'json:dumps' is no trainer: it is no class"),
        ("tests.trainers.test_catalog:GOOD", "is no trainer: it is no class"),
        ("json:JSONDecoder", "is no trainer: it has no method train"),
        ("tests.trainers.test_catalog:Half", "Half' is no trainer: it has no Settings, load; see"),
        (".tiny:Softmax", "cannot import"),
        ("tests.faulty_trainer:Trainer", "cannot import the module .*: NameError: name 'undefined' is not"),
        ("tests.trainers.test_catalog:Needy", "'tests.*Needy' cannot be made: TypeError: .*'path'"),
    ],
)
def test_unknown_trainer_says_what_is_known(name: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_trainer(name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "must be a name, or a mapping with one of name, hypermodel, estimator"),
        ({"name": "keras/cnn", "estimator": "sklearn.svm.SVC"}, "with one of name, hypermodel, estimator"),
        ({"name": 3}, "must be a name"),
        ({"name": "keras/cn"}, "unknown trainer 'keras/cn'; .*did you mean 'keras/cnn'"),
        ({"name": "keras/cnn", "master": "local"}, "trainer.master: .*keras/cnn has no such option"),
        ({"name": "keras/cnn", "backend": "jx"}, "backend: 'jx' is not allowed; .* did you mean 'jax'"),
        ({"hypermodel": "tests.hypermodels:softmax", "backend": "torch"}, "allowed: tensorflow, jax"),
        ({"name": "keras/cnn", "backend": ["jax"]}, "backend: .'jax'. is not allowed"),
        ({"name": "spark/mlp", "mastr": "local"}, "trainer.mastr: .*it has master.*did you mean 'master'"),
        ({"estimator": "sklearn.svm.SVC", "C": 1}, "trainer.C: trainer sklearn.svm.SVC has no such option"),
        ({"estimator": "sklearn.svm.SVCC"}, "trainer"),
        ({"hypermodel": "no_such_module:Net"}, "trainer.*no_such_module"),
    ],
)
def test_a_mapping_that_names_no_trainer_says_why(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_trainer(spec)


def test_a_mapping_may_name_a_trainer_with_its_options() -> None:
    assert load_trainer({"name": "keras/cnn"}).Settings()
    assert load_trainer({"name": "spark/mlp", "master": "local[2]"}).Settings()
    assert "C" in load_trainer({"estimator": "sklearn.svm.SVC"}).Settings.model_fields
    assert load_trainer({"hypermodel": "tests.hypermodels:softmax"}).Settings()


def test_a_good_sweep_has_no_faults() -> None:
    assert faults() == []


def test_sections_that_were_faulty_by_themselves_are_skipped() -> None:
    assert list(trainer_faults({})) == []
    assert list(trainer_faults({"space": {"filters": Int(1, 2)}, "fixed": {"anything": 1}})) == []


def test_unknown_names_are_told() -> None:
    (dataset, objective, trainer) = faults(dataset="digit", objective="macro-f1", trainer="sklearn/knm")
    assert dataset.startswith("dataset: ") and "did you mean 'digits'" in dataset
    assert objective.startswith("objective: unknown metric 'macro-f1'; known: accuracy, ")
    assert objective.endswith("did you mean 'macro_f1'?")
    assert trainer.startswith("trainer: ") and "did you mean 'sklearn/knn'" in trainer


def test_params_must_be_settings_of_the_trainer() -> None:
    fixed, space = faults(fixed={"batchsize": 32}, space={"filter": Int(1, 2)})
    assert fixed.startswith("fixed.batchsize: trainer keras/cnn has no such setting; it has ")
    assert fixed.endswith("did you mean 'batch_size'?")
    assert space.startswith("space.filter: ") and space.endswith("did you mean 'filters'?")


WHOLE = "allowed: a whole number, 1 <= filters <= 1024"


@pytest.mark.parametrize(
    ("name", "param", "message"),
    [
        ("dropout", Float(0.0, 1.0), "1.0 is too large; allowed: a number, 0 <= dropout < 1"),
        ("learning_rate", Float(0.0, 1.0), "0.0 is too small; allowed: a number, 0 < learning_rate <= 10"),
        ("filters", Int(0, 8), f"0 is too small; {WHOLE}"),
        ("filters", Int(8, 2048), f"2048 is too large; {WHOLE}"),
        ("filters", Choice(values=(8, 8.5)), f"8.5 is not allowed; {WHOLE}"),
        ("filters", Choice(values=(8, True)), f"true is not allowed; {WHOLE}"),
        ("padding", Choice(values=("same", "vlid")), "'vlid' is not allowed; allowed: same, valid; did"),
        ("padding", Int(1, 2), "1 is not allowed; allowed: same, valid"),
    ],
)
def test_values_must_be_allowed(name: str, param: Param, message: str) -> None:
    assert faults(space={name: param})[0].startswith(f"space.{name}: {message}")


def test_condition_on_a_fixed_param_names_a_value_that_it_can_have() -> None:
    momentum = Float(0.0, 0.9, when={"optimizer": "SGD"})
    (fault,) = faults(fixed={"optimizer": "sgd"}, space={"momentum": momentum})
    assert fault.startswith("space.momentum.when: optimizer: 'SGD' is not allowed; allowed: adam, ")
    dropped = Float(0.0, 0.9, when={"optimizer": "sgd"})
    assert faults(fixed={"optimizer": "adam"}, space={"momentum": dropped}) == []


def test_every_refused_value_is_told() -> None:
    assert len(faults(space={"filters": Choice(values=(0, 8, 5000))})) == 2


def test_fixed_values_must_be_allowed() -> None:
    (fault,) = faults(fixed={"optimizer": "adm"})
    assert fault.startswith("fixed.optimizer: 'adm' is not allowed; allowed: adam, ")
    assert fault.endswith("; did you mean 'adam'?")


def test_reading_the_catalog_loads_no_heavy_library() -> None:
    script = (
        "import sys; from trainers.catalog import TRAINERS, load_trainer\n"
        "for name in TRAINERS: load_trainer(name).Settings()\n"
        "print([name for name in ('keras', 'tensorflow', 'sklearn', 'jax', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
