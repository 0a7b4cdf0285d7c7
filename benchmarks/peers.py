"""The same search by every peer and by us: trials, epochs, time and score on digits and on Fashion-MNIST.

    python benchmarks/peers.py --keep FILE                # all arms on both data sets, three seeds
    python benchmarks/peers.py --keep FILE --table ray    # digits: against Ray Tune, with goals
    python benchmarks/peers.py --keep FILE --table grid   # digits: against GridSearchCV, cv=3, with a goal
    python benchmarks/peers.py --quick                    # few trials, one seed: shows that all of it works

Needs `pip install -e .[bench]`. Every arm is a process of its own, timed from outside, start-up included, and
the arms take turns, so that whatever else the machine does meets all of them. All are given the same space,
build function, rows, cap on epochs and number of trials, and two cores: two workers of one TensorFlow thread
each, or one process of two threads, with the same kernels of TensorFlow (oneDNN's, which it otherwise takes
on some CPUs only). With ``--keep``, what was measured is appended to a file, one line each, and what that
file holds is not measured again.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ROOT, environment, own_folder
from peer_arms import SWEEP, WORKERS, Params, Task, compiled, rows_of
from rich.console import Console
from rich.table import Table

TRIALS = 40
QUICK_TRIALS, QUICK_EPOCHS = 4, 3
RETRAININGS = 3
LIBRARIES = ("rungwise", "ray", "optuna", "keras-tuner", "scikit-learn", "keras", "tensorflow")

OURS = {"rungwise": "Rungwise", "rungwise-cv": "Rungwise, kfold: 3"}
TITLES = {
    "rungwise": OURS["rungwise"],
    "ray": "Ray Tune ASHA, as documented",
    "ray-tuned": "Ray Tune ASHA, tuned",
    "ray-optuna": "Ray Tune ASHA + OptunaSearch",
    "optuna": "Optuna TPE + halving, 1 process",
    "optuna-2": "Optuna TPE + halving, 2 processes",
    "kt-hyperband": "KerasTuner Hyperband",
    "kt-bayesian": "KerasTuner BayesianOptimization",
    "grid": "grid of 48, without stopping",
    "halving-cv": "HalvingGridSearchCV, cv=3",
    "grid-cv": "GridSearchCV, cv=3",
    "rungwise-cv": OURS["rungwise-cv"],
}
ONE_PROCESS = ("optuna", "kt-hyperband", "kt-bayesian")
CROSS_VALIDATED = ("halving-cv", "grid-cv", "rungwise-cv")


@dataclass(frozen=True)
class Part:
    """A data set, and how the digits' sweep is changed for it."""

    title: str
    target: float
    """A macro F1 on the validation rows; how soon it is reached is one of the columns."""
    epochs: int
    changes: tuple[str, ...] = ()


def _fashion_mnist() -> tuple[str, ...]:
    """A tenth of each class, seeded, of training and of test pictures; nets that two cores can train."""
    from trainers.sources.idx import DEBIAN_FOLDER

    folder = "fashion-mnist" if "RUNGWISE_DATA" in os.environ else DEBIAN_FOLDER
    shares = ", ".join(f'"{k}": 0.1' for k in range(10))
    return (
        f"dataset={{kind: idx, path: {folder}, fractions: {{{shares}}}}}",
        "space.filters=[8, 16, 32]",
        "space.kernel_size=[3]",
        "asha.grace=1",
    )


PARTS = {
    "digits": Part("digits", target=0.985, epochs=27),
    "fashion_mnist": Part("6,000 rows of Fashion-MNIST", target=0.87, epochs=9, changes=_fashion_mnist()),
}


def task_of(arm: str, data: str, seed: int, is_quick: bool) -> Task:
    part = PARTS[data]
    trials, epochs = (QUICK_TRIALS, QUICK_EPOCHS) if is_quick else (TRIALS, part.epochs)
    overrides = (*part.changes, f"epochs={epochs}", f"search.trials={trials}", f"search.seed={seed}")
    folds = ("validation={holdout: null, kfold: 3}",) if arm in CROSS_VALIDATED else ()
    return Task(arm, data, seed, trials, epochs, overrides + folds, is_quick)


