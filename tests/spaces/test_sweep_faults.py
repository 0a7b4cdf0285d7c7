"""Sweep files that are wrong: every fault once, its words and its line, and all faults of a file at once."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from spaces.params import Fault, Int, SpaceError
from spaces.sweep import Asha, Sweep, load_sweep

RIGHT = """\
dataset: digits
trainer: keras/cnn
objective: macro_f1
epochs: 9
space:
  filters: [16, 32]
"""

_RIGHT: dict[str, Any] = {
    "dataset": "digits",
    "trainer": "keras/cnn",
    "objective": "macro_f1",
    "epochs": 9,
    "space": {"filters": [16, 32]},
}

Lines = Callable[..., list[str]]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The lines of the error that ``files`` give, the first being the one that is loaded."""
    monkeypatch.chdir(tmp_path)

    def faults(*files: str | bytes, overrides: tuple[str, ...] = (), check: Any = None) -> list[str]:
        for name, text in zip(("a.yaml", "b.yaml", "c.yaml"), files, strict=False):
            Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(SpaceError) as error:
            load_sweep("a.yaml", overrides, check)
        return str(error.value).splitlines()

    return faults


def test_many_faults_of_one_file_are_named_at_once_by_line(faults: Lines) -> None:
    text = """\
dataset: {kind: folder}
trainr: keras/cnn
objective: 5
epochs: many
search: {suggester: tpee, trials: 0, sed: 0}
asha: {grace: 3, reduction: 1, rule: promot}
resources: {cpu: 0, gpu: 1.5}
budget: {minutes: -1, target: high}
validation: {holdout: 1.0, test: true}
fixed:
  activation: null
  both: 1
  1: one
space:
  reversed: {int: [3, 1], wen: 5}
  logged: {float: [0.0, 1], log: true}
  misspelt: {flaot: [0, 1]}
  constant: 5
  empty: []
  doubled: [1, 1]
  missing: [1, null]
  half: {int: [1, 2.5]}
  truth: {float: [false, 1]}
  single: {int: 3}
  choice: {choice: [1, 2], log: true}
  two: {int: [1, 2], float: [0, 1]}
  units: {int: [1, 3]}
  depends:
    int: [1, 3]
    when:
      units: 4
      unit: 2
  both: [1, 2]
  circle: {int: [1, 2], when: {ring: 1}}
  ring: {int: [1, 2], when: {circle: 1}}
"""
    shapes = "must be a list of values, or a mapping such as {int: [1, 3]} or {float: [0.1, 0.9], log: true}"
    expected = [
        "1: trainer: is missing; it must be the name of a trainer, such as keras/cnn, "
        "or a mapping such as {hypermodel: my_models:Net}",
        "2: trainr: unknown key; did you mean 'trainer'?",
        "3: objective: must be the metric to rank by, such as macro_f1, got 5",
        "4: epochs: must be a whole number from 1 up, got 'many'",
        "5: search.suggester: must be one of random, grid, gp, tpe, cmaes, qmc, nsga2, got 'tpee';"
        " did you mean 'tpe'?",
        "5: search.trials: must be a whole number from 1 up, got 0",
        "5: search.sed: unknown key; did you mean 'seed'?",
        "6: asha.reduction: must be a whole number from 2 up, got 1",
        "6: asha.rule: must be promote or stop, got 'promot'; did you mean 'promote'?",
        "7: resources.cpu: must be above 0: a share of one, or a whole number, got 0",
        "7: resources.gpu: must be 0, a share of one, or a whole number, got 1.5",
        "8: budget.minutes: must be a number of minutes above 0, got -1",
        "8: budget.target: must be a value of the objective, got 'high'",
        "9: validation.holdout: must be a share above 0 and below 1, got 1.0",
        "9: validation.test: must be a share from 0 up to below 1, got true",
        "11: fixed.activation: must be a finite number, a text, true or false, got null",
        "13: fixed: a key must be text, got 1",
        "15: space.reversed.wen: unknown key; did you mean 'when'?",
        "15: space.reversed.int: low must be below high, got low=3, high=1",
        "16: space.logged.float: a log range must start above 0, got low=0.0",
        f"17: space.misspelt: {shapes}, got {{'flaot': [0, 1]}}; did you mean 'float'?",
        f"18: space.constant: {shapes}, got 5; a constant belongs under fixed",
        "19: space.empty: a choice needs at least one value, got an empty list",
        "20: space.doubled: a choice needs distinct values, got 1 twice",
        "21: space.missing: each value must be a finite number, a text, true or false, got null",
        "22: space.half.int: high must be a whole number, got 2.5",
        "23: space.truth.float: low must be a number, got false",
        "24: space.single.int: must be [low, high], got 3",
        "25: space.choice.log: unknown key; known: when",
        f"26: space.two: {shapes}, got {{'int': [1, 2], 'float': [0, 1]}}",
        "31: space.depends.when.units: can never be 4; allowed: 1 to 3",
        "32: space.depends.when.unit: unknown param; did you mean 'units'?",
        "34: space.circle.when: conditions must not run in a circle: circle -> ring -> circle",
    ]
    assert faults(text) == [f"a.yaml:{line}" for line in expected]


