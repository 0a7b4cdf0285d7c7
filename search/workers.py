"""What a driver knows of its workers, and what it has each of them do next, whoever carries the messages."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from search.ahead import Said
from search.events import RunFailed
from search.folder import RunFolder
from search.runner import accept
from search.search import LOST_WORKERS, Memory, Report, Search, Stretch
from spaces.sweep import Resources
from trainers.contract import KEPT_STRUCTURES

Fate = Literal["CONTINUE", "STOP"]
"""As Ray Tune spells what becomes of a worker."""
_LOG = logging.getLogger(__name__)

LONG_EPOCH_S = 1.0
"""Beside such an epoch the time until a decision comes is nothing."""
SHORT_STRETCH_S = 0.05
"""A stretch this short may be over before there is a decision on its first epochs."""
SILENCE_S = 60.0
"""After this long without a single worker the user is told what they wait for."""
MOST_WAITING = 8
"""For room, on a cluster that may grow: these are what it grows by."""
IDLE_LIMIT_S = 30.0
"""After this long without work a worker gives its place back, as long as another idle one stays."""


@dataclass
class Place:
    """What the pool knows of one worker."""

    worker: Any
    stretch: Stretch | None = None
    """What it trains."""
    queued: Stretch | None = None
    """What it turns to when that may have ended."""
    has_worked: bool = False
    """Whether it was ever given anything to train."""
    held: Mapping[int, int] = field(default_factory=dict)
    """See ``Said``."""
    structures: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_STRUCTURES))
    """Of the trials that it trained lately."""


class WorkerPool:
    """Which worker trains what, who is starting, and who died."""

    def __init__(
        self,
        search: Search,
        folder: RunFolder,
        resources: Resources,
        cluster: Callable[[], Mapping[str, float]],
        may_grow: bool = True,
    ) -> None:
        """``cluster`` tells how many CPUs and GPUs, under these names, all nodes have together now."""
        self._may_grow = may_grow
        self._cluster = cluster
        self._search = search
        self._folder = folder
        self._resources = resources
        self._workers: set[str] = set()
        """Asked for, and not ended."""
        self._places: dict[str, Place] = {}
        """Of the workers that said a word."""
        self._idle_since: dict[str, float] = {}
        self._epoch_s = math.inf
        """How long the last epoch took that was reported."""
        self._stillborn = 0
        """Workers that died before they said a word, since one last did or left, or the cluster changed."""
        self._is_over = False
        self._silence: float | None = time.monotonic()
        """Since when no worker has said a word, if none ever did and nobody was told so yet."""
        self._slots = 0
        self._slots_read = -math.inf

    def admit(self, name: str) -> bool:
        """Count one more worker as asked for, if it would find work."""
        self._tell_of_silence()
        if self._is_over or self._idle_since or self._is_full() or self._is_discouraged():
            return False
        self._workers.add(name)
        return True

    def is_over(self) -> bool:
        return self._is_over

    def hear(self, name: str, worker: Any, said: Said) -> Fate:
        """Take what a worker says; it gets its next stretch where this one is over."""
        if name not in self._places:
            self._places[name], self._stillborn, self._silence = Place(worker), 0, None
        place = self._places[name]
        place.held = said.held
        if said.messages:
            self._take(place, said)
        if not place.stretch:
            self._give(place)
        if not place.stretch:
            self._is_over = not self._search.num_in_flight
            return self._idle(name, place)
        self._idle_since.pop(name, None)
        if self._is_time_to_queue(place, place.stretch):
            self._give(place)
        return "CONTINUE"

    def lose(self, name: str, reason: str) -> None:
        """The worker died. Raises RunFailed when none works and none starts, as another would not either."""
        self._idle_since.pop(name, None)
        place = self._places.pop(name, None)
        if place is None:
            self._lose_stillborn(name, reason)
            return
        self._stillborn = 0
        if place.queued:
            self._search.give_back(place.queued.trial)
        if place.stretch:
            self._search.lose(place.stretch.trial, reason)

    def forget(self, name: str) -> None:
        """The worker is gone, for whatever reason."""
        self._workers.discard(name)
        self._idle_since.pop(name, None)
        if self._places.pop(name, None):
            self._stillborn = 0

    def _lose_stillborn(self, name: str, reason: str) -> None:
        """Some node may lack a package that the others have."""
        self._stillborn += 1
        if self._is_over or self._stillborn < LOST_WORKERS:
            return
        what = f"{self._stillborn} workers in a row died while starting: {reason}"
        if not self._places and not self._workers - {name}:
            raise RunFailed(what)
        if self._stillborn == LOST_WORKERS:
            _LOG.warning(
                "%s; the run goes on with the others, and adds none while they stay and the cluster does",
                what,
            )

    def _is_discouraged(self) -> bool:
        """Whether enough workers died while starting, or enough are starting to see whether more do."""
        starting = self._workers - self._places.keys()
        return self._stillborn > 0 and self._stillborn + len(starting) >= LOST_WORKERS

    def _tell_of_silence(self) -> None:
        """A cluster may be growing, or may never have the room; Tune is not to say anything about either."""
        if self._silence is None or time.monotonic() - self._silence < SILENCE_S:
            return
        self._silence = None
        asked, there = self._resources, self._cluster()
        _LOG.warning(
            "no worker is ready yet: they are starting, or wait for room: each trial asks for %g CPUs and %g "
            "GPUs, and the cluster has %g and %g on all its nodes together",
            asked.cpu,
            asked.gpu,
            there.get("CPU", 0),
            there.get("GPU", 0),
        )

    def _take(self, place: Place, said: Said) -> None:
        """Keep what is new of a worker's trial, and let it go on or not."""
        assert place.stretch
        last = said.messages[-1]
        if isinstance(last, Report):
            self._epoch_s = last.seconds
        goes_on = accept(self._search, self._folder, *said.messages, ahead=said.ahead) == "continue"
        if said.trial != place.stretch.trial:  # it turned to what was queued
            if goes_on:
                self._search.give_back(place.stretch.trial)
            place.stretch, place.queued = place.queued, None
        elif not goes_on:
            if place.queued:
                self._search.give_back(place.queued.trial)
            place.stretch = place.queued = None
            place.worker.begin.remote(None, None)

    def _give(self, place: Place) -> None:
        """The next stretch, if there is one: to begin with, or to turn to."""
        stretch = self._search.next_trial(Memory(place.held, place.structures))
        if not stretch:
            return
        files = None
        if stretch.start and place.held.get(stretch.trial) != stretch.start:
            files = self._folder.read_checkpoint(stretch.trial, stretch.start)
        if place.stretch:
            place.queued = stretch
            place.worker.queue.remote(stretch, files)
        else:
            place.stretch, place.has_worked = stretch, True
            place.worker.begin.remote(stretch, files)
        if structure := self._search.structure(stretch.params):
            if structure in place.structures:
                place.structures.remove(structure)  # as the worker has it: the latest is let go last
            place.structures.append(structure)

    def _is_time_to_queue(self, place: Place, at: Stretch) -> bool:
        """Late, since what is asked for later is asked for knowing more, and never where it saves nothing."""
        if place.queued or self._idle_since or self._epoch_s > LONG_EPOCH_S:
            return False
        epoch = self._search.run.trials[at.trial].epoch
        rungs = [rung for rung in at.rungs if rung > epoch]
        if rungs and not at.may_pause:
            return False  # nothing is saved there that the trial could go on from
        left = min([*rungs, self._search.sweep.epochs]) - epoch
        return left <= 1 or left * self._epoch_s <= SHORT_STRETCH_S

    def _idle(self, name: str, place: Place) -> Fate:
        """Keep a worker without work while there may be some again; of those that idle for long, and of those
        that came too late for any, keep one."""
        now = time.monotonic()
        idle_s = now - self._idle_since.setdefault(name, now)
        is_spare = len(self._idle_since) > 1 and (idle_s > IDLE_LIMIT_S or not place.has_worked)
        return "STOP" if self._is_over or is_spare else "CONTINUE"

    def _is_full(self) -> bool:
        """None waits for room where some may start, but none has spoken: perhaps none can."""
        num, slots = len(self._workers), self._num_slots()
        waiting = MOST_WAITING if self._may_grow and (self._places or not slots) else 0
        return num >= slots + waiting or num >= max(1, self._search.num_at_once)

    def _num_slots(self) -> int:
        """How many trials the cluster as it is now can train at once."""
        if time.monotonic() - self._slots_read > 1:
            self._slots_read = time.monotonic()
            total = self._cluster()
            cpus = _fitting(total.get("CPU", 0), self._resources.cpu)
            gpus = _fitting(total.get("GPU", 0), self._resources.gpu) if self._resources.gpu else math.inf
            slots = int(min(cpus, gpus))
            if slots != self._slots:
                self._slots, self._stillborn = slots, 0
        return self._slots


def _fitting(total: float, amount: float) -> int:
    return math.floor(total / amount + 1e-9)  # 1 // 0.2 is 4
