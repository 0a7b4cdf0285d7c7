"""What happened in a run, one line of JSON an event, and the trials folded from those lines.

The log has one writer and is never rewritten. Whatever anybody shows or resumes is folded from it, so a
trial's status is derived here and stored nowhere.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spaces.params import Value

FORMAT = 1
"""Rises when an older reader would misread a log."""

Direction = Literal["max", "min"]
Decision = Literal["continue", "pause", "stop"]
Ending = Literal["complete", "stopped", "failed", "infeasible"]
Status = Literal["running", "paused", "complete", "stopped", "failed", "infeasible"]


class RunError(RuntimeError):
    """A run that cannot be made, read, or gone on with; the text says why and what to do."""


class RunFailed(RunError):
    """A run that was under way and cannot go on by itself: the disk is full, say, or every trial fails."""


class _Event(BaseModel):
    # NaN would be written as null, which pydantic then refuses to read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    time: float = Field(default_factory=time.time)
    """Seconds since the epoch."""


class SweepStarted(_Event):
    """The first line of every log."""

    kind: Literal["sweep_started"] = "sweep_started"
    format: int = Field(FORMAT, le=FORMAT)
    sweep: dict[str, Any]
    """The resolved sweep, as ``Sweep.to_dict`` gives it."""
    source: str | None = None
    """The file the sweep was read from, with the overrides that were given."""
    overrides: tuple[str, ...] = ()
    direction: Direction
    """Whether the objective is to be high or low: follows from the metric."""
    classes: tuple[str, ...]
    data: dict[str, Any]
    """Rows, class counts by split, and the fingerprint of both."""
    versions: dict[str, str]
    """Rungwise, Python and every library that takes part in the numbers."""


class TrialStarted(_Event):
    kind: Literal["trial_started"] = "trial_started"
    trial: int
    params: dict[str, Value]


class Reported(_Event):
    """One epoch of one trial, scored on the validation rows, with the decision that it met."""

    kind: Literal["reported"] = "reported"
    trial: int
    epoch: int
    metrics: dict[str, float]
    folds: tuple[float, ...] = ()
    """The objective of each fold by itself; ``metrics`` are of all of them, see ``score_folds``. Empty for a
    hold-out."""
    confusion: tuple[tuple[int, ...], ...]
    """(n_classes, n_classes) counts, rows true; per-class metrics are derived from it."""
    curves: dict[str, float] = {}
    seconds: float
    """Training time of this epoch."""
    checkpoint: bool = False
    """Whether the trial can go on from this epoch."""
    decision: Decision


class Promoted(_Event):
    """A paused trial was among the best of its rung and goes on."""

    kind: Literal["promoted"] = "promoted"
    trial: int


class WorkerLost(_Event):
    """The process that trained a trial died; the trial goes on elsewhere from its last checkpoint."""

    kind: Literal["worker_lost"] = "worker_lost"
    trial: int
    reason: str


class Finished(_Event):
    """A trial is over; for good, unless it is retried."""

    kind: Literal["finished"] = "finished"
    trial: int
    ending: Ending
    reason: str = ""
    wasted: int = 0
    """Epochs that were trained before their worker knew, and count for nothing."""


class Retried(_Event):
    """A trial that was over goes on from its last checkpoint: why it failed is said to be mended, or the
    budget or target that cut it off is another now."""

    kind: Literal["retried"] = "retried"
    trial: int


class Resumed(_Event):
    """A driver took the run up again; ``changed`` holds the sweep's sections that differ from then on.

    ``versions`` are those installed then, empty in logs of before they were written.
    """

    kind: Literal["resumed"] = "resumed"
    changed: dict[str, Any] = {}
    versions: dict[str, str] = {}


class SweepEnded(_Event):
    """A driver left the run in good order."""

    kind: Literal["sweep_ended"] = "sweep_ended"
    state: Literal["complete", "failed", "interrupted"]
    reason: str


ALL_DONE = "all trials are done"
"""Why a search that was not cut short is over."""


Event = (
    SweepStarted | TrialStarted | Reported | Promoted | WorkerLost | Finished | Retried | Resumed | SweepEnded
)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_events(path: Path, start: int = 0) -> Iterator[tuple[Event, int]]:
    """Each whole line from byte ``start`` on, with the offset after it; a half-written last line is left out.

    Raises RunError naming the line that cannot be read.
    """
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield _parse(line, path, offset), offset + len(line)
            offset += len(line)


def _parse(line: bytes, path: Path, offset: int) -> Event:
    try:
        return _EVENT.validate_json(line)
    except ValidationError:
        raise RunError(_why_unreadable(line, path, offset)) from None


def _why_unreadable(line: bytes, path: Path, offset: int) -> str:
    try:
        written = json.loads(line)
    except ValueError:
        written = None
    newer = isinstance(written, dict) and written.get("format", FORMAT)
    if isinstance(newer, int) and newer > FORMAT:
        return (
            f"{path} was written by a newer Rungwise (log format {newer}, this one reads up to {FORMAT}); "
            "upgrade Rungwise to read it"
        )
    known = isinstance(written, dict) and written.get("kind")
    if isinstance(known, str) and known not in _KINDS:
        return (
            f"{path} holds an event {known!r} that only a newer Rungwise knows; upgrade Rungwise to read it"
        )
    return (
        f"{path} is damaged at byte {offset}: {line[:60].decode(errors='replace').rstrip()!r} is not an event"
    )


_KINDS = {model.model_fields["kind"].default for model in Event.__args__}


class EventLog:
    """Appends events durably: a report that was appended outlives the process and the machine.

    The caller holds the run's lock, so that there is one writer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = self._cut_torn_line()

    def append(self, *events: Event) -> None:
        """Write ``events`` as one piece: either all of them are in the log afterwards, or none.

        That a trial begins or goes on promises nobody anything, so it waits for the next report to be flushed
        to the disk: it outlives the process at once, and the machine with the first thing that came of it.

        Raises RunFailed when the disk is full or fails; what was there before stays.
        """
        lines = b"".join(event.model_dump_json().encode() + b"\n" for event in events)
        try:
            self._write(lines)
            if not all(isinstance(event, TrialStarted | Promoted) for event in events):
                os.fsync(self._file)
            self._end += len(lines)
        except BaseException as error:  # a signal between the two halves of a line must not leave one either
            os.ftruncate(self._file, self._end)
            if isinstance(error, OSError):
                raise RunFailed(
                    f"cannot write {self._path}: {error.strerror}; every event before this is safe: "
                    "make room and resume the run"
                ) from None
            raise

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, lines: bytes) -> None:
        position = self._end
        while position < self._end + len(lines):
            position += os.pwrite(self._file, lines[position - self._end :], position)

    def _cut_torn_line(self) -> int:
        size = os.fstat(self._file).st_size
        end = size
        while end > 0:
            start = max(0, end - 65536)
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)
        return end


