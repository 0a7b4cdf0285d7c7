"""Runs that are killed, stopped, locked, cut or changed, and what resuming makes of them."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search import load_run
from search.events import Event, Finished, Promoted, Reported, TrialStarted, read_events
from search.search import Search, derived_seed
from tests.search.conftest import make_sweep

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
TPE = {"suggester": "tpe", "trials": 30, "seed": 0}
SPACE = {
    "learning_rate": {"float": [0.001, 1.0], "log": True},
    "batch_size": [8, 16, 32],
    "epoch_s": [0.02, 0.021],
}


class Drill:
    """One run under attack: starts drivers, watches the log, and checks what must never happen."""

    def __init__(self, tmp_path: Path, runner: str) -> None:
        self.sweep = make_sweep(search=TPE, space=SPACE)
        self.folder = tmp_path / "runs" / "drill"
        self.log = self.folder / "events.jsonl"
        self.journal = tmp_path / "journal"
        self._runner = runner
        tmp_path.mkdir(exist_ok=True)
        self._file = tmp_path / "sweep.yaml"
        self._file.write_text(self.sweep.to_yaml())

    def command(self) -> list[str]:
        begun = self.log.exists() and b"\n" in self.log.read_bytes()
        verb = ["resume", str(self.folder)] if begun else ["run", str(self._file), "--name", "drill"]
        runs = [] if begun else ["--runs", str(self.folder.parent)]
        return [sys.executable, "-m", "search", *verb, *runs, "--runner", self._runner]

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen[str]]:
        """A driver in a process group of its own, gone at the end with all its children."""
        environment = os.environ | {"TINY_JOURNAL": str(self.journal)}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env=environment,
            text=True,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE_S)

    def events(self) -> list[Event]:
        return [event for event, _ in read_events(self.log)] if self.log.exists() else []

    def lines(self) -> int:
        return self.log.read_bytes().count(b"\n") if self.log.exists() else 0

    def workers(self) -> list[int]:
        """The processes that train for this run now."""
        return [pid for pid in {int(pid) for *_, pid in self.notes()} if Path(f"/proc/{pid}").exists()]

    def check(self, before: bytes) -> None:
        """Nothing that was acknowledged is lost, nothing finished was trained again, nothing counts twice."""
        assert self.log.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "the log was rewritten"
        events = self.events()
        trials = {derived_seed(0, n): n for n in range(1, 200)}
        reported = [(e.trial, e.epoch) for e in events if isinstance(e, Reported)]
        assert len(reported) == len(set(reported)), "an epoch was reported twice"
        finished: dict[int, float] = {}
        for event in events:
            assert not (isinstance(event, TrialStarted | Reported | Promoted) and event.trial in finished)
            if isinstance(event, Finished):
                finished[event.trial] = event.time
        ahead = 1 if self._runner == "ray" else 0  # its workers train on while a report travels
        for word, seed, epoch, _ in self.notes():
            if word == "acknowledged" and int(epoch) > ahead:
                assert (trials[int(seed)], int(epoch) - ahead) in reported, "an acknowledged report is lost"

    def finished(self) -> set[int]:
        return {event.trial for event in self.events() if isinstance(event, Finished)}

    def starts(self) -> list[int]:
        """The trial of each stretch that a worker began."""
        trials = {derived_seed(0, n): n for n in range(1, 200)}
        return [trials[int(seed)] for word, seed, *_ in self.notes() if word == "start"]

    def notes(self) -> list[list[str]]:
        """What workers wrote down by themselves: (start | acknowledged, seed of the trial, epoch,
        process)."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.split() for line in lines]


def wait_until(is_so: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait for a fact; give up if the process ends first or too much time passes."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := is_so()):
        assert time.monotonic() < deadline, "waited too long"
        if process.poll() is not None:
            return is_so()
        time.sleep(0.005)
    return answer


def attack_until_done(
    drill: Drill, chance: random.Random, attack: Callable[[subprocess.Popen[str]], None], apart: int
) -> int:
    """Start a driver, attack it within ``apart`` events, check, and again until the run is done."""
    attacks = 0
    while True:
        before = drill.log.read_bytes() if drill.log.exists() else b""
        finished, starts = drill.finished(), len(drill.starts())
        goal = drill.lines() + chance.randint(1, apart)
        with drill.driver() as process:
            wait_until(lambda goal=goal: drill.lines() >= goal, process)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.03))  # anywhere within an epoch
            if process.poll() is None:
                attack(process)
                attacks += 1
            process.wait(PATIENCE_S)
        drill.check(before)
        assert not finished & set(drill.starts()[starts:]), "a finished trial was trained again"
        if process.returncode == 0:
            return attacks


