"""Params and spaces: what they draw, what they contain, what they refuse."""

import math
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spaces.params import (
    Choice,
    Fault,
    Float,
    Int,
    Param,
    Space,
    SpaceError,
    among,
    check_value,
    did_you_mean,
    shown,
)

units = st.floats(0, 1)
values = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@st.composite
def floats(draw: st.DrawFn) -> Float:
    log = draw(st.booleans())
    ends = st.floats(1e-12, 1e12) if log else st.floats(-1e12, 1e12)
    low, high = sorted((draw(ends), draw(ends)))
    assume(high - low > 1e-6 * abs(high))
    return Float(low, high, log=log)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -(10**6), 10**6))
    return Int(low, low + draw(st.integers(1, 10**6)), log=log)


choices = st.lists(
    values, min_size=1, max_size=8, unique_by=lambda value: (isinstance(value, bool), value)
).map(lambda drawn: Choice(tuple(drawn)))
countable = ints() | choices


@given(floats() | countable, units)
def test_every_param_contains_what_it_draws(param: Param, u: float) -> None:
    assert param.contains(param.from_unit(u))


@given(countable, units)
def test_countable_params_come_back_from_the_unit_interval(param: Param, u: float) -> None:
    value = param.from_unit(u)
    assert param.from_unit(param.to_unit(value)) == value


@given(floats(), units)
def test_floats_come_back_from_the_unit_interval(param: Float, u: float) -> None:
    assert param.to_unit(param.from_unit(u)) == pytest.approx(u, abs=1e-6)


@given(floats() | ints())
def test_both_ends_of_a_range_are_reached(param: Float | Int) -> None:
    assert (param.from_unit(0.0), param.from_unit(1.0)) == (param.low, param.high)


@given(choices)
def test_both_ends_of_a_choice_are_reached(param: Choice) -> None:
    assert (param.from_unit(0.0), param.from_unit(1.0)) == (param.values[0], param.values[-1])


@pytest.mark.parametrize("param", [Int(1, 3), Int(-2, 4), Choice(("a", "b", "c"))])
def test_countable_values_have_equal_shares_of_the_unit_interval(param: Int | Choice) -> None:
    steps = 210 * param.size
    shares = Counter(param.from_unit((i + 0.5) / steps) for i in range(steps))
    assert shares == dict.fromkeys(param.grid(), 210)


def test_to_unit_is_the_middle_of_a_share() -> None:
    assert [Int(1, 4).to_unit(value) for value in (1, 2, 3, 4)] == [0.125, 0.375, 0.625, 0.875]
    assert [Choice(("a", "b")).to_unit(value) for value in ("a", "b")] == [0.25, 0.75]


def test_log_ranges_give_each_factor_an_equal_share() -> None:
    assert Float(1e-4, 1e-2, log=True).from_unit(0.5) == pytest.approx(1e-3)
    log_int = Int(1, 8, log=True)
    edges = [0.5 * 17 ** (i / 6) for i in range(7)]
    assert [log_int.from_unit(i / 6) for i in range(1, 6)] == [round(edge) for edge in edges[1:6]]


def test_log_ints_are_widened_at_both_ends() -> None:
    param = Int(1, 2, log=True)
    share_of_one = math.log(1.5 / 0.5) / math.log(2.5 / 0.5)
    assert param.from_unit(share_of_one - 1e-9) == 1
    assert param.from_unit(share_of_one + 1e-9) == 2


def test_samples_follow_the_generator() -> None:
    space = Space({"rate": Float(0, 1), "units": Int(1, 100), "optimizer": Choice(("adam", "sgd"))})
    assert space.sample(np.random.default_rng(7)) == space.sample(np.random.default_rng(7))
    assert space.sample(np.random.default_rng(7)) != space.sample(np.random.default_rng(8))


@pytest.mark.parametrize(
    ("param", "inside", "outside"),
    [
        (Float(0, 1), (0, 1, 0.5), (-0.1, 1.1, True, "0.5", None, math.nan, [])),
        (Int(0, 3), (0, 3), (-1, 4, True, 1.0, "1", None)),
        (Choice((1, "a", 2.5)), (1, 1.0, "a", 2.5), (True, "b", 2, None)),
        (Choice((True, 0)), (True, 0), (1, False)),
    ],
)
def test_contains_tells_values_from_lookalikes(
    param: Param, inside: tuple[object, ...], outside: tuple[object, ...]
) -> None:
    assert all(param.contains(value) for value in inside)
    assert not any(param.contains(value) for value in outside)


def test_choice_keeps_one_and_true_apart() -> None:
    param = Choice((True, 1, "1"))
    assert [param.from_unit(param.to_unit(value)) for value in (True, 1, "1")] == [True, 1, "1"]
    assert type(param.from_unit(param.to_unit(1))) is int