@pytest.mark.parametrize("key", ["dataset", "trainer", "objective", "epochs", "space"])
def test_a_missing_key_is_a_fault_of_the_file(faults: Lines, key: str) -> None:
    (line,) = faults("# a comment\n" + RIGHT.replace(f"{key}:", f"# {key}:").replace("  filters", "#"))[:1]
    assert line.startswith("a.yaml:") and f"{key}: is missing; it must be " in line


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("dataset: [digits]", "1: dataset: must be a name such as digits, or a mapping such as {kind: "),
        ("dataset: {path: .nan}", "1: dataset: must be a name such as digits, or a mapping such as {kind: "),
        (
            "search: tpe",
            "1: search: must be a mapping such as {suggester: gp, trials: 40, seed: 0}, got 'tpe'",
        ),
        ("search:", "1: search: must be a mapping such as {suggester: gp, trials: 40, seed: 0}, got null"),
        (
            "asha:",
            "1: asha: must be off, or a mapping such as {grace: 1, reduction: 3, rule: promote}, got null",
        ),
        (
            "asha: of",
            "1: asha: must be off, or a mapping such as {grace: 1, reduction: 3, rule: promote}, got 'of'",
        ),
        ("asha: false", "1: asha: must be off, or a mapping such as"),
        ("fixed: 3", "1: fixed: must be a mapping of params to values, such as {activation: relu}, got 3"),
        ("fixed: {a: [1]}", "1: fixed.a: must be a finite number, a text, true or false, got [1]"),
        (
            "space: 3",
            "1: space: must be a mapping of params to what they may be, such as {filters: [16, 32]}, got 3",
        ),
        ("epochs: 5.0", "1: epochs: must be a whole number from 1 up, got 5.0"),
        ("epochs: true", "1: epochs: must be a whole number from 1 up, got true"),
        ("budget: {target: .nan}", "1: budget.target: must be a value of the objective, got nan"),
        ("search: {seed: -1}", "1: search.seed: must be a whole number from 0 up, got -1"),
        ("zzz: 1", "1: zzz: unknown key; known: dataset, trainer, objective, "),
        ("asha: {grace: 10}", "1: asha.grace: must be at most epochs, which is 9, got 10"),
        ("fixed: {filters: 16}", "1: fixed.filters: is also in space; keep one of the two"),
        ("search:\n  seed: 1\n  seed: 2", "3: search.seed: is given twice; keep one"),
        (
            "search: {suggester: grid, seed: 1}\nfixed: {a: 1}\nfixed: {b: 2}",
            "3: fixed: is given twice; keep one",
        ),
        ("? [1, 2]\n: 3", "1: a key must be text, got a collection"),
        ("<<: {epochs: 3}", "1: a key must be text, got <<"),
        ("fixed: !!python/name:os.system x", "1: tags such as !name are not allowed"),
        ("dataset: !mine {kind: a}", "1: tags such as !name are not allowed"),
        ("asha: [1, 2", "2: is not YAML: while parsing a flow "),
        ("asha: a: b", "1: is not YAML: mapping values are not allowed here"),
        ("asha: *nowhere", "1: is not YAML: found undefined alias 'nowhere'"),
        ("asha: 'open", "is not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("asha: on\n\tfixed: {}", "2: is not YAML: "),
        (
            "---\na: 1\n---",
            "3: is not YAML: expected a single document in the stream, but found another document",
        ),
        ("trainer: \x01", "1: holds a character that YAML does not allow"),
        ("epochs: " + "9" * 5000, "1: epochs: cannot be read"),
        ("dataset: {a: {b: {c: {d: 1, d: 2}}}}", "1: dataset.a.b.c: cannot be read"),
        ("asha: " + "[" * 600, "1: is nested too deeply"),
    ],
)
def test_each_fault_is_one_line_in_plain_words(faults: Lines, wrong: str, line: str) -> None:
    key = wrong.partition(":")[0]
    rest = "\n".join(row for row in RIGHT.splitlines() if not row.startswith(f"{key}:"))
    if key == "space":
        rest = rest.replace("  filters: [16, 32]", "")
    (found,) = faults(f"{wrong}\n{rest}\n")
    assert found.startswith("a.yaml:") and line in found
    assert not any(
        word in found for word in ("pydantic", "Traceback", "type=", "Input should", "Value error")
    )


