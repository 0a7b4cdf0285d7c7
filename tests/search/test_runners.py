"""Both runners carry the same trials to the same events, whatever becomes of them."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from search import load_run, ray_cluster, workers
from search.ahead import Said
from search.driver import RunnerName, run_sweep
from search.events import Reported, RunFailed, WorkerLost, read_events
from search.folder import RunFolder
from search.results import Results
from search.runner import accept
from search.search import Ended, Report, Search
from search.trial_loop import Training
from search.workers import WorkerPool
from spaces.params import Fault, SpaceError
from tests.cluster import stat_of
from tests.search.conftest import make_sweep, start
from tests.tiny import Softmax, TinySettings
from trainers.contract import Fold, Infeasible

BOTH = ["local", pytest.param("ray", marks=pytest.mark.ray)]


def mishaps(names: list[str], **sections: Any) -> Any:
    return make_sweep(search={"suggester": "grid"}, space={"mishap": names}, asha="off", epochs=4, **sections)


def run(sweep: Any, folder: Path, runner: RunnerName) -> Results:
    run_sweep(sweep, folder, runner)
    return load_run(folder)


@pytest.mark.parametrize("runner", BOTH)
def test_every_kind_of_trial_becomes_data(tmp_path: Path, runner: RunnerName) -> None:
    results = run(mishaps(["none", "infeasible", "raises", "diverges"]), tmp_path / "run", runner)
    good, infeasible, failed, diverged = results.run.trials.values()
    assert results.state == "complete"
    assert (good.status, good.epoch) == ("complete", 4)
    assert (infeasible.status, infeasible.reason) == ("infeasible", "mishap: this configuration has no model")
    assert failed.status == "failed" and "ZeroDivisionError: the trainer has a fault" in failed.reason
    assert "in _suffer" in failed.reason, "the trace is kept"
    assert (diverged.status, diverged.epoch) == ("stopped", 2) and "NaN at epoch 2" in diverged.reason
    assert [trial.number for trial in results.best()] == [1, 3, 4]


@pytest.mark.parametrize("runner", BOTH)
def test_best_epoch_leaves_its_predictions_and_the_way_to_its_model(
    tmp_path: Path, runner: RunnerName
) -> None:
    results = run(make_sweep(), tmp_path / "run", runner)
    for trial in results.run.trials.values():
        with np.load(results.folder.predictions(trial.number), allow_pickle=False) as saved:
            assert saved["epoch"] == trial.best_epoch
            assert saved["probabilities"].shape == (24, 3)
        kept = {int(folder.name[-4:]) for folder in results.folder.trial(trial.number).glob("epoch-*")}
        assert kept == {trial.best_checkpoint, trial.last_checkpoint} - {0}
        assert trial.last_checkpoint, "each paused at a rung or ended"


@pytest.mark.ray
def test_both_runners_train_a_configuration_to_the_same_numbers(tmp_path: Path) -> None:
    sweep = make_sweep(asha="off", search={"suggester": "random", "trials": 3, "seed": 0})
    metrics = []
    runners: tuple[RunnerName, ...] = ("local", "ray")
    for runner in runners:
        run(sweep, tmp_path / runner, runner)
        events = [event for event, _ in read_events(tmp_path / runner / "events.jsonl")]
        reports = [event for event in events if isinstance(event, Reported)]
        metrics.append(sorted((event.trial, event.epoch, event.metrics["log_loss"]) for event in reports))
    assert metrics[0] == metrics[1]


class Witness(Softmax):
    """Has no model, and says instead which process looks at which memory."""

    def check(self, settings: TinySettings, fold: Fold) -> int:
        address = fold.x.__array_interface__["data"][0]
        for line in Path("/proc/self/maps").read_text().splitlines():
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if first <= address < last:
                raise Infeasible(json.dumps({"pid": os.getpid(), "memory": line.split(maxsplit=5)[-1]}))
        raise AssertionError("the rows lie nowhere in this process")


@pytest.mark.ray
def test_workers_stay_and_read_the_data_in_shared_memory(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", chance.normal(size=(3000, 50)).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.arange(3000) % 3)
    sweep = make_sweep(
        dataset={"kind": "npy", "path": str(tmp_path / "rows.npy"), "labels": str(tmp_path / "labels.npy")},
        trainer="tests.search.test_runners:Witness",
        search={"suggester": "grid"},
        space={"batch_size": list(range(1, 21))},
    )
    results = run(sweep, tmp_path / "run", "ray")
    seen = [json.loads(trial.reason) for trial in results.run.trials.values()]
    assert len(seen) == 20
    assert len({witness["pid"] for witness in seen}) <= (os.cpu_count() or 1), "no process per trial"
    assert all("/plasma" in witness["memory"] for witness in seen), "no copy per process"


@pytest.mark.ray
def test_cluster_of_one_run_starts_nothing_that_does_nothing_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    for name in ENV_VARS_TO_PROPAGATE:  # with one of them, workers do not take the processes that wait
        monkeypatch.delenv(name, raising=False)
    started = dict[str, str]()
    workers, cpus = list[Path](), list[float]()

    @contextmanager
    def watch(_: Search) -> Iterator[None]:
        yield
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it may end meanwhile
                if stat_of(int(process.name))[1] == str(os.getpid()):
                    words = (process / "cmdline").read_text().split("\0")
                    started.update((Path(word).name, " ".join(words)) for word in words if "/ray/" in word)
        assert {"gcs_server", "raylet"} <= started.keys()
        (session,) = re.findall(r"--session_dir=(\S+)", started["raylet"])
        workers.extend(Path(session, "logs").glob("worker-*.err"))
        cpus.append(ray.cluster_resources()["CPU"])

    run_sweep(make_sweep(), tmp_path / "run", "ray", watch=watch)
    assert not started.keys() & {"dashboard.py", "monitor.py", "log_monitor.py"}
    assert 0 < len(workers) <= cpus[0], "workers take the processes that were started for them"


@pytest.mark.ray
def test_trial_that_kills_its_worker_three_times_fails_and_the_others_go_on(tmp_path: Path) -> None:
    results = run(mishaps(["kills", "none"], fixed={"mishap_epoch": 1}), tmp_path / "run", "ray")
    killer, good = results.run.trials.values()
    assert (killer.status, good.status) == ("failed", "complete")
    assert "died 3 times" in killer.reason
    lost = [event for event, _ in read_events(results.folder.events) if isinstance(event, WorkerLost)]
    assert [event.trial for event in lost] == [1, 1, 1]
    assert killer.epoch == 0


@pytest.mark.ray
def test_what_a_worker_said_is_let_go_of_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.worker import global_worker  # not before ray_cluster has set Ray's environment

    kept: list[int] = []

    def counted(*given: Any) -> str:
        core = global_worker.core_worker  # type: ignore[attr-defined]  # there once Ray is connected
        kept.append(len(core.get_all_reference_counts()))
        return hear(*given)

    hear = WorkerPool.hear
    monkeypatch.setattr(WorkerPool, "hear", counted)
    sweep = make_sweep(resources={"cpu": os.cpu_count()}, asha="off", fixed={"epoch_s": 0.03})
    run(sweep, tmp_path / "run", "ray")
    assert len(kept) > 30 and max(kept) < 10, "each would stay until its worker ends, checkpoint and all"


class Unreadable(Training):
    """Cannot be unpickled, as when a node lacks a package."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ModuleNotFoundError("No module named 'made_up'")


