"""The brain of a sweep: which stretch of which trial comes next, and what becomes of each report.

One object, three bodies: the local runner, the Ray runner and simulations drive it through ``next_trial``,
``report``, ``finish`` and ``lose``. All its state follows from its events, so ``replay``
rebuilds it from a log.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search.asha import Asha
from search.events import (
    Decision,
    Ending,
    Event,
    Finished,
    Promoted,
    Reported,
    Retried,
    Run,
    RunError,
    RunFailed,
    TrialStarted,
    WorkerLost,
)
from search.suggesters import load_suggester
from spaces.params import Value
from spaces.sweep import Sweep

LOST_WORKERS = 3
"""A trial that took so many workers down in a row has failed: it probably needs more memory than there is."""
HOPELESS_FAILURES = 5
HOPELESS_INFEASIBLE = 200


@dataclass(frozen=True)
class Stretch:
    """A piece of work: train one trial from a checkpoint on, until told to stop."""

    trial: int
    params: dict[str, Value]
    seed: int
    start: int
    """The epoch of the checkpoint to go on from; 0 begins anew."""
    reported: int
    """Epochs that were reported before: trained again after a crash, never reported again."""
    best: float
    """The objective of the best of those, NaN if there is none."""
    rungs: tuple[int, ...]
    """Epochs whose report is compared with others'; after any other one it goes on, unless all is over."""
    may_pause: bool
    """Whether the trial may have to pause at a rung, which needs a checkpoint there."""


@dataclass(frozen=True)
class Report:
    """One epoch of one trial, scored."""

    trial: int
    epoch: int
    metrics: Mapping[str, float]
    folds: tuple[float, ...] = ()
    """The objective of each fold by itself; empty for a hold-out."""
    confusion: tuple[tuple[int, ...], ...] = ()
    curves: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    checkpoint: Mapping[str, bytes] | None = None
    """The checkpoint's files by name, if this epoch has one."""
    probabilities: NDArray[np.float32] | None = None
    """Validation predictions, if this epoch is the trial's best so far."""

    @property
    def brings_files(self) -> bool:
        return self.checkpoint is not None or self.probabilities is not None


@dataclass(frozen=True)
class Ended:
    """A trial ended by itself, after its last report."""

    trial: int
    ending: Ending
    reason: str = ""


Structure = Callable[[Mapping[str, Value]], str | None]
"""Of params: a text that is equal for those whose trials a worker starts without building anew."""


def no_structure(params: Mapping[str, Value]) -> str | None:
    return None


@dataclass(frozen=True)
class Memory:
    """What a worker still has of what it trained, so that more of the same starts sooner there."""

    trials: Collection[int] = ()
    """It holds the checkpoint from which these go on."""
    structures: Collection[str] = ()


NOTHING = Memory()


