"""Runs that are finished, locked, cut or changed, and what resuming makes of them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from search import load_run
from search.cli import main
from search.events import Reported, Resumed, read_events
from tests.search.conftest import make_sweep
from tests.search.drill import TPE, Drill, wait_until
from tests.tiny import Softmax
from trainers.contract import Epoch, Fold, Infeasible

ROOT = Path(__file__).parents[2]


def rungwise(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = list(map(str, arguments))
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main(command)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of a few trials, from a file beside it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "sweep.yaml").write_text(make_sweep().to_yaml())
    ended = rungwise("run", folder / "sweep.yaml", "--name", "tiny", "--runs", folder, "--runner", "local")
    assert ended.returncode == 0, ended.stderr
    return folder / "tiny"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run to do as one likes with."""
    copied = tmp_path / "tiny"
    subprocess.run(["cp", "-r", finished, copied], check=True)
    return copied


def test_resume_adds_trials_to_a_finished_run(run: Path) -> None:
    before = load_run(run)
    ended = rungwise("resume", run, "--trials", 20, "--runner", "local")
    assert ended.returncode == 0, ended.stderr
    after = load_run(run)
    assert (len(before.run.trials), len(after.run.trials)) == (12, 20)
    assert after.run.sweep["search"]["trials"] == 20


def test_resume_of_a_finished_run_without_more_trials_changes_no_trial(run: Path) -> None:
    before = load_run(run).frame()
    assert rungwise("resume", run, "--runner", "local").returncode == 0
    assert load_run(run).frame().equals(before)


@pytest.mark.parametrize(
    ("arguments", "diff"),
    [
        (["--seed", 5], ["-search.seed: 0", "+search.seed: 5"]),
        (["--set", "space.batch_size=[8]"], ["+space.batch_size: [8]"]),
        (["--set", "epochs=12"], ["-epochs: 9", "+epochs: 12"]),
    ],
)
def test_resume_as_another_search_is_refused_with_a_diff(
    run: Path, arguments: list[str], diff: list[str]
) -> None:
    before = (run / "events.jsonl").read_bytes()
    ended = rungwise("resume", run, *arguments, "--runner", "local")
    assert ended.returncode == 2
    for line in diff:
        assert line in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (run / "events.jsonl").read_bytes() == before


def test_change_of_the_runs_own_file_is_refused_with_a_diff(run: Path) -> None:
    file = run / "sweep.yaml"
    file.write_text(re.sub(r"batch_size: .*", "batch_size: [8, 64]", file.read_text()))
    ended = rungwise("resume", run, "--runner", "local")
    assert ended.returncode == 2 and "+space.batch_size: [8, 64]" in ended.stderr


def test_change_of_the_file_a_run_came_from_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "sweep.yaml"
    source.write_text(make_sweep().to_yaml())
    name = ["--name", "x", "--runs", tmp_path, "--runner", "local"]
    assert rungwise("run", source, "--trials", 3, *name).returncode == 0
    trainer = {"name": "tests.tiny:Softmax", "backend": "jax"}  # it has no such option: told as a change too
    source.write_text(make_sweep(epochs=27, trainer=trainer).to_yaml())
    refused = rungwise("resume", tmp_path / "x", "--runner", "local")
    assert refused.returncode == 2 and "+epochs: 27" in refused.stderr and "--as-started" in refused.stderr
    assert "+trainer.backend: jax" in refused.stderr
    went_on = rungwise("resume", tmp_path / "x", "--runner", "local", "--as-started", "--trials", 4)
    assert went_on.returncode == 0, went_on.stderr
    assert len(load_run(tmp_path / "x").run.trials) == 4


