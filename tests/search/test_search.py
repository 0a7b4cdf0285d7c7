"""The brain: what it hands out, when it stops, and that its log alone rebuilds it."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.events import Event, Finished, Promoted, Reported, RunError, RunFailed, TrialStarted
from search.folder import RunFolder
from search.results import Results
from search.search import NOTHING, Ended, Memory, Report, Search
from tests.search.conftest import drive, make_sweep, seconds_of, start

SUGGESTERS = ("random", "gp", "tpe", "cmaes", "qmc")  # and nsga2, which needs whole trials


def statuses(search: Search) -> Counter[str]:
    return Counter(trial.status for trial in search.run.trials.values())


@pytest.mark.parametrize("suggester", SUGGESTERS)
@pytest.mark.parametrize("rule", ["promote", "stop"])
def test_log_cut_anywhere_gives_the_same_next_suggestion_and_decisions(suggester: str, rule: str) -> None:
    first = [{"units": 8}, {"optimizer": "sgd", "momentum": 0.5}]
    sweep = make_sweep(
        search={"suggester": suggester, "trials": 40, "seed": 1, "first": first},
        asha={"grace": 1, "reduction": 3, "rule": rule},
        space={
            "learning_rate": {"float": [0.001, 1.0], "log": True},
            "optimizer": ["adam", "sgd"],
            "momentum": {"float": [0.0, 0.9], "when": {"optimizer": "sgd"}},
            "units": {"int": [4, 64]},
        },
    )
    live, log = start(sweep)
    drive(live)
    for cut in range(1, len(log), 7):
        again = Search.replay(sweep, log[:cut], lambda *events: None)
        expected = log[cut]
        match expected:
            case TrialStarted():
                assert again._suggester.suggest(expected.trial) == expected.params
            case Promoted():
                assert expected.trial in (*again.asha.all_promotable(), again.asha.last_promotable())
            case Reported() if not isinstance(next(iter(log[cut + 1 :]), None), Finished):
                value = expected.metrics["macro_f1"]
                assert again.asha.report(expected.trial, expected.epoch, value) == expected.decision


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 12])
def test_every_search_trains_at_least_one_trial_to_its_end(trials: int) -> None:
    search, _ = start(make_sweep(search={"suggester": "random", "trials": trials, "seed": 0}))
    drive(search)
    assert statuses(search)["complete"] >= 1
    assert len(search.run.trials) == trials


def test_without_asha_every_trial_is_complete() -> None:
    search, _ = start(make_sweep(asha="off"))
    drive(search)
    assert statuses(search) == {"complete": 12}


def test_trial_that_was_running_is_handed_out_first_after_a_replay() -> None:
    sweep = make_sweep()
    search, log = start(sweep)
    first, second = search.next_trial(), search.next_trial()
    assert first and second
    search.report(Report(first.trial, 1, {"macro_f1": 0.5}, checkpoint={}))
    again = Search.replay(sweep, log, log.append)
    stretch = again.next_trial()
    assert stretch and stretch.trial == second.trial
    assert (stretch.params, stretch.seed, stretch.start) == (second.params, second.seed, 0)


def test_stretch_goes_on_from_the_last_checkpoint_and_reports_nothing_twice() -> None:
    sweep = make_sweep(asha="off")
    search, log = start(sweep)
    assert (stretch := search.next_trial())
    for epoch, files in [(1, {}), (2, {"w": b""}), (3, None)]:
        search.report(Report(stretch.trial, epoch, {"macro_f1": epoch / 10}, checkpoint=files))
    again = Search.replay(sweep, log, log.append).next_trial()
    assert again and (again.start, again.reported, again.best) == (2, 3, 0.3)


def waiting() -> tuple[Search, list[Event]]:
    """Nine trials wait at the first rung, and the first three of them may go on."""
    search, log = start(make_sweep())
    for stretch in [search.next_trial() for _ in range(9)]:
        assert stretch
        value = 1 - stretch.trial / 10
        assert search.report(Report(stretch.trial, 1, {"macro_f1": value}, checkpoint={})) == "pause"
    return search, log


def next_number(search: Search, memory: Memory = NOTHING) -> int:
    stretch = search.next_trial(memory)
    assert stretch
    return stretch.trial


def test_of_those_that_may_go_on_one_that_the_worker_holds_does_and_the_log_says_which() -> None:
    search, log = waiting()
    assert next_number(search, Memory(trials={9, 2})) == 2
    again = Search.replay(search.sweep, log, log.append)
    assert again.asha.all_promotable() == [1, 3]
    assert next_number(search, Memory(trials={9})) == 1, "9 may not go on"


def test_of_those_that_may_go_on_one_whose_structure_the_worker_has_does() -> None:
    search, _ = waiting()
    search.structure = lambda params: str(params["learning_rate"])
    known = {str(search.run.trials[number].params["learning_rate"]) for number in (3, 9)}
    assert next_number(search, Memory(structures=known)) == 3
    assert next_number(search, Memory(trials={2}, structures=known)) == 2
    assert next_number(search) == 1


def test_trial_that_its_worker_left_is_handed_out_before_any_other_and_to_who_holds_it_first() -> None:
    search, log = waiting()
    running = [next_number(search) for _ in range(3)]
    for number in running[:2]:
        search.give_back(number)
    assert search.num_in_flight == 1
    assert next_number(search, Memory(trials={running[1]})) == running[1]
    assert next_number(search) == running[0]
    again = Search.replay(search.sweep, log, log.append)
    assert {next_number(again) for _ in range(3)} == set(running)


def test_epochs_trained_beyond_a_stop_are_counted_as_wasted() -> None:
    search, log = start(make_sweep(asha="off", budget={"target": 0.9}))
    number = next_number(search)
    epochs = [Report(number, epoch, {"macro_f1": value}) for epoch, value in [(1, 0.1), (2, 0.95), (3, 0.96)]]
    assert search.report(*epochs, ahead=1) == "stop"
    assert (search.run.epochs, search.run.wasted_epochs) == (2, 2), "the third, and the one under way"
    assert Search.replay(search.sweep, log, log.append).run.wasted_epochs == 2


def test_nan_stops_a_trial_with_the_reason() -> None:
    search, _ = start(make_sweep())
    assert (stretch := search.next_trial())
    assert search.report(Report(stretch.trial, 1, {"macro_f1": math.nan})) == "stop"
    trial = search.run.trials[stretch.trial]
    assert trial.status == "stopped" and "NaN at epoch 1" in trial.reason


def test_infeasible_trials_cost_no_budget() -> None:
    search, _ = start(make_sweep(search={"suggester": "random", "trials": 2, "seed": 0}))
    for _ in range(5):
        assert (stretch := search.next_trial())
        search.finish(Ended(stretch.trial, "infeasible", "kernel too large"))
    drive(search)
    assert len(search.run.trials) == 7
    assert statuses(search)["infeasible"] == 5


def test_search_gives_up_when_nothing_is_feasible() -> None:
    search, _ = start(make_sweep())
    with pytest.raises(RunFailed, match="200 configurations in a row were infeasible.*kernel too large"):
        for _ in range(500):
            assert (stretch := search.next_trial())
            search.finish(Ended(stretch.trial, "infeasible", "kernel too large"))


def test_search_gives_up_when_every_trial_fails() -> None:
    search, _ = start(make_sweep())
    with pytest.raises(RunFailed, match="first 5 trials all failed.*no such op"):
        for _ in range(10):
            assert (stretch := search.next_trial())
            search.finish(Ended(stretch.trial, "failed", "no such op"))


@pytest.mark.parametrize("suggester", SUGGESTERS)
def test_failed_trial_that_is_retried_goes_on_and_the_log_alone_says_so(suggester: str) -> None:
    asha = {"grace": 3, "reduction": 3}
    search, log = start(make_sweep(search={"suggester": suggester, "trials": 20, "seed": 0}, asha=asha))
    for _ in range(2):
        assert (stretch := search.next_trial())
        search.report(Report(stretch.trial, 1, {"macro_f1": 0.5}, checkpoint={}))
    search.finish(Ended(1, "failed", "no such op"))
    search.take_up_again(failed=True)
    assert search.run.trials[1].status == "running"
    assert (again := search.next_trial())
    assert (again.trial, again.start, again.reported) == (1, 1, 1)
    for trial in (1, 2):
        search.give_back(trial)  # to those who work from here on
    drive(search)
    assert statuses(search)["failed"] == 0
    replayed = Search.replay(search.sweep, log, log.append)
    assert statuses(replayed) == statuses(search)
    assert replayed._suggester.suggest(21) == search._suggester.suggest(21)


@pytest.mark.parametrize("suggester", SUGGESTERS)
def test_trials_that_a_target_cut_off_go_on_where_it_is_no_longer_one(suggester: str) -> None:
    sections = {"search": {"suggester": suggester, "trials": 4, "seed": 0}, "asha": "off"}
    search, log = start(make_sweep(**sections, budget={"target": 0.9}))
    for _ in range(2):
        assert search.next_trial()
    assert search.report(Report(1, 1, {"macro_f1": 0.95}, checkpoint={})) == "stop"
    assert search.report(Report(2, 1, {"macro_f1": 0.1})) == "stop"
    assert statuses(search) == {"stopped": 2}
    same = Search.replay(search.sweep, log, lambda *events: log.extend(events))
    same.take_up_again()
    assert same.next_trial() is None and statuses(same) == {"stopped": 2}

    beyond = Search.replay(make_sweep(**sections), log, lambda *events: log.extend(events))
    beyond.take_up_again()
    stretches = [beyond.next_trial() for _ in range(2)]
    assert [(s.trial, s.start, s.reported) for s in stretches if s] == [(1, 1, 1), (2, 0, 1)]
    for trial in (1, 2):
        beyond.give_back(trial)  # to those who work from here on
    drive(beyond)
    assert statuses(beyond) == {"complete": 4}
    replayed = Search.replay(beyond.sweep, log, lambda *events: log.extend(events))
    replayed.take_up_again()
    assert statuses(replayed) == {"complete": 4} and replayed.next_trial() is None


def test_trials_that_a_rung_stopped_do_not_go_on_with_those_that_time_cut_off() -> None:
    now = 0.0
    sections: dict[str, Any] = {"asha": {"grace": 1, "reduction": 2, "rule": "stop"}}
    search, log = start(make_sweep(**sections, budget={"minutes": 1}), clock=lambda: now)
    for _ in range(3):
        assert search.next_trial()
    assert search.report(Report(1, 1, {"macro_f1": 0.5})) == "continue"
    assert search.report(Report(2, 1, {"macro_f1": 0.1})) == "stop"
    now = 61.0
    assert search.report(Report(1, 2, {"macro_f1": 0.6})) == "stop"
    assert search.report(Report(3, 1, {"macro_f1": 0.6})) == "stop"
    longer = Search.replay(
        make_sweep(**sections, budget={"minutes": 2}),
        log,
        lambda *events: log.extend(events),
        clock=lambda: now,
    )
    longer.take_up_again()
    assert [longer.run.trials[number].status for number in (1, 2, 3)] == ["running", "stopped", "running"]


def test_trial_whose_worker_dies_goes_on_elsewhere_and_fails_the_third_time() -> None:
    search, log = start(make_sweep())
    assert (stretch := search.next_trial())
    for _ in range(3):
        search.lose(stretch.trial, "killed")
        again = search.next_trial()
    trial = search.run.trials[stretch.trial]
    assert again and again.trial != stretch.trial
    assert trial.status == "failed" and "died 3 times" in trial.reason
    replayed = Search.replay(search.sweep, log, log.append)
    assert replayed.run.trials[stretch.trial].status == "failed"


def test_trial_that_gets_on_between_the_deaths_of_its_workers_is_not_given_up() -> None:
    search, _ = start(make_sweep(asha="off"))
    assert (stretch := search.next_trial())
    for epoch in range(1, 5):
        for _ in range(2):
            search.lose(stretch.trial, "its machine was taken away")
            assert (again := search.next_trial()) and again.trial == stretch.trial
        search.report(Report(stretch.trial, epoch, {"macro_f1": 0.5}))
    assert search.run.trials[stretch.trial].status == "running"


@pytest.mark.parametrize("rule", ["promote", "stop"])
def test_trial_whose_end_did_not_reach_the_disk_ends_as_it_would_have(rule: str) -> None:
    """A driver may be killed when the first of two lines is written: the report that ends a trial."""
    search, log = start(make_sweep(asha={"grace": 3, "reduction": 3, "rule": rule}))
    drive(search)
    cuts = [i for i, event in enumerate(log) if isinstance(event, Finished)]
    assert len(cuts) > 3
    for cut in cuts:
        kept = log[:cut]
        Search.replay(search.sweep, log[:cut], lambda *events, to=kept: to.extend(events))
        assert kept == log[: cut + 1], "what was lost is written"


def test_target_ends_the_search_and_stops_the_others() -> None:
    search, _ = start(make_sweep(asha="off", budget={"target": 0.9}))
    first, second = search.next_trial(), search.next_trial()
    assert first and second
    assert search.report(Report(first.trial, 1, {"macro_f1": 0.95})) == "stop"
    assert search.report(Report(second.trial, 1, {"macro_f1": 0.1})) == "stop"
    assert search.next_trial() is None
    assert search.over() == "trial 1 reached the target of 0.9"
    assert "trial 1 reached the target" in search.run.trials[2].reason


def test_budget_of_minutes_ends_the_search() -> None:
    now = 0.0
    search, _ = start(make_sweep(asha="off", budget={"minutes": 2}), clock=lambda: now)
    assert (stretch := search.next_trial())
    assert search.report(Report(stretch.trial, 1, {"macro_f1": 0.5})) == "continue"
    now = 120.0
    assert search.report(Report(stretch.trial, 2, {"macro_f1": 0.5})) == "stop"
    assert search.next_trial() is None
    assert search.over() == "the budget of 2 minutes is used up"


def test_more_trials_go_on_where_the_finished_search_stood() -> None:
    short = make_sweep(search={"suggester": "random", "trials": 6, "seed": 0})
    search, log = start(short)
    drive(search)
    done = {n: t.epoch for n, t in search.run.trials.items()}
    longer = make_sweep(search={"suggester": "random", "trials": 12, "seed": 0})
    again = Search.replay(longer, log, lambda *events: log.extend(events))
    drive(again)
    assert len(again.run.trials) == 12
    assert all(again.run.trials[n].epoch >= epoch for n, epoch in done.items())
    repeated = [(e.trial, e.epoch) for e in log if isinstance(e, Reported)]
    assert len(repeated) == len(set(repeated)), "no epoch was reported twice"


def test_grid_tries_every_point_once() -> None:
    space = {"learning_rate": [0.01, 0.1], "batch_size": [8, 16, 32]}
    search, log = start(make_sweep(space=space, search={"suggester": "grid"}))
    drive(search)
    points = [tuple(event.params.values()) for event in log if isinstance(event, TrialStarted)]
    assert len(points) == len(set(points)) == 6


def params_tried(**search_section: Any) -> list[dict[str, object]]:
    asha = "off" if search_section["suggester"] == "nsga2" else {"grace": 1, "reduction": 3}
    search, log = start(make_sweep(search={"trials": 8, "seed": 0} | search_section, asha=asha))
    drive(search)
    return [dict(event.params) for event in log if isinstance(event, TrialStarted)]


@pytest.mark.parametrize("suggester", [*SUGGESTERS, "nsga2"])
def test_named_configurations_come_first_and_take_defaults_for_what_they_leave_out(suggester: str) -> None:
    tried = params_tried(suggester=suggester, first=[{"batch_size": 32}, {"learning_rate": 0.5}, {}])
    assert tried[:3] == [
        {"learning_rate": 0.1, "batch_size": 32},
        {"learning_rate": 0.5, "batch_size": 16},
        {"learning_rate": 0.1, "batch_size": 16},
    ]
    assert len(tried) == 8 and all(make_sweep().space.contains(params) for params in tried)


@pytest.mark.parametrize("suggester", ["gp", "tpe", "cmaes"])  # Optuna's NSGA-II knows those of its own only
def test_suggester_learns_from_named_configurations(suggester: str) -> None:
    """The same ones are worth other values: what follows differs, and a replay proposes the same."""

    def proposed(worst: str) -> list[dict[str, object]]:
        sections = {"asha": "off", "epochs": 1, "space": {"learning_rate": {"float": [0.0, 1.0]}}}
        first = [{"learning_rate": number / 25} for number in range(1, 25)]
        search, log = start(
            make_sweep(search={"suggester": suggester, "trials": 60, "first": first}, **sections)
        )
        while len(log) < 1 + 3 * 40:
            assert (stretch := search.next_trial())
            value = float(stretch.params["learning_rate"])
            search.report(Report(stretch.trial, 1, {"macro_f1": value if worst == "low" else 1 - value}))
        again = Search.replay(search.sweep, log, log.append)
        assert again._suggester.suggest(41) == search._suggester.suggest(41)
        return [dict(trial.params) for trial in search.run.trials.values()]

    high, low = proposed("low"), proposed("high")
    assert high[:24] == low[:24]
    later_high, later_low = (
        sum(float(str(params["learning_rate"])) for params in tried[24:]) for tried in (high, low)
    )
    assert later_high > later_low + 1


def test_trials_that_can_be_trained_at_once_are_those_begun_to_begin_and_to_go_on() -> None:
    search, log = start(make_sweep(search={"suggester": "random", "trials": 4, "seed": 0}))
    assert search.num_at_once == 4
    stretches = [search.next_trial() for _ in range(4)]
    assert search.num_at_once == 4
    for stretch in stretches[:3]:
        assert stretch
        search.report(Report(stretch.trial, 1, {"macro_f1": 1 - stretch.trial / 10}))
    assert search.num_at_once == 2, "one is in its first stretch, the best of three may go on"
    search.finish(Ended(4, "infeasible", "no model"))
    assert search.num_at_once == 2, "another is drawn for it"
    fewer = search.sweep.model_copy(update={"search": search.sweep.search.model_copy(update={"trials": 2})})
    assert Search.replay(fewer, log, log.append).num_at_once == 1


def test_trials_of_several_rungs_that_may_go_on_can_all_be_trained_at_once() -> None:
    search, _ = start(make_sweep(search={"suggester": "random", "trials": 12, "seed": 0}))
    for _ in range(1, 13):
        assert search.next_trial()
    for number in range(1, 13):
        search.report(Report(number, 1, {"macro_f1": 1 - number / 20}))
    for number in range(1, 4):
        assert (stretch := search.next_trial()) and stretch.trial == number
    for number in range(1, 4):
        for epoch in (2, 3):
            search.report(Report(number, epoch, {"macro_f1": 1 - number / 20}))
    assert [rung.promotable(3) for rung in search.asha.rungs.values()] == [[4], [1]]
    assert search.num_at_once == 2


def test_gp_begins_with_the_defaults_where_nothing_is_named() -> None:
    defaults = {"learning_rate": 0.1, "batch_size": 16}
    assert params_tried(suggester="gp")[0] == defaults
    assert params_tried(suggester="gp", first=[])[0] != defaults != params_tried(suggester="random")[0]


def test_same_seed_same_trials_other_seed_other_trials() -> None:
    def params(seed: int) -> list[dict[str, object]]:
        search, log = start(make_sweep(search={"suggester": "tpe", "trials": 12, "seed": seed}))
        drive(search)
        return [dict(event.params) for event in log if isinstance(event, TrialStarted)]

    assert params(3) == params(3) != params(4)


@pytest.mark.parametrize("workers", [1, 3])
def test_how_long_epochs_take_decides_only_where_several_workers_train(workers: int) -> None:
    def params(seconds: Callable[[dict[str, Any]], float]) -> list[dict[str, object]]:
        search, log = start(make_sweep(search={"suggester": "gp", "trials": 20, "seed": 0}))
        drive(search, workers, seconds=seconds)
        return [dict(event.params) for event in log if isinstance(event, TrialStarted)]

    assert (params(seconds_of) == params(lambda params: 1.0)) == (workers == 1)


def test_tpe_learns_from_paused_trials() -> None:
    """Most of 40 trials pause at a rung; later ones must draw nearer to the optimum than chance does."""

    def late(suggester: str) -> float:
        sweep = make_sweep(search={"suggester": suggester, "trials": 40, "seed": 0})
        search, _ = start(sweep)
        drive(search)
        rates = [float(search.run.trials[number].params["learning_rate"]) for number in range(20, 41)]
        return sum(abs(math.log10(rate) + 1) for rate in rates) / len(rates)

    assert late("tpe") < 0.7 * late("random")


def test_events_of_a_stop_are_appended_as_one_piece() -> None:
    pieces: list[tuple[Event, ...]] = []
    search, log = start(make_sweep(epochs=1, asha="off"))
    search._append = lambda *events: pieces.append(events)
    assert (stretch := search.next_trial())
    search.report(Report(stretch.trial, 1, {"macro_f1": 0.5}))
    assert [event.kind for event in pieces[-1]] == ["reported", "finished"]


@pytest.mark.parametrize("name", ["gp", "qmc", "tpe", "random"])
def test_space_without_params_is_one_configuration_as_often_as_asked(name: str) -> None:
    search, _ = start(make_sweep(space={}, asha="off", search={"suggester": name, "trials": 5, "seed": 0}))
    stretches = []
    while stretch := search.next_trial():
        stretches.append(stretch)
        for epoch in range(1, 10):
            search.report(Report(stretch.trial, epoch, {"macro_f1": 0.5}))
    assert [stretch.params for stretch in stretches] == [{}] * 5
    assert len({stretch.seed for stretch in stretches}) == 5


def test_best_trial_of_equals_is_the_one_that_was_there_first_for_everybody() -> None:
    search, _ = start(make_sweep(asha="off"))
    first, second = search.next_trial(), search.next_trial()
    assert first and second
    for stretch in (second, first):
        search.report(Report(stretch.trial, 1, {"macro_f1": 0.75}))
    results = Results(RunFolder(Path("tiny")), search.run, "running")
    assert search.run.best and search.run.best.number == 2
    assert [trial.number for trial in results.best()] == [2, 1]


@pytest.mark.parametrize("decision", ["continue", "pause"])
def test_log_that_another_version_decided_is_refused_not_followed(decision: Any) -> None:
    sweep = make_sweep(asha={"grace": 1, "reduction": 3, "rule": "promote"})
    search, log = start(sweep)
    for value in (0.1, 0.2, 0.3, 0.4):  # the third is the best of three, and goes on at once
        stretch = search.next_trial()
        assert stretch
        search.report(Report(stretch.trial, 1, {"macro_f1": value}))
    reports = [event for event in log if isinstance(event, Reported)]
    assert {event.decision for event in reports} == {"continue", "pause"}
    wrong = [
        event.model_copy(update={"decision": decision}) if isinstance(event, Reported) else event
        for event in log
    ]
    with pytest.raises(RunError, match="not what this version decides"):
        Search.replay(sweep, wrong, lambda *events: None)
    assert Search.replay(sweep, log, lambda *events: None).run.epochs == search.run.epochs


def test_stop_that_another_version_let_go_on_is_refused_too() -> None:
    sweep = make_sweep(asha={"grace": 1, "reduction": 3, "rule": "stop"})
    search, log = start(sweep)
    for value, decision in ((0.4, "continue"), (0.1, "stop")):
        assert (stretch := search.next_trial())
        assert search.report(Report(stretch.trial, 1, {"macro_f1": value})) == decision
    *before, stop, finished = log
    assert isinstance(stop, Reported) and isinstance(finished, Finished)
    wrong = [*before, stop.model_copy(update={"decision": "continue"})]
    with pytest.raises(RunError, match="not what this version decides"):
        Search.replay(sweep, wrong, lambda *events: None)
