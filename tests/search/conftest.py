"""A small sweep, its data, and simulated runs for the tests of the search."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.events import Event, SweepStarted
from search.search import Report, Search
from spaces.sweep import Sweep

TINY: dict[str, Any] = {
    "dataset": {"kind": "sklearn", "name": "iris"},
    "trainer": "tests.tiny:Softmax",
    "objective": "macro_f1",
    "epochs": 9,
    "search": {"suggester": "random", "trials": 12, "seed": 0},
    "asha": {"grace": 1, "reduction": 3, "rule": "promote"},
    "space": {"learning_rate": {"float": [0.001, 1.0], "log": True}, "batch_size": [8, 16, 32]},
}


def make_sweep(**sections: Any) -> Sweep:
    return Sweep.from_dict({**TINY, **sections})


@pytest.fixture
def sweep_file(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "sweep.yaml", **sections: Any) -> Path:
        path = tmp_path / name
        path.write_text(make_sweep(**sections).to_yaml())
        return path

    return write


def start(sweep: Sweep, clock: Callable[[], float] = lambda: 0.0) -> tuple[Search, list[Event]]:
    """A search that logs into a list."""
    log: list[Event] = [
        SweepStarted(
            time=0.0, sweep=sweep.to_dict(), direction="max", classes=("a", "b", "c"), data={}, versions={}
        )
    ]
    return Search.replay(sweep, log, lambda *events: log.extend(events), clock), log


def value_of(params: dict[str, Any], epoch: int) -> float:
    """A learning curve whose end depends on the learning rate."""
    return float(1 - abs(params["learning_rate"] - 0.1) ** 0.5) * (1 - 1 / (epoch + 1))


def drive(search: Search, workers: int = 3, steps: int | None = None, seed: int = 0) -> None:
    """Train what ``search`` hands out on simulated workers that report in random order, at most ``steps`` reports."""
    chance = random.Random(seed)
    at_work: dict[int, tuple[dict[str, Any], int]] = {}
    while steps is None or steps > 0:
        while len(at_work) < workers and (stretch := search.next_trial()):
            at_work[stretch.trial] = (stretch.params, stretch.reported)
        if not at_work:
            return
        trial = chance.choice(list(at_work))
        params, epoch = at_work[trial]
        at_work[trial] = (params, epoch + 1)
        decision = search.report(Report(trial, epoch + 1, {"macro_f1": value_of(params, epoch + 1)}))
        if decision != "continue":
            del at_work[trial]
        if steps is not None:
            steps -= 1