@pytest.mark.ray
def test_workers_that_cannot_start_fail_the_run_instead_of_being_started_for_ever(tmp_path: Path) -> None:
    search, _ = start(make_sweep())
    x, rows, y = np.zeros((6, 2), np.float32), np.arange(6), np.arange(6) % 3
    fold = Fold(x, rows, y, rows, ("a", "b", "c"), 1.0, 9, seed=0)
    training = Unreadable("tests.tiny:Softmax", "macro_f1", {}, threads=1, folds=(fold,), y_valid=(y,))
    with (
        ExitStack() as afterwards,
        pytest.raises(RunFailed, match=r"\d+ workers in a row died while starting: .*made_up"),
    ):
        ray_cluster.start(search.sweep, afterwards)(search, training, RunFolder(tmp_path))
    assert not search.run.trials, "no trial was blamed for it"


class OnlyHere(Softmax):
    """Cannot be made in another process, as when a node lacks a library that the driver's machine has."""

    def __init__(self) -> None:
        if os.environ.get("RUNGWISE_TEST_DRIVER") != str(os.getpid()):
            raise SpaceError(Fault(("library",), "made_up is not installed here"))


@pytest.mark.ray
def test_worker_that_cannot_load_the_trainer_blames_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNGWISE_TEST_DRIVER", str(os.getpid()))
    why = r"\d+ workers in a row died while starting: .*trainer.library: made_up is not installed here"
    with pytest.raises(RunFailed, match=why):
        run(make_sweep(trainer="tests.search.test_runners:OnlyHere"), tmp_path / "run", "ray")
    assert not load_run(tmp_path / "run").run.trials