def is_better(value: float, than: float, direction: Direction) -> bool:
    """NaN is worse than any number and no better than itself."""
    if math.isnan(value) or math.isnan(than):
        return math.isnan(than) and not math.isnan(value)
    return value > than if direction == "max" else value < than


@dataclass
class Trial:
    """One configuration and how far it came. Folded from events; nobody else writes its fields."""

    number: int
    params: dict[str, Value]
    started: float
    epoch: int = 0
    """The last epoch that was reported; 0 before the first."""
    value: float = math.nan
    """The objective at that epoch."""
    best_epoch: int = 0
    """The epoch with the best objective, the earlier one of equals; 0 while there is none."""
    best_value: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    """At the best epoch; where none was better than NaN, at the last one."""
    folds: tuple[float, ...] = ()
    """The objective of each fold at that epoch; empty for a hold-out."""
    confusion: tuple[tuple[int, ...], ...] = ()
    seconds: float = 0.0
    """Training time of all reported epochs."""
    last_checkpoint: int = 0
    best_checkpoint: int = 0
    """The newest checkpoint at or before the best epoch: the best model, or the way to it."""
    lost_workers: int = 0
    """Since its last report."""
    status: Status = "running"
    reason: str = ""
    updated: float = 0.0

    @property
    def is_finished(self) -> bool:
        return self.status not in ("running", "paused")


