"""The Gaussian process against textbook computations, and the suggester around it on small spaces."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from search.gaussian_process import (
    BLOCK,
    Process,
    expected_improvement,
    fit,
    matern,
    misfit,
    normal_scores,
    ridge,
)
from search.gp_suggester import KEPT, MEMORY, Cube, GaussianProcessSuggester
from search.suggesters import First, Random, Suggester
from spaces.params import Choice, Float, Int, Space, Value

Array = NDArray[np.float64]

MIXED = Space(
    {
        "rate": Float(1e-4, 1.0, log=True),
        "units": Int(4, 64, log=True),
        "optimizer": Choice(("adam", "sgd", "lion")),
        "momentum": Float(0.0, 0.9, when={"optimizer": "sgd"}),
        "nesterov": Choice((True, False), when={"optimizer": "sgd"}),
        "layers": Int(1, 3),
        "last": Int(4, 64, when={"layers": [2, 3]}),
    }
)
THETA = np.log([0.3, 0.5, 0.01])
GROUPS = np.array([0, 1])


def covariance(x: Array, z: Array) -> Array:
    """The definition, one pair at a time."""
    scale = np.exp(THETA[:-1])
    k = np.zeros((len(x), len(z)))
    for i, j in np.ndindex(*k.shape):
        r = math.sqrt((((x[i] - z[j]) / scale) ** 2).sum())
        k[i, j] = (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r)
    return k


@pytest.fixture
def small() -> tuple[Array, Array, Array]:
    chance = np.random.default_rng(0)
    return chance.random((6, 2)), chance.normal(size=6), chance.random((5, 2))


def test_posterior_is_the_textbooks(small: tuple[Array, Array, Array]) -> None:
    x, y, z = small
    inverse = np.linalg.inv(covariance(x, x) + 0.01 * np.eye(6))
    mean, deviation = Process(x, y, THETA, GROUPS).at(z)
    np.testing.assert_allclose(mean, covariance(z, x) @ inverse @ y, atol=1e-8)
    expected = np.diag(covariance(z, z) - covariance(z, x) @ inverse @ covariance(x, z))
    np.testing.assert_allclose(deviation**2, expected, atol=1e-8)


def test_believing_the_mean_leaves_it_and_lessens_the_doubt(small: tuple[Array, Array, Array]) -> None:
    x, y, z = small
    alone, believing = Process(x, y, THETA, GROUPS), Process(x, y, THETA, GROUPS, z[:2])
    told = Process(np.vstack([x, z[:2]]), np.append(y, alone.at(z[:2])[0]), THETA, GROUPS)
    np.testing.assert_allclose(believing.at(z), told.at(z), atol=1e-8)
    np.testing.assert_allclose(believing.at(z)[0], alone.at(z)[0], atol=1e-8)
    assert (believing.at(z)[1] < alone.at(z)[1]).all()


@pytest.mark.parametrize(
    ("amount", "moved", "theta", "kept"),
    [
        (3 * BLOCK, None, THETA, 2 * BLOCK),
        (2 * BLOCK + 7, None, THETA, 2 * BLOCK),
        (BLOCK - 1, None, THETA, 0),
        (3 * BLOCK, BLOCK + 1, THETA, BLOCK),
        (3 * BLOCK, 3, THETA, 0),
        (3 * BLOCK, None, THETA + 0.1, 0),
    ],
    ids=["more rows", "the same", "fewer", "one moved", "an early one moved", "other length scales"],
)
def test_what_is_known_of_the_process_before_is_kept_and_changes_not_a_bit(
    amount: int, moved: int | None, theta: Array, kept: int
) -> None:
    chance = np.random.default_rng(0)
    x, y, z = chance.random((3 * BLOCK, 2)), chance.normal(size=3 * BLOCK), chance.random((5, 2))
    with threadpool_limits(1):
        before = Process(x[: 2 * BLOCK + 7], y[: 2 * BLOCK + 7], THETA, GROUPS, believed=z)
        if moved is not None:
            x[moved] += 0.1
        fresh = Process(x[:amount], y[:amount], theta, GROUPS, z[1:])
        quick = Process(x[:amount], y[:amount], theta, GROUPS, z[1:], before)
        assert len(before._common_factor(fresh)) == kept
        np.testing.assert_array_equal(quick.at(z), fresh.at(z))


def test_gradient_of_the_misfit_is_its_slope(small: tuple[Array, Array, Array]) -> None:
    x, y, _ = small
    squares = np.array([(x[:, [g]] - x[:, g]) ** 2 for g in (0, 1)])
    _, gradient = misfit(THETA, squares, y)
    for i, step in enumerate(1e-5 * np.eye(3)):
        slope = (misfit(THETA + step, squares, y)[0] - misfit(THETA - step, squares, y)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6)


def test_fit_finds_the_column_that_matters() -> None:
    x = np.random.default_rng(0).random((60, 3))
    theta = fit(x, normal_scores(np.sin(6 * x[:, 1])), np.array([0, 1, 2]))
    assert theta[1] < min(theta[0], theta[2]) - 1, "its length scale is the shortest"


def test_expected_improvement_is_that_of_a_simulation() -> None:
    draws = np.random.default_rng(0).normal(size=400_000)
    for mean, deviation, incumbent in [(0.0, 1.0, 0.5), (0.3, 0.2, 0.0), (-1.0, 0.5, 0.0)]:
        simulated = np.maximum(mean + deviation * draws - incumbent, 0).mean()
        (formula,) = expected_improvement(np.array([mean]), np.array([deviation]), incumbent)
        assert formula == pytest.approx(simulated, abs=2e-3)


def test_normal_scores_keep_the_order_and_put_nan_last() -> None:
    scores = normal_scores(np.array([3.0, math.nan, -1e30, math.nan, 3.0, 7.0]))
    assert scores[1] == scores[3] < scores[2] < scores[0] == scores[4] < scores[5]
    assert normal_scores(np.arange(5.0)) == pytest.approx([-1.18, -0.497, 0, 0.497, 1.18], abs=1e-2)


def test_ridge_finds_the_slopes_of_a_plane() -> None:
    x = np.random.default_rng(0).random((200, 3))
    assert ridge(x, 5 + x @ [2.0, 0.0, -1.0]) == pytest.approx([2, 0, -1], abs=0.02)


def test_matern_of_no_distance_is_one() -> None:
    assert matern(np.array([0.0])) == 1


# ---- the unit cube ----


def test_points_are_the_params_they_came_from() -> None:
    cube, chance = Cube(MIXED), np.random.default_rng(0)
    for _ in range(50):
        params = MIXED.sample(chance)
        again = cube.params(cube.point(params))
        assert again.keys() == params.keys()
        assert all(again[name] == pytest.approx(value) for name, value in params.items())


def test_param_that_does_not_exist_has_no_say() -> None:
    cube = Cube(MIXED)
    names = list(MIXED.params)
    adam = cube.point({"rate": 0.1, "units": 8, "optimizer": "adam", "layers": 1})
    other = adam.copy()
    other[[names.index("momentum"), names.index("nesterov"), names.index("last")]] = 0.9
    sgd = adam.copy()
    sgd[names.index("optimizer")] = 0.5
    one, two, three = cube.encode(np.array([adam, other, sgd]))
    assert (one == two).all() and (one != three).any()
    assert len(cube.groups) == len(one) + 1, "one more for the epoch"


def test_two_choices_lie_as_far_apart_as_the_ends_of_a_range() -> None:
    rows = Cube(Space({"c": Choice(("a", "b", "c"))})).encode(np.array([[0.1], [0.5], [0.9]]))
    assert ((rows[0] - rows[1]) ** 2).sum() == pytest.approx(1)
    assert ((rows[0] - rows[2]) ** 2).sum() == pytest.approx(1)


# ---- the suggester ----


def value_of(params: dict[str, Value], epoch: int) -> float:
    """Best at rate 0.01, units 64 and sgd with much momentum; far below that it diverges."""
    rate, momentum = float(params["rate"]), float(params.get("momentum", 0.0))
    if rate > 0.7:
        return math.nan
    quality = -abs(math.log10(rate) + 2) + math.log(float(params["units"])) / 4 + momentum
    return quality - 1 / epoch


def play(suggester: Suggester, trials: int, start: int = 1) -> list[dict[str, Value]]:
    """One trial in three goes on to epoch 3, every ninth one to the last; five are always in flight."""
    proposed: list[dict[str, Value]] = []
    for number in range(start, start + trials):
        params = suggester.suggest(number)
        assert params is not None
        proposed.append(params)
        if len(proposed) > 5:
            tell(suggester, number - 5, proposed[-6])
    return proposed


def tell(suggester: Suggester, number: int, params: dict[str, Value]) -> None:
    last = 9 if number % 9 == 0 else 3 if number % 3 == 0 else 1
    for epoch in range(1, last + 1):
        value = value_of(params, epoch)
        suggester.report(number, epoch, value, seconds=1.0)
        if math.isnan(value):
            suggester.finish(number, "stopped", value)
            return
    if last == 9:
        suggester.finish(number, "complete", value)
    else:
        suggester.rest(number)


def make(seed: int = 0) -> GaussianProcessSuggester:
    return GaussianProcessSuggester(MIXED, seed, epochs=9, rungs=(1, 3))


def test_same_seed_same_proposals_other_seed_others() -> None:
    assert play(make(3), 25) == play(make(3), 25) != play(make(4), 25)


def test_restored_suggester_goes_on_as_the_first_would() -> None:
    live, again = make(), make()
    proposed = play(live, 160)  # as many as fill whole blocks of rows, see Process
    for number, params in enumerate(proposed, 1):
        again.restore(number, params)
        if number > 5:
            tell(again, number - 5, proposed[number - 6])
    assert again.suggest(161) == live.suggest(161)


def test_every_proposal_lies_in_the_space_and_none_comes_twice() -> None:
    proposed = play(make(), 60)
    assert all(MIXED.contains(params) for params in proposed)
    assert len({str(params) for params in proposed}) == 60


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_better_than_chance_on_a_smooth_function(seed: int) -> None:
    def late(suggester: Suggester) -> float:
        return float(np.nanmean([value_of(params, 9) for params in play(suggester, 60)[40:]]))

    assert late(make(seed)) > late(Random(MIXED, seed)) + 0.5


@pytest.mark.parametrize("bad", ["nan", "infeasible"])
def test_proposals_stay_away_from_what_ended_badly(bad: str) -> None:
    """The upper half of the range is bad, and only slightly better further down."""
    space = Space({"rate": Float(0.0, 1.0), "other": Float(0.0, 1.0)})
    suggester = GaussianProcessSuggester(space, 0, epochs=1)
    rates = []
    for number in range(1, 31):
        params = suggester.suggest(number)
        rates.append(float(params["rate"]))
        if rates[-1] <= 0.5:
            suggester.report(number, 1, rates[-1] / 100, seconds=1.0)
            suggester.finish(number, "complete", rates[-1] / 100)
        elif bad == "nan":
            suggester.report(number, 1, math.nan, seconds=1.0)
            suggester.finish(number, "stopped", math.nan)
        else:
            suggester.finish(number, "infeasible", math.nan)
    assert np.mean(np.array(rates[12:]) > 0.5) < 0.35
    assert max(rate for rate in rates if rate <= 0.5) > 0.45


def failing(num: int, epochs: int) -> tuple[GaussianProcessSuggester, list[float]]:
    """A suggester whose first ``num`` trials all failed, in their last epoch, and what they are worth."""
    suggester = GaussianProcessSuggester(Space({"rate": Float(0.0, 1.0)}), 0, epochs)
    values = []
    for number in range(1, num + 1):
        values.append(-abs(float(suggester.suggest(number)["rate"]) - 0.83))
        if epochs > 1:
            suggester.report(number, 1, values[-1], seconds=1.0)
        suggester.finish(number, "failed", math.nan)
    return suggester, values


def test_trials_that_are_retried_are_no_bad_ones_any_more() -> None:
    suggester, values = failing(12, epochs=1)
    for number in range(1, 13):
        suggester.retry(number)
    assert 0 <= float(suggester.suggest(13)["rate"]) <= 1, "nothing is known any more"
    for number, value in enumerate(values, 1):
        suggester.report(number, 1, value, seconds=1.0)
        suggester.finish(number, "complete", value)
    assert sorted(suggester._values.values()) == sorted(values)
    assert abs(float(suggester.suggest(14)["rate"]) - 0.83) < 0.1


def test_retried_trial_that_had_reported_all_it_has_is_worth_that() -> None:
    suggester, values = failing(3, epochs=2)
    suggester.retry(2)
    suggester.finish(2, "complete", values[1])
    learned = [suggester._values[number, 2] for number in (1, 2, 3)]
    np.testing.assert_array_equal(learned, [math.nan, values[1], math.nan])


def test_trial_that_ends_by_itself_before_the_last_epoch_is_learned_from() -> None:
    """As from a classifier that has one epoch only, which is none of the rungs."""
    space = Space({"rate": Float(0.0, 1.0)})
    suggester = GaussianProcessSuggester(space, 0, epochs=54, rungs=(2, 6, 18))
    rates = []
    for number in range(1, 26):
        rates.append(float(suggester.suggest(number)["rate"]))
        value = -abs(rates[-1] - 0.83)
        suggester.report(number, 1, value, seconds=1.0)
        suggester.finish(number, "complete", value)
    assert max(abs(rate - 0.83) for rate in rates[-5:]) < 0.1


def costs_proposed(in_flight: int, seed: int, has_costs: bool = True) -> list[float]:
    """Of ``cost`` nothing depends but the time of an epoch, a hundredfold from one end to the other."""
    space = Space({"cost": Float(0.0, 1.0), "rate": Float(0.0, 1.0)})
    suggester = First([space.completed({}, {})], GaussianProcessSuggester(space, seed, epochs=1))
    proposed: list[dict[str, Value]] = []
    for number in range(1, 41):
        proposed.append(suggester.suggest(number) or {})
        if number > in_flight:
            params = proposed[number - 1 - in_flight]
            value, seconds = -abs(float(params["rate"]) - 0.3), 100 ** float(params["cost"])
            suggester.report(number - in_flight, 1, value, seconds if has_costs else 1.0)
            suggester.finish(number - in_flight, "complete", value)
    return [float(params["cost"]) for params in proposed]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_equal_gains_the_quicker_is_proposed(seed: int) -> None:
    quick, blind = costs_proposed(3, seed), costs_proposed(3, seed, has_costs=False)
    assert np.mean(quick[15:]) < min(0.3, float(np.mean(blind[15:])) - 0.1)


def test_alone_on_one_worker_seconds_change_nothing() -> None:
    assert costs_proposed(0, seed=0) == costs_proposed(0, seed=0, has_costs=False)


def test_a_small_space_is_tried_out_before_anything_comes_again() -> None:
    space = Space({"a": Choice((1, 2, 3)), "b": Int(1, 4)})
    suggester = GaussianProcessSuggester(space, 0, epochs=1)
    seen = []
    for number in range(1, 13):
        params = suggester.suggest(number)
        seen.append((params["a"], params["b"]))
        suggester.report(number, 1, float(params["b"]), seconds=1.0)
        suggester.finish(number, "complete", 0.0)
    assert len(set(seen)) >= 11, "the first few come by chance"


def test_memory_stays_bounded_and_keeps_the_best() -> None:
    suggester = make()
    chance = np.random.default_rng(0)
    for number in range(1, 1000):
        suggester._start(number, MIXED.sample(chance))
        suggester.report(number, 1, math.nan if number % 5 == 0 else float(number % 700), seconds=1.0)
        suggester.rest(number)
        assert len(suggester._values) <= MEMORY
    assert len(suggester._values) >= KEPT
    best = sorted((value for value in suggester._values.values() if not math.isnan(value)), reverse=True)
    assert best[:3] == [699, 698, 697]
    assert MIXED.contains(suggester.suggest(1000))


def test_a_promoted_trial_is_in_flight_again() -> None:
    suggester = make()
    play(suggester, 20)
    suggester.rest(20)
    assert 20 not in suggester._in_flight
    suggester.report(20, 2, 0.5, seconds=1.0)
    assert 20 in suggester._in_flight
