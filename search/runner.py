"""What runners share: how one is called, and how a report becomes durable and gets its decision."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from search.events import Decision
from search.folder import RunFolder
from search.search import Ended, Report, Search
from search.trial_loop import Training
from spaces.sweep import Sweep

Runner = Callable[[Search, Training, RunFolder], None]
"""Trains what ``search`` hands out until it hands out nothing more; what matters is in the log by then."""

Start = Callable[[Sweep, ExitStack], Runner]
"""Begins what takes a runner long and needs no data yet, and returns at once. What takes time to take down
goes on the stack, which is closed once the log knows how the run ended."""


def accept(search: Search, folder: RunFolder, *messages: Report | Ended, ahead: int = 0) -> Decision:
    """Keep what a trial's next messages brought along, then the messages themselves, and answer them.

    In this order, so that an event never promises a checkpoint that is not there. ``ahead`` is how many
    epochs the worker trains beyond them before it knows the answer.
    """
    reports = [message for message in messages if isinstance(message, Report)]
    decision: Decision = "continue"
    if reports:
        decision = _accept_reports(search, folder, reports, ahead)
    if decision == "continue" and isinstance(messages[-1], Ended):
        search.finish(messages[-1])
        return "stop"
    return decision


def _accept_reports(search: Search, folder: RunFolder, reports: Sequence[Report], ahead: int) -> Decision:
    *earlier, last = reports
    if earlier and (last.checkpoint is not None or last.probabilities is not None):
        # Files belong to the last one, see AheadWorker.listen: they are kept only if it is still wanted.
        decision = _accept_reports(search, folder, earlier, ahead + 1)
        return decision if decision != "continue" else _accept_reports(search, folder, [last], ahead)
    if last.checkpoint is not None:
        folder.write_checkpoint(last.trial, last.epoch, last.checkpoint)
    if last.probabilities is not None:
        folder.write_predictions(last.trial, last.epoch, last.probabilities)
    trial = search.run.trials[last.trial]
    kept = {trial.best_checkpoint, trial.last_checkpoint}
    decision = search.report(*reports, ahead=ahead)
    keep = {trial.best_checkpoint, trial.last_checkpoint}
    if kept - keep:
        folder.drop_checkpoints(trial.number, keep)
    return decision
