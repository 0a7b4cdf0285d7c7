"""Trials one after another in this process: the shortest way to a result, and the one to debug in."""

from contextlib import ExitStack, closing

from threadpoolctl import threadpool_limits

from search.folder import RunFolder
from search.runner import Runner, accept
from search.search import Search
from search.trial_loop import Training, Worker
from spaces.sweep import Sweep


def start(sweep: Sweep, afterwards: ExitStack) -> Runner:
    """See ``runner.Start``: there is nothing to begin."""
    return run


def run(search: Search, training: Training, folder: RunFolder) -> None:
    """See ``runner.Runner``. Raises RunError when the log cannot be written or the search is hopeless."""
    with threadpool_limits(training.threads):  # until it ends: this may be a notebook's process
        worker = Worker(training)
        while stretch := search.next_trial():
            start = folder.checkpoint(stretch.trial, stretch.start) if stretch.start else None
            with closing(worker.train(stretch, start)) as messages:
                for message in messages:
                    if accept(search, folder, message) != "continue":
                        break