def test_a_grid_over_a_float_is_a_fault_of_the_float(faults: Lines) -> None:
    (line,) = faults(RIGHT + "  rate: {float: [0, 1]}\nsearch: {suggester: grid}\n")
    assert line == (
        "a.yaml:7: space.rate: grid needs a list or int range, got the float range 0.0 to 1.0;"
        " list its values, or choose another suggester"
    )


def test_a_condition_on_a_param_that_is_wrong_is_not_blamed(faults: Lines) -> None:
    (line,) = faults(RIGHT + "  optimizer: [sgd, sgd]\n  momentum: {float: [0, 1], when: {optimizer: sgd}}\n")
    assert line.startswith("a.yaml:7: space.optimizer: ")


# ---- files that cannot be read ----


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"nowhere\.yaml does not exist$"):
        load_sweep(tmp_path / "nowhere.yaml")


def test_a_file_inside_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(RIGHT)
    with pytest.raises(SpaceError, match=r"b\.yaml does not exist$"):
        load_sweep(tmp_path / "a.yaml" / "b.yaml")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="is a folder; name a sweep file in it$"):
        load_sweep(tmp_path)


def test_a_name_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="cannot be read: File name too long"):
        load_sweep(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.yaml is empty; a sweep has keys such as dataset and space"),
        (b"# only a comment\n", "a.yaml is empty; a sweep has keys such as dataset and space"),
        (b"\n- a\n- b\n", "a.yaml:2: must be a mapping with keys such as dataset and space, got ['a', 'b']"),
        (b"digits", "a.yaml:1: must be a mapping with keys such as dataset and space, got 'digits'"),
        (b"\x89HDF\r\n\x1a\n\0\0\0", "a.yaml is a binary file; a sweep is YAML text"),
        (RIGHT.encode("utf-16"), "a.yaml is a binary file; a sweep is YAML text"),
        (b"a: 1\nb: caf\xe9\n", "a.yaml:2: is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_file_that_holds_no_sweep(faults: Lines, content: bytes, message: str) -> None:
    assert faults(content) == [message]


# ---- extends ----


def test_faults_of_a_parent_are_named_by_its_file_and_line(faults: Lines) -> None:
    parent = RIGHT + "  units: {int: [3, 1]}\nsearch: {trials: 0, seed: x}\n"
    assert faults("extends: b.yaml\nepoch: 3\nsearch: {seed: 1}\n", parent) == [
        "a.yaml:2: epoch: unknown key; did you mean 'epochs'?",
        "b.yaml:7: space.units.int: low must be below high, got low=3, high=1",
        "b.yaml:8: search.trials: must be a whole number from 1 up, got 0",
    ]


def test_a_key_missing_in_both_is_missed_in_the_child(faults: Lines) -> None:
    (line,) = faults("\nextends: b.yaml\n", RIGHT.replace("trainer: keras/cnn", ""))
    assert line.startswith("a.yaml:2: trainer: is missing")


def test_a_name_fixed_and_varied_in_one_parent_stays_a_fault(faults: Lines) -> None:
    (line,) = faults("extends: b.yaml\nepochs: 3\n", RIGHT + "fixed: {filters: 1}\n")
    assert line == "b.yaml:7: fixed.filters: is also in space; keep one of the two"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["\nextends: x.yaml"], "a.yaml:2: extends: x.yaml does not exist"),
        (["extends: .\n"], "a.yaml:1: extends: . is a folder; name a sweep file in it"),
        (["extends: [b.yaml]"], "a.yaml:1: extends: must be the path of a sweep file, got ['b.yaml']"),
        (["extends:"], "a.yaml:1: extends: must be the path of a sweep file, got null"),
        (
            ["extends: a.yaml"],
            "a.yaml:1: extends: files must not extend each other in a circle: a.yaml -> a.yaml",
        ),
        (
            ["extends: b.yaml", "\nextends: c.yaml", "extends: a.yaml"],
            "c.yaml:1: extends: files must not extend each other in a circle:"
            " a.yaml -> b.yaml -> c.yaml -> a.yaml",
        ),
        (["extends: b.yaml", "a: b: c"], "b.yaml:1: is not YAML: mapping values are not allowed here"),
        (
            ["extends: b.yaml", ""],
            "a.yaml:1: extends: b.yaml is empty; a sweep has keys such as dataset and space",
        ),
        (["extends: b.yaml", "\nextends: x.yaml"], "b.yaml:2: extends: x.yaml does not exist"),
    ],
)
def test_a_parent_that_cannot_be_read(faults: Lines, files: list[str], message: str) -> None:
    assert faults(*files) == [message]


