"""What a search costs its driver as it grows: memory, CPU and asks over ten thousand trials.

    python benchmarks/driver_scale.py
    python benchmarks/driver_scale.py --quick          # shows that it works, no more

Every measurement is a process of its own. Ray runs on this machine with two CPUs, without its dashboard, and
ends with its process.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from measuring import SHARED_MEMORY, Result, answer, measure, peak_mb, verdict
from rich.console import Console
from rich.table import Table
from trivial_sweep import report_payload, trivial_sweep

CHECKPOINT = 200_000
"""Bytes, about as many as a small CNN and its optimizer have."""
PROMOTE = {"grace": 1, "reduction": 3, "rule": "promote"}


# ---- the driver ----


def measure_driver(trials: int, reports: int, suggester: str, folder: Path) -> Result:
    """A whole search without workers: what Search and EventLog cost the driver, and what they keep."""
    import_module("search.ray_cluster")
    import_module("search.ray_runner")
    from search.driver import load_rows
    from search.events import EventLog, SweepStarted
    from search.search import Report, Search

    sweep = trivial_sweep(trials, reports, search={"suggester": suggester, "trials": trials, "seed": 0})
    load_rows(sweep, Path())
    baseline = peak_mb()
    rng = np.random.default_rng(0)
    ask_s: list[float] = []
    appended = 0
    cpu = making = 0.0
    with EventLog(folder / "events.jsonl") as log:
        started = SweepStarted(
            sweep=sweep.to_dict(), direction="max", classes=tuple("0123456789"), data={}, versions={}
        )
        log.append(started)
        search = Search.replay(sweep, [started], log.append)
        begun = time.process_time()
        while True:
            asked = time.perf_counter()
            stretch = search.next_trial()
            ask_s.append(time.perf_counter() - asked)
            if stretch is None:
                break
            for epoch in range(1, reports + 1):
                made = time.process_time()
                payload = report_payload(rng, epoch)
                # Better from trial to trial: no rung stops any, and all of them are kept in every rung.
                payload["metrics"]["accuracy"] = (stretch.trial + epoch / reports) / (trials + 1)
                report = Report(stretch.trial, **payload)
                making += time.process_time() - made
                appended += 1
                if search.report(report) != "continue":
                    break
        cpu = time.process_time() - begun - making
    assert appended == trials * reports, f"{appended} reports, not {trials * reports}"
    return {
        "baseline_mb": baseline,
        "rss_mb": peak_mb(),
        "cpu_ms": 1e6 * cpu / appended,
        "ask_ms": 1e3 * statistics.median(ask_s[-1 - max(1, trials // 10) : -1]),
    }


def measure_workers(workers: int, trials: int, reports: int, suggester: str, folder: Path) -> Result:
    """The Ray runner's pool, told by simulated workers what real ones would say; without Tune around it."""
    from contextlib import ExitStack

    import_module("search.ray_runner")  # as heavy as the real one
    from search.events import EventLog, SweepStarted
    from search.folder import RunFolder
    from search.search import Search
    from search.workers import WorkerPool

    sweep = trivial_sweep(
        trials, reports, search={"suggester": suggester, "trials": trials, "seed": 0}, asha=PROMOTE
    )
    run = RunFolder(folder / "run")
    run.create()
    with ExitStack() as stack:
        log = stack.enter_context(EventLog(run.events))
        classes = tuple("0123456789")
        started = SweepStarted(sweep=sweep.to_dict(), direction="max", classes=classes, data={}, versions={})
        log.append(started)
        search = Search.replay(sweep, [started], log.append)
        pool = WorkerPool(search, run, sweep.resources, lambda: {"CPU": float(workers)})
        rng = np.random.default_rng(0)
        payloads = [report_payload(rng, epoch) for epoch in range(1, reports + 1)]
        at_work = {f"worker{number}": SimulatedWorker(reports, payloads, rng) for number in range(workers)}
        samples: list[tuple[float, float, int]] = []
        cpu = wall = 0.0
        while at_work:
            for name, worker in list(at_work.items()):
                said = worker.listen()
                before = time.process_time(), time.perf_counter()
                fate = pool.hear(name, worker, said)
                cpu += time.process_time() - before[0]
                wall += time.perf_counter() - before[1]
                if fate == "STOP":
                    del at_work[name]
            samples.append((cpu, wall, search.run.epochs))
    middle = min(samples, key=lambda sample: abs(sample[2] - search.run.epochs / 2))
    halves = [middle, tuple(np.subtract(samples[-1], middle))]
    return {
        "reports": search.run.epochs,
        **{
            f"cpu_{half}_ms": 1e6 * cpu / epochs
            for half, (cpu, _, epochs) in zip((1, 2), halves, strict=True)
        },
        **{
            f"wall_{half}_ms": 1e6 * wall / epochs
            for half, (_, wall, epochs) in zip((1, 2), halves, strict=True)
        },
    }


