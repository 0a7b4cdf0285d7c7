"""Logs followed as they grow: cheap, whole, and never wrong about whose log it is."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from dashboard.reader import RunReader, RunsReader, Snapshot
from search.events import EventLog, Run, RunError, SweepEnded, TrialStarted, read_events
from search.folder import RunFolder
from tests.dashboard.logs import COMPLETE, reported, started, trial, write


def test_reading_on_gives_what_reading_anew_gives(tmp_path: Path) -> None:
    reader = RunReader(RunFolder(tmp_path / "pets"))
    for events in ([started()], trial(1, 0.5, 0.7), trial(2, 0.6), [COMPLETE]):
        path = write(tmp_path, "pets", *events)
        assert reader.read().run.trials == Run.read(path).trials
    assert reader.read().state == "complete"
    assert reader.read().updated == COMPLETE.time


def test_only_appended_bytes_are_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, "pets", started(), *trial(1, 0.5))
    reader = RunReader(RunFolder(path.parent))
    reader.read()
    whole = path.read_bytes()
    first_trial = whole.index(b"\n") + 1
    path.write_bytes(
        whole[:first_trial] + b"#" * (len(whole) - first_trial)
    )  # what lies behind is not looked at
    with path.open("ab") as file:
        file.write(TrialStarted(trial=2, params={}).model_dump_json().encode() + b"\n")
    assert list(reader.read().run.trials) == [1, 2]


def test_snapshot_stays_as_it_was_while_the_run_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "pets", started(), TrialStarted(trial=1, params={}), reported(1, 1, 0.5))
    reader = RunReader(RunFolder(tmp_path / "pets"))
    before = reader.read()
    write(tmp_path, "pets", reported(1, 2, 0.9), *trial(2, 0.1))
    after = reader.read()
    assert before.run.best and after.run.best
    assert (before.run.best.best_value, after.run.best.best_value) == (0.5, 0.9)
    assert (list(before.run.trials), list(after.run.trials)) == ([1], [1, 2])


def test_half_written_last_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = write(tmp_path, "pets", started())
    line = TrialStarted(trial=1, params={}).model_dump_json().encode() + b"\n"
    reader = RunReader(RunFolder(path.parent))
    with path.open("ab", buffering=0) as file:
        file.write(line[:20])
        assert reader.read().run.trials == {}
        file.write(line[20:])
    assert list(reader.read().run.trials) == [1]


@pytest.mark.parametrize("later", [trial(7, 0.1), [*trial(7, 0.1), *trial(8, 0.1), *trial(9, 0.1)]])
def test_new_run_of_the_same_name_is_read_from_its_beginning(tmp_path: Path, later: list) -> None:
    path = write(tmp_path, "pets", started(time=1000.0), *trial(1, 0.5), *trial(2, 0.5))
    reader = RunReader(RunFolder(path.parent))
    reader.read()
    path.unlink()
    write(tmp_path, "pets", started(time=2000.0), *later)
    assert 1 not in reader.read().run.trials
    assert reader.curves([7])["epoch"].tolist() == [1]


def test_curves_are_read_of_the_trials_asked_for_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "pets", started(), *trial(1, 0.5, 0.7), *trial(2, 0.6))
    reader = RunReader(RunFolder(tmp_path / "pets"))
    reader.read()
    frame = reader.curves([1])
    assert frame[["trial", "epoch", "macro_f1", "train_loss"]].to_numpy().tolist() == [
        [1, 1, 0.5, 1],
        [1, 2, 0.7, 0.5],
    ]
    assert list(reader.curves([99]).columns) == ["trial", "epoch"]
    write(tmp_path, "pets", reported(1, 3, 0.8))
    reader.read()
    offsets = []

    def noted(path: Path, offset: int) -> Any:
        offsets.append(offset)
        return read_events(path, offset)

    monkeypatch.setattr("dashboard.reader.read_events", noted)
    assert reader.curves([1, 2])["macro_f1"].tolist() == [0.5, 0.7, 0.8, 0.6]
    assert len(offsets) == 2, "what was read before is known"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"nonsense\n", "damaged at byte"),
        (b'{"kind": "telepathy"}\n', "only a newer Rungwise knows"),
        (reported(5, 1, 0.5).model_dump_json().encode() + b"\n", "'reported' needs 5, not there"),
    ],
)
def test_unreadable_log_is_a_reason_and_other_runs_are_there(tmp_path: Path, line: bytes, text: str) -> None:
    write(tmp_path, "fine", started(), *trial(1, 0.5))
    with write(tmp_path, "bad", started()).open("ab") as file:
        file.write(line)
    reader = RunsReader(tmp_path)
    for _ in range(2):  # the second look begins where the first one stopped
        entries = reader.read()
        assert list(entries) == ["fine", "bad"]
        assert isinstance(entries["fine"], Snapshot)
        assert text in str(entries["bad"])


def test_empty_log_is_a_run_that_is_only_starting(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "events.jsonl").touch()
    assert "is only starting" in str(RunsReader(tmp_path).read()["pets"])


def test_runs_are_those_with_a_log_newest_first(tmp_path: Path) -> None:
    write(tmp_path, "old", started(time=1.0))
    write(tmp_path, "new", started(time=2.0))
    write(tmp_path, ".hidden", started(time=3.0))
    (tmp_path / "no-run").mkdir()
    assert list(RunsReader(tmp_path).read()) == ["new", "old"]


def test_missing_runs_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot read .*nowhere: No such file or directory"):
        RunsReader(tmp_path / "nowhere").read()


def test_name_that_was_not_found_is_never_made_a_path(tmp_path: Path) -> None:
    write(tmp_path, "secret", started())
    reader = RunsReader(tmp_path / "runs")
    with pytest.raises(KeyError):
        reader.run("../secret")


def test_state_is_running_only_while_a_driver_holds_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "pets")
    write(tmp_path, "pets", started())
    reader = RunReader(folder)
    with folder.lock():
        assert reader.read().state == "running"
    assert reader.read().state == "interrupted"


def test_reader_beside_a_writer_only_ever_sees_more(tmp_path: Path) -> None:
    path = write(tmp_path, "pets", started())
    done = threading.Event()

    def append() -> None:
        with EventLog(path) as log:
            for number in range(1, 101):
                for event in trial(number, 0.1, number / 200):
                    log.append(event)
            log.append(SweepEnded(state="complete", reason=""))
        done.set()

    writer = threading.Thread(target=append)
    writer.start()
    runs, seen = RunsReader(tmp_path), []
    while not done.is_set():
        entry = runs.read()["pets"]
        assert isinstance(entry, Snapshot)
        counts = entry.counts()
        seen.append((len(entry.run.trials), counts["complete"], entry.run.epochs))
        runs.run("pets").curves([trial.number for trial in entry.best(3)])
        os.sched_yield()
    writer.join()
    last = runs.read()["pets"]
    assert isinstance(last, Snapshot) and last.run.best
    assert seen == sorted(seen)
    assert all(
        earlier <= later
        for a, b in zip(seen, seen[1:], strict=False)
        for earlier, later in zip(a, b, strict=True)
    )
    assert (last.run.epochs, last.run.best.number, last.state) == (200, 100, "complete")