def tasks_of(data: Iterable[str], arms: Sequence[str], seeds: int, is_quick: bool) -> Iterator[Task]:
    """In turns; with each seed another arm is the first, who meets a cold machine."""
    for name in data:
        for seed in range(seeds):
            first = seed % len(arms)
            for arm in (*arms[first:], *arms[:first]):
                yield task_of(arm, name, seed, is_quick)


# ---- one measurement ----


@dataclass(frozen=True)
class Result:
    task: Task
    wall_s: float
    error: str = ""
    trials: int = 0
    """Configurations that were trained, however often."""
    epochs: int = 0
    """Trained in all; an epoch on each of three folds counts as three."""
    first_s: float = math.nan
    """From the command to the end of the first epoch."""
    climb: Sequence[tuple[float, int, float]] = ()
    """Seconds, epochs and value of each validation score that was better than all before it."""
    score: float = math.nan
    params: Params = field(default_factory=dict)
    tests: Sequence[float] = ()

    def reached(self, target: float) -> tuple[float, int] | None:
        """Seconds and epochs until a validation score of ``target``."""
        return next(((s, epochs) for s, epochs, value in self.climb if value >= target), None)


def measure(task: Task, pool: ProcessPoolExecutor) -> Result:
    with own_folder() as folder:
        begun = time.time()
        error = _run(task, folder)
        wall_s = time.time() - begun
        if error:
            return Result(task, wall_s, error)
        notes, params, score = (_told_by_ours if task.arm in OURS else _told_by_peer)(folder)
    times, configurations, values, epochs = zip(*sorted(notes), strict=True)
    passed = np.cumsum(epochs).tolist()
    return Result(
        task,
        wall_s,
        trials=len(set(configurations)),
        epochs=passed[-1],
        first_s=times[0] - begun,
        climb=list(_climb(zip((t - begun for t in times), passed, values, strict=True))),
        score=score,
        params=params,
        tests=list(pool.map(partial(tested, task, params), range(RETRAININGS))),
    )


def _climb(seen: Iterable[tuple[float, int, float]]) -> Iterator[tuple[float, int, float]]:
    best = -math.inf
    for seconds, epochs, value in seen:
        if value > best:
            best = value
            yield seconds, epochs, value


def _run(task: Task, folder: Path) -> str:
    """Run the arm's command to its end; returns why it failed, if it did."""
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            _command(task, folder),
            cwd=ROOT,
            env=_environment(WORKERS if task.arm in ONE_PROCESS else 1),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # gently: its Ray is to end before its folder goes
            process.wait()
            raise
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    return (lines or [f"exit code {process.returncode}"])[-1] if process.returncode else ""


def _command(task: Task, folder: Path) -> list[str]:
    if task.arm in OURS:
        rungwise = str(Path(sys.executable).with_name("rungwise"))
        command = [rungwise, "run", str(SWEEP), "--name", "peers", "--runs", str(folder)]
        return command + [part for override in task.overrides for part in ("--set", override)]
    # Not by its path: what lies in a script's own __main__ cannot be imported by Ray's workers.
    code = "import sys, peer_arms; peer_arms.main(*sys.argv[1:])"
    return [sys.executable, "-c", code, json.dumps(asdict(task)), str(folder)]


def _environment(threads: int) -> dict[str, str]:
    places = (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))
    return environment() | {
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "TF_ENABLE_ONEDNN_OPTS": "1",  # as ours has it: the kernels are to make no difference
    }


def _told_by_peer(folder: Path) -> tuple[list[Any], Params, float]:
    notes = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]
    return notes, *json.loads((folder / "answer.json").read_text())


def _told_by_ours(folder: Path) -> tuple[list[Any], Params, float]:
    """From the log. Of folds the mean of their scores, as GridSearchCV has it."""
    from search.events import Reported, read_events
    from search.results import load_run

    results = load_run("peers", folder)
    best, objective = results.best()[0], results.run.sweep["objective"]
    notes = [
        (
            event.time,
            str(event.trial),
            statistics.mean(event.folds) if event.folds else event.metrics[objective],
            max(1, len(event.folds)),
        )
        for event, _ in read_events(folder / "peers" / "events.jsonl")
        if isinstance(event, Reported)
    ]
    score = max(value for _, trial, value, _ in notes if trial == str(best.number))
    return notes, dict(best.params), score


