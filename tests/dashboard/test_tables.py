"""What the dashboard shows of a run, as plain frames and texts."""

import math
from pathlib import Path

import pandas
import pytest

from dashboard import tables
from dashboard.reader import RunsReader, Snapshot
from search.events import Event, Finished, TrialStarted
from search.results import clock
from tests.dashboard.logs import CLASSES, COMPLETE, failed, started, trial, write


def snapshot(runs: Path, *events: Event) -> Snapshot:
    write(runs, "pets", started(), *events)
    read = RunsReader(runs).read()["pets"]
    assert isinstance(read, Snapshot)
    return read


def test_leaderboard_ranks_by_the_best_epoch_with_guards_and_the_params_that_vary(tmp_path: Path) -> None:
    frame = tables.leaderboard(snapshot(tmp_path, *trial(1, 0.3, 0.9, 0.4), *trial(2, 0.5), COMPLETE), top=10)
    assert list(frame.columns) == [
        *("rank", "trial", "macro_f1", "accuracy", "balanced_accuracy", "worst_class_recall"),
        *("best epoch", "epochs", "status", "param.units"),
    ]
    first, second = frame.to_dict("records")
    assert (first["rank"], first["trial"], first["macro_f1"], first["best epoch"], first["epochs"]) == (
        1,
        1,
        0.9,
        2,
        3,
    )
    assert (second["trial"], second["status"], second["param.units"]) == (2, "complete", 16)


def test_leaderboard_keeps_a_wanted_trial_below_the_top_with_its_rank(tmp_path: Path) -> None:
    results = snapshot(tmp_path, *trial(1, 0.3), *trial(2, 0.5), *trial(3, 0.7))
    frame = tables.leaderboard(results, top=1, also=[1])
    assert frame[["rank", "trial"]].to_numpy().tolist() == [[1, 3], [3, 1]]


def test_leaderboard_leaves_out_trials_whose_objective_is_nan(tmp_path: Path) -> None:
    assert tables.leaderboard(snapshot(tmp_path, *trial(1, math.nan), *trial(2, 0.5)), 10)[
        "trial"
    ].tolist() == [2]


def test_leaderboard_of_one_trial_shows_all_params(tmp_path: Path) -> None:
    frame = tables.leaderboard(snapshot(tmp_path, *trial(1, 0.5)), top=10)
    assert frame.filter(like="param.").to_dict("records") == [{"param.units": 8, "param.optimizer": "adam"}]


def test_params_of_one_column_have_one_type_and_conditional_ones_may_be_missing(tmp_path: Path) -> None:
    events = [
        *trial(1, 0.9, rate=0.1, layers=1, mixed=1, momentum=0.5, flag=True),
        *trial(2, 0.8, rate=1, layers=2, mixed="auto", flag=False),
    ]
    frame = tables.leaderboard(snapshot(tmp_path, *events), top=10)
    assert frame["param.rate"].tolist() == [0.1, 1.0]
    assert str(frame["param.layers"].dtype) == "Int64"
    assert frame["param.mixed"].tolist() == ["1", "auto"]
    assert frame["param.flag"].tolist() == ["True", "False"]
    assert frame["param.momentum"].isna().tolist() == [False, True]


def test_classes_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    frame = tables.classes(snapshot(tmp_path, *trial(1, 0.5)).run.trials[1], CLASSES)
    assert frame["class"].tolist() == list(CLASSES)
    assert frame["rows"].tolist() == [40, 10, 5]
    assert frame["recall"].tolist() == [0.75, 0.8, 0.0]
    assert frame["precision"].tolist() == pytest.approx([30 / 36, 8 / 14, 0.0])


def test_rows_judged_several_times_count_once(tmp_path: Path) -> None:
    trial_of = snapshot(tmp_path, *trial(1, 0.5)).run.trials[1]
    assert tables.classes(trial_of, CLASSES, repeat=5)["rows"].tolist() == [8, 2, 1]


