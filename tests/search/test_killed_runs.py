"""Runs that are killed or told to stop at any moment, and how they go on."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search import load_run
from search.events import Event, Promoted, Reported, TrialStarted
from search.search import Search
from tests.search.drill import PATIENCE_S, Drill, wait_until


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
    attacks = attack_until_done(drill, random.Random(1), lambda process: process.kill(), apart=60)
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
