"""The files of one run: who may write them, what they are called, and how they come to lie there whole.

runs/digits/
  sweep.yaml                      the sweep, as resolved
  events.jsonl                    what happened, see events.py
  lock                            held by the driver at work; says who that is
  trials/0007/epoch-0009/fold-1/  a checkpoint: all that training needs to go on after epoch 9, fold by fold
  trials/0007/predictions.npz     validation probabilities of the best epoch
"""

import difflib
import fcntl
import io
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.events import RunError, RunFailed

_BEFORE_THE_LOG = {"lock", "sweep.yaml", ".sweep.yaml"}
"""All that a run has which ended before its log began."""

Files = Mapping[str, bytes]
"""The files of a checkpoint folder, by their path in it, such as fold-1/about.json."""


class RunFolder:
    """Knows every file name of a run; reading needs no lock, writing does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self.sweep = path / "sweep.yaml"

    @property
    def name(self) -> str:
        return self.path.name

    def trial(self, trial: int) -> Path:
        return self.path / "trials" / f"{trial:04d}"

    def checkpoint(self, trial: int, epoch: int) -> Path:
        return self.trial(trial) / f"epoch-{epoch:04d}"

    def predictions(self, trial: int) -> Path:
        return self.trial(trial) / "predictions.npz"

    def create(self) -> None:
        """Make the folder. Raises RunError when the name is taken or cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        self.refuse_if_taken()

    def refuse_if_taken(self) -> None:
        """Raises RunError where a run has the name already, or the folder holds something else."""
        try:
            taken = self.path.exists() and self._holds_something()
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}") from None
        if taken:
            if not self.events.exists():
                raise RunError(f"{self.path} holds something else; choose another name with --name")
            raise RunError(
                f"run {self.name!r} already exists ({self.path}); choose another name with --name, "
                f"or go on with it: rungwise resume {self.path}"
            )

    def _holds_something(self) -> bool:
        """Whether there is more than what a run left that ended before the first line of its log."""
        there = {entry.name for entry in self.path.iterdir()}
        if self.events.name in there:
            with self.events.open("rb") as log:
                if not log.readline().endswith(b"\n"):
                    there.remove(self.events.name)
        return bool(there) and not ("lock" in there and there <= _BEFORE_THE_LOG)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one driver of this run. Raises RunError that names the driver that already is.

        The lock is the kernel's: it ends with the process that holds it, however that ends.
        """
        with (self.path / "lock").open("a+") as file:
            if not self._lock_patiently(file.fileno()):
                raise RunError(
                    f"run {self.name!r} is being driven already by {self.driver()}; wait for it or end it"
                )
            file.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
            file.flush()
            yield

    @staticmethod
    def _lock_patiently(file: int) -> bool:
        """Try for a second: whoever asks ``locked_since`` holds a shared lock for an instant."""
        for _ in range(20):
            if _try_lock(file, fcntl.LOCK_EX):
                return True
            time.sleep(0.05)
        return False

    def locked_since(self) -> float | None:
        """When the driver that is at work took the run up, in seconds since the epoch; None without one."""
        try:
            with (self.path / "lock").open() as file:
                if _try_lock(file.fileno(), fcntl.LOCK_SH):
                    return None
                return float(json.load(file)["since"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError):
            return math.inf  # it is just about to say so

    def driver(self) -> str:
        """Who holds the lock, or held it last."""
        try:
            holder = json.loads((self.path / "lock").read_text())
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
            return f"process {holder['pid']} on {holder['host']} since {since}"
        except (OSError, ValueError, KeyError):
            return "another process"

    def write_checkpoint(self, trial: int, epoch: int, files: Files) -> None:
        """Write a checkpoint whole or not at all. Raises RunFailed when the disk is full or fails."""
        final = self.checkpoint(trial, epoch)
        unfinished = final.with_name(f".{final.name}")
        with _told_plainly(final):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write_files(unfinished, files)
            for written in {unfinished, *((unfinished / name).parent for name in files)}:
                _sync_folder(written)
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
            _sync_folder(final.parent)

    def read_checkpoint(self, trial: int, epoch: int) -> dict[str, bytes]:
        return read_files(self.checkpoint(trial, epoch))

    def drop_checkpoints(self, trial: int, keep: set[int]) -> None:
        """Delete the checkpoints of a trial but those of the epochs in ``keep``, half-written ones too."""
        kept = {self.checkpoint(trial, epoch) for epoch in keep}
        for folder in self.trial(trial).glob("*epoch-*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def write_predictions(self, trial: int, epoch: int, probabilities: NDArray[np.float32]) -> None:
        """Write the (n_valid, n_classes) probabilities of an epoch in place of an earlier one's."""
        final = self.predictions(trial)
        unfinished = final.with_name(".predictions.npz")
        with _told_plainly(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            file = io.BytesIO()  # an archive written straight to a file is many small writes
            np.savez(file, epoch=np.int64(epoch), probabilities=probabilities)
            unfinished.write_bytes(file.getvalue())
            unfinished.replace(final)


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, by its path there."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


def write_files(folder: Path, files: Files) -> None:
    """Put back what ``read_files`` read, each file durably."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _write_durably(folder / name, content)


def _try_lock(file: int, mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def default_runs() -> Path:
    """Where runs lie if nobody says otherwise: $RUNGWISE_RUNS, else ./runs."""
    if runs := os.environ.get("RUNGWISE_RUNS"):
        return Path(runs)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # Ray throws a submitted job's working directory away
        return Path.home() / "runs"
    return Path("runs")


def cache_of(runs: Path) -> Path:
    """Where what is computed once for several runs lies: decoded images, features of frozen layers."""
    return runs.absolute() / ".cache"


def find_run(run: str | Path, runs: Path | None = None) -> RunFolder:
    """The folder of a run: a text is a name under the runs folder, or else a path as well. Raises RunError if
    there is none."""
    runs = runs or default_runs()
    paths = [run] if isinstance(run, Path) else [runs / run, Path(run)]
    for path in paths:
        if (path / "events.jsonl").is_file():
            return RunFolder(path)
    for path in paths:
        if path.exists():
            raise RunError(f"{path} is no run: it holds no events.jsonl")
    names = sorted(path.parent.name for path in runs.glob("*/events.jsonl"))
    there = f"{runs} holds: {', '.join(names)}" if names else f"{runs} holds no runs yet"
    close = difflib.get_close_matches(str(run), names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise RunError(f"run {str(run)!r} does not exist; {there}{hint}")


@contextmanager
def _told_plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"cannot write {path}: {error.strerror}; every event before this is safe: "
            "make room and resume the run"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Replace a file whole and durably."""
    unfinished = path.with_name(f".{path.name}")
    with _told_plainly(path):
        _write_durably(unfinished, text.encode())
        unfinished.replace(path)
        _sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
