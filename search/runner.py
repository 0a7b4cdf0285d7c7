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
    """Keep what a trial's next messages brought along, then the messages themselves, and decide.

    In this order, so that an event never promises a checkpoint that is not there. There is one message or
    more, all of one trial; an ``Ended`` comes last, and only the last report brings files. ``ahead`` is how
    many epochs the worker trains beyond them before it knows the decision.
    """
    reports = [message for message in messages if isinstance(message, Report)]
    decision: Decision = "continue"
    if len(reports) > 1 and reports[-1].brings_files:
        *earlier, last = reports
        decision = _accept(search, folder, earlier, ahead + 1)  # that of ``last`` too was trained beyond them
        reports = [last]  # whose files are kept only if it is still wanted
    if reports and decision == "continue":
        decision = _accept(search, folder, reports, ahead)
    if decision == "continue" and isinstance(messages[-1], Ended):
        search.finish(messages[-1])
        return "stop"
    return decision


def _accept(search: Search, folder: RunFolder, reports: Sequence[Report], ahead: int) -> Decision:
    last = reports[-1]
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
