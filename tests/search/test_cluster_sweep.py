"""A real two-node cluster and sweeps submitted to it as jobs: GPU trials, a stopped job, its resumption."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from search import load_run
from search.events import RunError
from tests.cluster import HEAD_IP, WORKER_IP, Cluster, running, two_node_cluster
from tests.dashboard.browser import free_port, wait_until_open
from tests.search.conftest import make_sweep

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
PATIENCE_S = 120.0

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_node_cluster(gpus=2, cpus=2, head_cpus=1) as cluster:
        yield cluster
    assert not cluster.folder.exists() and not running(cluster.folder), "it leaves nothing behind"


def job(cluster: Cluster, *arguments: object, **options: str) -> subprocess.CompletedProcess[str]:
    """``ray job <verb> ...`` against the cluster."""
    verb, *rest = map(str, arguments)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [str(RAY), "job", verb, *flags, *rest]
    return subprocess.run(
        command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_cluster_has_two_nodes_with_gpus_on_the_second_only(cluster: Cluster) -> None:
    nodes = {node["node_ip"]: node for node in cluster.nodes()}
    assert {ip: node["state"] for ip, node in nodes.items()} == {HEAD_IP: "ALIVE", WORKER_IP: "ALIVE"}
    assert nodes[HEAD_IP]["is_head_node"] and not nodes[WORKER_IP]["is_head_node"]
    resources = {
        ip: {name: node["resources_total"].get(name, 0) for name in ("CPU", "GPU")}
        for ip, node in nodes.items()
    }
    assert resources == {HEAD_IP: {"CPU": 1, "GPU": 0}, WORKER_IP: {"CPU": 2, "GPU": 2}}
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{cluster.address}/api/v0/nodes", timeout=5)
    refused.value.close()
    assert running(cluster.folder)


def test_submitted_sweep_trains_on_the_gpu_node_and_is_read_afterwards(
    cluster: Cluster, tmp_path: Path
) -> None:
    sweep = ["spaces/catalog/digits/cnn.yaml", "--trials", 3, "--set", "epochs=2", "--set", "asha=off"]
    where = ["--set", "resources.gpu=1", "--runs", tmp_path, "--name", "digits"]
    ended = job(cluster, "submit", "--", "python", "-m", "search", "run", *sweep, *where, working_dir=".")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "rungwise resume" in ended.stdout
    results = load_run(tmp_path / "digits")
    assert results.state == "complete"
    assert results.counts()["complete"] == 3
    assert results.best()[0].metrics["accuracy"] > 0.2
    assert len(results.frame()) >= 3


def test_stopped_job_loses_nothing_and_another_job_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    trials = {"suggester": "tpe", "trials": 12, "seed": 0}
    sweep = make_sweep(search=trials, fixed={"epoch_s": 0.2}, asha="off", resources={"cpu": 1, "gpu": 1})
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    run = ["python", "-m", "search", "run", tmp_path / "sweep.yaml", "--runs", tmp_path, "--name", "x"]
    started = job(cluster, "submit", "--no-wait", "--", *run, working_dir=".", submission_id="to-be-stopped")
    assert started.returncode == 0, started.stdout + started.stderr
    wait_for_epochs(tmp_path / "x", 4)
    stopped = job(cluster, "stop", "to-be-stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    before = load_run(tmp_path / "x")
    assert before.state == "interrupted"
    assert before.run.ended and before.run.ended.reason == "SIGTERM", "it said goodbye before the SIGKILL"
    log = (tmp_path / "x" / "events.jsonl").read_bytes()
    resume = ["python", "-m", "search", "resume", tmp_path / "x"]
    resumed = job(cluster, "submit", "--", *resume, working_dir=".")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert (tmp_path / "x" / "events.jsonl").read_bytes().startswith(log)
    after = load_run(tmp_path / "x")
    assert after.state == "complete" and len(after.run.trials) == 12


def test_dashboard_is_a_job_on_the_head(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    command = ["python", "-m", "search", "dashboard", "--runs", tmp_path, "--port", port]
    started = job(cluster, "submit", "--no-wait", "--", *command, working_dir=".", submission_id="board")
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        wait_until_open(port)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=10) as answer:
            assert answer.read() == b"ok"
    finally:
        assert job(cluster, "stop", "board").returncode == 0


def test_a_backend_that_a_sweep_names_is_that_of_its_worker_and_of_a_resume(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The hypermodel can be built on JAX alone, and nobody's environment asks for it."""
    sweep = make_sweep(
        trainer={"hypermodel": "tests.hypermodels:OnJax", "backend": "jax"},
        search={"suggester": "random", "trials": 1, "seed": 0},
        space={"units": [4, 8, 16]},
        resources={"cpu": 1, "gpu": 2},
        epochs=1,
        asha="off",
    )
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    run = ["python", "-m", "search", "run", tmp_path / "sweep.yaml", "--runs", tmp_path, "--name", "x"]
    ended = job(cluster, "submit", "--", *run, working_dir=".")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    resume = [sys.executable, "-m", "search", "resume", str(tmp_path / "x"), "--trials", "2"]
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    subprocess.run([*resume, "--runner", "local"], cwd=ROOT, env=environment, check=True)
    trials = load_run(tmp_path / "x").run.trials.values()
    assert [(trial.status, trial.reason) for trial in trials] == [("complete", "")] * 2


def wait_for_epochs(run: Path, epochs: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if load_run(run).run.epochs >= epochs:
                return
        except RunError:
            pass  # not begun yet
        time.sleep(0.05)
    raise AssertionError(f"{run} did not reach {epochs} epochs")