class SimulatedWorker:
    """Answers as ``AheadWorker`` does, without training: each trial has a quality of its own."""

    def __init__(self, epochs: int, payloads: list[dict[str, Any]], rng: np.random.Generator) -> None:
        self._epochs, self._payloads, self._rng = epochs, payloads, rng
        self._stretches: list[Any] = []
        self._epoch = 0
        self._waits = False
        self.begin = self.queue = self

    def remote(self, stretch: Any, files: Any) -> None:
        """Both begin and queue: a worker told to begin has nothing else to do, or is to do nothing."""
        if stretch is None:
            self._stretches.clear()
            return
        if len(self._stretches) == 1 and self._waits:
            self._stretches.clear()
        self._stretches.append(stretch)
        if len(self._stretches) == 1:
            self._epoch, self._waits = stretch.start, False

    def listen(self) -> Any:
        from search.ahead import Said
        from search.search import Report

        if not self._stretches:
            return Said()
        stretch = self._stretches[0]
        self._epoch += 1
        payload = self._payloads[self._epoch - 1]
        quality = float(np.random.default_rng(stretch.trial).random())
        metrics = payload["metrics"] | {"accuracy": quality * self._epoch / (self._epoch + 1)}
        is_rung = self._epoch in stretch.rungs
        report = Report(
            stretch.trial,
            **payload | {"metrics": metrics},
            checkpoint={"fold-1/weights": bytes(CHECKPOINT)} if is_rung else None,
        )
        self._waits = is_rung or self._epoch >= self._epochs
        if self._waits and len(self._stretches) > 1:
            self._stretches.pop(0)
            self._epoch, self._waits = self._stretches[0].start, False
        return Said((report,), self._stretches[0].trial, int(not self._waits))