class Run:
    """A whole run, folded event by event."""

    def __init__(self) -> None:
        self.started: SweepStarted | None = None
        self.sweep: dict[str, Any] = {}
        self.versions: dict[str, str] = {}
        """Of libraries, as the last driver had them."""
        self.trials: dict[int, Trial] = {}
        self.best: Trial | None = None
        """The trial with the best objective at its best epoch; the earlier report of equals."""
        self.epochs = 0
        """Epochs reported, over all trials."""
        self.wasted_epochs = 0
        """Epochs trained beyond the end of their trial, over all trials."""
        self.num_infeasible = 0
        self.ended: SweepEnded | None = None
        """How the last driver left, or None if it is at work or was killed."""
        self._active_seconds = 0.0
        self._last_time: float | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        run = cls()
        for _ in run.follow(path):
            pass
        return run

    def follow(self, path: Path, start: int = 0) -> Iterator[tuple[Event, int, int]]:
        """Fold in each whole line from byte ``start`` on; yields each event with where it begins and ends.

        Raises RunError naming the line that cannot be read, or tells of a trial that is not there.
        """
        for event, end in read_events(path, start):
            try:
                self.apply(event)
            except KeyError as error:
                raise RunError(
                    f"{path} is damaged at byte {start}: {event.kind!r} needs {error}, not there"
                ) from None
            yield event, start, end
            start = end

    def check_begun(self, path: Path) -> None:
        """Raises RunError for a log without its first line: the driver was killed before it wrote one."""
        if self.started is None:
            raise RunError(
                f"run {path.name!r} is only starting, or was killed before it began; if so, run its "
                f"sweep again under this name, which is free ({path})"
            )

    @property
    def objective(self) -> str:
        return str(self.sweep["objective"])

    @property
    def direction(self) -> Direction:
        assert self.started is not None
        return self.started.direction

    def is_better(self, value: float, than: float) -> bool:
        return is_better(value, than, self.direction)

    def elapsed(self, now: float | None = None) -> float:
        """Seconds that drivers spent on this run, the time between a stop and a resume left out.

        Up to ``now`` for a run that is going on, up to its last event otherwise.
        """
        if now is None or self._last_time is None:
            return self._active_seconds
        return self._active_seconds + max(0.0, now - self._last_time)

    def apply(self, event: Event) -> None:
        """Fold one more event in."""
        if self._last_time is not None and not isinstance(event, Resumed):
            self._active_seconds += max(0.0, event.time - self._last_time)
        self._last_time = event.time
        match event:
            case SweepStarted():
                self.started, self.sweep, self.versions = event, dict(event.sweep), event.versions
            case TrialStarted():
                self.trials[event.trial] = Trial(event.trial, event.params, event.time, updated=event.time)
            case Reported():
                self._apply_report(self.trials[event.trial], event)
            case Promoted():
                self.trials[event.trial].status = "running"
            case WorkerLost():
                self.trials[event.trial].lost_workers += 1
            case Finished():
                trial = self.trials[event.trial]
                trial.status, trial.reason, trial.updated = event.ending, event.reason, event.time
                self.num_infeasible += event.ending == "infeasible"
                self.wasted_epochs += event.wasted
            case Retried():
                trial = self.trials[event.trial]
                trial.status, trial.reason, trial.lost_workers = "running", "", 0
            case Resumed():
                self.sweep |= event.changed
                self.versions = event.versions or self.versions
                self.ended = None
            case SweepEnded():
                self.ended = event

    def _apply_report(self, trial: Trial, report: Reported) -> None:
        self.epochs += 1
        trial.lost_workers = 0
        trial.epoch, trial.updated = report.epoch, report.time
        trial.value = report.metrics[self.objective]
        trial.seconds += report.seconds
        if report.decision == "pause":
            trial.status = "paused"
        if report.checkpoint:
            trial.last_checkpoint = report.epoch
        if self.is_better(trial.value, trial.best_value):
            trial.best_epoch, trial.best_value = trial.epoch, trial.value
            trial.best_checkpoint = trial.last_checkpoint
        if trial.best_epoch in (0, trial.epoch):
            trial.metrics, trial.folds, trial.confusion = report.metrics, report.folds, report.confusion
        if trial.best_epoch and (self.best is None or self.is_better(trial.best_value, self.best.best_value)):
            self.best = trial
