"""The dashboard's figures, read back as data."""

import math
from pathlib import Path

import pandas

from dashboard import charts
from dashboard.reader import RunsReader
from search.events import Event
from tests.dashboard.logs import started, trial, write


def curves(runs: Path, *events: Event) -> pandas.DataFrame:
    write(runs, "pets", started(), *events)
    reader = RunsReader(runs)
    reader.read()
    return reader.run("pets").curves([event.trial for event in events if event.kind == "trial_started"])


def test_each_trial_is_a_line_with_its_best_epoch_marked(tmp_path: Path) -> None:
    frame = curves(tmp_path, *trial(2, 0.2, 0.6, 0.4), *trial(1, 0.1))
    figure = charts.learning_curves(frame, "macro_f1", {1: 1, 2: 2})
    first, second = figure.data
    assert (first.name, second.name) == ("trial 1", "trial 2")
    assert (second.x, second.y) == ((1, 2, 3), (0.2, 0.6, 0.4))
    assert second.marker.symbol == ("circle", "star", "circle")
    assert first.line.color != second.line.color


def test_trial_keeps_its_colour_when_the_ranking_changes(tmp_path: Path) -> None:
    frame = curves(tmp_path, *trial(1, 0.2), *trial(2, 0.3))
    turned = frame.iloc[::-1]
    colours = [
        {line.name: line.line.color for line in charts.learning_curves(rows, "accuracy", {}).data}
        for rows in (frame, turned)
    ]
    assert colours[0] == colours[1]


def test_as_many_curves_as_allowed_all_look_different(tmp_path: Path) -> None:
    frame = curves(tmp_path, *(event for number in range(charts.MAX_CURVES) for event in trial(number, 0.5)))
    lines = charts.learning_curves(frame, "macro_f1", {}).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == charts.MAX_CURVES == 12


def test_nan_is_a_gap_and_a_name_is_no_markup(tmp_path: Path) -> None:
    frame = curves(tmp_path, *trial(1, 0.5, math.nan)).rename(columns={"macro_f1": "<b>f1</b>"})
    figure = charts.learning_curves(frame, "<b>f1</b>", {1: 1})
    assert figure.data[0].y == (0.5, None)
    assert figure.layout.yaxis.title.text == "&lt;b&gt;f1&lt;/b&gt;"


def test_nothing_to_draw_is_an_empty_figure() -> None:
    empty = pandas.DataFrame(columns=["trial", "epoch", "macro_f1"])
    assert charts.learning_curves(empty, "macro_f1", {}).data == ()