def tested(task: Task, params: Params, seed: int) -> float:
    """Macro F1 on the test rows after training to the end on all others: the same for all arms."""
    from trainers.keras_backend import import_keras

    import_keras()  # quietly, and with sums that are the same every time
    rows = rows_of(task)
    train = np.setdiff1d(np.arange(len(rows.y)), rows.test)
    model = compiled(params, rows, 1000 + seed)
    model.fit(
        rows.x[train], rows.one_hot(train), batch_size=params["batch_size"], epochs=task.epochs, verbose=0
    )
    scores = model.evaluate(rows.x[rows.test], rows.one_hot(rows.test), verbose=0, return_dict=True)
    return float(scores["macro_f1"])


# ---- all of them ----


def measure_all(tasks: Sequence[Task], keep: Path | None) -> list[Result]:
    results = {result.task: result for result in read_results(keep)} if keep and keep.exists() else {}
    os.environ.update(_environment(threads=1))  # for the processes that retrain
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        for number, task in enumerate(tasks, 1):
            if task in results:
                continue
            results[task] = result = measure(task, pool)
            about = f"{number}/{len(tasks)} {task.data}, {task.arm}, seed {task.seed}"
            failed = result.error and f", failed: {result.error}"
            print(f"{about}: {result.wall_s:.1f} s{failed}", file=sys.stderr)
            if keep:
                with keep.open("a") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
    return [results[task] for task in tasks]


def read_results(path: Path) -> Iterator[Result]:
    for line in path.read_text().splitlines():
        values = json.loads(line)
        yield Result(**{**values, "task": Task.from_json(values["task"])})


# ---- the tables ----

Arms = Mapping[str, Sequence[Result]]
"""By arm, the results of all seeds in their order."""


def peers_table(arms: Arms, part: Part, caption: str) -> Table:
    table = Table("arm", title=f"The same search by each, on {part.title}", caption_justify="left")
    for column in ("trials", "epochs", "wall s", "s to target", "epochs to it", "validation", "test"):
        table.add_column(column, justify="right")
    for arm, results in arms.items():
        good = [result for result in results if not result.error]
        if good:
            table.add_row(TITLES[arm], *_peers_cells(good, part))
        for result in results:
            if result.error:
                why = textwrap.shorten(result.error, 120)
                table.add_row(f"{TITLES[arm]}, seed {result.task.seed} failed: {why}")
    table.caption = (
        f"{caption}\nTrials: configurations trained; one whose kernel fits no map costs a peer a trial, and "
        f"Rungwise draws another.\nTarget: a validation macro F1 of {part.target:g}; median of those seeds "
        "that saw one, and how many did. scikit-learn's searches tell nothing before their end.\n"
        "Validation: macro F1 of the configuration an arm hands over, as it says itself. cv=3 and kfold: 3 "
        "have folds of their own, whose epochs all count.\n"
        f"Test: of that configuration, trained {RETRAININGS} times anew on all other rows by one function "
        "for all; mean and standard deviation."
    )
    return table


def _peers_cells(results: Sequence[Result], part: Part) -> Iterator[str]:
    yield f"{statistics.median(r.trials for r in results):.0f}"
    yield f"{statistics.median(r.epochs for r in results):,.0f}"
    yield f"{statistics.median(r.wall_s for r in results):.0f}"
    reached = [found for r in results if (found := r.reached(part.target))]
    share = f"({len(reached)}/{len(results)})"
    yield f"{statistics.median(s for s, _ in reached):.0f} {share}" if reached else f"never {share}"
    yield f"{statistics.median(epochs for _, epochs in reached):,.0f}" if reached else ""
    yield f"{statistics.median(r.score for r in results):.4f}"
    tests = [test for r in results for test in r.tests]
    yield f"{np.mean(tests):.4f} ± {np.std(tests):.4f}"


def ray_table(arms: Arms, part: Part, caption: str) -> Table:
    table = _measured_table(arms, f"Rungwise and Ray Tune, on {part.title}", caption)
    for arm, results in arms.items():
        _add(table, f"wall s, {TITLES[arm]}", [r.wall_s for r in results], ".1f")
    for arm, goal in (("ray", 0.2), ("ray-tuned", 0.4)):
        pairs = zip(arms["rungwise"], arms[arm], strict=True)
        ratios = [ours.wall_s / theirs.wall_s for ours, theirs in pairs]
        _add(table, f"Rungwise / {TITLES[arm]}", ratios, ".3f", goal)
    for arm, results in arms.items():
        goals = {"rungwise": 12.0}
        _add(
            table, f"s to the first epoch, {TITLES[arm]}", [r.first_s for r in results], ".1f", goals.get(arm)
        )
    return table