# ---- overrides ----


@pytest.mark.parametrize(
    "override",
    ["epochs", "epochs=", "=5", ".seed=3", "search.=3", "search..seed=1", "space.a.int=[1, 2]", "extends=b"],
)
def test_a_malformed_override(faults: Lines, override: str) -> None:
    message = "must be key=value or section.key=value, such as epochs=5 or search.seed=3"
    assert faults(RIGHT, overrides=(override,)) == [f"--set {override!r} {message}"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=5", "--set epoch: unknown key; did you mean 'epochs'?"),
        ("epochs=many", "--set epochs: must be a whole number from 1 up, got 'many'"),
        ("search.sed=1", "--set search.sed: unknown key; did you mean 'seed'?"),
        ("search.seed=[1", "--set search.seed: is not YAML: while parsing a flow sequence"),
        ("search={seed: 1, seed: 2}", "--set search.seed: is given twice; keep one"),
        ("epochs.seed=3", "--set epochs: must be a whole number from 1 up, got {'seed': 3}"),
        ("space.units={int: [3, 1]}", "--set space.units.int: low must be below high, got low=3, high=1"),
        ("space.filters=[8, 8]", "--set space.filters: a choice needs distinct values, got 8 twice"),
        ("asha.grace=10", "--set asha.grace: must be at most epochs, which is 9"),
        ("trainer=\x01", "--set trainer: holds a character that YAML does not allow"),
    ],
)
def test_a_fault_of_an_override_is_named_by_the_override(faults: Lines, override: str, message: str) -> None:
    (line,) = faults(RIGHT, overrides=(override,))
    assert line.startswith(message)


def test_faults_of_file_and_overrides_come_together(faults: Lines) -> None:
    lines = faults(RIGHT.replace("9", "0"), overrides=("x", "search.seed=a"))
    assert [line.split(" ")[0] for line in lines] == ["--set", "--set", "a.yaml:4:"]


# ---- the check of a caller ----


def test_faults_of_the_check_are_found_at_their_lines(faults: Lines) -> None:
    def check(sections: Mapping[str, Any]) -> Iterator[Fault]:
        yield Fault(("space", "filters"), "is too many")
        yield Fault(("trainer",), "is unknown")
        yield Fault(("search", "seed"), "is left out")

    assert faults(RIGHT, check=check, overrides=("trainer=x",)) == [
        "--set trainer: is unknown",
        "a.yaml:1: search.seed: is left out",
        "a.yaml:6: space.filters: is too many",
    ]


def test_the_check_is_given_what_is_valid_by_itself(faults: Lines) -> None:
    given: dict[str, Any] = {}

    def check(sections: Mapping[str, Any]) -> list[Fault]:
        given.update(sections)
        return []

    faults(RIGHT.replace("macro_f1", "1") + "  units: {int: [1, 2]}\n  bad: []\nfixed: {a: 1}\n", check=check)
    assert given["trainer"] == "keras/cnn" and given["fixed"] == {"a": 1} and given["asha"] == Asha()
    assert given["space"]["units"] == Int(1, 2)
    assert given["space"].keys() == {"filters", "units"}
    assert "objective" not in given


def test_from_dict_names_all_faults_without_a_file() -> None:
    with pytest.raises(SpaceError) as error:
        Sweep.from_dict(
            {"dataset": "digits", "trainer": "t", "epochs": 0, "space": {"a": []}, "objective": "x"}
        )
    assert str(error.value).splitlines() == [
        "epochs: must be a whole number from 1 up, got 0",
        "space.a: a choice needs at least one value, got an empty list",
    ]


def test_grid_too_large_to_list_and_nsga2_under_asha_are_faults() -> None:
    many = {f"p{k}": {"int": [1, 100]} for k in range(4)}
    with pytest.raises(
        SpaceError, match="space: grid would list 100,000,000 configurations or more, 1,000,000 may be"
    ):
        Sweep.from_dict(_RIGHT | {"space": many, "search": {"suggester": "grid"}})
    deciding = {"units": {"int": [1, 10**8]}, "dropout": {"choice": [0, 0.5], "when": {"units": 5}}}
    with pytest.raises(SpaceError, match="100,000,000 configurations or more"):  # without listing them first
        Sweep.from_dict(_RIGHT | {"space": deciding, "search": {"suggester": "grid"}})
    nsga2 = {"suggester": "nsga2", "trials": 9, "seed": 0}
    with pytest.raises(
        SpaceError, match="search.suggester: nsga2 learns .*; set asha: off, or choose another"
    ):
        Sweep.from_dict(_RIGHT | {"search": nsga2})
    assert Sweep.from_dict(_RIGHT | {"search": nsga2, "asha": "off"})


