"""The log: durable, torn lines, damage, newer writers; and the trials folded from it."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.events import (
    Decision,
    Direction,
    Event,
    EventLog,
    Finished,
    Promoted,
    Reported,
    Resumed,
    Retried,
    Run,
    RunError,
    SweepEnded,
    SweepStarted,
    TrialStarted,
    WorkerLost,
    is_better,
    read_events,
)


def started(direction: Direction = "max", time: float = 0.0) -> SweepStarted:
    return SweepStarted(
        time=time,
        sweep={"objective": "macro_f1"},
        direction=direction,
        classes=("a", "b"),
        data={"rows": 4},
        versions={},
    )


def reported(trial: int, epoch: int, value: float, decision: Decision = "continue", **more: Any) -> Reported:
    return Reported(
        trial=trial,
        epoch=epoch,
        metrics={"macro_f1": value},
        confusion=((1, 0), (0, 1)),
        seconds=0.5,
        decision=decision,
        **more,
    )


def folded(*events: Event) -> Run:
    run = Run()
    for event in (started(), TrialStarted(trial=1, params={"x": 1}), *events):
        run.apply(event)
    return run


def test_every_event_survives_the_round_trip_nan_included(tmp_path: Path) -> None:
    events: list[Event] = [
        started(),
        TrialStarted(trial=1, params={"a": True, "b": 1, "c": 0.5, "d": "relu"}),
        reported(1, 1, 0.5, curves={"train_loss": math.inf}, checkpoint=True),
        reported(1, 2, math.nan, "stop"),
        Promoted(trial=1),
        WorkerLost(trial=1, reason="killed"),
        Finished(trial=1, ending="failed", reason="two\nlines"),
        Retried(trial=1),
        Resumed(changed={"budget": {"minutes": 3}}),
        SweepEnded(state="complete", reason="done"),
    ]
    with EventLog(tmp_path / "log") as log:
        for event in events:
            log.append(event)
    read = [event for event, _ in read_events(tmp_path / "log")]
    assert [event.model_dump_json() for event in read] == [event.model_dump_json() for event in events]
    assert math.isnan(read[3].metrics["macro_f1"])  # type: ignore[union-attr]
    assert read[1].params["a"] is True  # type: ignore[union-attr]


def test_torn_last_line_is_left_out_and_cut_off_before_the_next_append(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.append(started(), TrialStarted(trial=1, params={}))
    whole = path.read_bytes()
    path.write_bytes(whole + TrialStarted(trial=2, params={}).model_dump_json()[:-5].encode())
    assert len(list(read_events(path))) == 2
    with EventLog(path) as log:
        log.append(TrialStarted(trial=3, params={}))
    assert [event.trial for event, _ in read_events(path) if isinstance(event, TrialStarted)] == [1, 3]


def test_torn_line_longer_than_a_block_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.append(started())
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 200_000)
    EventLog(path).close()
    assert path.read_bytes() == whole


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.append(started())
        offset = [end for _, end in read_events(path)][-1]
        log.append(TrialStarted(trial=1, params={}))
        assert [event.kind for event, _ in read_events(path, offset)] == ["trial_started"]


def test_damage_inside_the_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.append(started())
    path.write_bytes(path.read_bytes() + b'{"kind": "reported"}\n')
    with pytest.raises(RunError, match="damaged at byte .*reported"):
        list(read_events(path))


def test_report_of_a_trial_that_never_started_is_damage(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log") as log:
        log.append(started(), Promoted(trial=5))
    with pytest.raises(RunError, match="damaged at byte .*'promoted' needs 5, not there"):
        Run.read(tmp_path / "log")


@pytest.mark.parametrize(
    "line", ['{"kind": "sweep_started", "format": 99}', '{"kind": "teleported", "trial": 1}']
)
def test_log_of_a_newer_version_asks_for_an_upgrade(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(line + "\n")
    with pytest.raises(RunError, match="newer Rungwise.*upgrade"):
        list(read_events(tmp_path / "log"))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from search.events import EventLog, RunFailed, TrialStarted
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
log = EventLog(Path(sys.argv[1]))
try:
    for trial in range(1000):
        log.append(TrialStarted(trial=trial, params={"x": 0.5}))
except RunFailed as error:
    print(trial, error)
"""


