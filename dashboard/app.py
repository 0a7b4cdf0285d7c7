"""The page that `rungwise dashboard` shows: the runs of a folder, and one of them as it goes on."""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pandas
import streamlit as st

from dashboard import charts, tables
from dashboard.reader import RunReader, RunsReader, Snapshot
from dashboard.tables import plain
from search.events import RunError, Trial
from search.folder import default_runs
from search.results import clock, metrics_shown
from spaces.sweep import trainer_name

REFRESH_S = 3
DEFAULT_CURVES = 5
Colour = Literal["blue", "green", "red", "orange", "gray"]
STATE_COLOURS: dict[str, Colour] = {
    "running": "blue",
    "complete": "green",
    "failed": "red",
    "interrupted": "orange",
}
# Where a metric's name would take the room of two columns.
LABELS = {"balanced_accuracy": "balanced acc.", "worst_class_recall": "worst recall"}
STATUS_COLOURS: dict[str, Colour] = {"complete": "green", "running": "blue", "failed": "red"}


def main() -> None:
    st.set_page_config(page_title="Rungwise", page_icon="🪜", layout="wide")
    reader = _shared_reader(_runs())
    entries = _read(reader)
    if not entries:
        st.fragment(_wait_for_runs, run_every=REFRESH_S)(reader)
        return
    chosen = _chosen(entries)
    entry = entries[chosen]
    with st.sidebar:
        st.fragment(_list_runs, run_every=REFRESH_S)(reader, chosen, _state(entry))
    if isinstance(entry, Snapshot):
        is_live = entry.state == "running"
        st.fragment(_show_run, run_every=REFRESH_S if is_live else None)(reader.run(chosen))
    else:
        st.title(plain(chosen), anchor=False)
        st.error(plain(str(entry)), title="This run cannot be read")


def _runs() -> Path:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=default_runs())
    return parser.parse_args(sys.argv[1:]).runs


@st.cache_resource(show_spinner=False)
def _shared_reader(runs: Path) -> RunsReader:
    return RunsReader(runs)


def _read(reader: RunsReader) -> dict[str, Snapshot | RunError]:
    try:
        return reader.read()
    except RunError as error:
        st.error(plain(str(error)))
        return {}


def _state(entry: Snapshot | RunError) -> str:
    return entry.state if isinstance(entry, Snapshot) else "unreadable"


def _wait_for_runs(reader: RunsReader) -> None:
    st.title("No runs yet", anchor=False)
    st.text(f"{reader.runs} holds no runs. Start one, and it appears here:")
    st.code(f"rungwise run SWEEP.yaml --runs {shlex.quote(str(reader.runs))}", language=None)
    if (reader.runs / "events.jsonl").is_file():
        st.text(f"This folder is itself a run: start the dashboard with --runs {reader.runs.parent}")
    if _read(reader):
        st.rerun()


def _chosen(entries: dict[str, Snapshot | RunError]) -> str:
    """The run that the URL names if it is there, else the newest; the URL names it from then on."""
    asked = st.query_params.get("run")
    if asked in entries:
        return asked
    newest = next(iter(entries))
    if asked is not None:
        st.warning(f"There is no run {plain(repr(asked))} in this folder; this is the newest one.")
    st.query_params["run"] = newest
    return newest


def _list_runs(reader: RunsReader, shown: str, state: str) -> None:
    """The runs, to choose from; draws the page anew when another one is chosen or this one changes state."""
    entries = _read(reader)
    if shown not in entries or st.query_params.get("run") != shown or _state(entries[shown]) != state:
        st.rerun()
    st.session_state["run"] = shown
    st.radio(
        "Runs",
        list(entries),
        key="run",
        on_change=lambda: st.query_params.update(run=st.session_state["run"]),
        format_func=plain,
        captions=[_caption(entry) for entry in entries.values()],
    )
    st.caption(f"in {plain(str(reader.runs))}")


def _caption(entry: Snapshot | RunError) -> str:
    if isinstance(entry, RunError):
        return "cannot be read"
    return tables.caption(entry, time.time() - entry.updated)


def _show_run(reader: RunReader) -> None:
    try:
        results = reader.read()
        _show_header(results)
        if not results.run.trials:
            st.info("No trial has started yet.")
        elif results.run.best is None:
            _show_no_result(results)
        else:
            _show_results(reader, results)
        _show_failures(results)
    except RunError as error:
        st.error(plain(str(error)), title="This run cannot be read any further")


def _show_header(results: Snapshot) -> None:
    sweep, now = results.run.sweep, time.time()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title(plain(results.folder.name), anchor=False, width="content")
        st.badge(results.state, color=STATE_COLOURS[results.state])
    why = f"{plain(results.reason)} · " if results.state == "complete" else ""
    st.caption(
        f"{plain(trainer_name(sweep['trainer']))} on {plain(_dataset(sweep['dataset']))} · {why}updated "
        f"{tables.age(now - results.updated)} · every number is on the validation rows that the search "
        "selects by, so expect it a little worse on new rows"
    )
    if results.state == "interrupted":
        st.warning("No driver is at work on this run. Go on with:")
        st.code(f"rungwise resume {shlex.quote(str(results.folder.path))}", language=None)
    elif results.state == "failed":
        st.error(plain(results.reason), title="The run failed")
    goes_on = results.state == "running" and results.run.ended is None  # else it is just being taken up again
    elapsed = results.run.elapsed(now if goes_on else None)
    with st.container(horizontal=True):
        for label, value in (tables.headline(results) | {"elapsed": clock(elapsed)}).items():
            st.metric(plain(label), value, border=True)
    with st.container(horizontal=True):
        for status, count in results.counts().items():
            st.badge(f"{count} {status}", color=STATUS_COLOURS.get(status, "gray") if count else "gray")


