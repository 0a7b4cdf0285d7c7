"""Runs as they grow: each log is read once, and after that only what was appended to it."""

import copy
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from search.events import Reported, Run, RunError, read_events
from search.folder import RunFolder
from search.results import Results, row_of, state_of

HEAD_BYTES = 64
"""Enough of a log's first line to hold its time, which tells a run from a later one of the same name."""


@dataclass(frozen=True)
class Snapshot(Results):
    """A run as it stood when it was read; nobody changes it afterwards."""

    updated: float
    """When the last event was written, in seconds since the epoch."""


class RunsReader:
    """The runs of one folder. Viewers share it: each log is folded once, however many look at it."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._readers: dict[str, RunReader] = {}

    def read(self) -> dict[str, Snapshot | RunError]:
        """Every run by name, the newest first; one that cannot be read is there with the reason, at the end.

        Raises RunError when the folder itself cannot be read.
        """
        with _told_plainly(self.runs):
            folders = [path for path in self.runs.iterdir() if not path.name.startswith(".")]
            names = sorted(path.name for path in folders if _has_log(path))
        found = {name: self._read(name) for name in names}
        return dict(sorted(found.items(), key=lambda item: _started(item[1]), reverse=True))

    def run(self, name: str) -> "RunReader":
        """The reader of a run that ``read`` has found: no other name is ever made a path."""
        return self._readers[name]

    def _read(self, name: str) -> Snapshot | RunError:
        try:
            return self._readers.setdefault(name, RunReader(RunFolder(self.runs / name))).read()
        except RunError as error:
            return error


def _has_log(path: Path) -> bool:
    return os.path.isfile(path / "events.jsonl")  # `Path.is_file` raises for a folder that is somebody else's


def _started(entry: Snapshot | RunError) -> float:
    return entry.run.started.time if isinstance(entry, Snapshot) and entry.run.started else 0.0


class RunReader:
    """One run, folded as far as its log goes."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._start_over()

    def read(self) -> Snapshot:
        """The run as it stands. Raises RunError when its log cannot be read."""
        with self._lock, _told_plainly(self.folder.events):
            since = self.folder.locked_since()  # asked first: a driver that ends now has written its end
            self._follow()
            run = self._run_for_viewers()
        run.check_begun(self.folder.path)
        return Snapshot(self.folder, run, state_of(run.ended, since), self._updated)

    def curves(self, trials: Iterable[int]) -> pandas.DataFrame:
        """One row an epoch of these trials: trial, epoch, every metric, every curve. Reads their lines only,
        and those once.

        Raises RunError when the log cannot be read.
        """
        with self._lock, _told_plainly(self.folder.events):
            rows = [row for trial in trials for row in self._rows_of(trial)]
        return pandas.DataFrame(rows, columns=None if rows else ["trial", "epoch"])

    def _start_over(self) -> None:
        self._run = Run()
        self._shared: Run | None = None
        self._offset = 0
        self._head = b""
        self._updated = 0.0
        self._reports: dict[int, list[int]] = {}
        """Where each trial's reports begin in the log: curves are read when somebody wants to see them."""
        self._rows: dict[int, list[dict[str, Any]]] = {}
        """Of the trials whose curves somebody saw, an epoch each."""

    def _follow(self) -> None:
        """Fold what was appended since; from the beginning when the log is another one than before."""
        path = self.folder.events
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if path.stat().st_size < self._offset or not head.startswith(self._head):
            self._start_over()
        self._head = head
        for event, begin, end in self._run.follow(path, self._offset):
            if isinstance(event, Reported):
                self._reports.setdefault(event.trial, []).append(begin)
            self._offset, self._updated, self._shared = end, event.time, None

    def _rows_of(self, trial: int) -> list[dict[str, Any]]:
        rows, offsets = self._rows.setdefault(trial, []), self._reports.get(trial, [])
        for offset in offsets[len(rows) :]:
            event, _ = next(read_events(self.folder.events, offset), (None, 0))
            if not isinstance(event, Reported):
                break  # the log is another one by now: the next look begins anew
            rows.append(row_of(event))
        return rows

    def _run_for_viewers(self) -> Run:
        """A copy that stays as it is while another viewer's visit folds on."""
        if self._shared is None:
            self._shared = copy.copy(self._run)
            self._shared.trials = {number: copy.copy(trial) for number, trial in self._run.trials.items()}
            self._shared.best = self._run.best and self._shared.trials[self._run.best.number]
        return self._shared


@contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
