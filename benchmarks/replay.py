"""How soon searches find good configurations: recorded learning curves replayed at simulated workers.

    python benchmarks/replay.py --curves FILE.npz --workers 4 --seeds 10

The search that is measured is the product's own ``Search`` with its suggesters and ASHA; only training is
looked up instead of done, and the clock jumps from the end of one epoch to the next.

Curves exist for a few recorded configurations only. So every proposal is replaced by the nearest recorded
one that was not used yet, in the unit cube, and the suggester is told that it had proposed that one: for
every arm alike. For each peer the table gives the share of the peer's budget after which an arm reaches the
regret that the peer ends with: the median over tasks, with a 95 % bootstrap interval over tasks. Regret is
how far the best value seen so far, at whatever epoch, lies from the best recorded one; its mean over seeds
is compared. An arm may take twice the budget; one that needs longer counts as 2. Our arms stop when they
have caught up with every peer, which changes no share.
"""

import argparse
import math
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.replay_arms import ARMS, OURS, PEERS
from benchmarks.simulated_workers import Array, Clock, Simulation, Task, Trace, load_tasks

PATIENCE = 2.0
"""How many times the peer's budget an arm may take."""
RESAMPLES = 4000
LOOKS = 100
"""How many times an arm is asked, at even times, whether it has caught up with all peers and may stop."""


def search_for(
    task: Task, arm: str, workers: int, trainings: float | None, seeds: int, goal: float | None = None
) -> list[Trace]:
    """Searches with seeds 0, 1, ..., for the whole budget; given a ``goal``, until their mean regret is that
    low, for ``PATIENCE`` budgets at most."""
    budget = task.budget(trainings, workers)
    clocks = [Clock() for _ in range(seeds)]
    searches = [
        Simulation(ARMS[arm](task, seed, clock, workers, budget), task, workers, clock)
        for seed, clock in enumerate(clocks)
    ]
    horizon = budget if goal is None else PATIENCE * budget
    for until in [horizon] if goal is None else np.linspace(0, horizon, LOOKS + 1)[1:]:
        for search in searches:
            search.run(until)
        if goal is not None and np.mean([task.best - search.best for search in searches]) <= goal:
            break
    return [search.trace(horizon) for search in searches]


def mean_regret(traces: list[Trace], task: Task) -> tuple[Array, Array]:
    """When the mean over searches of the regret falls, and to what; before that some have seen nothing."""
    times = np.unique(np.concatenate([trace.times for trace in traces]))
    regrets = [
        np.append(np.inf, task.best - trace.values)[np.searchsorted(trace.times, times, side="right")]
        for trace in traces
    ]
    return times, np.mean(regrets, axis=0)


def share(ours: list[Trace], peer: list[Trace], task: Task) -> float:
    """The share of the peer's time after which ours are as good as the peer's are at its end."""
    budget = float(np.mean([trace.end for trace in peer]))
    _, regret = mean_regret(peer, task)
    times, falling = mean_regret(ours, task)
    reached = falling <= regret[-1] + 1e-12
    return min(PATIENCE, float(times[reached.argmax()]) / budget) if reached.any() else PATIENCE


def interval(shares: Array) -> str:
    chance = np.random.default_rng(0)
    medians = np.median(chance.choice(shares, (RESAMPLES, len(shares))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return f"{np.median(shares):.2f} [{low:.2f}, {high:.2f}]"


def compare(task: Task, options: argparse.Namespace) -> dict[str, list[Trace]]:
    """Of each arm the traces of all seeds; ours go on until they have caught up with the best peer."""
    run = partial(search_for, task, workers=options.workers, trainings=options.trainings, seeds=options.seeds)
    traces = {peer: run(peer) for peer in _chosen(PEERS, options)}
    goal = min((mean_regret(each, task)[1][-1] for each in traces.values()), default=-math.inf)
    return traces | {arm: run(arm, goal=goal) for arm in _chosen(OURS, options)}


def _chosen(arms: Iterable[str], options: argparse.Namespace) -> list[str]:
    return [arm for arm in arms if arm in options.arms]


def table_of(file: Path, tasks: list[Task], options: argparse.Namespace) -> Table:
    ours, peers = _chosen(OURS, options), _chosen(PEERS, options)
    with ProcessPoolExecutor(options.processes) as pool:
        traces = list(pool.map(partial(compare, options=options), tasks))
    table = Table("peer", *ours, title=f"{file.stem}: {len(tasks)} tasks, {_title(options)}")
    for peer in peers:
        cells = [
            [share(of[arm], of[peer], task) for task, of in zip(tasks, traces, strict=True)] for arm in ours
        ]
        table.add_row(peer, *(interval(np.array(shares)) for shares in cells))
    speeds = [[trace for of in traces for trace in of[arm]] for arm in ours]
    table.add_section()
    table.add_row(
        "simulated trials a minute",
        *(f"{60 * sum(t.trials for t in each) / sum(t.wall_s for t in each):,.0f}" for each in speeds),
    )
    return table


def _title(options: argparse.Namespace) -> str:
    amount = (
        f"{options.trainings:g} whole trainings"
        if options.trainings
        else "max(n / 25, workers) whole trainings"
    )
    return f"{options.workers} workers, {options.seeds} seeds, budget {amount}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--curves", type=Path, nargs="+", required=True, help="recorded curves, .npz")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tasks", nargs="+", help="names of tasks; all if left out")
    usual = [arm for arm in ARMS if arm != "tpe, promote"]  # as slow as all others together
    parser.add_argument(
        "--arms", nargs="+", default=usual, choices=list(ARMS), metavar="ARM", help="; ".join(ARMS)
    )
    parser.add_argument(
        "--trainings", type=float, help="the budget, in whole trainings; max(n / 25, workers) if left out"
    )
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    for file in options.curves:
        Console(width=150).print(table_of(file, load_tasks(file, options.tasks), options))


if __name__ == "__main__":
    main()
