"""A run whose driver can be started again and again, to be killed, locked or watched."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.events import Event, Finished, Promoted, Reported, TrialStarted, read_events
from search.search import derived_seed
from tests.search.conftest import make_sweep

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
TPE = {"suggester": "tpe", "trials": 30, "seed": 0}
SPACE = {
    "learning_rate": {"float": [0.001, 1.0], "log": True},
    "batch_size": [8, 16, 32],
    "epoch_s": [0.02, 0.021],
}


class Drill:
    """One run under attack: starts drivers, watches the log, and checks what must never happen."""

    def __init__(self, tmp_path: Path, runner: str) -> None:
        self.sweep = make_sweep(search=TPE, space=SPACE)
        self.folder = tmp_path / "runs" / "drill"
        self.log = self.folder / "events.jsonl"
        self.journal = tmp_path / "journal"
        self._runner = runner
        tmp_path.mkdir(exist_ok=True)
        self._file = tmp_path / "sweep.yaml"
        self._file.write_text(self.sweep.to_yaml())

    def command(self) -> list[str]:
        begun = self.log.exists() and b"\n" in self.log.read_bytes()
        verb = ["resume", str(self.folder)] if begun else ["run", str(self._file), "--name", "drill"]
        runs = [] if begun else ["--runs", str(self.folder.parent)]
        return [sys.executable, "-m", "search", *verb, *runs, "--runner", self._runner]

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen[str]]:
        """A driver in a process group of its own, gone at the end with all its children."""
        environment = os.environ | {"TINY_JOURNAL": str(self.journal)}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env=environment,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE_S)

    def events(self) -> list[Event]:
        return [event for event, _ in read_events(self.log)] if self.log.exists() else []

    def lines(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def workers(self) -> list[int]:
        """The processes that train for this run now."""
        return [pid for pid in {int(pid) for *_, pid in self.notes()} if Path(f"/proc/{pid}").exists()]

    def check(self, before: bytes) -> None:
        """Nothing that was acknowledged is lost, nothing finished was trained again, nothing counts twice."""
        assert self.log.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "the log was rewritten"
        events = self.events()
        trials = {derived_seed(0, n): n for n in range(1, 200)}
        reported = [(e.trial, e.epoch) for e in events if isinstance(e, Reported)]
        assert len(reported) == len(set(reported)), "an epoch was reported twice"
        finished: dict[int, float] = {}
        for event in events:
            assert not (isinstance(event, TrialStarted | Reported | Promoted) and event.trial in finished)
            if isinstance(event, Finished):
                finished[event.trial] = event.time
        ahead = 1 if self._runner == "ray" else 0  # its workers train on while a report travels
        for word, seed, epoch, _ in self.notes():
            if word == "acknowledged" and int(epoch) > ahead:
                assert (trials[int(seed)], int(epoch) - ahead) in reported, "an acknowledged report is lost"

    def finished(self) -> set[int]:
        return {event.trial for event in self.events() if isinstance(event, Finished)}

    def starts(self) -> list[int]:
        """The trial of each stretch that a worker began."""
        trials = {derived_seed(0, n): n for n in range(1, 200)}
        return [trials[int(seed)] for word, seed, *_ in self.notes() if word == "start"]

    def notes(self) -> list[list[str]]:
        """What workers wrote down by themselves: (start | acknowledged, seed of the trial, epoch,
        process)."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.split() for line in lines]


def wait_until(is_so: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait for a fact; give up if the process ends first or too much time passes."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := is_so()):
        assert time.monotonic() < deadline, "waited too long"
        if process.poll() is not None:
            return is_so()
        time.sleep(0.005)
    return answer
