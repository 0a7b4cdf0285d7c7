"""Trials on Ray: what Tune calls a trial is a worker of ours.

Tune places workers, watches over them and carries their messages. A worker trains stretch after stretch: a
Tune trial for each stretch costs Tune's controller more time than a short stretch takes, and memory for ever.
What to train and when to stop is the search's, what happened is the log's, so Tune's own experiment state is
written to a folder that is thrown away and read by nobody.
"""

import gc
import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.ahead import HELD_TRIALS, AheadWorker, Said
from search.events import RunFailed
from search.folder import Files, RunFolder
from search.runner import accept
from search.search import LOST_WORKERS, Memory, Report, Search, Stretch
from search.trial_loop import Training
from spaces.sweep import Resources

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # JSON, CSV and TensorBoard files of every trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends the run
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the log is the state
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # _Workers asks for no more than there is room for
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the log
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints a box even when told to be silent
}

IDLE_STEP_S = 0.1
LONG_EPOCH_S = 1.0
"""Beside such an epoch the time until an answer comes is nothing."""
SHORT_STRETCH_S = 0.05
"""A stretch this short may be over before a report of its first epochs is answered."""
IDLE_LIMIT_S = 30.0
"""After this long without work a worker gives its place back, as long as another idle one stays."""


def run(search: Search, training: Training, folder: RunFolder) -> None:
    """See ``runner.Runner``; Ray is connected. Raises RunFailed when workers cannot start, the log cannot be
    written, or the search is hopeless."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what went wrong is in the log
    resources = search.sweep.resources
    with (
        _environment(TUNE_SETTINGS),
        _short_collections(),
        tempfile.TemporaryDirectory(prefix="rungwise-tune-") as storage,
    ):
        driver = _Driver(search, folder, resources)
        try:
            tune.run(
                tune.with_parameters(_TuneWorker, training=training),
                name="sweep",
                num_samples=-1,
                search_alg=_Workers(driver),
                scheduler=_Answers(driver),
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


@contextmanager
def _short_collections() -> Iterator[None]:
    """Look for garbage among what the run makes only; among all that is imported it takes 0.15 s and more."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Escape(BaseException):
    """Carries an error of ours through Tune, which turns any Exception into a failed trial."""


@contextmanager
def _escaping() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Escape from error


@dataclass
class _Place:
    """What the driver knows of one worker."""

    worker: Any
    at: Stretch | None = None
    """What it trains."""
    queued: Stretch | None = None
    """What it turns to when that may have ended."""
    held: Mapping[int, int] = field(default_factory=dict)
    """See ``Said``."""
    structures: deque[str] = field(default_factory=lambda: deque(maxlen=HELD_TRIALS))
    """Of the trials that it trained lately."""


