"""The replay of recorded curves: what it reads, how its clock runs, and what its table means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.replay import mean_regret, search_for, share
from benchmarks.replay_arms import ARMS, PEERS, Hyperband
from benchmarks.simulated_workers import Clock, Simulation, Trace, load_tasks
from spaces.params import Choice, Float, Int

N, EPOCHS = 60, 27


@pytest.fixture
def curves(tmp_path: Path) -> Path:
    """Two tasks, the second one a loss of which a tenth diverges; best where rate is 0.01."""
    chance = np.random.default_rng(0)
    rates = 10 ** chance.uniform(-4, 0, N)
    configs: list[dict[str, Any]] = [
        {"rate": float(rate), "beta": float(1 - rate), "layers": float(i % 3), "kind": "ab"[i % 2]}
        for i, rate in enumerate(rates)
    ]
    epochs = np.arange(1, EPOCHS + 1)
    curve = (1 - abs(np.log10(rates) + 2)[:, None] / 4) * (1 - 1 / (1 + epochs))
    loss = np.where(np.arange(N)[:, None] % 10, 1 - curve, np.nan)
    space = {
        "rate": ["log", 1e-4, 1.0],
        "beta": ["log1m", 1e-4, 1.0],
        "layers": ["int", 0, 2],
        "kind": ["cat", ["a", "b"]],
    }
    arrays: dict[str, Any] = {"tasks": ["up", "down"], "space": json.dumps(space)}
    for name, values, cost in [("up", curve, np.full(curve.shape, 2.0)), ("down", loss, np.ones(EPOCHS))]:
        arrays |= {f"{name}/configs": json.dumps(configs), f"{name}/curve": values.astype(np.float32)}
        arrays |= {f"{name}/cost": cost, f"{name}/maximize": name == "up"}
    np.savez(tmp_path / "curves.npz", **arrays)
    return tmp_path / "curves.npz"


def test_recorded_task_becomes_a_space_that_holds_its_configurations(curves: Path) -> None:
    up, down = load_tasks(curves)
    assert isinstance(up.space.params["rate"], Float) and isinstance(up.space.params["kind"], Choice)
    assert isinstance(up.space.params["layers"], Int)
    assert all(up.space.contains(config) for config in up.configs)
    assert down.curve.max(where=~np.isnan(down.curve), initial=-1) <= 0, "a loss is turned round"
    assert down.cost.shape == down.curve.shape
    with pytest.raises(SystemExit, match="has no task side; it has up, down"):
        load_tasks(curves, ["side"])


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_finds_something_good_and_the_same_again(curves: Path, arm: str) -> None:
    for task in load_tasks(curves):
        trace, again = (search_for(task, arm, 4, 8, 1)[0] for _ in range(2))
        assert (trace.times == again.times).all() and (trace.values == again.values).all()
        assert (np.diff(trace.times) >= 0).all() and (np.diff(trace.values) > 0).all()
        assert trace.trials > 4
        if arm != "one-epoch top-K":  # may be led astray by the first epoch
            assert trace.values[-1] > np.nanquantile(task.curve, 0.9)


def test_clock_counts_the_seconds_of_every_epoch(curves: Path) -> None:
    task = load_tasks(curves, ["up"])[0]
    pilot = PEERS["one-epoch top-K"](task, 0, clock := Clock(), 1, 100.0)
    simulation = Simulation(pilot, task, 1, clock)
    simulation.run(100)
    trace = simulation.trace(100)
    assert set(trace.times % 2) == {0}, "one worker, two seconds an epoch"
    assert clock.now <= 100 == trace.end


@pytest.mark.parametrize("arm", ["gp, promote", "KerasTuner Hyperband"])
def test_simulation_goes_on_from_where_it_stopped(curves: Path, arm: str) -> None:
    task = load_tasks(curves, ["up"])[0]
    traces = []
    for stops in ([100.0], [7.0, 7.0, 8.5, 50.0, 100.0]):
        simulation = Simulation(ARMS[arm](task, 0, clock := Clock(), 3, 100.0), task, 3, clock)
        for until in stops:
            simulation.run(until)
        traces.append(simulation.trace(100))
    assert (traces[0].times == traces[1].times).all() and (traces[0].values == traces[1].values).all()


def test_arm_that_has_caught_up_stops_and_has_the_same_share(curves: Path) -> None:
    task = load_tasks(curves, ["up"])[0]
    peer = search_for(task, "KerasTuner Hyperband", 4, 8, 3)
    goal = float(mean_regret(peer, task)[1][-1])
    soon, far = (search_for(task, "gp, promote", 4, 8, 3, low) for low in (goal, 0.0))
    assert sum(trace.trials for trace in soon) < sum(trace.trials for trace in far)
    assert share(soon, peer, task) == share(far, peer, task) < 1


def test_hyperband_fills_a_round_before_the_next() -> None:
    """Sizes and epochs that KerasTuner takes for 27 epochs at most."""
    pilot = Hyperband.__new__(Hyperband)
    pilot._most = 3
    pilot._task = type("Task", (), {"epochs": 27})()
    assert [(pilot._size(0, level), pilot._epochs(0, level)) for level in range(4)] == [
        (27, 1),
        (9, 3),
        (3, 9),
        (1, 27),
    ]
    assert [(pilot._size(3, 0), pilot._epochs(3, 0)), (pilot._size(4, 0), pilot._epochs(4, 0))] == [
        (4, 27),
        (27, 1),
    ]


def test_share_is_the_time_to_the_peers_last_regret(curves: Path) -> None:
    task = load_tasks(curves, ["up"])[0]

    def trace(*points: tuple[float, float]) -> Trace:
        times, values = np.array(points).T
        return Trace(times, values, 100.0, 1, 1.0)

    peer = [trace((10, 0.2), (80, 0.5))]
    assert share([trace((5, 0.1), (30, 0.5), (90, 0.9))], peer, task) == 0.3
    assert share([trace((5, 0.1))], peer, task) == 2.0
    assert share([trace((20, 0.7)), trace((40, 0.3))], peer, task) == 0.4, "the mean over seeds counts"
