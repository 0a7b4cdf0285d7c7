"""Drives a run from start to end: puts data, lock, log, search and runner together."""

import difflib
import importlib
import importlib.metadata
import logging
import platform
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

from pydantic import ValidationError

from search.events import (
    ALL_DONE,
    EventLog,
    Resumed,
    Run,
    RunError,
    RunFailed,
    SweepEnded,
    SweepStarted,
    read_events,
)
from search.folder import RunFolder, cache_of, find_run, write_text
from search.runner import Runner, Start
from search.search import Search, Structure, no_structure
from search.trial_loop import Training, use_threads
from spaces.params import Fault, SpaceError, Value
from spaces.sweep import Sweep, load_sweep
from trainers.catalog import load_trainer, trainer_faults
from trainers.datasets import Dataset, load_dataset
from trainers.folds import Splits, fingerprint, make_folds, split_rows, y_valid
from trainers.metrics import METRICS

_LOG = logging.getLogger(__name__)

RunnerName = Literal["ray", "local"]
RUNNERS: dict[str, str] = {"ray": "search.ray_cluster", "local": "search.local_runner"}
CHANGEABLE = {"search.trials", "budget", "resources"}
"""What a resumed run may do differently: how far to go and on what, never what its numbers mean."""
LIBRARIES = ("rungwise", "numpy", "scikit-learn", "keras", "tensorflow", "jax", "pyspark", "optuna", "ray")

Watch = Callable[[Search], Any]
"""Given the search before it starts; returns a context manager that is held while it runs."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came. Everything reported so far is durable."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@contextmanager
def unwatched(search: Search) -> Iterator[None]:
    yield


def load_checked_sweep(path: Path | str, overrides: Sequence[str] = (), threads: int | None = None) -> Sweep:
    """Read a sweep and check all of it: its own rules, and its names against trainers, data sets and metrics.

    ``threads`` are those of a run that began with others than the sweep has now, see ``threads_of``. Raises
    SpaceError with every fault, each with file and line.
    """
    return load_sweep(Path(path), overrides, check=partial(_faults, threads))


def _faults(threads: int | None, sections: Mapping[str, Any]) -> Iterator[Fault]:
    if "resources" in sections:
        # Finding a hypermodel's space starts TensorFlow, which asks for its threads then and never again.
        use_threads(threads or sections["resources"].threads)
    yield from trainer_faults(sections)


def run_sweep(
    sweep: Sweep,
    folder: RunFolder | Path | str,
    runner: RunnerName = "ray",
    source: Path | None = None,
    overrides: Sequence[str] = (),
    watch: Watch = unwatched,
) -> Run:
    """Run a sweep into a new folder until its search is over.

    Raises RunError when the folder is taken or the run fails, DataError for data nothing can be trained on,
    SpaceError where its trainer cannot be had in this process, Interrupted on SIGINT or SIGTERM.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    runs = folder.path.parent
    folder.refuse_if_taken()  # before anything is begun for it
    structure = structure_of(sweep)  # before a folder is made for what has no trainer
    with ExitStack() as afterwards:
        train = _start(runner, sweep, afterwards)
        dataset, splits = load_rows(sweep, runs)
        folder.create()
        with folder.lock():
            write_text(folder.sweep, sweep.to_yaml())
            started = SweepStarted(
                sweep=sweep.to_dict(),
                source=str(source) if source else None,
                overrides=tuple(overrides),
                direction=METRICS[sweep.objective],
                classes=dataset.classes,
                data=fingerprint(dataset, splits),
                versions=versions_of(LIBRARIES),
            )
            with EventLog(folder.events) as log:
                log.append(started)
                search = Search.replay(sweep, [started], log.append, structure=structure)
                training = training_of(sweep, dataset, splits, runs, sweep.resources.threads)
                return _drive(search, log, partial(train, search, training, folder), watch)


def resume_run(
    run: str | Path,
    overrides: Sequence[str] = (),
    runner: RunnerName = "ray",
    runs: Path | None = None,
    as_started: bool = False,
    retry_failed: bool = False,
    watch: Watch = unwatched,
) -> Run:
    """Go on with a run where its log ends; ``overrides`` may change its trials, budget or resources.

    With ``retry_failed`` the trials that failed go on too, each from its last checkpoint.

    Raises RunError when there is no such run, another driver holds it, its file, its source (unless
    ``as_started``) or an override asks for another search than the one that was started, or its data changed.
    """
    folder = find_run(run, runs)
    with folder.lock(), ExitStack() as afterwards, EventLog(folder.events) as log:
        before = Run.read(folder.events)
        before.check_begun(folder.path)
        assert before.started
        as_logged, threads = Sweep.from_dict(before.sweep), threads_of(before.started)
        sweep = load_checked_sweep(folder.sweep, overrides, threads)
        _refuse_other_search(as_logged, sweep, folder.sweep)
        if not as_started:
            _refuse_changed_source(before.started)
        train = _start(runner, sweep, afterwards)
        dataset, splits = load_rows(sweep, folder.path.parent)
        if fingerprint(dataset, splits) != before.started.data:
            raise RunError(
                f"the data of run {folder.name!r} changed since it was started ({dataset.source}): its "
                "trials could not be compared; put the data back, or start a new run"
            )
        events = (event for event, _ in read_events(folder.events))
        search = Search.replay(sweep, events, log.append, structure=structure_of(sweep))
        changed = {k: v for k, v in sweep.to_dict().items() if v != before.sweep.get(k)}
        versions = versions_of(LIBRARIES)
        _tell_of_other_versions(before.versions, versions)
        resumed = Resumed(changed=changed, versions=versions)
        search.run.apply(resumed)  # from when on time counts again
        any_failed = any(trial.status == "failed" for trial in search.run.trials.values())
        if retry_failed and any_failed and (why := search.over()):
            raise RunError(f"{why}: nothing would be tried again; change that with --set budget.KEY=VALUE")
        write_text(folder.sweep, sweep.to_yaml())  # first: the next resume goes by it, if this one ends here
        log.append(resumed)
        search.take_up_again(failed=retry_failed)
        training = training_of(sweep, dataset, splits, folder.path.parent, threads)
        return _drive(search, log, partial(train, search, training, folder), watch)


