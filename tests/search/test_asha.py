"""Asha against its written rules, and against Ray's own where Ray's is right."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from search.asha import Asha, Rule


def asha(rule: Rule = "promote", epochs: int = 27, grace: int = 3, reduction: int = 3) -> Asha:
    return Asha(epochs, grace, reduction, rule)


def test_rungs_lie_below_the_last_epoch() -> None:
    assert list(asha().rungs) == [3, 9]
    assert list(asha(epochs=28).rungs) == [3, 9, 27]
    assert list(asha(epochs=3).rungs) == []
    assert list(Asha(27, rule=None).rungs) == []


def test_result_counts_for_exactly_the_rung_it_reaches() -> None:
    search = asha()
    assert search.report(1, 4, 0.9) == "continue"  # between rungs
    assert search.report(1, 9, 0.9) == "pause"
    assert [len(rung.values) for rung in search.rungs.values()] == [0, 1]


@pytest.mark.parametrize("rule", ["promote", "stop"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_nan_stops_and_enters_no_rung(rule: Rule, epoch: int) -> None:
    search = asha(rule)
    assert search.report(1, epoch, math.nan) == "stop"
    assert not search.rungs[3].values and not search.rungs[3].waiting


class TestPromote:
    def test_nobody_is_promoted_before_the_rung_holds_reduction_results(self) -> None:
        search = asha()
        assert [search.report(trial, 3, value) for trial, value in [(1, 0.1), (2, 0.9)]] == ["pause", "pause"]
        assert search.promotable() is None

    def test_third_result_lets_the_best_of_three_go_on(self) -> None:
        search = asha()
        for trial, value in [(1, 0.1), (2, 0.9), (3, 0.5)]:
            assert search.report(trial, 3, value) == "pause"
        assert search.promotable() == 2
        search.promote(2)
        assert search.promotable() is None

    def test_trial_that_is_promotable_on_arrival_goes_on_without_a_pause(self) -> None:
        search = asha()
        for trial, value in [(1, 0.1), (2, 0.5)]:
            search.report(trial, 3, value)
        assert search.report(3, 3, 0.9) == "continue"
        assert search.rungs[3].num_promoted == 1
        assert search.promotable() is None

    def test_highest_rung_comes_first(self) -> None:
        search = asha()
        for trial in range(1, 10):
            search.report(trial, 3, trial / 10)
        for trial, value in [(9, 0.5), (8, 0.7), (7, 0.6)]:
            search.report(trial, 9, value)
        search.report(11, 3, 0.95)  # would be promotable at the lower rung
        assert search.promotable() == 8

    def test_whichever_of_the_promotable_goes_on_the_others_still_may(self) -> None:
        search = asha()
        for trial in range(1, 10):
            search.report(trial, 3, -trial)
        assert search.all_promotable() == [1, 2, 3]
        search.promote(3)
        assert search.all_promotable() == [1, 2]
        with pytest.raises(ValueError, match="trial 4"):
            search.promote(4)

    def test_earlier_trial_goes_first_among_equals(self) -> None:
        search = asha()
        for trial in (1, 2, 3):
            search.report(trial, 3, 0.5)
        assert search.promotable() == 1

    def test_third_of_a_thousand_goes_on_when_results_come_in_order(self) -> None:
        search = asha()
        order = np.random.default_rng(0).permutation(999)
        for trial, value in enumerate(order):
            search.report(trial, 3, float(value))
        promoted = 0
        while (best_waiting := search.promotable()) is not None:
            search.promote(best_waiting)
            promoted += 1
        rung = search.rungs[3]
        best = {trial for trial, value in enumerate(order) if value >= 666}
        waiting = {trial for _, trial in rung.waiting}
        assert not best & waiting, "all of the best third went on"
        assert rung.num_promoted < 333 + 40, "few that only looked good early on went with them"

    def test_when_nothing_else_is_left_the_best_of_the_highest_rung_goes_on(self) -> None:
        search = asha()
        search.report(1, 3, 0.1)
        search.report(2, 3, 0.2)
        assert search.promotable() is None
        assert search.last_promotable() == 2
        search.promote(2)
        assert search.last_promotable() is None, "one already goes on from there"
        search.report(2, 9, 0.3)
        assert search.last_promotable() == 2

    def test_promote_refuses_a_trial_that_is_nobodys_turn(self) -> None:
        with pytest.raises(ValueError, match="trial 7"):
            asha().promote(7)


class TestStop:
    def test_first_result_goes_on_whatever_it_is(self) -> None:
        assert asha("stop").report(1, 3, -5.0) == "continue"

    def test_second_goes_on_if_it_is_no_worse_than_the_first(self) -> None:
        search = asha("stop")
        search.report(1, 3, 0.5)
        assert search.report(2, 3, 0.4) == "stop"
        search = asha("stop")
        search.report(1, 3, 0.5)
        assert search.report(2, 3, 0.5) == "continue"

    @pytest.mark.parametrize("reduction", [2, 3, 4])
    @pytest.mark.parametrize("seed", range(5))
    def test_decisions_equal_rays_where_every_epoch_is_reported_and_none_is_nan(
        self, reduction: int, seed: int
    ) -> None:
        from ray.tune.schedulers import async_hyperband

        grace, epochs = 2, 40
        ours = Asha(epochs, grace, reduction, "stop")
        rays: Any = async_hyperband._Bracket(
            grace, epochs - 1, reduction, 0
        )  # the last epoch is a rung for Ray, and none for us
        random = np.random.default_rng(seed)
        alive = {trial: 0 for trial in range(60)}
        decisions = 0
        while alive:
            trial = int(random.choice(list(alive)))
            alive[trial] += 1
            epoch, value = alive[trial], float(random.normal() + trial / 30)
            decision = ours.report(trial, epoch, value)
            assert decision == rays.on_result(SimpleNamespace(trial_id=str(trial)), epoch, value).lower()
            decisions += decision == "stop"
            if decision == "stop" or epoch == epochs - 1:
                del alive[trial]
        assert decisions > 20


def test_expected_epochs_follow_the_ladder() -> None:
    assert asha().expected_epochs(40) == 40 * 3 + 13 * 6 + 4 * 18
    assert Asha(27, rule=None).expected_epochs(40) == 40 * 27


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.5], [0.5, 0.5, 0.0]])
def test_equal_results_promote_no_more_than_others(values: list[float]) -> None:
    search = Asha(27, grace=1)
    reached = dict.fromkeys(range(1, 41), 0)
    for trial in reached:
        climber: int | None = trial
        while climber is not None:
            decision = "continue"
            while decision == "continue" and reached[climber] < 27:
                reached[climber] += 1
                decision = search.report(climber, reached[climber], values[climber % len(values)])
            if (climber := search.promotable()) is not None:
                search.promote(climber)
    assert [rung.num_promoted for rung in search.rungs.values()] == [13, 4, 1]
    assert sum(reached.values()) == search.expected_epochs(40)