@pytest.mark.ray
def test_error_of_the_log_ends_a_ray_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.folder.RunFolder.write_predictions", _full)
    with pytest.raises(RunFailed, match="No space left"):
        run(make_sweep(), tmp_path / "run", "ray")
    assert load_run(tmp_path / "run").state == "failed"


def _full(*_: object) -> None:
    raise RunFailed("cannot write predictions.npz: No space left on device")


@pytest.mark.ray
def test_more_than_this_machine_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="64 GPUs and this machine has 0"):
        run(make_sweep(resources={"cpu": 1, "gpu": 64}), tmp_path / "run", "ray")


NO_CLUSTER: Mapping[str, float] = {}


class Told:
    """A worker as the driver sees it: writes down what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, Any]] = []
        self.begin = self.queue = self

    def remote(self, stretch: Any, files: Any) -> None:
        self.given.append((stretch, files))

    @property
    def trials(self) -> list[int]:
        return [stretch.trial for stretch, _ in self.given if stretch]


def report(trial: int, epoch: int, value: float = 0.5, checkpoint: Any = None) -> Report:
    return Report(trial, epoch, {"macro_f1": value}, seconds=0.1, checkpoint=checkpoint)


def pool_of(
    folder: Path, cluster: Mapping[str, float] = NO_CLUSTER, trials: int = 12
) -> tuple[WorkerPool, Search]:
    asha = {"grace": 3, "reduction": 3, "rule": "promote"}
    search, _ = start(make_sweep(asha=asha, search={"suggester": "random", "trials": trials}))
    return WorkerPool(search, RunFolder(folder), search.sweep.resources, lambda: cluster), search


def test_stretch_is_queued_one_epoch_before_it_is_needed_and_outlives_its_worker(tmp_path: Path) -> None:
    pool, search = pool_of(tmp_path)
    first, second, third = Told(), Told(), Told()
    pool.hear("first", first, Said())
    pool.hear("first", first, Said((report(1, 1),), trial=1, ahead=1))
    assert first.trials == [1]
    pool.hear("first", first, Said((report(1, 2),), trial=1, ahead=1))
    assert first.trials == [1, 2]
    pool.lose("first", "killed")
    pool.hear("second", second, Said())
    pool.hear("third", third, Said())
    assert (second.trials[0], third.trials[0]) == (2, 1)
    assert [search.run.trials[number].lost_workers for number in (1, 2)] == [1, 0]


def test_workers_are_asked_for_that_a_cluster_may_grow_by_and_no_more_than_there_are_trials(
    tmp_path: Path,
) -> None:
    def num_asked_for(cpus: float, trials: int) -> tuple[int, int]:
        """Before and after one of them speaks."""
        pool, _ = pool_of(tmp_path, {"CPU": cpus}, trials)
        at_first = sum(pool.admit(f"{number}") for number in range(200))
        pool.hear("0", Told(), Said())
        return at_first, at_first + sum(pool.admit(f"{number}") for number in range(200, 400))

    asked_for = [num_asked_for(cpus, 100) for cpus in (0, 2, 64, 150)]
    assert asked_for == [(8, 8), (2, 10), (64, 72), (100, 100)]
    assert num_asked_for(64, 3) == (3, 3)


def test_as_many_workers_stay_as_trials_are_left(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, {"CPU": 8.0}, trials=3)
    assert all(pool.admit(name) for name in "abc")
    for name in "ab":
        pool.hear(name, Told(), Said())
    pool.hear("a", Told(), Said((Ended(1, "complete"),), trial=1))
    pool.hear("b", Told(), Said((Ended(2, "infeasible", "no model"),), trial=2))
    pool.forget("a")
    assert not pool.admit("d"), "b and c are enough for two trials"
    pool.forget("b")
    assert pool.admit("d")


def test_worker_that_comes_too_late_for_any_work_leaves_at_once_unless_it_is_the_only_idle_one(
    tmp_path: Path,
) -> None:
    pool, _ = pool_of(tmp_path, {"CPU": 1.0}, trials=1)
    assert [pool.hear(name, Told(), Said()) for name in ("first", "second", "third")] == [
        "CONTINUE",
        "CONTINUE",
        "STOP",
    ]


def test_idle_worker_that_dies_is_nobody_who_waits_for_work(tmp_path: Path) -> None:
    pool, _ = pool_of(tmp_path, {"CPU": 2.0}, trials=1)
    for name in ("first", "second"):
        assert pool.hear(name, Told(), Said()) == "CONTINUE"
    pool.lose("second", "preempted")
    assert pool.hear("third", Told(), Said()) == "CONTINUE", "the only idle one"


@pytest.mark.parametrize(
    ("cpu", "gpu", "fit"), [(1, 0, 2), (2, 0, 1), (0.2, 0, 10), (0.1, 0.1, 10), (0.5, 0.2, 4)]
)
def test_cluster_that_cannot_grow_is_asked_for_what_fits(
    cpu: float, gpu: float, fit: int, tmp_path: Path
) -> None:
    search, _ = start(make_sweep(resources={"cpu": cpu, "gpu": gpu}))
    cluster = {"CPU": 2.0, "GPU": 1.0}
    pool = WorkerPool(search, RunFolder(tmp_path), search.sweep.resources, lambda: cluster, may_grow=False)
    assert sum(pool.admit(str(number)) for number in range(20)) == fit


def test_workers_that_cannot_start_are_done_without_where_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool, _ = pool_of(tmp_path, {"CPU": 8.0})
    names = ["good", "a", "b", "c", "slow"]
    assert all(pool.admit(name) for name in names)
    for name in "abc":  # before any other spoke
        pool.lose(name, "made_up is not installed")
        pool.forget(name)
    told = "3 workers in a row died while starting: made_up is not installed; the run goes on"
    assert [record.message.startswith(told) for record in caplog.records] == [True]
    assert not pool.admit("d")
    pool.hear("good", Told(), Said())
    assert pool.admit("e"), "now that one spoke"
    for name in ("e", "slow"):
        pool.lose(name, "made_up is not installed")
        pool.forget(name)
    assert pool.admit("f") and not pool.admit("g"), "a third attempt, and no fourth"
    pool.lose("f", "made_up is not installed")
    pool.forget("f")
    assert not pool.admit("h")
    pool.forget("good")
    assert pool.admit("one in its place")
    pool.lose("one in its place", "made_up is not installed")


def test_run_fails_when_the_last_of_those_that_start_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, _ = pool_of(tmp_path, {"CPU": 8.0}, trials=3)
    assert [pool.admit(name) for name in "abcd"] == [True, True, True, False]
    for name in "ab":
        pool.lose(name, "made_up is not installed")
        pool.forget(name)
        assert not pool.admit("d")
    with pytest.raises(RunFailed, match="3 workers in a row died while starting: made_up"):
        pool.lose("c", "made_up is not installed")


def test_user_who_waits_for_a_cluster_is_told_what_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "SILENCE_S", 0.0)
    pool, _ = pool_of(tmp_path, {"CPU": 4.0})
    for name in "ab":
        pool.admit(name)
    (record,) = caplog.records
    assert "each trial asks for 1 CPUs and 0 GPUs, and the cluster has 4 and 0" in record.message


def test_files_of_an_epoch_that_is_not_taken_any_more_leave_those_of_the_best_one_alone(
    tmp_path: Path,
) -> None:
    clock = [0.0]
    search, _ = start(make_sweep(budget={"minutes": 1}, asha="off"), lambda: clock[0])
    folder = RunFolder(tmp_path)
    stretch = search.next_trial()
    assert stretch

    def told(epoch: int, value: float) -> Report:
        probabilities = np.full((2, 3), value, np.float32)
        return Report(
            1, epoch, {"macro_f1": value}, probabilities=probabilities, checkpoint={"w": b"%d" % epoch}
        )

    assert accept(search, folder, told(1, 0.5)) == "continue"
    clock[0] = 61.0
    assert accept(search, folder, report(1, 2, 0.4), told(3, 0.9)) == "stop"
    with np.load(folder.predictions(1), allow_pickle=False) as kept:
        assert int(kept["epoch"]) == search.run.trials[1].best_epoch == 1
    assert not folder.checkpoint(1, 3).exists()
    assert search.run.wasted_epochs == 1


@pytest.mark.ray
def test_run_that_fails_gives_back_what_it_held_of_a_cluster_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        monkeypatch.setattr("search.folder.RunFolder.write_predictions", _full)
        with pytest.raises(RunFailed, match="No space left") as failed:
            run(make_sweep(), tmp_path / "run", "ray")
        deadline = time.monotonic() + 60
        while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ray.available_resources().get("CPU") == 2, "nothing is held any more"
        assert failed.value, "though its error, and all that this refers to, is still there"
    finally:
        ray.shutdown()


@pytest.mark.ray
def test_cluster_that_does_not_answer_fails_the_run_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(
        RunFailed, match="cannot use the Ray cluster at nowhere .RAY_ADDRESS.: Invalid address"
    ):
        run(make_sweep(), tmp_path / "run", "ray")
    assert load_run(tmp_path / "run").state == "failed"


def test_trial_that_goes_on_at_a_rung_its_worker_left_goes_on_there_without_its_files(tmp_path: Path) -> None:
    pool, search = pool_of(tmp_path)
    worker = Told()
    pool.hear("it", worker, Said())
    for trial, value in ((1, 0.1), (2, 0.2), (3, 0.3)):
        for epoch in (1, 2):
            pool.hear("it", worker, Said((report(trial, epoch),), trial=trial, ahead=1))
        rung = report(trial, 3, value, checkpoint={"fold-1/weights": b"w"})
        pool.hear("it", worker, Said((rung,), trial=trial + 1, held={trial: 3}))
    assert search.run.trials[3].status == "running", "the best of three goes on"
    for epoch in (1, 2):
        pool.hear("it", worker, Said((report(4, epoch),), trial=4, ahead=1, held={3: 3}))
    assert worker.trials == [1, 2, 3, 4, 3]
    assert worker.given[-1][0].start == 3 and worker.given[-1][1] is None