def test_grids_list_every_value() -> None:
    assert Int(1, 4).grid() == (1, 2, 3, 4)
    assert Choice(("b", "a")).grid() == ("b", "a")
    with pytest.raises(SpaceError, match="a grid needs a list or an int range, got a float range 0.0 to 1.0"):
        Float(0, 1).grid()


def test_params_are_frozen_and_compare_by_value() -> None:
    assert Int(1, 2, when={"a": "x"}) == Int(1, 2, when={"a": ["x"]})
    different: list[Param] = [Int(1, 2), Float(1, 2)]
    assert different[0] != different[1]
    with pytest.raises(AttributeError):
        Int(1, 2).low = 0  # type: ignore[misc]


def wrong(value: object) -> Any:
    """``value`` where its type does not belong."""
    return value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float(1.0, 0.5), "float: low must be below high, got low=1.0, high=0.5"),
        (lambda: Int(3, 3), "int: low must be below high, got 3 for both; a constant belongs under fixed"),
        (lambda: Float(0.0, 1.0, log=True), "float: a log range must start above 0, got low=0.0"),
        (lambda: Int(0, 5, log=True), "int: a log range must start above 0, got low=0"),
        (lambda: Float(False, 1.0), "float: low must be a number, got false"),
        (lambda: Int(0, True), "int: high must be a whole number, got true"),
        (lambda: Int(0, wrong(2.5)), "int: high must be a whole number, got 2.5"),
        (lambda: Float(wrong("0"), 1), "float: low must be a number, got '0'"),
        (lambda: Float(0, math.inf), "float: high must lie within ±1e+300, got inf"),
        (lambda: Float(math.nan, 1), "float: low must lie within ±1e+300, got nan"),
        (lambda: Int(0, 2**60), "int: high must lie within ±9007199254740992, got 1152921504606846976"),
        (lambda: Int(0, 3, log=wrong("yes")), "log: must be true or false, got 'yes'"),
        (lambda: Choice(()), "a choice needs at least one value, got an empty list"),
        (lambda: Choice(wrong("abc")), "a choice needs a list of values, got 'abc'"),
        (lambda: Choice((1, 2, 1.0)), "a choice needs distinct values, got 1.0 twice"),
        (
            lambda: Choice(wrong((1, None))),
            "each value must be a finite number, a text, true or false, got null",
        ),
        (lambda: Choice((math.nan,)), "each value must be a finite number, a text, true or false, got nan"),
        (lambda: Int(1, 2, when=wrong("sgd")), "when: must be a mapping such as {optimizer: sgd}, got 'sgd'"),
        (lambda: Int(1, 2, when={"a": []}), "when.a: must be a value or a list of values, got an empty list"),
        (lambda: Int(1, 2, when={"a": None}), "when.a: each value must be a finite number"),
    ],
)
def test_params_that_mean_nothing_are_refused(make: Callable[[], Param], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_faults_of_a_param_are_named_at_once() -> None:
    with pytest.raises(SpaceError) as error:
        Float("a", None, log=1, when={"b": []})  # type: ignore[arg-type]
    assert [fault.where for fault in error.value.faults] == [("when", "b"), ("log",), ("float",), ("float",)]


nested = Space(
    {
        "nesterov": Choice((True, False), when={"momentum": [1, 2]}),
        "momentum": Int(0, 2, when={"optimizer": "sgd"}),
        "optimizer": Choice(("sgd", "adam")),
        "units": Choice((8, 16)),
    }
)


def test_space_orders_params_after_those_they_depend_on() -> None:
    names = list(nested.params)
    assert names.index("optimizer") < names.index("momentum") < names.index("nesterov")


def test_fill_asks_only_for_params_that_exist() -> None:
    asked = []

    def draw(name: str, param: Param) -> bool | int | float | str:
        asked.append(name)
        return param.from_unit(1.0)

    assert nested.fill(draw) == {"optimizer": "adam", "units": 16}
    assert sorted(asked) == ["optimizer", "units"]


def test_a_param_does_not_exist_where_the_one_it_depends_on_does_not() -> None:
    assert not nested.contains({"optimizer": "adam", "units": 8, "nesterov": True})
    assert nested.contains({"optimizer": "sgd", "momentum": 1, "nesterov": True, "units": 8})
    assert nested.contains({"optimizer": "sgd", "momentum": 0, "units": 8})


@given(st.integers(0, 2**32))
def test_space_contains_its_samples(seed: int) -> None:
    assert nested.contains(nested.sample(np.random.default_rng(seed)))


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"optimizer": "adam"},
        {"optimizer": "adam", "units": 8, "extra": 1},
        {"optimizer": "adam", "units": 9},
        {"optimizer": "adam", "units": 8, "momentum": 1},
        {"optimizer": "sgd", "units": 8},
        {"optimizer": "rmsprop", "units": 8},
    ],
)
def test_space_refuses_missing_extra_and_impossible_params(params: dict[str, object]) -> None:
    assert not nested.contains(params)


