"""What runners share: how one is called, and how a report becomes durable and gets its decision."""

from collections.abc import Callable

from search.events import Decision
from search.folder import RunFolder
from search.search import Report, Search
from search.trial_loop import Training

Runner = Callable[[Search, Training, RunFolder], None]
"""Trains what ``search`` hands out until it hands out nothing more; whatever matters is in the log by
then."""


def accept(report: Report, search: Search, folder: RunFolder) -> Decision:
    """Keep what a report brought along, then the report itself, and answer it.

    In this order, so that an event never promises a checkpoint that is not there.
    """
    if report.checkpoint is not None:
        folder.write_checkpoint(report.trial, report.epoch, report.checkpoint)
    if report.probabilities is not None:
        folder.write_predictions(report.trial, report.epoch, report.probabilities)
    trial = search.run.trials[report.trial]
    kept = {trial.best_checkpoint, trial.last_checkpoint}
    decision = search.report(report)
    keep = {trial.best_checkpoint, trial.last_checkpoint}
    if kept - keep:
        folder.drop_checkpoints(report.trial, keep)
    return decision