class Pauses:
    """How long Python's search for garbage held the process up."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._seconds = [0.0]

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.perf_counter()
        else:
            self._seconds.append(time.perf_counter() - self._begun)

    def longest(self) -> float:
        """Since this was last asked."""
        longest = max(self._seconds)
        self._seconds = [0.0]
        return longest


def measure_sweep(trials: int, reports: int, suggester: str, epoch_s: float, folder: Path) -> Result:
    """A whole sweep on Ray whose trials sleep: what its driver takes, in the first half and in the second."""
    from search.driver import run_sweep
    from search.folder import RunFolder

    ask_s: list[float] = []
    ask_cpu_s: list[float] = []
    pauses = Pauses()
    samples: list[tuple[float, float, float, int, float]] = []

    @contextmanager
    def sampled(search: Any) -> Iterator[None]:
        suggest = search._suggester.suggest
        gc.callbacks.append(pauses)

        def timed(number: int) -> Any:
            if number in (trials // 20, trials // 2):
                samples.append(sample(search))
            begun, cpu = time.perf_counter(), time.thread_time()
            params = suggest(number)
            ask_s.append(time.perf_counter() - begun)
            ask_cpu_s.append(time.thread_time() - cpu)
            return params

        search._suggester.suggest = timed
        yield
        samples.append(sample(search))

    def sample(search: Any) -> tuple[float, float, float, int, float]:
        return time.process_time(), time.time(), peak_mb(), search.run.epochs, pauses.longest()

    sections = {"suggester": suggester, "trials": trials, "seed": 0}
    sweep = trivial_sweep(trials, reports, search=sections, fixed={"epoch_s": epoch_s})
    run = run_sweep(sweep, RunFolder(folder / "run"), "ray", watch=sampled)
    assert run.epochs == trials * reports, f"{run.epochs} reports, not {trials * reports}"
    early, middle, end = samples
    result: Result = {"wall_s": end[1] - early[1]}
    for half, first, last, asked in (
        (1, early, middle, slice(trials // 20, trials // 2)),
        (2, middle, end, slice(trials // 2, None)),
    ):
        reported = last[3] - first[3]
        result[f"cpu_{half}_ms"] = 1e6 * (last[0] - first[0]) / reported
        result[f"rss_{half}_mb"] = last[2]
        result[f"growth_{half}_kb"] = 1024 * (last[2] - first[2]) * reports / reported
        result[f"pause_{half}_ms"] = 1e3 * last[4]
        result[f"ask_{half}_ms"] = 1e3 * statistics.mean(ask_s[asked])
        result[f"worst_ask_{half}_ms"] = 1e3 * max(ask_s[asked])
        result[f"worst_ask_cpu_{half}_ms"] = 1e3 * max(ask_cpu_s[asked])
    return result


PARTS: dict[str, Callable[..., Result]] = {
    part.__name__: part for part in (measure_driver, measure_workers, measure_sweep)
}


# ---- the table ----


def add_driver(table: Table, quick: bool) -> None:
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None  # memory and CPU are asked for, not the disk
    for trials in (250, 500) if quick else (5_000, 10_000):
        result = measure("measure_driver", where=where, trials=trials, reports=30, suggester="random")
        goal = f"<= 300: {verdict(result['rss_mb'], 300)}" if trials == 10_000 else ""
        name = f"driver's peak MB, Ray off, {trials:,} x 30 reports"
        table.add_row(name, f"{result['rss_mb']:.0f}", "", goal)
        table.add_row("  before the first trial, data set read", f"{result['baseline_mb']:.0f}", "", "")
        table.add_row("  ms of CPU per 1,000 reports", f"{result['cpu_ms']:.0f}", "", "")
        table.add_row("  ms to ask for a trial (random), at the end", f"{result['ask_ms']:.3f}", "", "")


def add_scale(table: Table, quick: bool) -> None:
    """100 simulated workers, and 10,000 trials on Ray: the first half of each beside its second."""
    table.add_row("[bold]driver, Rungwise", "[bold]first half", "[bold]second half", "")
    trials, workers = (300, 20) if quick else (10_000, 100)
    for suggester in ("random", "gp"):
        result = measure("measure_workers", workers=workers, trials=trials, reports=27, suggester=suggester)
        name = f"{workers} simulated workers, {trials:,} trials, {result['reports']:,} reports, {suggester}"
        table.add_row(name, "", "", "")
        for what, key in (
            ("ms of CPU per 1,000 reports", "cpu"),
            ("ms per 1,000 reports, disk included", "wall"),
        ):
            halves = (f"{result[f'{key}_{half}_ms']:.0f}" for half in (1, 2))
            table.add_row(f"  {what}", *halves, "")
    table.add_section()
    trials = 100 if quick else 10_000
    for suggester in ("random", "gp"):
        result = measure("measure_sweep", trials=trials, reports=10, suggester=suggester, epoch_s=0.001)
        name = f"{trials:,} sleeping trials x 10 reports on Ray, {suggester}, {result['wall_s']:.0f} s"
        table.add_row(name, "", "", "")
        for what, key, digits in (
            ("driver's peak MB", "rss_{}_mb", 0),
            ("  KB it grew by with each trial", "growth_{}_kb", 1),
            ("ms of CPU per 1,000 reports", "cpu_{}_ms", 0),
            ("ms to ask, mean", "ask_{}_ms", 2),
            ("ms to ask, worst", "worst_ask_{}_ms", 1),
            ("ms of CPU to ask, worst", "worst_ask_cpu_{}_ms", 1),
            ("ms to look for garbage, worst", "pause_{}_ms", 1),
        ):
            halves = (f"{result[key.format(half)]:.{digits}f}" for half in (1, 2))
            table.add_row(f"  {what}", *halves, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few trials, once")
    parser.add_argument("--sections", default="driver,scale", help="which of these (default: all)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return answer(options.part, PARTS)
    table = Table("measured", title="The driver of a long search")
    for column in ("Rungwise", ""):
        table.add_column(column, justify="right")
    table.add_column("goal")
    sections = options.sections.split(",")
    if "driver" in sections:
        add_driver(table, options.quick)
    if "scale" in sections:
        add_scale(table, options.quick)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    main()
