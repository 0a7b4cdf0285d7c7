"""Logs for the dashboard's tests, written by the real EventLog."""

from pathlib import Path
from typing import Any

from search.events import Event, EventLog, Finished, Reported, SweepEnded, SweepStarted, TrialStarted

CLASSES = ("cat", "dog", "<b>*eel*</b>")
CONFUSION = ((30, 5, 5), (2, 8, 0), (4, 1, 0))
"""40 cats, 10 dogs and 5 eels, of which none is found."""
COMPLETE = SweepEnded(state="complete", reason="every trial is over")


def started(time: float = 1.0, **changed: Any) -> SweepStarted:
    sweep: dict[str, Any] = {
        "dataset": "pets",
        "trainer": "keras/cnn",
        "objective": "macro_f1",
        "epochs": 4,
        "search": {"suggester": "random", "trials": 10, "seed": 0},
    }
    return SweepStarted(
        time=time, sweep=sweep | changed, direction="max", classes=CLASSES, data={"rows": 55}, versions={}
    )


def reported(trial: int, epoch: int, value: float, time: float = 3.0, decision: Any = "continue") -> Reported:
    return Reported(
        time=time,
        trial=trial,
        epoch=epoch,
        metrics={"accuracy": 0.7, "macro_f1": value, "balanced_accuracy": 0.5, "worst_class_recall": 0.0},
        confusion=CONFUSION,
        curves={"train_loss": 1 / epoch, "macro_f1": -1.0},  # a trainer may call a curve like a metric
        seconds=0.5,
        decision=decision,
    )


def trial(number: int, *values: float, **params: Any) -> list[Event]:
    """A trial that reports these values, epoch by epoch, and is complete."""
    return [
        TrialStarted(time=2.0, trial=number, params=params or {"units": 8 * number, "optimizer": "adam"}),
        *(reported(number, epoch, value) for epoch, value in enumerate(values, start=1)),
        Finished(time=4.0, trial=number, ending="complete"),
    ]


def failed(number: int, reason: str = "ValueError: <b>no</b> [rows](x)\nTraceback") -> list[Event]:
    return [
        TrialStarted(time=2.0, trial=number, params={"units": 1, "optimizer": "sgd"}),
        Finished(time=4.0, trial=number, ending="failed", reason=reason),
    ]


def write(runs: Path, name: str, *events: Event) -> Path:
    """Append to the log of a run, made when it is not there; its path."""
    (runs / name).mkdir(parents=True, exist_ok=True)
    path = runs / name / "events.jsonl"
    with EventLog(path) as log:
        log.append(*events)
    return path
