"""What a search costs beside the training itself: time per trial, events per second.

    python benchmarks/overhead.py                      # about ten minutes on two cores
    python benchmarks/overhead.py --quick              # under a minute: shows that it works, no more

Every measurement is a process of its own, and the arms take turns, so that whatever else the machine does
meets all of them. Ray runs on this machine with two CPUs, without its dashboard, and ends with its process.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from measuring import SHARED_MEMORY, Result, answer, measure, peak_mb, verdict
from rich.console import Console
from rich.table import Table
from trivial_sweep import Framework, report_payload, trivial_sweep

BATCHES = (1, 8, 64, 512)


# ---- time per trial: each arm returns when its trials were done ----


def ours(trials: int, reports: int, framework: Framework, folder: Path) -> list[float]:
    from search.driver import run_sweep
    from search.events import Finished, read_events
    from search.folder import RunFolder

    run = RunFolder(folder / "run")
    run_sweep(trivial_sweep(trials, reports, fixed={"framework": framework}), run, "ray")
    return [event.time for event, _ in read_events(run.events) if isinstance(event, Finished)]


def shipped(trials: int, reports: int, framework: Framework, folder: Path) -> list[float]:
    """As Ray's documentation shows it: a function that reports, and everything else left as it is."""
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        if framework != "nothing":
            import_module(framework)
        for _ in range(reports):
            tune.report({"accuracy": 0.1})

    ends = _ends()
    tune.Tuner(
        train,
        param_space=_tune_space(),
        tune_config=tune.TuneConfig(
            metric="accuracy", mode="max", num_samples=trials, scheduler=_tune_asha(reports)
        ),
        run_config=tune.RunConfig(storage_path=str(folder), callbacks=[ends]),
    ).fit()
    return list(ends.times)