def test_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ended = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    refused, message = ended.stdout.split(" ", 1)
    assert "File too large" in message and "make room and resume" in message
    assert path.read_bytes().endswith(b"\n"), "no torn line stays behind"
    assert [event.trial for event, _ in read_events(path) if isinstance(event, TrialStarted)] == [
        *range(int(refused))
    ]


def test_signal_inside_an_append_leaves_all_of_it_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    with EventLog(path) as log:
        log.append(started())
        before = path.read_bytes()

        def interrupt(file: int) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                log.append(reported(1, 1, 0.5))
        assert path.read_bytes() == before
        log.append(TrialStarted(trial=2, params={}))
    assert len(list(read_events(path))) == 2


def test_best_epoch_is_the_best_one_and_the_earlier_of_equals() -> None:
    trial = folded(reported(1, 1, 0.5), reported(1, 2, 0.8), reported(1, 3, 0.8), reported(1, 4, 0.6)).trials[
        1
    ]
    assert (trial.best_epoch, trial.best_value, trial.epoch, trial.value) == (2, 0.8, 4, 0.6)
    assert trial.seconds == 2.0


def test_best_is_the_lowest_where_low_is_good() -> None:
    run = Run()
    for event in (started("min"), TrialStarted(trial=1, params={}), reported(1, 1, 0.5), reported(1, 2, 0.7)):
        run.apply(event)
    assert run.trials[1].best_epoch == 1


def test_trial_that_only_ever_diverged_is_kept_and_never_best() -> None:
    run = folded(reported(1, 1, math.nan, "stop"), Finished(trial=1, ending="stopped", reason="NaN"))
    assert run.best is None
    assert run.trials[1].best_epoch == 0 and math.isnan(run.trials[1].metrics["macro_f1"])


def test_best_model_is_the_newest_checkpoint_at_or_before_the_best_epoch() -> None:
    reports = [(1, 0.1, True), (2, 0.9, False), (3, 0.2, True), (4, 0.3, False)]
    trial = folded(*(reported(1, epoch, value, checkpoint=saved) for epoch, value, saved in reports)).trials[
        1
    ]
    assert (trial.best_checkpoint, trial.last_checkpoint) == (1, 3)


def test_status_is_derived_from_the_events() -> None:
    events: list[Event] = [reported(1, 3, 0.5, "pause")]
    assert folded(*events).trials[1].status == "paused"
    events.append(Promoted(trial=1))
    assert folded(*events).trials[1].status == "running"
    events.append(Finished(trial=1, ending="complete"))
    assert folded(*events).trials[1].status == "complete"


def test_time_between_a_stop_and_a_resume_does_not_count() -> None:
    run = Run()
    for event in (
        started(time=100.0),
        SweepEnded(time=130.0, state="interrupted", reason=""),
        Resumed(time=9000.0),
    ):
        run.apply(event)
    assert run.elapsed() == 30.0
    assert run.elapsed(now=9005.0) == 35.0
    assert run.ended is None


@pytest.mark.parametrize(
    ("value", "than", "direction", "answer"),
    [
        (0.2, 0.1, "max", True),
        (0.2, 0.1, "min", False),
        (0.1, 0.1, "max", False),
        (0.1, math.nan, "max", True),
        (0.1, math.nan, "min", True),
        (math.nan, 0.1, "max", False),
        (math.nan, math.nan, "max", False),
    ],
)
def test_nan_is_worse_than_any_number(value: float, than: float, direction: Direction, answer: bool) -> None:
    assert is_better(value, than, direction) is answer
