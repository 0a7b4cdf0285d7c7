"""Sweep files that are right: what they mean, how they extend each other, how they come back."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spaces.params import Choice, Float, Int, Space
from spaces.sweep import Asha, Budget, Resources, Suggest, Sweep, Validation, load_sweep
from tests.spaces.test_params import choices, floats, ints, values

MINIMAL = """\
dataset: digits
trainer: keras/cnn
objective: macro_f1
epochs: 9
space:
  filters: [16, 32]
"""
FULL = """\
dataset: {kind: folder, path: images}
trainer: keras/cnn
objective: macro_f1
validation: {holdout: 0.3, test: 0.0}
epochs: 27
search: {suggester: random, trials: 7, seed: 5}
asha: {grace: 3, reduction: 4, rule: stop}
resources: {cpu: 2, gpu: 0.5}
budget: {minutes: 10, target: 0.995}
fixed: {activation: relu, bias: true}
space:
  conv_layers: {int: [1, 3]}
  filters: [16, 32, 64]
  learning_rate: {float: [1e-4, 1e-2], log: true}
  momentum: {float: [0, 0.95], when: {optimizer: sgd}}
  nesterov: {choice: [true, false], when: {optimizer: [sgd]}}
  optimizer: [adam, sgd]
"""
CATALOG = Path(__file__).parents[2] / "spaces" / "catalog"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_what_a_file_leaves_out_is_filled_in(write: Write) -> None:
    sweep = load_sweep(write(MINIMAL))
    assert sweep == Sweep(
        dataset="digits",
        trainer="keras/cnn",
        objective="macro_f1",
        validation=Validation(holdout=0.2, test=0.2),
        epochs=9,
        search=Suggest(suggester="gp", trials=40, seed=0, first=[{}]),
        asha=Asha(grace=1, reduction=3, rule="promote"),
        resources=Resources(cpu=1, gpu=0),
        budget=Budget(minutes=None, target=None),
        fixed={},
        space=Space({"filters": Choice((16, 32))}),
    )


@pytest.mark.parametrize(("epochs", "grace"), [(1, 1), (9, 1), (27, 1), (52, 2), (81, 3), (270, 10)])
def test_grace_left_out_follows_from_the_epochs(write: Write, epochs: int, grace: int) -> None:
    for section in ("", "asha: {reduction: 4}\n"):
        sweep = load_sweep(write(f"{section}{MINIMAL}"), [f"epochs={epochs}"])
        assert sweep.asha and sweep.asha.grace == grace
        assert Sweep.from_dict(sweep.to_dict()) == sweep
        assert f"grace: {grace}" in sweep.to_yaml()


def test_only_gp_begins_with_the_defaults_unasked(write: Write) -> None:
    for suggester, is_first in (("gp", True), ("random", False), ("tpe", False)):
        sweep = load_sweep(write(MINIMAL), [f"search.suggester={suggester}"])
        assert sweep.search.first == [{}] * is_first
    assert load_sweep(write(MINIMAL), ["search.first=[]"]).search.first == []
    assert load_sweep(write(MINIMAL), ["search.first=[{filters: 16}]"]).search.first == [{"filters": 16}]


def test_grace_that_is_given_stays(write: Write) -> None:
    sweep = load_sweep(write(MINIMAL), ["epochs=270", "asha.grace=1"])
    assert sweep.asha == Asha(grace=1)


def test_every_key_of_a_file_is_read(write: Write) -> None:
    sweep = load_sweep(write(FULL))
    assert sweep.dataset == {"kind": "folder", "path": "images"}
    assert sweep.validation == Validation(holdout=0.3, test=0.0)
    assert sweep.search == Suggest(suggester="random", trials=7, seed=5)
    assert sweep.asha == Asha(grace=3, reduction=4, rule="stop")
    assert sweep.resources == Resources(cpu=2, gpu=0.5)
    assert sweep.budget == Budget(minutes=10, target=0.995)
    assert sweep.fixed == {"activation": "relu", "bias": True}
    assert sweep.space == Space(
        {
            "conv_layers": Int(1, 3),
            "filters": Choice((16, 32, 64)),
            "learning_rate": Float(1e-4, 1e-2, log=True),
            "optimizer": Choice(("adam", "sgd")),
            "momentum": Float(0, 0.95, when={"optimizer": "sgd"}),
            "nesterov": Choice((True, False), when={"optimizer": "sgd"}),
        }
    )


def test_yaml_is_read_as_version_1_2(write: Write) -> None:
    text = MINIMAL.replace("[16, 32]", "[off, no, 1e-4, 010, 2020-01-01, true]") + "asha: off\n"
    sweep = load_sweep(write(text))
    assert sweep.space == Space({"filters": Choice(("off", "no", 0.0001, 10, "2020-01-01", True))})
    assert sweep.asha is None


def test_anchors_and_byte_order_marks_are_read(write: Write) -> None:
    sweep = load_sweep(write("\ufeff" + MINIMAL.replace("[16", "&sizes [16") + "  units: *sizes\n"))
    assert sweep.space.params["units"] == sweep.space.params["filters"]


def test_a_recursive_anchor_does_not_hang(write: Write) -> None:
    with pytest.raises(ValueError, match="filters"):
        load_sweep(write(MINIMAL.replace("[16, 32]", "&loop [1, *loop]")))


def test_a_sweep_may_hold_every_param_fixed(write: Write) -> None:
    sweep = load_sweep(write(MINIMAL.replace("  filters: [16, 32]", "  {}") + "fixed: {filters: 16}\n"))
    assert (sweep.space.size, sweep.fixed) == (1, {"filters": 16})


# ---- grid ----


def test_grid_without_trials_means_all_points(write: Write) -> None:
    sweep = load_sweep(write(MINIMAL + "  units: {int: [1, 3]}\nsearch: {suggester: grid}\n"))
    assert sweep.search.trials == 6


def test_grid_with_trials_keeps_them(write: Write) -> None:
    assert load_sweep(write(MINIMAL + "search: {suggester: grid, trials: 1}\n")).search.trials == 1


def test_grid_made_in_python_means_all_points_too() -> None:
    assert make(space=Space({"units": Int(1, 5)}), search=Suggest(suggester="grid")).search.trials == 5


def test_a_sweep_made_in_python_is_checked_too() -> None:
    with pytest.raises(ValidationError, match="asha.grace: must be at most epochs, which is 2, got 3"):
        make(asha=Asha(grace=3), epochs=2)
    with pytest.raises(ValidationError, match="space.rate: grid needs a list or int range"):
        make(space=Space({"rate": Float(0, 1)}), search=Suggest(suggester="grid"))


# ---- extends ----


def test_child_wins_key_by_key(write: Write) -> None:
    write(FULL, "parent.yaml")
    child = load_sweep(write("extends: parent.yaml\nepochs: 5\nsearch: {trials: 3}\nspace: {filters: [8]}\n"))
    parent = load_sweep(write(FULL))
    assert (child.epochs, child.search) == (5, Suggest(suggester="random", trials=3, seed=5))
    assert child.space.params == {**parent.space.params, "filters": Choice((8,))}
    assert (child.trainer, child.fixed, child.dataset) == (parent.trainer, parent.fixed, parent.dataset)


def test_extends_is_relative_to_the_file_and_may_be_chained(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(MINIMAL, "base.yaml")
    write("extends: ../base.yaml\nepochs: 5\n", "sub/middle.yaml")
    sweep = load_sweep(write("extends: sub/middle.yaml\nsearch: {seed: 2}\n"))
    assert (sweep.epochs, sweep.search.seed, sweep.trainer) == (5, 2, "keras/cnn")


def test_a_child_may_turn_asha_off_and_on_again(write: Write) -> None:
    write(FULL, "on.yaml")
    write("extends: on.yaml\nasha: off\n", "off.yaml")
    assert load_sweep(write("extends: on.yaml\nasha: off\n")).asha is None
    assert load_sweep(write("extends: off.yaml\nasha: {grace: 2}\n")).asha == Asha(grace=2)


def test_a_dataset_of_another_kind_inherits_nothing(write: Write) -> None:
    write(FULL, "parent.yaml")
    other = load_sweep(write("extends: parent.yaml\ndataset: {kind: csv, file: a.csv}\n"))
    moved = load_sweep(write("extends: parent.yaml\ndataset: {path: elsewhere}\n"))
    assert other.dataset == {"kind": "csv", "file": "a.csv"}
    assert moved.dataset == {"kind": "folder", "path": "elsewhere"}


def test_an_empty_section_keeps_what_it_inherits(write: Write) -> None:
    write(FULL, "parent.yaml")
    assert load_sweep(write("extends: parent.yaml\nfixed: {}\n")).fixed == {
        "activation": "relu",
        "bias": True,
    }


def test_a_fixed_param_leaves_the_inherited_space(write: Write) -> None:
    write(FULL, "parent.yaml")
    sweep = load_sweep(write("extends: parent.yaml\nfixed: {filters: 32}\n"))
    assert "filters" not in sweep.space.params
    assert sweep.fixed == {"activation": "relu", "bias": True, "filters": 32}


def test_a_varied_param_leaves_the_inherited_fixed(write: Write) -> None:
    write(FULL, "parent.yaml")
    sweep = load_sweep(write("extends: parent.yaml\nspace: {activation: [relu, elu]}\n"))
    assert sweep.fixed == {"bias": True}
    assert sweep.space.params["activation"] == Choice(("relu", "elu"))


@pytest.mark.parametrize(("optimizer", "names"), [("sgd", {"momentum", "nesterov"}), ("adam", set[str]())])
def test_conditions_on_a_fixed_param_are_decided(write: Write, optimizer: str, names: set[str]) -> None:
    write(FULL + "  dampening: {float: [0, 1], when: {nesterov: false}}\n", "parent.yaml")
    sweep = load_sweep(write(f"extends: parent.yaml\nfixed: {{optimizer: {optimizer}}}\n"))
    dependent = {"dampening"} if names else set()
    assert sweep.space.params.keys() == {"conv_layers", "filters", "learning_rate"} | names | dependent
    assert all(not sweep.space.params[name].when for name in names)
    assert Sweep.from_dict(sweep.to_dict()) == sweep


# ---- overrides ----


def test_overrides_win_over_the_file(write: Write) -> None:
    overrides = [
        "epochs=5",
        "search.trials=4",
        "space.filters=[8, 16]",
        "fixed.activation=elu",
        "space.rate={float: [1e-3, 1], log: true}",
        "budget.minutes = 0.5",
        "dataset.path=a=b",
        "asha=off",
    ]
    sweep = load_sweep(write(FULL), overrides)
    assert (sweep.epochs, sweep.search, sweep.asha) == (
        5,
        Suggest(suggester="random", trials=4, seed=5),
        None,
    )
    assert sweep.space.params["filters"] == Choice((8, 16))
    assert sweep.space.params["rate"] == Float(1e-3, 1, log=True)
    assert (sweep.fixed["activation"], sweep.budget) == ("elu", Budget(minutes=0.5, target=0.995))
    assert sweep.dataset == {"kind": "folder", "path": "a=b"}


def test_an_override_moves_a_param_between_space_and_fixed(write: Write) -> None:
    sweep = load_sweep(write(FULL), ["fixed.filters=16", "space.activation=[relu, elu]"])
    assert sweep.fixed == {"bias": True, "filters": 16}
    assert "filters" not in sweep.space.params and "activation" in sweep.space.params


def test_the_last_of_two_overrides_wins(write: Write) -> None:
    assert load_sweep(write(MINIMAL), ["epochs=5", "asha=off", "epochs=6", "asha.grace=2"]).epochs == 6
    assert load_sweep(write(MINIMAL), ["asha=off", "asha.grace=2"]).asha == Asha(grace=2)


# ---- there and back ----


def make(**sections: Any) -> Sweep:
    given = {"dataset": "digits", "trainer": "t", "objective": "accuracy", "epochs": 3, "space": Space({})}
    return Sweep(**{**given, **sections})


@pytest.mark.parametrize(
    "text", [MINIMAL, FULL, MINIMAL + "asha: off\n", MINIMAL + "search: {suggester: grid}\n"]
)
def test_a_sweep_comes_back_from_yaml_and_json(write: Write, text: str) -> None:
    sweep = load_sweep(write(text))
    assert load_sweep(write(sweep.to_yaml(), "again.yaml")) == sweep
    assert Sweep.from_dict(json.loads(json.dumps(sweep.to_dict()))) == sweep
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert pickle.loads(pickle.dumps(sweep)) == sweep


def test_small_floats_stay_floats_in_yaml(write: Write) -> None:
    sweep = make(
        fixed={"a": 1e-7, "b": 1e22, "c": 1.0, "d": "1e-7", "e": "off", "f": "true", "g": "", "h": "12"}
    )
    again = load_sweep(write(sweep.to_yaml()))
    assert [(type(value), value) for value in again.fixed.values()] == [
        (type(value), value) for value in sweep.fixed.values()
    ]


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@example(fixed={"?;": False, "?0": ":0", "a": "?b"}, params={":0": Choice(("- a", "#b", "", " c"))})
@given(
    fixed=st.dictionaries(names, values.filter(lambda value: not isinstance(value, str)) | names, max_size=4),
    params=st.dictionaries(names, floats() | ints() | choices, max_size=4),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sweep_comes_back_from_yaml(write: Write, fixed: Any, params: Any) -> None:
    sweep = make(fixed={name: fixed[name] for name in fixed.keys() - params.keys()}, space=Space(params))
    assert load_sweep(write(sweep.to_yaml())) == sweep
    assert Sweep.from_dict(sweep.to_dict()) == sweep


# ---- the catalog ----


@pytest.mark.parametrize(
    "path", sorted(CATALOG.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_sweep_of_the_catalog_loads_and_says_how_to_run_it(path: Path) -> None:
    sweep = load_sweep(path)
    assert Sweep.from_dict(sweep.to_dict()) == sweep
    opening = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(f"rungwise run {path.relative_to(CATALOG.parents[1])}" in line for line in opening)


def test_the_grid_of_the_catalog_is_the_whole_grid() -> None:
    sweep = load_sweep(CATALOG / "digits" / "knn.yaml")
    assert sweep.search.trials == sweep.space.size == 15 * 2 * 2
    assert sweep.asha is None