class _Driver:
    """What the two adapters share: the search, and which Tune trial, that is which worker, trains what."""

    def __init__(self, search: Search, folder: RunFolder, resources: Resources) -> None:
        self._search = search
        self._folder = folder
        self._resources = resources
        self._workers: set[str] = set()
        """Tune trials that were asked for and have not ended."""
        self._places: dict[str, _Place] = {}
        """Of the workers that said a word."""
        self._idle_since: dict[str, float] = {}
        self._epoch_s = math.inf
        """How long the last epoch took that was reported."""
        self._stillborn = 0
        """Workers in a row that died before they said a word."""
        self._is_over = False
        self._slots = 0
        self._slots_read = -math.inf

    def wants_worker(self, tune_id: str) -> bool:
        """Whether another worker would find work; one more than there is room for, as a cluster may grow."""
        if self._is_over or self._idle_since or len(self._workers) > self._num_slots():
            return False
        self._workers.add(tune_id)
        return True

    def is_over(self) -> bool:
        return self._is_over

    def answer(self, tune_id: str, worker: Any, said: Said) -> str:
        """Take what a worker says; it gets its answer, and its next stretch where this one is over."""
        self._stillborn = 0
        place = self._places.setdefault(tune_id, _Place(worker))
        place.held = said.held
        if said.messages:
            self._take(place, said)
        if not place.at:
            self._give(place)
        if not place.at:
            return self._rest(tune_id)
        self._idle_since.pop(tune_id, None)
        if self._is_time_to_queue(place, place.at):
            self._give(place)
        return TrialScheduler.CONTINUE

    def lose(self, tune_id: str, reason: str) -> None:
        """The worker died. Raises RunFailed when none ever starts, which another one would not either."""
        place = self._places.pop(tune_id, None)
        if place is None:
            self._stillborn += 1
            if self._stillborn >= LOST_WORKERS:
                raise RunFailed(f"{self._stillborn} workers in a row died while starting: {reason}")
            return
        if place.queued:
            self._search.give_back(place.queued.trial)
        if place.at:
            self._search.lose(place.at.trial, reason)

    def forget(self, tune_id: str) -> None:
        """The worker is gone, for whatever reason."""
        self._workers.discard(tune_id)
        self._places.pop(tune_id, None)
        self._idle_since.pop(tune_id, None)

    def _take(self, place: _Place, said: Said) -> None:
        """Keep and answer what is new of a worker's trial."""
        assert place.at
        last = said.messages[-1]
        if isinstance(last, Report):
            self._epoch_s = last.seconds
        goes_on = accept(self._search, self._folder, *said.messages, ahead=said.ahead) == "continue"
        if said.at != place.at.trial:  # it turned to what was queued
            if goes_on:
                self._search.give_back(place.at.trial)
            place.at, place.queued = place.queued, None
        elif not goes_on:
            if place.queued:
                self._search.give_back(place.queued.trial)
            place.at = place.queued = None
            place.worker.begin.remote(None, None)

    def _give(self, place: _Place) -> None:
        """The next stretch, if there is one: to begin with, or to turn to."""
        stretch = self._search.next_trial(Memory(place.held, place.structures))
        if not stretch:
            return
        files = None
        if stretch.start and place.held.get(stretch.trial) != stretch.start:
            files = self._folder.read_checkpoint(stretch.trial, stretch.start)
        if place.at:
            place.queued = stretch
            place.worker.queue.remote(stretch, files)
        else:
            place.at = stretch
            place.worker.begin.remote(stretch, files)
        if structure := self._search.structure(stretch.params):
            if structure in place.structures:
                place.structures.remove(structure)  # as the worker has it: the latest is let go last
            place.structures.append(structure)

    def _is_time_to_queue(self, place: _Place, at: Stretch) -> bool:
        """Late, since what is asked for later is asked for knowing more, and never where it saves nothing."""
        if place.queued or self._idle_since or self._epoch_s > LONG_EPOCH_S:
            return False
        epoch = self._search.run.trials[at.trial].epoch
        rungs = [rung for rung in at.rungs if rung > epoch]
        if rungs and not at.may_pause:
            return False  # nothing is saved there that the trial could go on from
        left = min([*rungs, self._search.sweep.epochs]) - epoch
        return left <= 1 or left * self._epoch_s <= SHORT_STRETCH_S

    def _rest(self, tune_id: str) -> str:
        """Keep a worker without work while there may be some again; of those that idle for long keep one."""
        self._is_over = not self._search.num_in_flight
        idle_s = time.monotonic() - self._idle_since.setdefault(tune_id, time.monotonic())
        if self._is_over or (idle_s > IDLE_LIMIT_S and len(self._idle_since) > 1):
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def _num_slots(self) -> int:
        """How many trials the cluster as it is now can train at once."""
        if time.monotonic() - self._slots_read > 1:
            self._slots_read = time.monotonic()
            total = ray.cluster_resources()
            cpus = total.get("CPU", 0) // self._resources.cpu
            gpus = total.get("GPU", 0) // self._resources.gpu if self._resources.gpu else math.inf
            self._slots = int(min(cpus, gpus))
        return self._slots


class _Workers(Searcher):
    """To Tune: whether to start another of its trials, which are our workers."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> Any:  # FINISHED is a text, whatever Ray's annotation says
        with _escaping():
            if self._driver.is_over():
                return Searcher.FINISHED
            return {} if self._driver.wants_worker(trial_id) else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._driver.forget(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass  # the log is the state

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its log")


class _Answers(FIFOScheduler):
    """To Tune: what becomes of a worker after each thing it says."""

    def __init__(self, driver: _Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        with _escaping():
            _let_go_of_results(tune_controller, trial)
            return self._driver.answer(trial.trial_id, trial.temporary_state.ray_actor, result["said"])

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        with _escaping():
            self._driver.lose(trial.trial_id, _why_it_died(Path(trial.error_file)))


def _let_go_of_results(tune_controller: Any, trial: TuneTrial) -> None:
    """Tune keeps all that an actor ever answered, checkpoints and all, until its Tune trial ends.

    That is as long as a worker of ours lives. No other answer is awaited while one is being taken.
    """
    with suppress(AttributeError):  # of Tune's own names: without them memory grows, and the run goes on
        actor = tune_controller._tune_controller._trial_to_actor[trial]
        tune_controller._tune_controller._actor_manager.clear_actor_task_futures(actor)


class _Forget(Callback):
    """Takes what was said out of what Tune keeps of its trials."""

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        result["said"] = None


class _TuneWorker(tune.Trainable):
    """The process that trains: takes stretch after stretch, and keeps data and imports between them."""

    def setup(self, config: dict[str, Any], training: Training) -> None:  # type: ignore[override]
        self._worker = AheadWorker(training)
        self._has_greeted = False

    def begin(self, stretch: Stretch | None, files: Files | None) -> None:
        self._worker.begin(stretch, files)

    def queue(self, stretch: Stretch, files: Files | None) -> None:
        self._worker.queue(stretch, files)

    def step(self) -> dict[str, Any]:
        """Train until there is something to say; an idle worker says nothing, and not too often."""
        said = self._worker.listen()
        if not said.messages and self._has_greeted:
            time.sleep(IDLE_STEP_S)
        self._has_greeted = True
        return {"said": said}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune hands the process of an ended trial to its next one."""
        self._worker.begin(None, None)
        self._has_greeted = False
        return True

    def cleanup(self) -> None:
        self._worker.close()


def _why_it_died(error_file: Path) -> str:
    """The first and the last line of what Tune wrote down, below its own heading: what happened, and why."""
    lines = [line.strip() for line in error_file.read_text().splitlines() if line.strip()][1:]
    return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else "no reason was given"
