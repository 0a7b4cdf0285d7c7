"""Starts Ray on this machine, or connects to a cluster, while the driver does other things.

Apart from the runner, since importing Tune takes longer than importing Ray: that too is done meanwhile.
"""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from search.events import RunFailed
from search.folder import RunFolder
from search.runner import Runner
from search.search import Search
from search.trial_loop import Training
from spaces.sweep import Resources, Sweep

_IDLERS = ("start_api_server", "start_monitor", "start_log_monitor")


def start(sweep: Sweep, afterwards: ExitStack) -> Runner:
    """See ``runner.Start``. Uses the cluster at RAY_ADDRESS if that is set, else one of its own.

    The runner raises RunFailed when no cluster is there, or this machine has no room for a trial, and as
    ``ray_runner.run`` does.
    """
    if ray.is_initialized():
        return partial(_run, None)  # somebody else's
    # In a thread Ray leaves the handlers of signals as they are; its processes end with the thread.
    thread = afterwards.enter_context(ThreadPoolExecutor(1, "connect"))
    connecting = thread.submit(_connect, sweep)
    afterwards.callback(ray.shutdown)
    afterwards.callback(wait, [connecting])
    return partial(_run, connecting)


def _connect(sweep: Sweep) -> bool:
    """Returns whether the cluster may grow: one elsewhere may, this machine does not."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address := os.environ.get("RAY_ADDRESS"):
        with _told_plainly(f"cannot use the Ray cluster at {address} (RAY_ADDRESS)"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        return True
    with _told_plainly("cannot start Ray on this machine"), _without_idlers():
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    _check_room(sweep.resources)
    return False


@contextmanager
def _told_plainly(what: str) -> Iterator[None]:
    """Ray's own errors are of many kinds, some of many lines: versions that differ, a token that is wrong."""
    try:
        yield
    except Exception as error:
        raise RunFailed(f"{what}: {error}\nresume the run when that is mended") from error


@contextmanager
def _without_idlers() -> Iterator[None]:
    """Spare a cluster of one run on one machine what does nothing for it, and a third of its start.

    Ray waits for its dashboard's server even where there is to be no dashboard, and starts an autoscaler that
    has no machines to add and a reader of logs that nobody asked to see. ``ray.init`` has no option for them.
    The names are Ray's own, and may change: what is not found is started.
    """
    node: Any = getattr(getattr(ray._private, "node", None), "Node", None)
    kept = {name: getattr(node, name) for name in _IDLERS if hasattr(node, name)}
    for name in kept:
        setattr(node, name, lambda self, **options: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(node, name, method)


def _run(connecting: Future[bool] | None, search: Search, training: Training, folder: RunFolder) -> None:
    from search.ray_runner import run

    may_grow = connecting.result() if connecting else True
    run(search, training, folder, stays=connecting is None, may_grow=may_grow)


def _check_room(resources: Resources) -> None:
    total = ray.cluster_resources()
    for name, amount in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        if amount > total.get(name, 0):
            raise RunFailed(
                f"each trial asks for {amount:g} {name}s and this machine has {total.get(name, 0):g}: "
                f"resume the run with --set resources.{name.lower()}=..., or on a cluster: set RAY_ADDRESS"
            )
