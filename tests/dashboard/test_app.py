"""The page as a user meets it, in every state a runs folder can be in."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from search.events import FORMAT, SweepEnded, TrialStarted
from search.folder import RunFolder
from tests.dashboard.logs import COMPLETE, failed, reported, started, trial, write

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
Open = Callable[..., AppTest]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the dashboard on ``tmp_path``."""

    def opened(runs: Path = tmp_path, **query: str) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["app.py", "--runs", str(runs)])
        app = AppTest.from_file(str(APP), default_timeout=20)
        for name, value in query.items():
            app.query_params[name] = value
        return checked(app.run())

    return opened


def checked(app: AppTest) -> AppTest:
    assert not app.exception, app.exception[0].stack_trace
    return app


def shown(app: AppTest) -> str:
    """Every text on the page, Markdown's backslashes left out."""
    kinds = ("title", "subheader", "caption", "text", "code", "info", "warning", "error", "markdown")
    texts = [text for kind in kinds for element in app.get(kind) for text in texts_of(element)]
    metrics = [f"{metric.label} {metric.value}" for metric in app.metric]
    captions = [caption for radio in app.radio for caption in radio.proto.captions]
    return "\n".join([*texts, *metrics, *captions]).replace("\\", "")


def texts_of(element: Any) -> tuple[str, str]:
    return element.value, getattr(element.proto, "title", "")


def url_run(app: AppTest) -> str:
    value = app.query_params["run"]  # a list when the test gave it, a text when the page did
    return value if isinstance(value, str) else value[0]


def select(app: AppTest, *rows: int) -> AppTest:
    app.session_state[str(app.dataframe[0].key)] = {
        "selection": {"rows": list(rows), "columns": [], "cells": []}
    }
    return checked(app.run())


def picked(app: AppTest) -> list[int]:
    return list(app.session_state["picked:pets"])


def test_missing_runs_folder(page: Open, tmp_path: Path) -> None:
    text = shown(page(tmp_path / "nowhere"))
    assert "cannot read" in text and "No such file or directory" in text
    assert f"rungwise run SWEEP.yaml --runs {tmp_path / 'nowhere'}" in text


def test_runs_folder_without_runs_and_then_with_one(page: Open, tmp_path: Path) -> None:
    app = page()
    assert "No runs yet" in shown(app)
    write(tmp_path, "pets", started())
    assert "pets" in shown(checked(app.run()))


def test_folder_that_is_itself_a_run_says_so(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started())
    assert f"This folder is itself a run: start the dashboard with --runs {tmp_path}" in shown(
        page(tmp_path / "pets")
    )


def test_run_without_trials(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started())
    text = shown(page())
    assert "No trial has started yet." in text
    assert f"rungwise resume {tmp_path / 'pets'}" in text  # nobody holds its lock


def test_run_that_goes_on(page: Open, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pets")
    write(
        tmp_path,
        "pets",
        started(),
        *trial(1, 0.5),
        TrialStarted(trial=2, params={"units": 1}),
        reported(2, 1, 0.75),
    )
    with folder.lock():
        text = shown(page())
    assert "running" in text
    assert "best macro_f1 0.7500" in text and "trials 2 / 10" in text and "epochs trained 2" in text
    assert "1 complete, 1 running" in text


def test_complete_run_shows_leaderboard_curves_and_classes(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5, 0.6), *trial(2, 0.9, 0.8), *failed(3), COMPLETE)
    app = page()
    board, classes, failures = (table.value for table in app.dataframe)
    assert board["trial"].tolist() == [2, 1]
    assert classes["class"].tolist() == ["cat", "dog", "<b>*eel*</b>"]
    assert failures["reason"].tolist() == ["ValueError: <b>no</b> [rows](x)"]
    assert app.selectbox(key="curve:pets").options[0] == "macro_f1"
    text = shown(app)
    assert "Trial 2 has lost a class" in text
    assert "Fewer than 30 validation rows: dog, <b>*eel*</b>" in text


def test_names_from_the_data_are_escaped_where_markdown_is_read(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5), COMPLETE)
    assert r"\<b\>\*eel\*\<\/b\>" in page().error[0].value


@pytest.mark.parametrize("name", ["train_loss", "worst_class_recall"])
def test_any_curve_can_be_drawn(page: Open, tmp_path: Path, name: str) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5, 0.6), COMPLETE)
    app = page()
    checked(app.selectbox(key="curve:pets").select(name).run())
    assert name in app.get("plotly_chart")[0].proto.spec


def test_trials_of_one_epoch_have_no_curves(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(epochs=1), *trial(1, 0.5), COMPLETE)
    app = page()
    assert "one epoch each" in shown(app)
    assert not app.get("plotly_chart")


def test_selected_rows_are_the_trials_drawn(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5), *trial(2, 0.9), *trial(3, 0.7), COMPLETE)
    app = page()
    assert picked(app) == []
    select(app, 2, 1)
    assert picked(app) == [1, 3]
    spec = app.get("plotly_chart")[0].proto.spec
    assert "trial 1" in spec and "trial 3" in spec and "trial 2" not in spec
    assert app.selectbox(key="classes:3:pets").options == ["trial 3", "trial 1"]


