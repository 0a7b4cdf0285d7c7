"""Runs and trials as frames and short texts, ready to be shown."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas

from search.events import Trial
from search.results import Results, metrics_shown, varying
from spaces.params import Value
from trainers.metrics import FEW_ROWS, METRICS, per_class

PARAM = "param."
"""Before the name of a param in a frame, where a metric may have the same name."""


def headline(results: Results) -> dict[str, str]:
    """The few numbers that say how a run stands, in the order they are shown."""
    trials = results.counts()
    started = sum(trials.values()) - trials["infeasible"]
    return {
        f"best {results.objective}": f"{results.run.best.best_value:.4f}" if results.run.best else "none yet",
        "trials": f"{started} / {results.run.sweep['search']['trials']}",
        "epochs trained": f"{results.run.epochs:,}",
    }


def counts(results: Results) -> str:
    """Trials by status, those that there are, such as '8 complete, 2 running'."""
    there = [f"{count} {status}" for status, count in results.counts().items() if count]
    return ", ".join(there) or "no trials yet"


def caption(results: Results, updated_s: float) -> str:
    """A run in three short lines of Markdown, for a list of runs."""
    best = results.run.best
    value = f"{plain(results.objective)} {best.best_value:.4f}" if best else "no result yet"
    return "\n\n".join([f"{results.state}, {age(updated_s)}", value, counts(results)])


def leaderboard(results: Results, top: int, also: Collection[int] = ()) -> pandas.DataFrame:
    """The ``top`` best trials and those numbered in ``also``: rank, trial, metrics, epochs, status, params.

    Only params that differ among them have a column, named ``param.*``; all if there is nothing to compare.
    """
    ranked = list(enumerate(results.best(len(results.run.trials)), start=1))
    rows = [(rank, trial) for rank, trial in ranked if rank <= top or trial.number in also]
    trials = [trial for _, trial in rows]
    frame = pandas.DataFrame(
        {"rank": [rank for rank, _ in rows], "trial": [trial.number for trial in trials]}
    )
    for metric in metrics_shown(results.objective):
        frame[metric] = [trial.metrics.get(metric, np.nan) for trial in trials]
    frame["best epoch"] = [trial.best_epoch for trial in trials]
    frame["epochs"] = [trial.epoch for trial in trials]
    frame["status"] = [results.status_of(trial) for trial in trials]
    for name in varying(trials):
        frame[f"{PARAM}{name}"] = _column([trial.params.get(name) for trial in trials])
    return frame


def curve_names(curves: pandas.DataFrame, objective: str) -> list[str]:
    """What can be drawn over the epochs: the objective, the other metrics, then what the trainer reported."""
    names = [name for name in curves.columns if name not in ("trial", "epoch")]
    return sorted(names, key=lambda name: (name != objective, name not in METRICS, name))


def classes(trial: Trial, names: Sequence[str], repeat: int = 1) -> pandas.DataFrame:
    """Recall, precision, F1 and validation rows of each class, at the best epoch of a trial that has one.

    Where the rows were divided ``repeat`` times, they are those of one division: judging a row again tells
    nothing new of its class.
    """
    scores = per_class(np.array(trial.confusion, np.int64))
    columns = {
        "recall": scores.recall,
        "precision": scores.precision,
        "f1": scores.f1,
        "rows": np.rint(scores.support / repeat).astype(np.int64),
    }
    return pandas.DataFrame({"class": list(names), **columns})


def lost_classes(frame: pandas.DataFrame) -> str:
    """A sentence about the classes that a trial never finds; empty if there are none."""
    lost = frame.loc[frame["recall"] == 0, "class"].tolist()
    return f"Not one row is found of: {_some(lost)}." if lost else ""


def small_classes(frame: pandas.DataFrame) -> str:
    """A sentence about the classes with too few validation rows to rank by; empty if there are none."""
    small = frame.loc[frame["rows"] < FEW_ROWS]
    if small.empty:
        return ""
    names = "every class" if len(small) == len(frame) else _some(small["class"].tolist())
    fewest = small["rows"].min()
    return (
        f"Fewer than {FEW_ROWS} validation rows: {names} (the fewest: {fewest}). One row moves such a recall "
        f"by up to {1 / max(1, fewest):.3f}, so small differences are chance."
    )


def failures(results: Results) -> pandas.DataFrame:
    """Trials that failed, then those that ended without a score, each with the first line of the reason."""
    ended = [trial for trial in results.run.trials.values() if trial.is_finished]
    trials = [trial for trial in ended if trial.status == "failed" or not trial.best_epoch]
    trials.sort(key=lambda trial: (trial.status, trial.number))
    return pandas.DataFrame(
        {
            "trial": [trial.number for trial in trials],
            "status": [trial.status for trial in trials],
            "epochs": [trial.epoch for trial in trials],
            "reason": [first_line(trial.reason) for trial in trials],
        }
    )


def first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "no reason was given")


def age(seconds: float) -> str:
    """How long ago, roughly, such as '12 s ago'; a clock that runs behind the writer's shows 0 s."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is: names and errors come from data and must not format the page."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def _column(values: list[Value | None]) -> "pandas.Series[Any]":
    """One type a column, as Arrow wants it: numbers stay numbers, a mixture becomes text."""
    types = {type(value) for value in values if value is not None}
    if types == {int}:
        return pandas.Series(values, dtype="Int64")
    if types <= {int, float}:
        return pandas.Series(values, dtype="float64")
    return pandas.Series([None if value is None else str(value) for value in values], dtype="str")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
