"""Runs that are killed or told to stop at any moment, and how they go on."""

import os
import random
import signal
import time
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest

from search import load_run
from search.events import Event, Promoted, Reported, TrialStarted
from search.search import Search
from tests.search.drill import PATIENCE_S, Drill, wait_until


def attack_until_done(
    drill: Drill, chance: random.Random, signals: Iterable[int], apart: int
) -> list[signal.Signals]:
    """Start a driver, send it the next signal within ``apart`` events, check; again until the run is done.

    Returns the signals that met a driver at work. Those that it can answer are sent when it drives.
    """
    coming, sent = iter(signals), list[signal.Signals]()
    while True:
        before = drill.log.read_bytes() if drill.log.exists() else b""
        finished, starts, first = drill.finished(), len(drill.starts()), drill.lines()
        number = next(coming, None)
        with drill.driver() as process:
            if number is not None:
                goal = first + chance.randint(1 if number == SIGKILL else 4, apart)
                wait_until(lambda goal=goal: drill.lines() >= goal, process)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.03))  # anywhere within an epoch
                process.send_signal(number)  # to one that has ended it is nothing
            _, shown = process.communicate(timeout=PATIENCE_S)
        drill.check(before)
        assert not finished & set(drill.starts()[starts:]), "a finished trial was trained again"
        if load_run(drill.folder).state == "complete":  # the signal may have come after all was done
            return sent
        assert number is not None, shown
        sent.append(signal.Signals(number))
        assert process.returncode == (-number if number == SIGKILL else 128 + number), shown
        if number != SIGKILL:
            assert "Traceback" not in shown and "rungwise resume" in shown
            results = load_run(drill.folder)
            assert results.state == "interrupted" and results.run.ended
            assert results.run.ended.reason == sent[-1].name


def outcome(events: list[Event]) -> list[tuple[Any, ...]]:
    """All that a run decided and measured, without its times."""
    return [
        *((e.trial, e.params) for e in events if isinstance(e, TrialStarted)),
        *((e.trial, e.epoch, e.metrics["log_loss"], e.decision) for e in events if isinstance(e, Reported)),
    ]


@pytest.mark.slow
def test_run_killed_or_interrupted_at_random_moments_ends_as_if_it_never_was(tmp_path: Path) -> None:
    whole = Drill(tmp_path / "whole", "local")
    attacked = Drill(tmp_path / "attacked", "local")
    with whole.driver() as process:
        assert process.wait(PATIENCE_S) == 0
    sent = attack_until_done(attacked, random.Random(0), cycle([SIGKILL, SIGINT, SIGKILL, SIGTERM]), apart=12)
    assert len(sent) >= 8 and {*sent} == {SIGKILL, SIGINT, SIGTERM}
    assert outcome(attacked.events()) == outcome(whole.events())
    assert load_run(attacked.folder).state == "complete"


@pytest.mark.ray
def test_ray_driver_killed_or_interrupted_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    drill = Drill(tmp_path, "ray")
    signals = [SIGKILL, SIGINT, SIGKILL, SIGTERM, SIGKILL]
    assert attack_until_done(drill, random.Random(1), signals, apart=20) == signals
    assert same_decisions_when_replayed(drill)


@pytest.mark.ray
def test_ray_workers_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    drill, chance, kills = Drill(tmp_path, "ray"), random.Random(2), 0
    with drill.driver() as process:
        while process.poll() is None and kills < 8:
            goal = drill.lines() + chance.randint(3, 10)
            wait_until(lambda goal=goal: drill.lines() >= goal, process)  # type: ignore[misc]
            if workers := drill.workers():
                os.kill(chance.choice(workers), SIGKILL)
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