def tuned(trials: int, reports: int, framework: Framework, folder: Path) -> list[float]:
    """All that Ray offers to make it quick: a class, actors that are used again, and nothing written."""
    from ray import tune

    class Train(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            if framework != "nothing":
                import_module(framework)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            return {"accuracy": 0.1}

    ends = _ends()
    tune.Tuner(
        Train,
        param_space=_tune_space(),
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            scheduler=_tune_asha(reports),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            callbacks=[ends],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    return list(ends.times)


def _tune_space() -> dict[str, Any]:
    from ray import tune

    return {"learning_rate": tune.loguniform(1e-4, 1e-1), "units": tune.lograndint(8, 257)}


def _tune_asha(reports: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(max_t=reports, grace_period=1, reduction_factor=3)


def _ends() -> Any:
    from ray.tune import Callback

    class Ends(Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.times.append(time.time())

    return Ends()


ARMS: dict[str, Callable[[int, int, Framework, Path], list[float]]] = {
    "ours": ours,
    "shipped": shipped,
    "tuned": tuned,
}


def time_trials(sweeps: list[dict[str, Any]], folder: Path) -> Result:
    """Sweeps one after another on one Ray; the trials of a sweep's warm-up start workers, the others
    count."""
    import ray

    from trainers.datasets import load_dataset

    import_module("search.ray_cluster")
    import_module("search.ray_runner")
    load_dataset(
        {"kind": "sklearn", "name": "iris"}
    )  # what the driver reads before its first trial is no overhead of a trial
    begun = time.time()
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=150_000_000,
        _temp_dir=str(folder),
        _node_ip_address="127.0.0.2",  # Ray replaces 127.0.0.1 by an address of the network
    )
    init_s = time.time() - begun
    try:
        results = [_time_sweep(**sweep, folder=folder / f"sweep{n}") for n, sweep in enumerate(sweeps)]
    finally:
        ray.shutdown()
    return {"init_s": init_s, "sweeps": results}


def _time_sweep(
    arm: str, warm_up: int, trials: int, reports: int, framework: Framework, folder: Path
) -> Result:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1" if arm == "tuned" else "0"
    begun = time.time()
    ends = ARMS[arm](warm_up + trials, reports, framework, folder)
    over = time.time()
    assert len(ends) == warm_up + trials, f"{arm}: {len(ends)} of {warm_up + trials} trials came to an end"
    third = max(1, trials // 3)
    return {
        "first_s": ends[0] - begun,
        "trial_s": (ends[-1] - ends[warm_up - 1]) / trials,
        "all_s": (over - begun) / len(ends),
        "first_third_s": (ends[warm_up + third - 1] - ends[warm_up - 1]) / third,
        "last_third_s": (ends[-1] - ends[-1 - third]) / third,
        "rss_mb": peak_mb(),
    }


# ---- events per second ----


def time_log(batch: int, trials: int, reports: int, folder: Path) -> Result:
    """Whole trials through EventLog, ``batch`` events an append; counts reports, their making included."""
    from search.events import EventLog, Finished, TrialStarted

    rng = np.random.default_rng(0)
    payloads = [[report_payload(rng, epoch) for epoch in range(1, reports + 1)] for _ in range(trials)]
    begun, cpu = time.perf_counter(), time.process_time()
    with EventLog(folder / "events.jsonl") as log:
        waiting: list[Any] = []
        for number, payload in enumerate(payloads, 1):
            waiting.append(TrialStarted(trial=number, params={"learning_rate": 0.01, "units": 32}))
            for report in payload:
                waiting.append(_reported(number, report))
                if len(waiting) >= batch:
                    log.append(*waiting)
                    waiting.clear()
            waiting.append(Finished(trial=number, ending="complete"))
        log.append(*waiting)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"per_s": trials * reports / seconds, "cpu_us": 1e6 * cpu / (trials * reports)}


def _reported(trial: int, payload: dict[str, Any]) -> Any:
    from search.events import Reported

    return Reported(trial=trial, decision="continue", **payload)


def time_disk(writes: int, folder: Path) -> Result:
    """What the disk alone takes for a line of 700 bytes and its fsync."""
    line, times = b"x" * 699 + b"\n", []
    with (folder / "disk").open("wb", buffering=0) as file:
        for _ in range(writes):
            begun = time.perf_counter()
            file.write(line)
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return {"fsync_ms": 1e3 * statistics.median(times)}


def time_ray_loggers(trials: int, reports: int, confusion: bool, folder: Path) -> Result:
    """The same through the three loggers that Tune adds by itself, fed as Tune feeds them."""
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

    class Storage(StorageContext):  # type: ignore[misc]
        def _get_session_path(self) -> str:
            return str(folder)  # Tune's own is the session folder of a running Ray, on the same disk

    rng = np.random.default_rng(0)
    payloads = [[report_payload(rng, epoch) for epoch in range(1, reports + 1)] for _ in range(trials)]
    loggers = [CSVLoggerCallback(), JsonLoggerCallback(), TBXLoggerCallback()]
    begun, cpu = time.perf_counter(), time.process_time()
    for number, payload in enumerate(payloads, 1):
        config = {"learning_rate": 0.01, "units": 32}
        storage = Storage(storage_path=str(folder), experiment_dir_name="loggers")
        trial = Trial("train", config=config, evaluated_params=config, storage=storage, stub=True)
        trial.init_local_path()
        for logger in loggers:
            logger.on_trial_start(number, [trial], trial)
        for report in payload:
            result = _tune_result(trial, config, report, confusion)
            for logger in loggers:
                logger.on_trial_result(number, [trial], trial, result)
        for logger in loggers:
            logger.on_trial_complete(number, [trial], trial)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"per_s": trials * reports / seconds, "cpu_us": 1e6 * cpu / (trials * reports)}


def _tune_result(
    trial: Any, config: dict[str, Any], report: dict[str, Any], confusion: bool
) -> dict[str, Any]:
    result = {
        **report["metrics"],
        **report["curves"],
        "seconds": report["seconds"],
        "done": False,
        "training_iteration": report["epoch"],
        "trial_id": trial.trial_id,
        "date": "2000-01-01_00-00-00",
        "timestamp": 946684800,
        "time_this_iter_s": report["seconds"],
        "time_total_s": report["seconds"] * report["epoch"],
        "pid": 4242,
        "hostname": "localhost",
        "node_ip": "127.0.0.1",
        "config": config,
        "time_since_restore": report["seconds"] * report["epoch"],
        "iterations_since_restore": report["epoch"],
    }
    return result | ({"confusion": [list(row) for row in report["confusion"]]} if confusion else {})


PARTS: dict[str, Callable[..., Result]] = {
    part.__name__: part for part in (time_trials, time_log, time_disk, time_ray_loggers)
}


# ---- the table ----


def median(results: list[Result], key: str) -> float:
    return statistics.median(result[key] for result in results)


def add_trials(table: Table, quick: bool, framework: Framework) -> None:
    repeats = 1 if quick else 3
    fast, slow = ((20, 20), (2, 4)) if quick else ((100, 100), (2, 10))
    lengths = (9,) if quick else (1, 9)
    plan = [(arm, reports) for reports in lengths for arm in ARMS]
    results: dict[tuple[str, int], list[Result]] = {key: [] for key in plan}
    init_s = []
    for _ in range(repeats):
        sizes = [slow if arm == "shipped" else fast for arm, _ in plan]
        sweeps = [
            {"arm": arm, "warm_up": warm_up, "trials": trials, "reports": reports, "framework": framework}
            for (arm, reports), (warm_up, trials) in zip(plan, sizes, strict=True)
        ]
        answer = measure("time_trials", sweeps=sweeps)
        init_s.append(answer["init_s"])
        for key, result in zip(plan, answer["sweeps"], strict=True):
            results[key].append(result)
        plan = plan[1:] + plan[:1]  # whoever comes first meets a cold machine
    table.add_row(
        "s to start Ray (ray.init), the same for all", f"{statistics.median(init_s):.1f}", "", "", ""
    )
    for reports in lengths:
        by_arm = {arm: results[arm, reports] for arm in ARMS}
        add = _row_adder(table, by_arm)
        add(f"ms a trial of {reports} report{'s' * (reports > 1)}, workers warm", "trial_s", 1e3)
        cost = {arm: median(by_arm[arm], "trial_s") for arm in ARMS}
        for other, goal in (("shipped", 0.1), ("tuned", 0.5)):
            share = cost["ours"] / cost[other]
            table.add_row(f"  ours / {other}", f"{share:.3f}", "", "", f"<= {goal:g}: {verdict(share, goal)}")
        add("  all of the sweep / its trials", "all_s", 1e3)
        add("  s until the first trial ended", "first_s")
    table.caption = (
        f"Trials: two CPUs, {framework} imported by each fresh worker, median of {repeats}. "
        f"'warm' counts {fast[0]} trials after {fast[1]} others that start the workers, as shipped {slow[1]} "
        f"after {slow[0]} (there every trial starts a worker)."
    )
    table.add_section()


def _row_adder(table: Table, results: dict[str, list[Result]]) -> Callable[..., None]:
    def add(name: str, key: str, unit: float = 1.0) -> None:
        table.add_row(name, *(f"{unit * median(results[arm], key):,.2f}" for arm in ARMS), "")

    return add


def add_log(table: Table, quick: bool) -> None:
    trials, reports, repeats = (5, 30, 1) if quick else (30, 30, 3)
    logs: dict[int, list[Result]] = {batch: [] for batch in BATCHES}
    loggers: dict[bool, list[Result]] = {True: [], False: []}
    disk: list[Result] = []
    in_memory: list[Result] = []
    size = {"trials": trials, "reports": reports}
    for _ in range(repeats):
        disk.append(measure("time_disk", writes=100))
        for batch in BATCHES:
            logs[batch].append(measure("time_log", batch=batch, **size))
        for confusion in loggers:
            loggers[confusion].append(measure("time_ray_loggers", confusion=confusion, **size))
        if SHARED_MEMORY.is_dir():
            in_memory.append(measure("time_log", where=SHARED_MEMORY, batch=1, **size))
    full, scalars = median(loggers[True], "per_s"), median(loggers[False], "per_s")
    table.add_row("ms an fsync of this disk takes by itself", f"{median(disk, 'fsync_ms'):.2f}", "", "", "")
    table.add_row("us of CPU a report", f"{median(logs[1], 'cpu_us'):.0f}", "", "", "")
    table.add_row("  Ray's loggers, the same report", "", f"{median(loggers[True], 'cpu_us'):.0f}", "", "")
    table.add_row("  Ray's loggers, no confusion", "", f"{median(loggers[False], 'cpu_us'):.0f}", "", "")
    for batch in BATCHES:
        name = "durable reports/s, 1 an fsync (Ray: none)" if batch == 1 else f"  {batch} an fsync"
        rate = median(logs[batch], "per_s")
        goal = f"x{rate / full:.1f} (scalars only x{rate / scalars:.1f})"
        if batch == 1:
            goal += f", >= x10: {verdict(rate / full, 10, at_least=True)}"
        table.add_row(name, f"{rate:,.0f}", f"{full:,.0f} ({scalars:,.0f})", "", goal)
    if in_memory:
        table.add_row("  in memory (fsync costs nothing)", f"{median(in_memory, 'per_s'):,.0f}", "", "", "")
    table.add_section()


def add_long(table: Table, quick: bool, framework: Framework) -> None:
    """Whether a trial costs more the more there were."""
    warm_up, trials = (20, 40) if quick else (100, 1400)
    results = {}
    for arm in ("ours", "tuned"):
        sweep = {"arm": arm, "warm_up": warm_up, "trials": trials, "reports": 1, "framework": framework}
        (results[arm],) = measure("time_trials", sweeps=[sweep])["sweeps"]
    for name, key, unit in (
        (f"ms a trial of 1 report, first third of {trials:,}", "first_third_s", 1e3),
        ("  last third", "last_third_s", 1e3),
        ("  driver's peak MB, Ray on", "rss_mb", 1.0),
    ):
        figures = {arm: f"{unit * result[key]:.1f}" for arm, result in results.items()}
        table.add_row(name, figures["ours"], "", figures["tuned"], "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few trials, once, with nothing imported")
    parser.add_argument(
        "--import",
        dest="framework",
        choices=("tensorflow", "nothing"),
        help="what each fresh worker imports (default: tensorflow; nothing with --quick)",
    )
    parser.add_argument("--sections", default="trials,log,long", help="which of these (default: all)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return answer(options.part, PARTS)
    framework = options.framework or ("nothing" if options.quick else "tensorflow")
    table = Table("measured", title="Overhead of a search", caption_justify="left")
    for column in ("Rungwise", "Ray as shipped", "Ray tuned"):
        table.add_column(column, justify="right")
    table.add_column("goal")
    sections = options.sections.split(",")
    if "trials" in sections:
        add_trials(table, options.quick, framework)
    if "log" in sections:
        add_log(table, options.quick)
    if "long" in sections:
        add_long(table, options.quick, framework)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    main()