def _start(name: RunnerName, sweep: Sweep, afterwards: ExitStack) -> Runner:
    start: Start = importlib.import_module(RUNNERS[name]).start
    return start(sweep, afterwards)


def _drive(search: Search, log: EventLog, train: Callable[[], None], watch: Watch) -> Run:
    """Train, and write into the log how that ended."""
    end = partial(_append_end, search, log)
    try:
        with _signals_raise(), watch(search):
            train()
    except Interrupted as interrupted:
        end("interrupted", signal.Signals(interrupted.signum).name)
        raise
    except RunFailed as error:
        end("failed", str(error))
        raise
    except OSError as error:  # a disk that is full or fails, elsewhere than in the log
        end("failed", str(error))
        raise RunFailed(str(error)) from error
    end("complete", search.over() or ALL_DONE)
    return search.run


def _append_end(
    search: Search, log: EventLog, state: Literal["complete", "failed", "interrupted"], reason: str
) -> None:
    event = SweepEnded(state=state, reason=reason)
    try:
        log.append(event)
    except RunFailed:
        if state == "complete":
            raise
        return  # the disk that ended the run cannot take this line either
    search.run.apply(event)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted, once: `ray job stop` kills three seconds after it asked."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    came: list[int] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        came.append(signum)
        raise KeyboardInterrupt  # the one such exception that finds its way through Ray's C++

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(came[0] if came else signal.SIGINT) from None
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def load_rows(sweep: Sweep, runs: Path) -> tuple[Dataset, Splits]:
    """The rows and how they are divided. What took long to read is kept in a cache beside the runs."""
    dataset = load_dataset(sweep.dataset, cache=cache_of(runs))
    return dataset, split_rows(dataset, sweep.validation, sweep.search.seed)


def threads_of(started: SweepStarted) -> int:
    """A sum's last bits depend on how many threads add, so a run keeps to those that it began with, whatever
    CPUs its trials are given later."""
    return Sweep.from_dict(started.sweep).resources.threads


def training_of(sweep: Sweep, dataset: Dataset, splits: Splits, runs: Path, threads: int) -> Training:
    """What every worker of a run is given."""
    return Training(
        trainer=sweep.trainer,
        objective=sweep.objective,
        fixed=dict(sweep.fixed),
        threads=threads,
        folds=make_folds(dataset, splits, sweep.epochs, cache=cache_of(runs)),
        y_valid=y_valid(dataset, splits),
    )


def structure_of(sweep: Sweep) -> Structure:
    """A text for each configuration, equal for those that a worker trains with what it built once; None for
    those that are built anew each time."""
    trainer = load_trainer(sweep.trainer)
    told = getattr(trainer, "structure", None)
    if told is None:
        return no_structure

    def structure(params: Mapping[str, Value]) -> str | None:
        try:
            return cast(str | None, told(trainer.Settings(**sweep.fixed, **params)))
        except ValidationError:
            return None  # its worker will say why

    return structure


def versions_of(libraries: Iterable[str]) -> dict[str, str]:
    """The versions that are installed now."""
    versions = {"python": platform.python_version()}
    for library in libraries:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _tell_of_other_versions(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    others = [
        f"{library} {now.get(library, 'not there')} instead of {version}"
        for library, version in then.items()
        if now.get(library) != version
    ]
    if others:
        _LOG.warning(
            "the run goes on with %s: its trials may no longer be comparable to the bit", ", ".join(others)
        )


def _refuse_other_search(started: Sweep, asked: Sweep, where: Path | str) -> None:
    ours, theirs = _unchangeable(started), _unchangeable(asked)
    if ours != theirs:
        diff = difflib.unified_diff(ours, theirs, "as started", str(where), lineterm="", n=0)
        raise RunError(
            "a run cannot be resumed as another search: its trials would not be comparable. "
            "Take the change back, or start a new run with it:\n" + "\n".join(diff)
        )


def _refuse_changed_source(started: SweepStarted) -> None:
    source = Path(started.source) if started.source else None
    if source is None or not source.is_file():
        return
    try:
        now = load_sweep(source, started.overrides)  # only to compare: it is not what will be trained
    except SpaceError:
        return  # being edited: not what this run was started from any more, and nothing to compare
    try:
        _refuse_other_search(Sweep.from_dict(started.sweep), now, source)
    except RunError as error:
        raise RunError(f"{error}\nTo go on with the run as it was started: --as-started") from None


def _unchangeable(sweep: Sweep) -> list[str]:
    return [
        f"{name}: {value}"
        for name, value in _flat(sweep.to_dict())
        if not any(name == key or name.startswith(f"{key}.") for key in CHANGEABLE)
    ]


def _flat(section: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