def test_selection_follows_its_trial_when_better_ones_push_it_down(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5), *trial(2, 0.4))
    app = select(page(), 0)
    assert picked(app) == [1]
    better = [event for number in range(3, 20) for event in trial(number, 0.9)]
    write(tmp_path, "pets", *better)
    checked(app.run())
    assert picked(app) == [1]
    board = app.dataframe[0].value
    assert board["trial"].tolist()[-1] == 1 and board["rank"].tolist()[-1] == 18
    assert "trial 1" in app.get("plotly_chart")[0].proto.spec


def test_selection_is_dropped_when_another_run_takes_the_name(page: Open, tmp_path: Path) -> None:
    path = write(tmp_path, "pets", started(time=1.0), *trial(1, 0.5), *trial(2, 0.4))
    app = select(page(), 1)
    assert picked(app) == [2]
    path.unlink()
    write(tmp_path, "pets", started(time=2.0), *trial(1, 0.5))
    checked(app.run())
    assert picked(app) == []


def test_classes_are_those_of_a_new_best_trial(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5))
    app = page()
    assert "Trial 1 has lost a class" in shown(app)
    write(tmp_path, "pets", *trial(2, 0.9))
    assert "Trial 2 has lost a class" in shown(checked(app.run()))


def test_more_curves_than_can_be_told_apart_are_cut_and_it_says_so(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), *(event for number in range(1, 16) for event in trial(number, 0.5)))
    app = page()
    checked(app.slider(key="top:pets").set_value(15).run())
    assert "The selected trials after the first 12 are not drawn." in shown(select(app, *range(15)))


def test_slider_sets_how_many_trials_are_shown(page: Open, tmp_path: Path) -> None:
    write(
        tmp_path,
        "pets",
        started(),
        *(event for number in range(1, 20) for event in trial(number, number / 20)),
    )
    app = page()
    assert len(app.dataframe[0].value) == 10
    checked(app.slider(key="top:pets").set_value(15).run())
    assert len(app.dataframe[0].value) == 15


def test_run_whose_trials_all_failed(page: Open, tmp_path: Path) -> None:
    write(
        tmp_path,
        "pets",
        started(),
        *failed(1),
        *failed(2),
        SweepEnded(state="failed", reason="the first 2 failed"),
    )
    app = page()
    text = shown(app)
    assert "The run failed" in text and "the first 2 failed" in text
    assert "No trial has succeeded so far" in text and "ValueError: <b>no</b> [rows](x)" in text
    assert len(app.dataframe[0].value) == 2


def test_run_whose_trials_only_started(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), TrialStarted(trial=1, params={}))
    assert "No trial has a result yet." in shown(page())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nonsense\n", "is damaged at byte"),
        (f'{{"kind":"sweep_started","format":{FORMAT + 1}}}\n', "was written by a newer Rungwise"),
    ],
)
def test_unreadable_run_says_why_and_leaves_the_others_usable(
    page: Open, tmp_path: Path, line: str, text: str
) -> None:
    write(tmp_path, "fine", started(), *trial(1, 0.5), COMPLETE)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.jsonl").write_text(line)
    app = page(run="bad")
    assert "This run cannot be read" in shown(app) and text in shown(app)
    checked(app.radio(key="run").set_value("fine").run())
    assert url_run(app) == "fine"
    assert "best macro_f1 0.5000" in shown(app)


def test_half_written_last_line_is_no_fault(page: Open, tmp_path: Path) -> None:
    with write(tmp_path, "pets", started(), *trial(1, 0.5)).open("ab") as file:
        file.write(b'{"kind":"repor')
    assert "best macro_f1 0.5000" in shown(page())


def test_url_names_the_run(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "old", started(time=1.0), *trial(1, 0.25))
    write(tmp_path, "new", started(time=2.0), *trial(1, 0.5))
    assert url_run(page()) == "new"
    app = page(run="old")
    assert app.radio(key="run").value == "old"
    assert "best macro_f1 0.2500" in shown(app)


@pytest.mark.parametrize(
    "asked", ["../../etc", "/etc", "..", "", "secret\0", "<script>alert(1)</script>", "*", "x" * 5000]
)
def test_run_that_is_not_there_is_never_looked_for_elsewhere(page: Open, tmp_path: Path, asked: str) -> None:
    write(tmp_path, "secret", started(), *trial(1, 0.75))
    write(tmp_path / "runs", "pets", started(), *trial(1, 0.5))
    app = page(tmp_path / "runs", run=asked)
    assert "There is no run" in shown(app)
    assert url_run(app) == "pets"
    assert "0.5000" in shown(app) and "0.75" not in shown(app)


def test_run_that_is_deleted_while_it_is_shown_gives_way_to_another(page: Open, tmp_path: Path) -> None:
    write(tmp_path, "other", started(time=1.0), *trial(1, 0.25))
    path = write(tmp_path, "pets", started(time=2.0), *trial(1, 0.5))
    app = page()
    path.unlink()
    checked(app.run())
    assert "There is no run 'pets'" in shown(app) and "best macro_f1 0.2500" in shown(app)
