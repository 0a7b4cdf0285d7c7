"""What came out of a run, for people and notebooks: its state, its best trials, its curves."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from search.events import Reported, Run, SweepEnded, Trial, read_events
from search.folder import RunFolder, find_run

if TYPE_CHECKING:
    import pandas

State = Literal["running", "complete", "failed", "interrupted"]
GUARDS = ("accuracy", "macro_f1", "balanced_accuracy", "worst_class_recall")
"""Shown beside every objective: accuracy alone hides a lost class."""
STATUSES = ("complete", "stopped", "failed", "infeasible", "running", "paused")


@dataclass(frozen=True)
class Results:
    """A run as it stood when it was loaded. Load it again to see it go on."""

    folder: RunFolder
    run: Run
    state: State

    @property
    def objective(self) -> str:
        return self.run.objective

    @property
    def reason(self) -> str:
        """Why the last driver left; empty while one is at work, and after one that was killed."""
        ended = self.run.ended
        return ended.reason if ended and ended.state == self.state else ""

    def status_of(self, trial: Trial) -> str:
        """A trial that nobody trains now waits for a resume, or was stopped where its run is complete."""
        if trial.is_finished or self.state == "running":
            return trial.status
        return "stopped" if self.state == "complete" else "paused"

    def counts(self) -> dict[str, int]:
        """Trials by status; every status is named."""
        counts = Counter(map(self.status_of, self.run.trials.values()))
        return {status: counts[status] for status in STATUSES}

    def best(self, top: int = 10) -> list[Trial]:
        """The trials with the best objective at their best epoch: best first, the earlier of equals."""
        sign = -1 if self.run.direction == "max" else 1
        ranked = [trial for trial in self.run.trials.values() if trial.best_epoch]
        first = self.run.best  # of equals the one that was there first
        return sorted(ranked, key=lambda trial: (sign * trial.best_value, trial is not first, trial.number))[
            :top
        ]

    def frame(self) -> "pandas.DataFrame":
        """One row a trial: status, params as ``param.*``, metrics of the best epoch, epochs, seconds."""
        import pandas

        rows = [
            {
                "trial": trial.number,
                "status": self.status_of(trial),
                **{f"param.{name}": value for name, value in trial.params.items()},
                **trial.metrics,
                "epochs": trial.epoch,
                "best_epoch": trial.best_epoch,
                "seconds": trial.seconds,
                "reason": trial.reason,
            }
            for trial in self.run.trials.values()
        ]
        return pandas.DataFrame(rows).set_index("trial") if rows else pandas.DataFrame()

    def curves(self, trials: int | Sequence[int]) -> "pandas.DataFrame":
        """One row an epoch of one trial or several: trial, epoch, every metric, every curve.

        Raises KeyError for a trial that the run has not.
        """
        import pandas

        wanted = set(trials) if isinstance(trials, Iterable) else {int(trials)}  # NumPy's whole numbers too
        if missing := wanted - self.run.trials.keys():
            raise KeyError(f"run {self.folder.name!r} has no trial {sorted(missing)[0]}")
        rows = [
            row_of(event)
            for event, _ in read_events(self.folder.events)
            if isinstance(event, Reported) and event.trial in wanted
        ]
        return pandas.DataFrame(rows)

    def status(self) -> dict[str, Any]:
        """The run in a few JSON-able numbers, as ``rungwise status --json`` prints them."""
        best = self.run.best
        return {
            "run": self.folder.name,
            "state": self.state,
            "reason": self.reason,
            "trials": self.counts(),
            "epochs": self.run.epochs,
            "wasted_epochs": self.run.wasted_epochs,
            "best": None if best is None else self.summary(best),
        }

    def summary(self, trial: Trial) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "epoch": trial.best_epoch,
            "params": trial.params,
            "objective": {"name": self.objective, "value": trial.best_value},
            "metrics": dict(trial.metrics),
            **({"folds": list(trial.folds)} if trial.folds else {}),
        }


def load_run(run: str | Path, runs: Path | None = None) -> Results:
    """Read a run by name or path; works while it is going on.

    Raises RunError when there is no such run or its log cannot be read.
    """
    folder = find_run(run, runs)
    since = folder.locked_since()  # asked first: a driver that ends meanwhile has written its end
    folded = Run.read(folder.events)
    folded.check_begun(folder.path)
    return Results(folder, folded, state_of(folded.ended, since))


def row_of(report: Reported) -> dict[str, Any]:
    """Trial, epoch, every metric, and every curve that is not called like one of these."""
    row = {"trial": report.trial, "epoch": report.epoch, **report.metrics}
    return row | {name: value for name, value in report.curves.items() if name not in row}


def state_of(ended: SweepEnded | None, locked_since: float | None) -> State:
    """Of a run whose log ends so, if a driver is at work on it since then; one that came later resumes it."""
    if ended is not None and (locked_since is None or locked_since <= ended.time):
        return ended.state
    return "interrupted" if locked_since is None else "running"


def metrics_shown(objective: str) -> list[str]:
    return [objective, *(name for name in GUARDS if name != objective)]


def varying(trials: Sequence[Trial]) -> list[str]:
    """The params that tell these trials apart; all of them where there is nothing to tell apart."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1] or list(names)


def clock(seconds: float) -> str:
    """0:07, 12:34 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