def _dataset(dataset: object) -> str:
    return str(dataset.get("path", dataset)) if isinstance(dataset, dict) else str(dataset)


def _show_no_result(results: Snapshot) -> None:
    trials = results.run.trials.values()
    if all(trial.is_finished for trial in trials):  # a score would be the best one
        reason = tables.first_line(next(iter(trials)).reason)
        st.error(plain(f"The first: {reason}"), title="No trial has succeeded so far")
    else:
        st.info("No trial has a result yet.")


def _show_results(reader: RunReader, results: Snapshot) -> None:
    trials = _pick_trials(results)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        _show_curves(reader, results, trials)
    with right:
        _show_classes(results, trials)


def _pick_trials(results: Snapshot) -> list[Trial]:
    """Show the leaderboard; the trials of the selected rows, or the best few while no row is selected."""
    name = results.folder.name
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.subheader("Leaderboard", anchor=False)
        top = st.slider("trials shown", 5, 50, 10, 5, key=_key(results, "top"), width=240)
    picked = st.session_state.get(f"picked:{name}", [])
    frame = tables.leaderboard(results, top, also=picked)
    numbers = frame["trial"].tolist()
    rows = [numbers.index(number) for number in picked if number in numbers]
    # A selection is a list of row positions. The order of the rows is part of the key, so that positions are
    # never taken for those of another order; in a new order the same trials are selected again.
    selection = st.dataframe(
        frame,
        key=f"leaderboard:{name}:{hash(tuple(numbers))}",
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": rows}},
        column_config=_column_config(results.objective, frame),
        alt=f"The best trials of {name} by {results.objective}",
    )
    picked = [numbers[row] for row in selection["selection"]["rows"]]
    st.session_state[f"picked:{name}"] = picked
    ranked = len(results.best(len(results.run.trials)))
    st.caption(
        f"{len(frame)} of {ranked} trials with a result. Select rows to compare their curves and classes; "
        f"without a selection the best {DEFAULT_CURVES} are drawn."
    )
    drawn = sorted(picked, key=numbers.index) or numbers[:DEFAULT_CURVES]
    return [results.run.trials[number] for number in drawn]


def _column_config(objective: str, frame: pandas.DataFrame) -> dict[str, Any]:
    config: dict[str, Any] = {
        name: st.column_config.NumberColumn(
            LABELS.get(name), format="%.4f", help="the objective" if name == objective else name
        )
        for name in metrics_shown(objective)
    }
    for column in frame.columns[frame.columns.str.startswith(tables.PARAM)]:
        name = column.removeprefix(tables.PARAM)
        is_float = frame[column].dtype.kind == "f"
        config[column] = (
            st.column_config.NumberColumn(name, format="%.3g") if is_float else st.column_config.Column(name)
        )
    return config


def _show_curves(reader: RunReader, results: Snapshot, trials: list[Trial]) -> None:
    st.subheader("Learning curves", anchor=False)
    if results.run.sweep["epochs"] == 1:
        st.info("These trials have one epoch each, so there is no curve to draw.")
        return
    shown = trials[: charts.MAX_CURVES]
    curves = reader.curves(trial.number for trial in shown)
    names = tables.curve_names(curves, results.objective)
    name = st.selectbox("over the epochs", names, key=_key(results, "curve"))
    figure = charts.learning_curves(curves, name, {trial.number: trial.best_epoch for trial in shown})
    st.plotly_chart(
        figure,
        key=_key(results, "curves"),
        config={"displayModeBar": False},
        alt=f"{name} over the epochs of each trial",
    )
    num_left = len(trials) - len(shown)
    more = f" The selected trials after the first {len(shown)} are not drawn." if num_left else ""
    st.caption(f"★ is the best epoch by {plain(results.objective)}.{more}")


def _show_classes(results: Snapshot, trials: list[Trial]) -> None:
    st.subheader("Classes", anchor=False)
    numbers = [trial.number for trial in trials]
    number = st.selectbox(
        "at the best epoch of",
        numbers,
        format_func=lambda number: f"trial {number}",
        key=_key(results, f"classes:{numbers[0]}"),  # a new best trial is shown by itself
    )
    assert results.run.started is not None
    repeat = results.run.sweep.get("validation", {}).get("repeat", 1)
    frame = tables.classes(results.run.trials[number], results.run.started.classes, repeat)
    if lost := tables.lost_classes(frame):
        st.error(plain(lost), title=f"Trial {number} has lost a class")
    if small := tables.small_classes(frame):
        st.warning(plain(small))
    share = st.column_config.NumberColumn(format="%.3f")
    bar = st.column_config.ProgressColumn(
        format="%.3f", min_value=0.0, max_value=1.0, color=charts.COLOURS[0]
    )
    st.dataframe(
        frame,
        hide_index=True,
        column_config={"recall": bar, "precision": share, "f1": share},
        alt=f"Precision, recall and F1 of each class for trial {number}",
    )


def _key(results: Snapshot, widget: str) -> str:
    return f"{widget}:{results.folder.name}"


def _show_failures(results: Snapshot) -> None:
    frame = tables.failures(results)
    if frame.empty:
        return
    st.subheader("Failed, or without a score", anchor=False)
    st.dataframe(
        frame,
        hide_index=True,
        column_config={"reason": st.column_config.TextColumn(width="large")},
        alt="Trials that failed or have no score, with the first line of the reason",
    )


main()
