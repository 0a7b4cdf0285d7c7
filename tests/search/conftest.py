"""A small sweep, its data, and simulated runs for the tests of the search."""

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.events import Event, SweepStarted
from search.search import Report, Search
from spaces.sweep import Sweep


def _blobs() -> dict[str, str]:
    """150 rows around three centres, in files: a driver that is killed often must start without
    scikit-learn."""
    folder = Path(tempfile.mkdtemp(prefix="rungwise-tests-"))
    atexit.register(shutil.rmtree, folder)
    chance = np.random.default_rng(0)
    classes = np.arange(150) % 3
    rows = chance.normal(size=(3, 4))[classes] + 0.6 * chance.normal(size=(150, 4))
    np.save(folder / "rows.npy", rows.astype(np.float32))
    np.save(folder / "labels.npy", classes)
    return {"kind": "npy", "path": str(folder / "rows.npy"), "labels": str(folder / "labels.npy")}


TINY: dict[str, Any] = {
    "dataset": _blobs(),
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


def seconds_of(params: dict[str, Any]) -> float:
    return 0.01 / float(params["learning_rate"])


def drive(
    search: Search,
    workers: int = 3,
    steps: int | None = None,
    seed: int = 0,
    seconds: Callable[[dict[str, Any]], float] = seconds_of,
) -> None:
    """Train what ``search`` hands out on simulated workers in random order, up to ``steps`` reports."""
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
        value = value_of(params, epoch + 1)
        decision = search.report(Report(trial, epoch + 1, {"macro_f1": value}, seconds=seconds(params)))
        if decision != "continue":
            del at_work[trial]
        if steps is not None:
            steps -= 1
