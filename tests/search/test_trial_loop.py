"""One trial on a worker: what it reports, and when it saves."""

import math
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from search.folder import write_files
from search.search import Ended, Report, Stretch
from search.trial_loop import SAVING_SHARE, Saving, Training, Worker
from tests.tiny import Softmax
from trainers.contract import Epoch, Fold


def worker(
    epochs: int = 6, num_folds: int = 1, objective: str = "macro_f1", trainer: str = "tests.tiny:Softmax"
) -> Worker:
    chance = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (chance.normal(size=(3, 4))[y] + 0.5 * chance.normal(size=(90, 4))).astype(np.float32)
    cuts = np.split(np.arange(90), num_folds) if num_folds > 1 else [np.arange(60, 90)]
    folds = tuple(
        Fold(x, train, y[train], valid, ("a", "b", "c"), 1.0, epochs, seed=0)
        for valid in cuts
        for train in [np.setdiff1d(np.arange(90), valid)]
    )
    return Worker(
        Training(trainer, objective, {}, threads=1, folds=folds, y_valid=tuple(y[cut] for cut in cuts))
    )


def stretch(rungs: tuple[int, ...] = (), **more: Any) -> Stretch:
    start = {"start": 0, "reported": 0, "best": math.nan} | more
    return Stretch(trial=1, params=start.pop("params", {}), seed=7, rungs=rungs, may_pause=True, **start)


def reports(messages: Any) -> list[Report]:
    return [message for message in messages if isinstance(message, Report)]


def test_trial_reports_every_epoch_and_then_its_end() -> None:
    *epochs, end = worker().train(stretch(), None)
    assert [report.epoch for report in reports(epochs)] == [1, 2, 3, 4, 5, 6]
    assert end == Ended(1, "complete")
    assert all(np.sum(report.confusion) == 30 for report in reports(epochs))


class Untidy(Softmax):
    """Fails to clean up."""

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        try:
            yield from super().train(settings, fold, start)
        finally:
            raise OSError("the pool is gone")


def test_trainer_that_fails_to_clean_up_costs_no_trial(caplog: pytest.LogCaptureFixture) -> None:
    messages = worker(trainer="tests.search.test_trial_loop:Untidy").train(stretch(), None)
    assert isinstance(next(messages), Report)
    messages.close()
    assert "failed to clean up" in caplog.text and "the pool is gone" in caplog.text


def test_worker_calculates_with_its_threads_though_numpy_was_loaded_before() -> None:
    with threadpool_limits(2):
        worker()
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


def test_predictions_come_with_each_best_epoch_only() -> None:
    best = math.nan
    for report in reports(worker().train(stretch(), None)):
        value = report.metrics["macro_f1"]
        is_best = math.isnan(best) or value > best
        best = value if is_best else best
        assert (report.probabilities is not None) == is_best


def test_rung_has_a_checkpoint_and_training_goes_on_from_it_to_the_same_numbers(tmp_path: Path) -> None:
    whole = reports(worker().train(stretch(rungs=(3,)), None))
    assert whole[2].checkpoint
    write_files(tmp_path, whole[2].checkpoint)
    rest = reports(worker().train(stretch(rungs=(3,), start=3, reported=3), tmp_path))
    assert [(r.epoch, r.metrics) for r in rest] == [(r.epoch, r.metrics) for r in whole[3:]]


def test_folds_are_trained_in_step_and_scored_as_one_set(tmp_path: Path) -> None:
    three = worker(num_folds=3)
    *whole, end = three.train(stretch(rungs=(2,)), None)
    assert [report.epoch for report in reports(whole)] == [1, 2, 3, 4, 5, 6] and end == Ended(1, "complete")
    for report in reports(whole):
        assert np.sum(report.confusion) == 90 and len(report.folds) == 3
    saved = reports(whole)[1].checkpoint
    assert saved and {Path(name).parent.name for name in saved} == {"fold-1", "fold-2", "fold-3"}
    write_files(tmp_path, saved)
    rest = reports(three.train(stretch(rungs=(2,), start=2, reported=2), tmp_path))
    assert [(r.metrics, r.folds) for r in rest] == [(r.metrics, r.folds) for r in reports(whole)[2:]]


@pytest.mark.parametrize(("objective", "sign"), [("macro_f1", 1), ("log_loss", -1)])
def test_trainer_is_told_the_objective_with_larger_as_better(objective: str, sign: int) -> None:
    told: list[float] = []
    three = worker(num_folds=3, objective=objective)
    trainer: Any = Softmax()
    three.trainer = trainer
    trainer.train = lambda *given: _listening(Softmax().train(*given), told)
    values = [report.metrics[objective] for report in reports(three.train(stretch(), None))]
    assert told == [sign * value for value in values[:-1] for _ in range(3)] + [sign * values[-1]]


def _listening(epochs: Any, told: list[float]) -> Any:
    for epoch in epochs:
        told.append((yield epoch))


def test_epochs_that_were_reported_before_a_crash_are_not_reported_again() -> None:
    assert [report.epoch for report in reports(worker().train(stretch(reported=4), None))] == [5, 6]


def test_settings_that_contradict_the_trainer_are_infeasible() -> None:
    (end,) = worker().train(stretch(params={"batch_size": 0}), None)
    assert isinstance(end, Ended) and end.ending == "infeasible" and "batch_size" in end.reason


def test_fault_of_the_trainer_is_an_ending_with_its_trace() -> None:
    *_, end = worker().train(stretch(params={"mishap": "raises"}), None)
    assert isinstance(end, Ended) and end.ending == "failed"
    assert end.reason.startswith("ZeroDivisionError: the trainer has a fault\nTraceback")


@pytest.mark.parametrize("save_s", [0.0002, 0.002])
def test_saving_takes_no_more_than_its_share_of_the_training_time(save_s: float) -> None:
    saving, saved = Saving(), 0

    def save(folder: Path, score: float) -> None:
        time.sleep(save_s)
        (folder / "weights").write_bytes(b"w")

    for number in range(1, 2001):
        saving.trained_s += 0.005
        if saving.is_due():
            epoch = Epoch(number, np.zeros((1, 2), np.float32), {}, save)
            assert saving.save([epoch, epoch], 0.5) == {"fold-1/weights": b"w", "fold-2/weights": b"w"}
            saved += 1
    assert saved > 5
    # The last one may have taken longer than foreseen: whoever sleeps wakes up late where others compute.
    assert saving.spent_s - saving.last_s <= SAVING_SHARE * saving.trained_s
