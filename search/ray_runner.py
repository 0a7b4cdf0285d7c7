"""Trials on Ray: what Tune calls a trial is a worker of ours.

Tune places workers, watches over them and carries their messages. A worker trains stretch after stretch: a
Tune trial for each stretch costs Tune's controller more time than a short stretch takes, and memory for ever.
What to train and when to stop is the search's, what happened is the log's, so Tune's own experiment state is
written to a folder that is thrown away and read by nobody.
"""

import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from search.ahead import AheadWorker
from search.folder import Files, RunFolder
from search.search import Search, Stretch
from search.trial_loop import Training
from search.workers import WorkerPool
from trainers.imports import no_collections

with no_collections():  # each worker imports this before it can do anything else
    import ray
    from ray import tune
    from ray.tune import Callback
    from ray.tune.experiment import Trial as TuneTrial
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # JSON, CSV and TensorBoard files of every trial
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours ends the run
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # the log is the state
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # how many wait for room is the pool's to say
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are in the log
    "RAY_AIR_NEW_OUTPUT": "0",  # it prints a box even when told to be silent
}

IDLE_STEP_S = 0.1

NO_FORK = "PL_DISABLE_FORK"
"""Keeps PyTorch Lightning from forking a process that Ray is in: issue 28197 of ray-project/ray."""


def run(search: Search, training: Training, folder: RunFolder, stays: bool, may_grow: bool) -> None:
    """See ``runner.Runner``; Ray is connected, and ``stays`` so afterwards if it is somebody else's.

    ``may_grow`` says whether its cluster may.

    Raises RunFailed when workers cannot start, the log cannot be written, or the search is hopeless.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what went wrong is in the log
    resources = search.sweep.resources
    with (
        _environment(TUNE_SETTINGS),
        _processes_that_wait(),
        _short_collections(),
        tempfile.TemporaryDirectory(prefix="rungwise-tune-") as storage,
    ):
        scheduler = _TuneScheduler(WorkerPool(search, folder, resources, ray.cluster_resources, may_grow))
        try:
            tune.run(
                tune.with_parameters(_TuneWorker, training=training),
                name="sweep",
                num_samples=-1,
                search_alg=_TuneSearcher(scheduler.pool),
                scheduler=scheduler,
                callbacks=[_Forget()],
                resources_per_trial={"cpu": resources.cpu, "gpu": resources.gpu},
                reuse_actors=True,
                storage_path=storage,
                raise_on_failed_trial=False,
                verbose=0,
            )
        except BaseException as error:
            if stays:
                scheduler.end_workers()
            if isinstance(error, _Escape):
                assert error.__cause__
                raise error.__cause__ from None
            raise


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
def _processes_that_wait() -> Iterator[None]:
    """Have workers take the processes that Ray started ahead of time, one for each CPU.

    Those have the environment that Ray began with. Tune asks for ``NO_FORK`` besides, so that each worker
    would wait for a process of its own, as it still does where Tune passes on more (credentials of AWS, say).
    The names are Tune's own: should they change, that is how it is again.
    """
    class_cache = sys.modules.get("ray.tune.execution.class_cache")
    variables = getattr(class_cache, "DEFAULT_ENV_VARS", None)
    if not isinstance(variables, dict) or NO_FORK not in variables:
        yield
        return
    kept = variables.pop(NO_FORK)
    try:
        yield
    finally:
        variables[NO_FORK] = kept


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


class _TuneSearcher(Searcher):
    """To Tune: whether to start another of its trials, which are our workers."""

    def __init__(self, pool: WorkerPool) -> None:
        super().__init__()
        self._pool = pool

    def suggest(self, trial_id: str) -> Any:  # FINISHED is a text, whatever Ray's annotation says
        with _escaping():
            if self._pool.is_over():
                return Searcher.FINISHED
            return {} if self._pool.admit(trial_id) else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._pool.forget(trial_id)

    def save(self, checkpoint_path: str) -> None:
        pass  # the log is the state

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its log")


class _TuneScheduler(FIFOScheduler):
    """To Tune: what becomes of a worker after each thing it says."""

    def __init__(self, pool: WorkerPool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pool = pool
        self._tune: Any = None

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._tune = tune_controller

    def end_workers(self) -> None:
        """Tune does so after an Exception only; those that stay would keep the next run waiting for CPUs."""
        with suppress(Exception):  # there may be none, or Tune is in the middle of something
            self._tune._tune_controller.cleanup()

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        with _escaping():
            _let_go_of_results(tune_controller, trial)
            return self.pool.hear(trial.trial_id, trial.temporary_state.ray_actor, result["said"])

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        with _escaping():
            self.pool.lose(trial.trial_id, _why_it_died(Path(trial.error_file)))


def _let_go_of_results(tune_controller: Any, trial: TuneTrial) -> None:
    """Tune keeps all that an actor ever returned, checkpoints and all, until its Tune trial ends.

    That is as long as a worker of ours lives. No other result is awaited while one is being taken.
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
        os.environ.setdefault(NO_FORK, "1")
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