class Search:
    """Decides; knows neither Ray nor files.

    A rung decides, ``append`` makes the event that tells of it durable, and all else follows from the event:
    nobody is told of what could be lost. Where ``append`` fails the search is over, its rungs being ahead of
    the log.
    """

    def __init__(
        self,
        sweep: Sweep,
        run: Run,
        append: Callable[..., None],
        clock: Callable[[], float] = time.time,
        structure: Structure = no_structure,
    ) -> None:
        self.sweep = sweep
        self.run = run
        self.structure = structure
        self.asha = (
            Asha(sweep.epochs, sweep.asha.grace, sweep.asha.reduction, sweep.asha.rule)
            if sweep.asha
            else Asha(sweep.epochs, rule=None)
        )
        self._append = append
        self._clock = clock
        self._suggester = load_suggester(sweep)
        self._exhausted = False
        self._in_flight: set[int] = set()
        self._cut_off: set[int] = set()
        """Trials that would have gone on, had the budget or the target not ended the search before."""
        self._unfinished: deque[int] = deque()
        """Trials that are running and that nobody trains: their worker or driver went away, or turned to
        other work."""

    @classmethod
    def replay(
        cls,
        sweep: Sweep,
        events: Iterable[Event],
        append: Callable[..., None],
        clock: Callable[[], float] = time.time,
        structure: Structure = no_structure,
    ) -> Self:
        """The search as it stood after ``events``; what was running then is handed out again first.

        The end of a trial that did not reach the disk with its last report is written now. Raises RunError
        where an event is not what the search would have decided.
        """
        search = cls(sweep, Run(), append, clock, structure)
        event: Event | None = None
        decision: Decision = "continue"
        for event in events:
            match event:
                case TrialStarted():
                    search._suggester.restore(event.trial, event.params)
                case Reported():
                    decision = search.asha.report(event.trial, event.epoch, search._signed(event.metrics))
                    # What its rung lets go on may stop all the same: all epochs, the target, the budget.
                    if event.decision != decision:
                        if (decision, event.decision) != ("continue", "stop"):
                            raise _decided_otherwise(event)
                        if event.epoch < sweep.epochs:
                            search._cut_off.add(event.trial)
                case Promoted():
                    try:
                        search.asha.promote(event.trial)
                    except ValueError as error:
                        raise _decided_otherwise(event) from error
            search._follow(event)
        search._in_flight.clear()
        if isinstance(event, Reported) and event.decision == "stop":  # killed before it wrote how it ended
            ending, why = search._ending(event, search._signed(event.metrics), decision)
            why = why or ("" if ending else "the target was reached or the budget used up")
            search._record(
                Finished(time=event.time, trial=event.trial, ending=ending or "stopped", reason=why)
            )
        search._unfinished = deque(t.number for t in search.run.trials.values() if t.status == "running")
        return search

    def next_trial(self, memory: Memory = NOTHING) -> Stretch | None:
        """The next piece of work for a worker that is free, or soon will be.

        Of trials that may equally well go on now, one that is in the worker's ``memory`` does. None means
        that there is no work now; if none is being trained at that moment either, the search is over.
        """
        if self.over():
            return None
        if self._unfinished:
            trial = self._nearest(self._unfinished, memory)
            self._unfinished.remove(trial)
            return self._hand_out(trial)
        if promotable := self.asha.all_promotable():
            return self._promote(self._nearest(promotable, memory))
        if new := self._start_trial():
            return new
        last = None if self._in_flight else self.asha.last_promotable()
        return None if last is None else self._promote(last)

    def report(self, *reports: Report, ahead: int = 0) -> Decision:
        """Take the next epochs of a trial in flight; durable, as one piece, when this returns.

        The decision is that on the last of them that was taken: none is after one that ends the stretch. The
        others are wasted, and so are the epochs that the worker trains ``ahead`` of its reports.
        """
        events: list[Event] = []
        decision: Decision = "continue"
        for count, report in enumerate(reports, 1):
            decision, finished = self._judge(report, wasted=len(reports) - count + ahead)
            events += [reported(report, self._clock(), decision), *finished]
            if decision != "continue":
                break
        self._record(*events)
        return decision

    def finish(self, ended: Ended) -> None:
        """Take the end of a trial in flight that ended by itself.

        Raises RunFailed when nothing can come of the search any more: trials only fail, or none is feasible.
        """
        self._record(
            Finished(time=self._clock(), trial=ended.trial, ending=ended.ending, reason=ended.reason)
        )
        self._give_up_if_hopeless(ended)

    def lose(self, trial: int, reason: str) -> None:
        """The worker of a trial in flight died. The trial is handed out again, from its last checkpoint."""
        self._record(WorkerLost(time=self._clock(), trial=trial, reason=reason))
        if self.run.trials[trial].lost_workers >= LOST_WORKERS:
            self._unfinished.remove(trial)
            died = f"its worker died {LOST_WORKERS} times in a row"
            self.finish(Ended(trial, "failed", f"{died}; the last time: {reason}"))

    def take_up_again(self, failed: bool = False) -> None:
        """Hand out once more, each from its last checkpoint, the trials that a budget or target cut off which
        no longer does; and with ``failed`` all that failed."""
        if self.over():
            return
        trials = [
            trial.number
            for trial in self.run.trials.values()
            if (trial.status == "failed" and failed)
            or (trial.status == "stopped" and trial.number in self._cut_off)
        ]
        if trials:
            self._record(*(Retried(time=self._clock(), trial=trial) for trial in trials))

    def give_back(self, trial: int) -> None:
        """A trial in flight goes on, and its worker turned to other work: it is handed out again."""
        self._in_flight.discard(trial)
        self._unfinished.append(trial)

    def over(self) -> str | None:
        """Why nothing more is to be trained: the target is reached or the budget used up."""
        budget, best = self.sweep.budget, self.run.best
        if budget.target is not None and best and not self.run.is_better(budget.target, best.best_value):
            return f"trial {best.number} reached the target of {budget.target:g}"
        if budget.minutes is not None and self.elapsed() >= 60 * budget.minutes:
            return f"the budget of {budget.minutes:g} minutes is used up"
        return None

    def elapsed(self) -> float:
        """Seconds that drivers have spent on this run, time between a stop and a resume left out."""
        return self.run.elapsed(self._clock())

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def num_at_once(self) -> int:
        """How many trials could be in training now: those that are, that wait for it, or are yet to begin."""
        in_all = 0 if self._exhausted else self.sweep.search.trials + self.run.num_infeasible
        num_new = max(0, in_all - len(self.run.trials))
        return num_new + len(self._in_flight) + len(self._unfinished) + self.asha.num_promotable

    def _promote(self, trial: int) -> Stretch:
        self.asha.promote(trial)
        self._record(Promoted(time=self._clock(), trial=trial))
        return self._hand_out(trial)

    def _nearest(self, trials: Sequence[int], memory: Memory) -> int:
        """One that the memory holds, else one whose structure it has, else the first."""
        held = (trial for trial in trials if trial in memory.trials)
        alike = (
            trial
            for trial in trials
            if memory.structures and self.structure(self.run.trials[trial].params) in memory.structures
        )
        return next(chain(held, alike, trials))

    def _start_trial(self) -> Stretch | None:
        trials = self.run.trials.values()
        counted = len(trials) - self.run.num_infeasible  # these cost no budget
        if self._exhausted or counted >= self.sweep.search.trials:
            return None
        number = len(trials) + 1
        params = self._suggester.suggest(number)
        if params is None:
            self._exhausted = True
            return None
        self._record(TrialStarted(time=self._clock(), trial=number, params=params))
        return self._hand_out(number)

    def _hand_out(self, number: int) -> Stretch:
        trial = self.run.trials[number]
        self._in_flight.add(number)
        return Stretch(
            trial=number,
            params=trial.params,
            seed=derived_seed(self.sweep.search.seed, number),
            start=trial.last_checkpoint,
            reported=trial.epoch,
            best=trial.best_value,
            rungs=tuple(self.asha.rungs),
            may_pause=self.asha.rule == "promote",
        )

    def _judge(self, report: Report, wasted: int) -> tuple[Decision, list[Finished]]:
        value = self._signed(report.metrics)
        decision = self.asha.report(report.trial, report.epoch, value)
        ending, reason = self._ending(report, value, decision)
        if not ending:
            return decision, []
        time = self._clock()
        return "stop", [Finished(time=time, trial=report.trial, ending=ending, reason=reason, wasted=wasted)]

    def _ending(
        self, report: Report | Reported, value: float, decision: Decision
    ) -> tuple[Ending | None, str]:
        """Whether this report is the trial's last, and why."""
        if math.isnan(value):
            return "stopped", f"{self.sweep.objective} is NaN at epoch {report.epoch}: training diverged"
        if report.epoch >= self.sweep.epochs:
            return "complete", ""
        if decision == "stop":
            share = f"best 1/{self.asha.reduction}"
            return "stopped", f"not among the {share} at the rung of epoch {report.epoch}"
        if decision == "continue" and (why := self._over_after(report, value)):
            return "stopped", why
        return None, ""

    def _over_after(self, report: Report | Reported, value: float) -> str | None:
        target = self.sweep.budget.target
        if target is not None and value >= self._sign * target:
            return f"reached the target of {target:g} at epoch {report.epoch}"
        return self.over()

    def _record(self, *events: Event) -> None:
        self._append(*events)
        for event in events:
            self._follow(event)

    def _follow(self, event: Event) -> None:
        """All that an event changes, live and in a replay alike, but the rungs: it is what they decided."""
        self.run.apply(event)
        match event:
            case TrialStarted() | Promoted():
                self._in_flight.add(event.trial)
            case Reported():
                value = self._signed(event.metrics)
                self._suggester.report(event.trial, event.epoch, value, event.seconds)
                if event.decision == "pause":
                    self._in_flight.discard(event.trial)
                    self._suggester.rest(event.trial)
            case Finished():
                self._in_flight.discard(event.trial)
                best = self._sign * self.run.trials[event.trial].best_value
                self._suggester.finish(event.trial, event.ending, best)
            case WorkerLost():
                self._in_flight.discard(event.trial)
                self._unfinished.append(event.trial)
            case Retried():
                self._cut_off.discard(event.trial)
                self._unfinished.append(event.trial)
                self._suggester.retry(event.trial)

    @property
    def _sign(self) -> int:
        return 1 if self.run.direction == "max" else -1

    def _signed(self, metrics: Mapping[str, Any]) -> float:
        """The objective, turned so that larger is better."""
        return self._sign * float(metrics[self.sweep.objective])

    def _give_up_if_hopeless(self, ended: Ended) -> None:
        endings = (t.status for t in reversed(self.run.trials.values()) if t.is_finished)
        same = sum(1 for _ in takewhile(lambda status: status == ended.ending, endings))
        if ended.ending == "failed" and same >= HOPELESS_FAILURES and not self.run.epochs:
            raise RunFailed(
                f"the first {same} trials all failed (mend that, and resume the run with --retry-failed); "
                f"the last one: {ended.reason}"
            )
        if (
            ended.ending == "infeasible"
            and same >= HOPELESS_INFEASIBLE
            and self.sweep.search.suggester != "grid"
        ):
            raise RunFailed(
                f"{same} configurations in a row were infeasible; the last one: {ended.reason}; "
                "narrow the space: rungwise check shows what fits"
            )


def _decided_otherwise(event: Reported | Promoted) -> RunError:
    return RunError(
        f"what the log says became of trial {event.trial} is not what this version decides, so another wrote "
        "it: go on with that one, or start a new run"
    )


def reported(report: Report, time: float, decision: Decision) -> Reported:
    """The line of the log that a report becomes."""
    return Reported(
        time=time,
        trial=report.trial,
        epoch=report.epoch,
        metrics={sys.intern(name): value for name, value in report.metrics.items()},  # each came with its own
        folds=report.folds,
        confusion=report.confusion,
        curves=dict(report.curves),
        seconds=report.seconds,
        checkpoint=report.checkpoint is not None,
        decision=decision,
    )


def derived_seed(seed: int, trial: int) -> int:
    """What everything random in a trial follows from."""
    return int(np.random.SeedSequence([seed, trial]).generate_state(1)[0] >> 1)