def grid_table(arms: Arms, part: Part, caption: str) -> Table:
    table = _measured_table(arms, f"Rungwise and GridSearchCV, on {part.title}", caption)
    for arm, results in arms.items():
        _add(table, f"wall s, {TITLES[arm]}", [r.wall_s for r in results], ".1f")
        _add(table, "  its score, mean of the same three folds", [r.score for r in results], ".4f")
        _add(table, "  test score, retrained", [statistics.mean(r.tests) for r in results], ".4f")
    pairs = list(zip(arms["rungwise-cv"], arms["grid-cv"], strict=True))
    seconds = [(ours.reached(grid.score - 0.005) or (math.inf, 0))[0] for ours, grid in pairs]
    _add(table, "s until Rungwise had GridSearchCV's score - 0.005", seconds, ".1f")
    shares = [s / grid.wall_s for s, (_, grid) in zip(seconds, pairs, strict=True)]
    _add(table, "  of GridSearchCV's wall", shares, ".3f", goal=0.1)
    return table


def _measured_table(arms: Arms, title: str, caption: str) -> Table:
    for result in (result for results in arms.values() for result in results if result.error):
        raise SystemExit(f"{result.task.arm}, seed {result.task.seed}, failed: {result.error}")
    table = Table("measured", title=title, caption=caption, caption_justify="left")
    for column in ("median", "by seed", "goal"):
        table.add_column(column, justify="right")
    return table


def _add(table: Table, name: str, values: Sequence[float], form: str, goal: float | None = None) -> None:
    median = statistics.median(values)
    verdict = "" if goal is None else f"<= {goal:g}: {'met' if median <= goal else 'MISSED'}"
    table.add_row(name, format(median, form), " ".join(format(value, form) for value in values), verdict)


TABLES: dict[str, tuple[Callable[[Arms, Part, str], Table], Sequence[str], Sequence[str]]] = {
    "peers": (peers_table, tuple(TITLES), tuple(PARTS)),
    "ray": (ray_table, ("rungwise", "ray", "ray-tuned"), ("digits",)),
    "grid": (grid_table, ("grid-cv", "rungwise-cv"), ("digits",)),
}
"""Each with its arms and data sets."""


def main() -> None:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no arm outlives this
    make, its_arms, its_data = TABLES[options.table]
    arms, data = options.arms or its_arms, options.data or its_data
    seeds = 1 if options.quick else options.seeds
    results = measure_all(list(tasks_of(data, arms, seeds, options.quick)), options.keep)
    for name in data:
        of_data = sorted((r for r in results if r.task.data == name), key=lambda r: r.task.seed)
        by_arm = {arm: [r for r in of_data if r.task.arm == arm] for arm in arms}
        table = make(by_arm, PARTS[name], _caption(of_data[0].task, seeds))
        Console(width=None if sys.stdout.isatty() else 150).print(table)


def _caption(task: Task, seeds: int) -> str:
    from search.driver import versions_of

    versions = ", ".join(f"{name} {version}" for name, version in versions_of(LIBRARIES).items())
    limits = f"{task.trials} trials (a grid: 48) of at most {task.epochs} epochs"
    return f"{limits} on two cores, medians of {seeds} seeds; {versions}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", choices=TABLES, default="peers", help="what is shown (default: peers)")
    parser.add_argument(
        "--data", type=_names(PARTS), help=f"of {','.join(PARTS)} (default: both, or digits where goals are)"
    )
    parser.add_argument(
        "--arms", type=_names(TITLES), help=f"of {','.join(TITLES)} (default: those of the table)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of search and splits (default 3)")
    parser.add_argument("--quick", action="store_true", help="few trials and epochs, one seed")
    parser.add_argument(
        "--keep", type=Path, metavar="FILE", help="of results; to measure one anew, take its line out"
    )
    return parser


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(",") if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return text.split(",")

    return names


if __name__ == "__main__":
    main()