def test_resume_on_changed_data_is_refused(tmp_path: Path) -> None:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", np.arange(60) % 3)
    data = {"kind": "npy", "path": str(tmp_path / "x.npy"), "labels": str(tmp_path / "y.npy")}
    (tmp_path / "sweep.yaml").write_text(make_sweep(dataset=data).to_yaml())
    name = ["--name", "x", "--runs", tmp_path, "--runner", "local"]
    assert rungwise("run", tmp_path / "sweep.yaml", "--trials", 2, *name).returncode == 0
    rows[7, 2] += 1
    np.save(tmp_path / "x.npy", rows)
    ended = rungwise("resume", tmp_path / "x", "--runner", "local", "--trials", 3)
    assert ended.returncode == 2 and "data of run 'x' changed" in ended.stderr


def test_resume_with_other_versions_is_told_and_logged(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = run / "events.jsonl"
    begun, *others = log.read_text().splitlines(keepends=True)
    started = json.loads(begun)
    now = started["versions"]["numpy"]
    started["versions"]["numpy"] = "0.1"
    log.write_text(json.dumps(started) + "\n" + "".join(others))
    assert rungwise("resume", run, "--trials", 13, "--runner", "local").returncode == 0
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"numpy {now} instead of 0.1" in told
    (resumed,) = [event for event, _ in read_events(log) if isinstance(event, Resumed)]
    assert resumed.versions["numpy"] == now


def test_second_driver_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    drill = Drill(tmp_path, "local")
    with drill.driver() as first:
        wait_until(lambda: drill.lines() >= 2, first)
        os.kill(
            first.pid, signal.SIGSTOP
        )  # it would be done before it is asked about; its end kills it anyway
        second = rungwise("resume", drill.folder, "--runner", "local")
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr and "driven already" in second.stderr
        assert load_run(drill.folder).state == "running"
        status = json.loads(rungwise("status", drill.folder, "--json").stdout)
        assert status["state"] == "running" and status["epochs"] >= 0


def test_torn_last_line_costs_that_line_only(run: Path) -> None:
    log = run / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"kind":"reported","tri')
    assert load_run(run).counts()["complete"] >= 1, "readers leave it out"
    assert rungwise("resume", run, "--runner", "local").returncode == 0
    assert log.read_bytes().startswith(whole + b'{"time"')


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from search.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_full_disk_fails_the_run_clearly_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep(search=TPE).to_yaml())
    arguments = ["run", tmp_path / "sweep.yaml", "--name", "x", "--runs", tmp_path, "--runner", "local"]
    command = [sys.executable, "-c", FULL_DISK, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    message = [line for line in ended.stderr.splitlines() if line.startswith("rungwise:")]
    assert len(message) == 1 and "File too large" in message[0] and "make room and resume" in message[0]
    before = (tmp_path / "x" / "events.jsonl").read_bytes()
    assert before.endswith(b"\n") and len(before) <= 20_000
    assert rungwise("resume", tmp_path / "x", "--runner", "local").returncode == 0
    assert (tmp_path / "x" / "events.jsonl").read_bytes().startswith(before)
    assert len(load_run(tmp_path / "x").run.trials) == 30


class Mending(Softmax):
    """Cannot train a second epoch while the file that $BROKEN names is there."""

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        for epoch in super().train(settings, fold, start):
            if epoch.number == 2 and Path(os.environ["BROKEN"]).exists():
                raise OSError("the scratch disk is full")
            yield epoch


def test_failed_trials_go_on_where_they_failed_once_that_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    monkeypatch.setenv("BROKEN", str(broken))
    sweep = make_sweep(trainer="tests.search.test_resume:Mending", epochs=4, asha="off")
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    run, local = tmp_path / "x", ("--runner", "local")
    ended = rungwise("run", tmp_path / "sweep.yaml", "--name", "x", "--runs", tmp_path, "--trials", 3, *local)
    assert f"rungwise resume {run} --retry-failed" in ended.stdout
    assert "# the 3 that failed, once that is mended" in ended.stdout
    broken.unlink()
    assert rungwise("resume", run, *local).returncode == 0
    assert load_run(run).counts()["failed"] == 3, "nobody asked for them"
    ended = rungwise("resume", run, "--retry-failed", *local)
    assert ended.returncode == 0 and "--retry-failed" not in ended.stdout
    assert load_run(run).counts()["complete"] == 3
    reported = [event for event, _ in read_events(run / "events.jsonl") if isinstance(event, Reported)]
    assert sorted((event.trial, event.epoch) for event in reported) == [
        (trial, epoch) for trial in (1, 2, 3) for epoch in (1, 2, 3, 4)
    ]


def test_nothing_is_retried_where_nothing_more_would_be_trained(tmp_path: Path) -> None:
    sections = {"space": {"mishap": ["raises", "none"]}, "fixed": {"mishap_epoch": 1}, "asha": "off"}
    sweep = make_sweep(search={"suggester": "grid"}, budget={"target": 0.1}, **sections)
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    run, local = tmp_path / "x", ("--runner", "local")
    ended = rungwise("run", tmp_path / "sweep.yaml", "--name", "x", "--runs", tmp_path, *local)
    assert load_run(run).counts()["failed"] == 1 and "--retry-failed" not in ended.stdout
    assert "rungwise resume" in ended.stdout and "--set budget.target=null" in ended.stdout
    before = (run / "events.jsonl").read_bytes()
    refused = rungwise("resume", run, "--retry-failed", *local)
    assert refused.returncode == 2 and "reached the target of 0.1: nothing would be tried" in refused.stderr
    assert (run / "events.jsonl").read_bytes() == before
    assert "complete: trial 2 reached the target of 0.1\n" in rungwise("status", run).stdout
    ended = rungwise("resume", run, "--retry-failed", "--set", "budget.target=null", *local)
    assert ended.returncode == 0 and "rungwise resume" in ended.stdout and "--trials" not in ended.stdout
    assert load_run(run).counts()["complete"] == 1, "the one that had reached the target goes on"


class Threads(Softmax):
    """Has no model, and says with how many threads it would calculate."""

    def check(self, settings: Any, fold: Any) -> int:
        raise Infeasible(os.environ["OMP_NUM_THREADS"])


def test_resume_with_other_cpus_calculates_with_as_many_threads(tmp_path: Path) -> None:
    sections = {
        "trainer": "tests.search.test_resume:Threads",
        "search": {"suggester": "grid"},
        "space": {"batch_size": [8, 16]},
        "resources": {"cpu": 2},
    }
    (tmp_path / "sweep.yaml").write_text(make_sweep(**sections).to_yaml())

    def driven(*arguments: object) -> int:
        """In a process of its own, where nobody has asked for threads yet."""
        command = [sys.executable, "-m", "search", *map(str, arguments), "--runner", "local"]
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode

    no_result = 1
    assert driven("run", tmp_path / "sweep.yaml", "--name", "a", "--runs", tmp_path) == no_result
    log = tmp_path / "a" / "events.jsonl"
    lines = [
        line for line in log.read_text().splitlines() if '"trial":2' not in line and "sweep_ended" not in line
    ]
    log.write_text("\n".join(lines) + "\n")
    driven("resume", tmp_path / "a", "--set", "resources.cpu=1")
    results = load_run(tmp_path / "a")
    assert results.run.sweep["resources"]["cpu"] == 1
    assert [trial.reason for trial in results.run.trials.values()] == ["2", "2"]


def test_run_that_broke_before_its_log_began_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(make_sweep().to_yaml())
    (tmp_path / "tiny").mkdir()
    run = ("run", tmp_path / "sweep.yaml", "--name", "tiny", "--runs", tmp_path, "--runner", "local")
    (tmp_path / "tiny" / "sweep.yaml").write_text("# somebody's own")
    assert rungwise(*run).returncode == 2
    for left in (".sweep.yaml", "lock"):
        (tmp_path / "tiny" / left).write_text("")
    (tmp_path / "tiny" / "events.jsonl").write_text('{"kind":"sweep_sta')
    assert rungwise(*run).returncode == 0
    assert load_run(tmp_path / "tiny").state == "complete"
    assert rungwise(*run).returncode == 2, "now there is something to lose"