def test_grid_lists_each_configuration_once() -> None:
    grid = nested.grid()
    distinct = {tuple(sorted(point.items())) for point in grid}
    # adam, or sgd with momentum 0, or with momentum 1 or 2 times two kinds of nesterov; all times two units
    assert len(grid) == len(distinct) == nested.size == (1 + 1 + 2 * 2) * 2
    assert all(nested.contains(point) for point in grid)


def test_size_is_known_without_listing_the_grid() -> None:
    huge = Space({f"p{i}": Int(1, 10**6) for i in range(5)})
    assert huge.size == 10**30


def test_size_of_a_continuous_space_is_unknown() -> None:
    assert Space({"rate": Float(0, 1)}).size is None
    assert Space({}).size == 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": Int(1, 2, when={"bb": 1}), "bbb": Int(1, 2)}, "a.when.bb: unknown param; did you mean 'bbb'?"),
        (
            {"a": Int(1, 2, when={"b": "z"}), "b": Choice(("x", "y"))},
            "a.when.b: can never be 'z'; allowed: 'x', 'y'",
        ),
        ({"a": Int(1, 2, when={"b": 3}), "b": Int(1, 2)}, "a.when.b: can never be 3; allowed: 1 to 2"),
        ({"a": Int(1, 2, when={"a": 1})}, "a.when: conditions must not run in a circle: a -> a"),
        (
            {"a": Int(1, 2, when={"b": 1}), "b": Int(1, 2, when={"c": 1}), "c": Int(1, 2, when={"a": 1})},
            "conditions must not run in a circle: ",
        ),
    ],
)
def test_conditions_that_cannot_hold_are_refused(params: dict[str, Param], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        Space(params)
    assert message in str(error.value)


def test_spaces_compare_by_their_params_and_can_be_sent_to_workers() -> None:
    assert pickle.loads(pickle.dumps(nested)) == nested
    assert Space(dict(sorted(nested.params.items()))) == nested


def test_space_error_can_be_sent_between_processes() -> None:
    error = pickle.loads(
        pickle.dumps(SpaceError(Fault(("a", "b"), "is wrong", "f.yaml", 3), Fault((), "too")))
    )
    assert str(error) == "f.yaml:3: a.b: is wrong\ntoo"


def test_check_value_takes_exactly_what_a_param_can_be() -> None:
    assert [check_value(value) for value in (True, 1, 0.5, "a")] == [True, 1, 0.5, "a"]
    refused: list[object] = [None, math.inf, [1], {}]
    for value in refused:
        with pytest.raises(SpaceError, match="must be a finite number, a text, true or false, got"):
            check_value(value)


def test_words_for_messages() -> None:
    assert did_you_mean("macro_f", ["macro_f1", "accuracy"]) == "; did you mean 'macro_f1'?"
    assert did_you_mean("zzz", ["macro_f1"]) == ""
    assert [shown(value) for value in (None, True, "a", 1.5)] == ["null", "true", "'a'", "1.5"]
    assert len(shown("x" * 500)) == 60
    assert among(1, [True, 1]) and not among(1, [True])


def test_completed_is_what_is_given_then_the_defaults_then_the_middle() -> None:
    space = Space(
        {
            "rate": Float(0.01, 1.0, log=True),
            "units": Int(1, 29),
            "optimizer": Choice(("adam", "sgd")),
            "momentum": Float(0.0, 0.9, when={"optimizer": "sgd"}),
        }
    )
    defaults = {"rate": 0.5, "units": 1000, "optimizer": "adam", "momentum": 0.5}
    assert space.completed({}, defaults) == {"rate": 0.5, "units": 15, "optimizer": "adam"}
    given = {"rate": 0.02, "optimizer": "sgd"}
    assert space.completed(given, defaults) == {**given, "units": 15, "momentum": 0.5}
    assert space.completed(given, {}) == {**given, "units": 15, "momentum": 0.45}
    assert space.completed({}, {})["rate"] == pytest.approx(0.1)
    assert not [*space.faults_of(given)]


def test_completed_has_values_of_the_type_in_which_they_would_be_drawn() -> None:
    space = Space({"rate": Float(0.0, 2.0), "units": Choice((16, 32))})
    completed = space.completed({"rate": 1, "units": 16.0}, {})
    assert completed == {"rate": 1.0, "units": 16}
    assert [type(value) for value in completed.values()] == [float, int]