def test_guards_name_lost_and_small_classes(tmp_path: Path) -> None:
    frame = tables.classes(snapshot(tmp_path, *trial(1, 0.5)).run.trials[1], CLASSES)
    assert tables.lost_classes(frame) == "Not one row is found of: <b>*eel*</b>."
    assert tables.small_classes(frame) == (
        "Fewer than 30 validation rows: dog, <b>*eel*</b> (the fewest: 5). One row moves such a recall "
        "by up to 0.200, so small differences are chance."
    )
    fine = frame.head(1)
    assert tables.lost_classes(fine) == tables.small_classes(fine) == ""
    assert "rows: every class (the fewest: 5)" in tables.small_classes(frame.iloc[1:])
    assert "by up to 1.000" in tables.small_classes(frame.assign(rows=0))


def test_long_lists_of_classes_are_cut_and_say_so() -> None:
    many = pandas.DataFrame({"class": list("abcdefgh"), "recall": 0.0, "rows": 40})
    assert tables.lost_classes(many) == "Not one row is found of: a, b, c, d, e and 3 more."


def test_failures_come_with_the_first_line_of_the_reason(tmp_path: Path) -> None:
    infeasible = Finished(trial=1, ending="infeasible")
    late = [*trial(5, 0.5)[:-1], Finished(trial=5, ending="failed", reason="no memory\nTraceback")]
    diverged = [
        *trial(4, math.nan)[:-1],
        Finished(trial=4, ending="stopped", reason="macro_f1 is NaN at epoch 1"),
    ]
    results = snapshot(
        tmp_path, TrialStarted(trial=1, params={}), infeasible, *failed(2), *trial(3, 0.5), *diverged, *late
    )
    assert tables.failures(results)[["trial", "status", "reason"]].to_numpy().tolist() == [
        [2, "failed", "ValueError: <b>no</b> [rows](x)"],
        [5, "failed", "no memory"],
        [1, "infeasible", "no reason was given"],
        [4, "stopped", "macro_f1 is NaN at epoch 1"],
    ]


def test_headline_and_counts_say_how_the_run_stands(tmp_path: Path) -> None:
    results = snapshot(tmp_path, *trial(1, 0.5, 0.25), *failed(2), TrialStarted(trial=3, params={}))
    assert tables.headline(results) == {"best macro_f1": "0.5000", "trials": "3 / 10", "epochs trained": "2"}
    assert tables.counts(results) == "1 complete, 1 failed, 1 paused", "nobody trains it now"
    assert tables.caption(results, 7).split("\n\n") == [
        "interrupted, 7 s ago",
        r"macro\_f1 0.5000",
        "1 complete, 1 failed, 1 paused",
    ]


def test_run_without_trials_has_texts_too(tmp_path: Path) -> None:
    results = snapshot(tmp_path)
    assert tables.headline(results)["best macro_f1"] == "none yet"
    assert tables.counts(results) == "no trials yet"
    assert tables.leaderboard(results, 10).empty
    assert tables.failures(results).empty


def test_curve_names_begin_with_the_objective_then_metrics_then_what_the_trainer_reported(
    tmp_path: Path,
) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5))
    runs = RunsReader(tmp_path)
    runs.read()
    names = tables.curve_names(runs.run("pets").curves([1]), "macro_f1")
    assert names == ["macro_f1", "accuracy", "balanced_accuracy", "worst_class_recall", "train_loss"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (2e5, "2 d ago")],
)
def test_age(seconds: float, text: str) -> None:
    assert tables.age(seconds) == text


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 65, 3661)] == ["0:00", "1:05", "1:01:01"]


def test_plain_text_keeps_letters_and_disarms_markdown() -> None:
    assert tables.plain("Katze äß 1") == "Katze äß 1"
    assert tables.plain("[x](y) <b> `z` :red[!] $a$") == r"\[x\]\(y\) \<b\> \`z\` \:red\[\!\] \$a\$"