def outcome(events: list[Event]) -> list[tuple[Any, ...]]:
    """All that a run decided and measured, without its times."""
    return [
        *((e.trial, e.params) for e in events if isinstance(e, TrialStarted)),
        *((e.trial, e.epoch, e.metrics["log_loss"], e.decision) for e in events if isinstance(e, Reported)),
    ]


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_as_if_it_never_was(tmp_path: Path) -> None:
    whole = Drill(tmp_path / "whole", "local")
    killed = Drill(tmp_path / "killed", "local")
    with whole.driver() as process:
        assert process.wait(PATIENCE_S) == 0
    attacks = attack_until_done(killed, random.Random(0), lambda process: process.kill(), apart=12)
    assert attacks >= 8
    assert outcome(killed.events()) == outcome(whole.events())
    assert load_run(killed.folder).state == "complete"


@pytest.mark.ray
def test_ray_driver_killed_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    drill = Drill(tmp_path, "ray")
    attacks = attack_until_done(drill, random.Random(1), lambda process: process.kill(), apart=100)
    assert attacks >= 3
    assert same_decisions_when_replayed(drill)


@pytest.mark.ray
def test_ray_workers_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    drill, chance, kills = Drill(tmp_path, "ray"), random.Random(2), 0
    with drill.driver() as process:
        while process.poll() is None and kills < 8:
            goal = drill.lines() + chance.randint(3, 10)
            wait_until(lambda goal=goal: drill.lines() >= goal, process)  # type: ignore[misc]
            if workers := drill.workers():
                os.kill(chance.choice(workers), signal.SIGKILL)
                kills += 1
        assert process.wait(PATIENCE_S) == 0
    assert kills >= 7
    drill.check(b"")
    assert same_decisions_when_replayed(drill)


def same_decisions_when_replayed(drill: Drill) -> bool:
    """Fold the log up to each event that decided something: the search must decide the same again."""
    events = drill.events()
    for cut, event in enumerate(events):
        if isinstance(event, TrialStarted) and event.trial % 5 == 0:
            again = Search.replay(drill.sweep, events[:cut], lambda *more: None)
            assert again._suggester.suggest(event.trial) == event.params
    asha = Search.replay(drill.sweep, events[:1], lambda *more: None).asha
    for event in events:
        if isinstance(event, Reported):
            decision = asha.report(event.trial, event.epoch, event.metrics["macro_f1"])
            assert event.decision in (decision, "stop")
        elif isinstance(event, Promoted):
            asha.promote(event.trial)
    return True


@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_ends_the_run_in_good_order(tmp_path: Path, runner: str, name: str, code: int) -> None:
    drill = Drill(tmp_path, runner)
    with drill.driver() as process:
        wait_until(lambda: drill.lines() >= 8, process)
        process.send_signal(getattr(signal, name))
        wait_until(lambda: load_run(drill.folder).run.ended, process)
        _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code
    assert "Traceback" not in shown and "rungwise resume" in shown
    results = load_run(drill.folder)
    assert results.state == "interrupted" and results.run.ended and results.run.ended.reason == name
    with drill.driver() as process:
        assert process.wait(PATIENCE_S) == 0
    drill.check(b"")


def rungwise(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


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
    source.write_text(make_sweep(epochs=27).to_yaml())
    refused = rungwise("resume", tmp_path / "x", "--runner", "local")
    assert refused.returncode == 2 and "+epochs: 27" in refused.stderr and "--as-started" in refused.stderr
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


def test_second_driver_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    drill = Drill(tmp_path, "local")
    with drill.driver() as first:
        wait_until(lambda: drill.lines() >= 2, first)
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