def test_configurations_that_the_space_does_not_hold_are_faults(faults: Lines) -> None:
    text = """\
dataset: digits
trainer: keras/cnn
objective: macro_f1
epochs: 9
search:
  first:
  - {filters: 24, kernel: 3, units: 9, activation: relu}
  - {momentum: 0.9}
  - {optimizer: sgd, momentum: 0.9}
  - {dropout: 0.5}
space:
  filters: [16, 32]
  kernel_size: [3, 5]
  optimizer: [adam, sgd]
  momentum: {float: [0.0, 0.95], when: {optimizer: sgd}}
  dropout: {float: [0.1, 0.5], when: {activation: tanh}}
fixed: {activation: relu}
"""
    assert faults(text) == [
        "a.yaml:6: search.first.0.activation: is under fixed already; leave it out",
        "a.yaml:6: search.first.0.filters: can never be 24; allowed: 16, 32",
        "a.yaml:6: search.first.0.kernel: is no param of the space; did you mean 'kernel_size'?",
        "a.yaml:6: search.first.0.units: is no param of the space; add it there, or leave it out",
        "a.yaml:6: search.first.1.momentum: exists only where optimizer is 'sgd'; say so beside it",
        "a.yaml:6: search.first.3.dropout: never exists beside what is fixed; leave it out",
    ]
    assert faults(RIGHT + "search: {first: [{filters: 16}, 5]}\n") == [
        "a.yaml:7: search.first: must be a list of configurations, such as [{learning_rate: 0.001}],"
        " got [{'filters': 16}, 5]"
    ]
    assert faults(RIGHT + "search: {first: [{filters: [16]}]}\n") == [
        "a.yaml:7: search.first.0.filters: must be a finite number, a text, true or false, got [16]"
    ]
    assert faults(RIGHT + "search: {suggester: grid, first: [{filters: 16}]}\n") == [
        "a.yaml:7: search.first: a grid is tried whole, in its own order; set it to [], or choose another"
        " suggester"
    ]
    assert Sweep.from_dict(_RIGHT | {"search": {"suggester": "grid", "first": [{}]}}).search.first == []


def test_broken_param_is_told_once_though_a_configuration_names_it(faults: Lines) -> None:
    text = RIGHT.replace("[16, 32]", "{int: [32, 16]}") + "search: {first: [{filters: 16}]}\n"
    assert faults(text) == ["a.yaml:6: space.filters.int: low must be below high, got low=32, high=16"]
    space = "  dropout: {float: [0.1, 0.5], when: {activation: relu}}\nfixed: {activation: [relu]}\n"
    assert faults(RIGHT + space + "search: {first: [{activation: relu}]}\n") == [
        "a.yaml:8: fixed.activation: must be a finite number, a text, true or false, got ['relu']"
    ]


def test_trainer_of_another_name_leaves_nothing_of_the_parents(tmp_path: Path) -> None:
    parent = _RIGHT | {"trainer": {"name": "spark/mlp", "master": "local[2]"}}
    (tmp_path / "parent.yaml").write_text(Sweep.from_dict(parent).to_yaml())
    for own, trainer in (
        ("{name: keras/cnn, backend: jax}", {"name": "keras/cnn", "backend": "jax"}),
        ("{estimator: sklearn.svm.SVC}", {"estimator": "sklearn.svm.SVC"}),
        ("{master: local}", {"name": "spark/mlp", "master": "local"}),
        ("{name: spark/mlp}", {"name": "spark/mlp", "master": "local[2]"}),
    ):
        (tmp_path / "child.yaml").write_text(f"extends: parent.yaml\ntrainer: {own}\n")
        assert load_sweep(tmp_path / "child.yaml").trainer == trainer
    in_any_order = ["trainer.backend=jax", "trainer.name=keras/lenet5"]
    (tmp_path / "plain.yaml").write_text(Sweep.from_dict(_RIGHT).to_yaml())
    for overrides in (in_any_order, in_any_order[::-1]):
        named = load_sweep(tmp_path / "plain.yaml", overrides).trainer
        assert named == {"name": "keras/lenet5", "backend": "jax"}
