"""What a search costs beside the training itself: time per trial, events per second, memory of the driver.

    python benchmarks/overhead.py                      # about ten minutes on two cores
    python benchmarks/overhead.py --quick              # under a minute: shows that it works, no more

Every measurement is a process of its own, and the arms take turns, so that whatever else the machine does
meets all of them. Ray runs on this machine with two CPUs, without its dashboard, and ends with its process.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]
Framework = Literal["tensorflow", "nothing"]

SHARED_MEMORY = Path("/dev/shm")
CLASSES = 10
BATCHES = (1, 8, 64, 512)
CHECKPOINT = 200_000
"""Bytes, about as many as a small CNN and its optimizer have."""
PROMOTE = {"grace": 1, "reduction": 3, "rule": "promote"}


# ---- the trial that trains nothing ----


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    framework: Framework = "nothing"
    learning_rate: float = 0.1
    units: int = 16
    epoch_s: float = 0.0


class Trivial:
    """Sleeps through its epochs, if at all, each as good as the one before, so that no rung stops it."""

    Settings = Settings

    def check(self, settings: Settings, fold: Any) -> int:
        return 0

    def train(self, settings: Settings, fold: Any, start: Path | None) -> Generator[Any, float, None]:
        from trainers.contract import Epoch

        import_framework(settings.framework)
        probabilities = np.full((len(fold.x_valid), len(fold.classes)), 1 / len(fold.classes), np.float32)
        for number in range(int((start / "epoch").read_text()) + 1 if start else 1, fold.epochs + 1):

            def save(folder: Path, score: float, number: int = number) -> None:
                (folder / "epoch").write_text(str(number))

            time.sleep(settings.epoch_s)
            yield Epoch(number, probabilities, {"train_loss": 1.0}, save)

    def load(self, folder: Path) -> Any:
        raise NotImplementedError("a model of nothing")


def import_framework(framework: Framework) -> None:
    """What every real trial needs before its first step; free in a process that has it already."""
    if framework != "nothing":
        import_module(framework)


# ---- time per trial: each arm returns when its trials were done ----

SPACE: dict[str, Any] = {
    "learning_rate": {"float": [1e-4, 1e-1], "log": True},
    "units": {"int": [8, 256], "log": True},
}


def ours(trials: int, reports: int, framework: Framework, folder: Path) -> list[float]:
    from search.driver import run_sweep
    from search.events import Finished, read_events
    from search.folder import RunFolder

    run = RunFolder(folder / "run")
    run_sweep(_sweep(trials, reports, fixed={"framework": framework}), run, "ray")
    return [event.time for event, _ in read_events(run.events) if isinstance(event, Finished)]


def _sweep(trials: int, reports: int, **more: Any) -> Any:
    from spaces.sweep import Sweep

    sections = {
        "dataset": {"kind": "sklearn", "name": "iris"},  # scoring is a trial's own work: little of it
        "trainer": "benchmarks.overhead:Trivial",
        "objective": "accuracy",
        "epochs": reports,
        "search": {"suggester": "random", "trials": trials, "seed": 0},
        "asha": {"grace": 1, "reduction": 3, "rule": "stop"},  # the rule that Tune's ASHA has
        "space": SPACE,
    }
    return Sweep.from_dict(sections | more)


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
        "rss_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- events per second ----


def time_log(batch: int, trials: int, reports: int, folder: Path) -> Result:
    """Whole trials through EventLog, ``batch`` events an append; counts reports, their making included."""
    from search.events import EventLog, Finished, TrialStarted

    rng = np.random.default_rng(0)
    payloads = [[_payload(rng, epoch) for epoch in range(1, reports + 1)] for _ in range(trials)]
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


def _payload(rng: np.random.Generator, epoch: int) -> dict[str, Any]:
    """One report of ten classes and some 12,000 validation rows, in plain Python values."""
    confusion = rng.integers(0, 60, (CLASSES, CLASSES)) + np.diag(rng.integers(900, 1100, CLASSES))
    names = [*import_module("trainers.metrics").METRICS]
    return {
        "epoch": epoch,
        "metrics": dict(zip(names, rng.random(len(names)).tolist(), strict=True)),
        "confusion": tuple(map(tuple, confusion.tolist())),
        "curves": {"train_loss": float(rng.random()), "learning_rate": 0.001},
        "seconds": float(rng.random()),
    }


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
    payloads = [[_payload(rng, epoch) for epoch in range(1, reports + 1)] for _ in range(trials)]
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


# ---- the driver ----


def measure_driver(trials: int, reports: int, suggester: str, folder: Path) -> Result:
    """A whole search without workers: what Search and EventLog cost the driver, and what they keep."""
    import_module("search.ray_runner")
    from search.driver import load_rows
    from search.events import EventLog, SweepStarted
    from search.search import Report, Search

    sweep = _sweep(trials, reports, search={"suggester": suggester, "trials": trials, "seed": 0})
    load_rows(sweep, Path())
    baseline = _peak_mb()
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
                payload = _payload(rng, epoch)
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
        "rss_mb": _peak_mb(),
        "cpu_ms": 1e6 * cpu / appended,
        "ask_ms": 1e3 * statistics.median(ask_s[-1 - max(1, trials // 10) : -1]),
    }


def measure_workers(workers: int, trials: int, reports: int, suggester: str, folder: Path) -> Result:
    """The Ray runner's driver, told by simulated workers what real ones would say; without Tune around it."""
    from contextlib import ExitStack

    ray_runner = import_module("search.ray_runner")
    from search.events import EventLog, SweepStarted
    from search.folder import RunFolder
    from search.search import Search

    sweep = _sweep(
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
        driver = ray_runner._Driver(search, run, sweep.resources)
        rng = np.random.default_rng(0)
        payloads = [_payload(rng, epoch) for epoch in range(1, reports + 1)]
        at_work = {f"worker{number}": SimulatedWorker(reports, payloads, rng) for number in range(workers)}
        samples: list[tuple[float, float, int]] = []
        cpu = wall = 0.0
        while at_work:
            for name, worker in list(at_work.items()):
                said = worker.listen()
                before = time.process_time(), time.perf_counter()
                answer = driver.answer(name, worker, said)
                cpu += time.process_time() - before[0]
                wall += time.perf_counter() - before[1]
                if answer == "STOP":
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


def measure_sweep(trials: int, reports: int, suggester: str, epoch_s: float, folder: Path) -> Result:
    """A whole sweep on Ray whose trials sleep: what its driver takes, in the first half and in the second."""
    from search.driver import run_sweep
    from search.folder import RunFolder

    ask_s: list[float] = []
    samples: list[tuple[float, float, float, int]] = []

    @contextmanager
    def sampled(search: Any) -> Iterator[None]:
        suggest = search._suggester.suggest

        def timed(number: int) -> Any:
            if number in (trials // 20, trials // 2):
                samples.append(sample(search))
            begun = time.perf_counter()
            params = suggest(number)
            ask_s.append(time.perf_counter() - begun)
            return params

        search._suggester.suggest = timed
        yield
        samples.append(sample(search))

    def sample(search: Any) -> tuple[float, float, float, int]:
        return time.process_time(), time.time(), _peak_mb(), search.run.epochs

    sections = {"suggester": suggester, "trials": trials, "seed": 0}
    sweep = _sweep(trials, reports, search=sections, fixed={"epoch_s": epoch_s})
    run = run_sweep(sweep, RunFolder(folder / "run"), "ray", watch=sampled)
    assert run.epochs == trials * reports, f"{run.epochs} reports, not {trials * reports}"
    early, middle, end = samples
    result: Result = {"wall_s": end[1] - early[1]}
    for half, first, last, asked in (
        (1, early, middle, ask_s[trials // 20 : trials // 2]),
        (2, middle, end, ask_s[trials // 2 :]),
    ):
        thousands = (last[3] - first[3]) / 1000
        result[f"cpu_{half}_ms"] = 1e3 * (last[0] - first[0]) / thousands
        result[f"rss_{half}_mb"] = last[2]
        result[f"ask_{half}_ms"] = 1e3 * statistics.mean(asked)
        result[f"worst_ask_{half}_ms"] = 1e3 * max(asked)
    return result


# ---- the processes ----

PARTS: dict[str, Callable[..., Result]] = {
    part.__name__: part
    for part in (
        time_trials,
        time_log,
        time_disk,
        time_ray_loggers,
        measure_driver,
        measure_workers,
        measure_sweep,
    )
}


def measure(part: str, where: Path | None = None, **options: Any) -> Result:
    """Run one part in a process and a folder of its own, and take both away again."""
    with _folder(where) as folder:
        answer = folder / "answer.json"
        arguments = json.dumps({"part": part, "answer": str(answer), **options, "folder": str(folder)})
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--part", arguments],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                _, errors = process.communicate()
            except BaseException:
                process.terminate()  # gently: its Ray is to end with it, before its folder goes
                raise
        if process.returncode or not answer.exists():
            raise SystemExit(f"{part} {options} failed:\n{errors[-4000:]}")
        result: Result = json.loads(answer.read_text())
        return result


@contextmanager
def _folder(where: Path | None) -> Iterator[Path]:
    # Ray puts Unix sockets below its folder, and their paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rw", dir=where or "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment() -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    ours_too = {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return inherited | ours_too


def _answer(arguments: str) -> None:
    options = json.loads(arguments)
    part, answer, folder = options.pop("part"), Path(options.pop("answer")), Path(options.pop("folder"))
    answer.write_text(json.dumps(PARTS[part](**options, folder=folder)))


# ---- the table ----


def median(results: list[Result], key: str) -> float:
    return statistics.median(result[key] for result in results)


def verdict(value: float, goal: float, at_least: bool = False) -> str:
    return "met" if (value >= goal if at_least else value <= goal) else "MISSED"


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


def add_driver(table: Table, quick: bool, framework: Framework) -> None:
    where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None  # memory and CPU are asked for, not the disk
    for trials in (250, 500) if quick else (5_000, 10_000):
        result = measure("measure_driver", where=where, trials=trials, reports=30, suggester="random")
        goal = f"<= 300: {verdict(result['rss_mb'], 300)}" if trials == 10_000 else ""
        name = f"driver's peak MB, Ray off, {trials:,} x 30 reports"
        table.add_row(name, f"{result['rss_mb']:.0f}", "", "", goal)
        table.add_row("  before the first trial, data set read", f"{result['baseline_mb']:.0f}", "", "", "")
        table.add_row("  ms of CPU per 1,000 reports", f"{result['cpu_ms']:.0f}", "", "", "")
        table.add_row("  ms to ask for a trial (random), at the end", f"{result['ask_ms']:.3f}", "", "", "")
    if quick:
        return
    results = {}
    for arm in ("ours", "tuned"):
        sweep = {"arm": arm, "warm_up": 100, "trials": 1400, "reports": 1, "framework": framework}
        (results[arm],) = measure("time_trials", sweeps=[sweep])["sweeps"]
    for name, key, unit in (
        ("ms a trial of 1 report, first third of 1,400", "first_third_s", 1e3),
        ("  last third", "last_third_s", 1e3),
        ("  driver's peak MB, Ray on", "rss_mb", 1.0),
    ):
        figures = {arm: f"{unit * result[key]:.1f}" for arm, result in results.items()}
        table.add_row(name, figures["ours"], "", figures["tuned"], "")


def add_scale(table: Table, quick: bool) -> None:
    """100 simulated workers, and 10,000 trials on Ray: the first half of each beside its second."""
    table.add_row("[bold]driver, Rungwise", "[bold]first half", "[bold]second half", "", "")
    trials, workers = (300, 20) if quick else (10_000, 100)
    for suggester in ("random", "gp"):
        result = measure("measure_workers", workers=workers, trials=trials, reports=27, suggester=suggester)
        name = f"{workers} simulated workers, {trials:,} trials, {result['reports']:,} reports, {suggester}"
        table.add_row(name, "", "", "", "")
        for what, key in (
            ("ms of CPU per 1,000 reports", "cpu"),
            ("ms per 1,000 reports, disk included", "wall"),
        ):
            halves = (f"{result[f'{key}_{half}_ms']:.0f}" for half in (1, 2))
            table.add_row(f"  {what}", *halves, "", "")
    table.add_section()
    trials = 100 if quick else 10_000
    for suggester in ("random", "gp"):
        result = measure("measure_sweep", trials=trials, reports=10, suggester=suggester, epoch_s=0.001)
        name = f"{trials:,} sleeping trials x 10 reports on Ray, {suggester}, {result['wall_s']:.0f} s"
        table.add_row(name, "", "", "", "")
        for what, key, digits in (
            ("driver's peak MB", "rss_{}_mb", 0),
            ("ms of CPU per 1,000 reports", "cpu_{}_ms", 0),
            ("ms to ask, mean", "ask_{}_ms", 2),
            ("ms to ask, worst", "worst_ask_{}_ms", 1),
        ):
            halves = (f"{result[key.format(half)]:.{digits}f}" for half in (1, 2))
            table.add_row(f"  {what}", *halves, "", "")


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
    parser.add_argument("--sections", default="trials,log,driver,scale", help="which of these (default: all)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return _answer(options.part)
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
    if "driver" in sections:
        add_driver(table, options.quick, framework)
    if "scale" in sections:
        add_scale(table, options.quick)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


if __name__ == "__main__":
    main()
