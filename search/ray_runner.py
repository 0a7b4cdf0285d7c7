"""Trials on Ray: each stretch is one Tune trial on a warm worker; the only file that imports Ray.

Tune places the work and carries the messages. What to train and when to stop is the search's, what happened
is
the log's, so Tune's own experiment state is written to a folder that is thrown away and read by nobody.
"""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave a CPU trial's environment alone

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.events import RunFailed
from search.folder import RunFolder
from search.runner import accept
from search.search import Ended, Report, Search, Stretch
from search.trial_loop import Training, Worker
from spaces.sweep import Resources

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # JSON, CSV and TensorBoard files of every trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends the run
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the log is the state
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # _Stretches hands out no more than there are workers for
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the log
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints a box even when told to be silent
}


def run(search: Search, training: Training, folder: RunFolder) -> None:
    """See ``runner.Runner``. Uses the cluster at RAY_ADDRESS if that is set, else one of its own on this
    machine.

    Raises RunFailed when this machine has no room for a trial, the log cannot be written, or the search is
    hopeless.
    """
    resources = search.sweep.resources
    with (
        _cluster(resources),
        _environment(TUNE_SETTINGS),
        tempfile.TemporaryDirectory(prefix="rungwise-tune-") as storage,
    ):
        driver = _Driver(search, folder, resources)
        try:
            tune.run(
                tune.with_parameters(_TuneWorker, training=training),
                name="sweep",
                num_samples=-1,
                search_alg=_Stretches(driver),
                scheduler=_Decisions(driver),
                callbacks=[_Forget()],
                resources_per_trial={"cpu": resources.cpu, "gpu": resources.gpu},
                reuse_actors=True,
                storage_path=storage,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except _Escape as escape:
            assert escape.__cause__
            raise escape.__cause__ from None


@contextmanager
def _cluster(resources: Resources) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with _handlers_kept():
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if not address:  # a cluster elsewhere may grow; this machine does not
            _check_room(resources)
        yield
    finally:
        ray.shutdown()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which would end the process before the log knows why."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _check_room(resources: Resources) -> None:
    total = ray.cluster_resources()
    for name, amount in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        if amount > total.get(name, 0):
            raise RunFailed(
                f"each trial asks for {amount:g} {name}s and this machine has {total.get(name, 0):g}: "
                f"resume the run with --set resources.{name.lower()}=..., or on a cluster: set RAY_ADDRESS"
            )


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Work:
    """A stretch on its way to a worker, with its checkpoint in Ray's object store.

    Tune copies, prints and keeps the configuration of every trial; this stays one small object throughout.
    """

    def __init__(self, stretch: Stretch, checkpoint: Mapping[str, bytes] | None) -> None:
        self.stretch = stretch
        self.checkpoint = ray.put(checkpoint) if checkpoint else None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Work":
        return self

    def __repr__(self) -> str:
        return f"{self.stretch.trial}@{self.stretch.start}"


class _Escape(BaseException):
    """Carries an error of ours through Tune, which turns any Exception into a failed trial."""


@contextmanager
def _escaping() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Escape from error


class _Driver:
    """What the two adapters share: the search, and which Tune trial carries which stretch."""

    def __init__(self, search: Search, folder: RunFolder, resources: Resources) -> None:
        self.search = search
        self.folder = folder
        self._resources = resources
        self._work: dict[str, _Work] = {}
        self._slots = 0
        self._slots_read = float("-inf")

    def next_work(self, tune_id: str) -> _Work | str | None:
        if self.search.num_in_flight > self._num_slots():  # one stretch waits for the first free worker
            return None
        stretch = self.search.next_trial()
        if stretch is None:
            return None if self.search.num_in_flight else Searcher.FINISHED
        files = self.folder.read_checkpoint(stretch.trial, stretch.start) if stretch.start else None
        self._work[tune_id] = _Work(stretch, files)
        return self._work[tune_id]

    def take(self, tune_id: str, message: Report | Ended) -> str:
        if isinstance(message, Ended):
            self._work.pop(tune_id)
            self.search.finish(message)
            return TrialScheduler.STOP
        decision = accept(message, self.search, self.folder)
        if decision == "continue":
            return TrialScheduler.CONTINUE
        self._work.pop(tune_id)
        return TrialScheduler.STOP

    def lose(self, tune_id: str, reason: str) -> None:
        if work := self._work.pop(tune_id, None):
            self.search.lose(work.stretch.trial, reason)

    def _num_slots(self) -> int:
        """How many trials the cluster as it is now can train at once; it may grow, so one is always asked
        for."""
        if time.monotonic() - self._slots_read > 1:
            self._slots_read = time.monotonic()
            total = ray.cluster_resources()
            cpus = total.get("CPU", 0) // self._resources.cpu if self._resources.cpu else float("inf")
            gpus = total.get("GPU", 0) // self._resources.gpu if self._resources.gpu else float("inf")
            self._slots = int(min(cpus, gpus, 1_000_000))
        return self._slots


class _Stretches(Searcher):
    """To Tune: what to train next."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:  # FINISHED is a text, whatever Ray's annotation says
        with _escaping():
            work = self._driver.next_work(trial_id)
        return {"work": work} if isinstance(work, _Work) else work

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pass  # _Decisions has heard of it

    def save(self, checkpoint_path: str) -> None:
        pass  # the log is the state

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its log")


class _Decisions(FIFOScheduler):
    """To Tune: what becomes of a trial after each result."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        with _escaping():
            return self._driver.take(trial.trial_id, result["message"])

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        with _escaping():
            self._driver.lose(trial.trial_id, _first_line(trial.get_error()))


class _Forget(Callback):
    """Takes the messages out of what Tune keeps of every trial for ever."""

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        result["message"] = None


class _TuneWorker(tune.Trainable):
    """The process that trains: takes stretch after stretch, and keeps data and imports between them."""

    def setup(self, config: dict[str, Any], training: Training) -> None:  # type: ignore[override]
        self._worker = Worker(training)
        self._messages: Generator[Report | Ended] | None = None
        self._checkpoint: tempfile.TemporaryDirectory[str] | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        work: _Work = new_config["work"]
        start = self._unpack(ray.get(work.checkpoint)) if work.checkpoint else None
        self._messages = self._worker.train(work.stretch, start)
        return True

    def step(self) -> dict[str, Any]:
        assert self._messages
        return {"message": next(self._messages)}

    def cleanup(self) -> None:
        if self._messages:
            self._messages.close()
        if self._checkpoint:
            self._checkpoint.cleanup()
            self._checkpoint = None

    def _unpack(self, files: Mapping[str, bytes]) -> Path:
        self._checkpoint = tempfile.TemporaryDirectory(prefix="rungwise-")
        folder = Path(self._checkpoint.name)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder


def _first_line(error: Exception | None) -> str:
    return str(error or "no reason was given").strip().splitlines()[0]
