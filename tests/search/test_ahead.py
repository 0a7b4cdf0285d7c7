"""A worker that trains on while its reports travel: what it says, what it turns to, what it keeps."""

import math
import threading
from typing import Any

import pytest

from search.ahead import BATCH_S, HELD_TRIALS, AheadWorker, Said
from search.search import Ended, Report, Stretch
from search.trial_loop import Training
from tests.search.test_trial_loop import stretch, worker
from tests.tiny import Softmax

LONG = {"epoch_s": 2 * BATCH_S}


def ahead(epochs: int = 6, trainer: str = "tests.tiny:Softmax") -> AheadWorker:
    given = worker(epochs).training
    return AheadWorker(Training(trainer, given.objective, {}, 1, given.folds, given.y_valid))


def heard(worker: AheadWorker) -> list[Said]:
    """All that it says of its trial when each answer is to go on."""
    said = [worker.listen()]
    while not isinstance(said[-1].messages[-1], Ended):
        said.append(worker.listen())
    return said


def epochs_of(said: Said) -> list[int]:
    return [message.epoch for message in said.messages if isinstance(message, Report)]


def test_epochs_that_can_only_be_told_to_go_on_are_told_together() -> None:
    trainee = ahead(epochs=9)
    trainee.begin(stretch(rungs=(3, 6)), None)
    said = heard(trainee)
    assert [epoch for each in said for epoch in epochs_of(each)] == list(range(1, 10))
    for each in said:
        assert not any(isinstance(m, Ended) or m.epoch in (3, 6, 9) for m in each.messages[:-1])
    assert len(said) < 10, "some were"


def test_long_epochs_are_told_one_by_one() -> None:
    trainee = ahead(epochs=3)
    trainee.begin(stretch(params=LONG), None)
    assert [epochs_of(said) for said in heard(trainee)] == [[1], [2], [3], []]


def test_diverged_epoch_is_told_last() -> None:
    trainee = ahead(epochs=9)
    trainee.begin(stretch(params={"mishap": "diverges", "mishap_epoch": 4}), None)
    for said in heard(trainee):
        diverged = [isinstance(m, Report) and math.isnan(m.metrics["macro_f1"]) for m in said.messages]
        assert not any(diverged[:-1])


class Threaded(Softmax):
    """Trains only in the thread in which it was made, as what an import sets up may be a thread's own."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def check(self, *given: Any) -> int:
        assert threading.get_ident() == self.thread
        return super().check(*given)


def test_trainer_is_made_in_the_thread_that_trains() -> None:
    trainee = ahead(trainer="tests.search.test_ahead:Threaded")
    trainee.begin(stretch(), None)
    assert epochs_of(heard(trainee)[0])


class Gated(Softmax):
    """Says which epochs it trained, and waits for leave to train the third."""

    trained: list[int]
    third: threading.Event

    def train(self, *given: Any) -> Any:
        epochs, score = Softmax().train(*given), None
        while True:
            if len(self.trained) == 2:
                self.third.wait()
            try:
                epoch = epochs.send(score)  # type: ignore[arg-type]  # None starts it
            except StopIteration:
                return
            self.trained.append(epoch.number)
            score = yield epoch


@pytest.fixture
def gate() -> threading.Event:
    Gated.trained, Gated.third = [], threading.Event()
    return Gated.third


def test_next_epoch_is_trained_while_a_report_waits_to_be_answered_and_none_after_it(
    gate: threading.Event,
) -> None:
    trainee = ahead(trainer="tests.search.test_ahead:Gated")
    trainee.begin(stretch(), None)
    gate.set()
    first = trainee.listen()
    assert first.trial == 1 and first.ahead == 1
    trainee.close()
    trainee._thread.shutdown()
    assert Gated.trained == list(range(1, epochs_of(first)[-1] + 2)), "one epoch was trained in vain"


def test_nothing_is_trained_beyond_a_rung_before_its_answer(gate: threading.Event) -> None:
    trainee = ahead(trainer="tests.search.test_ahead:Gated")
    trainee.begin(stretch(rungs=(2,)), None)
    while epochs_of(said := trainee.listen())[-1] < 2:
        pass
    assert (said.trial, said.ahead) == (1, 0)
    trainee.close()
    trainee._thread.shutdown()
    assert Gated.trained == [1, 2]


def test_worker_turns_to_what_is_queued_where_its_stretch_may_end() -> None:
    trainee = ahead(epochs=4)
    trainee.begin(stretch(rungs=(2,)), None)
    trainee.queue(other(2), None)
    while epochs_of(said := trainee.listen())[-1] < 2:
        pass
    assert said.trial == 2, "the answer is not waited for"
    assert {message.trial for message in trainee.listen().messages} == {2}


def other(trial: int, start: int = 0) -> Stretch:
    return Stretch(trial, {}, 8, start, start, math.nan, rungs=(2,), may_pause=True)


def test_trial_goes_on_from_what_its_worker_holds_to_the_same_numbers() -> None:
    whole = ahead()
    whole.begin(stretch(rungs=(3,)), None)
    trainee = ahead()
    trainee.begin(stretch(rungs=(3,)), None)
    while epochs_of(said := trainee.listen())[-1] < 3:
        pass
    assert said.held == {1: 3}
    trainee.begin(other(2), None)
    trainee.listen()
    trainee.begin(stretch(rungs=(3,), start=3, reported=3), None)
    assert metrics(heard(trainee)) == {e: m for e, m in metrics(heard(whole)).items() if e > 3}


def metrics(said: list[Said]) -> dict[int, Any]:
    return {m.epoch: m.metrics for each in said for m in each.messages if isinstance(m, Report)}


def test_worker_holds_its_last_few_trials_only() -> None:
    trainee = ahead(epochs=3)
    for trial in range(1, HELD_TRIALS + 4):
        trainee.begin(other(trial), None)
        while epochs_of(said := trainee.listen())[-1] < 2:
            pass
    assert list(said.held) == list(range(4, HELD_TRIALS + 4))


def test_fault_of_the_process_reaches_who_asks() -> None:
    trainee = ahead(trainer="tests.search.test_ahead:Leaves")
    trainee.begin(stretch(), None)
    with pytest.raises(SystemExit):
        trainee.listen()


class Leaves(Softmax):
    def train(self, *given: Any) -> Any:
        raise SystemExit(3)
