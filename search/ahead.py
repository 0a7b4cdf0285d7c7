"""A worker that trains in a thread of its own, so that training seldom waits for a decision.

While a report travels the next epoch is trained, and no more than that one. After a report that may end its
stretch nothing of the same trial is trained before the decision: the worker turns to the stretch that it was
given for then, if any. It keeps the checkpoints of its last few trials, to go on without being sent them.
"""

import math
import tempfile
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from search.folder import Files
from search.search import Ended, Report, Stretch
from search.trial_loop import Training, Worker

BATCH_S = 0.02
HELD_TRIALS = 8
HELD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Said:
    """What a worker says when it is asked what is new."""

    messages: tuple[Report | Ended, ...] = ()
    """All of one trial; none from a worker without work."""
    trial: int | None = None
    """The one that it trains now, or on which it waits for a decision."""
    ahead: int = 0
    """How many epochs beyond the messages it trains meanwhile."""
    held: Mapping[int, int] = field(default_factory=dict)
    """The trials it holds a checkpoint of, and of which epoch."""

    def __repr__(self) -> str:
        """Tune formats each result for a debug line, checkpoints and all, read or not."""
        return f"{len(self.messages)} messages"


class AheadWorker:
    """Asked and told by one thread, trains in another."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._thread = ThreadPoolExecutor(1, "train")
        self._worker = self._thread.submit(Worker, training).result()  # what imports set up may be per thread
        self._stretch: Stretch | None = None
        self._messages: Generator[Report | Ended] | None = None
        """Of the present stretch; only the thread touches what is inside."""
        self._coming: Future[Report | Ended] | None = None
        """Its next message; None while it waits for a decision."""
        self._queued: tuple[Stretch, Files | None] | None = None
        self._held: dict[int, tuple[int, Files]] = {}

    def begin(self, stretch: Stretch | None, files: Files | None) -> None:
        """Leave the present stretch and the queued one, and take up this one, if any.

        Without ``files`` it goes on from the checkpoint that is held here, unless it begins anew.
        """
        self._leave()
        self._queued = None
        if stretch:
            self._take_up(stretch, self._to_start(stretch, files))

    def queue(self, stretch: Stretch, files: Files | None) -> None:
        """Take up this stretch, as with ``begin``, as soon as the present one may have ended."""
        self._queued = stretch, self._to_start(stretch, files)

    def listen(self) -> Said:
        """Wait until there is something to say; whoever asks again lets the trial go on.

        Epochs that take no time worth mentioning are told together, unless one may end the stretch or brings
        files along.
        """
        if not self._stretch:
            return Said(held=self._epochs_held())
        stretch, gathered, seconds = self._stretch, list[Report | Ended](), 0.0
        while True:
            message = (self._coming or self._train()).result()
            gathered.append(message)
            if isinstance(message, Ended) or self._may_end(message, stretch):
                self._pause(message)
                break
            self._coming = self._train()
            seconds += message.seconds
            if message.brings_files or seconds + message.seconds > BATCH_S:
                break
        is_ahead = self._stretch is stretch and self._coming is not None
        return Said(tuple(gathered), self._stretch.trial, int(is_ahead), self._epochs_held())

    def close(self) -> None:
        """Train nothing more after the present epoch."""
        self.begin(None, None)
        self._thread.shutdown(wait=False)

    def _may_end(self, report: Report, stretch: Stretch) -> bool:
        """Whether the decision may be anything but to go on, as far as the report itself tells."""
        return (
            report.epoch in stretch.rungs
            or report.epoch >= self._training.folds[0].epochs
            or math.isnan(report.metrics[self._training.objective])
        )

    def _pause(self, message: Report | Ended) -> None:
        """Keep what it takes to go on, and turn to what is queued, or else wait for the decision."""
        self._coming = None
        if isinstance(message, Report) and message.checkpoint is not None:
            self._hold(message.trial, message.epoch, message.checkpoint)
        if self._queued:
            self._leave()
            self._take_up(*self._queued)
            self._queued = None

    def _take_up(self, stretch: Stretch, files: Files | None) -> None:
        self._stretch, self._messages = stretch, _unpacked(self._worker, stretch, files)
        self._coming = self._train()

    def _leave(self) -> None:
        if self._messages:
            self._thread.submit(self._messages.close)  # after the epoch that is being trained
        self._stretch = self._messages = self._coming = None

    def _train(self) -> Future[Report | Ended]:
        assert self._messages
        return self._thread.submit(next, self._messages)

    def _to_start(self, stretch: Stretch, files: Files | None) -> Files | None:
        return self._held.pop(stretch.trial)[1] if stretch.start and files is None else files

    def _hold(self, trial: int, epoch: int, files: Files) -> None:
        self._held.pop(trial, None)
        self._held[trial] = epoch, files
        while len(self._held) > HELD_TRIALS or self._bytes_held() > HELD_BYTES:
            del self._held[next(iter(self._held))]

    def _bytes_held(self) -> int:
        return sum(len(content) for _, files in self._held.values() for content in files.values())

    def _epochs_held(self) -> dict[int, int]:
        return {trial: epoch for trial, (epoch, _) in self._held.items()}


def _unpacked(worker: Worker, stretch: Stretch, files: Files | None) -> Generator[Report | Ended]:
    """What the worker says of a stretch, whose checkpoint lies in a folder as long as it lasts."""
    with ExitStack() as stack:
        start = None
        if files is not None:
            start = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rungwise-")))
            for name, content in files.items():  # not durable as in a run's folder: it ends with this
                (start / name).parent.mkdir(parents=True, exist_ok=True)
                (start / name).write_bytes(content)
        yield from worker.train(stretch, start)
