"""A real two-node Ray cluster on loopback, with made-up GPUs on its second node, for tests."""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
# Linux answers on all of 127/8, so each node has an address of its own. Not 127.0.0.1: Ray replaces it by the
# machine's address on the network. Some of Ray's servers listen everywhere all the same, hence the token.
HEAD_IP, WORKER_IP = "127.0.0.2", "127.0.0.3"

# In the environment of the cluster's processes and of nobody else; its value is the cluster's folder.
_MARK = "RUNGWISE_TEST_CLUSTER"


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where it listens, and what a client needs in its environment to be let in."""

    folder: Path
    gcs_address: str
    """``host:port`` for ``ray.init(address=...)``."""
    address: str
    """``http://host:port`` of the dashboard, for ``ray job submit --address ...``."""
    token_path: Path

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment pointed at the cluster: for ``ray job submit`` and its like."""
        return _without_ray(os.environ) | self.access | {"RAY_ADDRESS": self.address}

    def nodes(self) -> list[dict[str, Any]]:
        """What the cluster itself says of its nodes: state, node_ip, resources_total, is_head_node."""
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes?detail=1",
            headers={"Authorization": f"Bearer {self.token_path.read_text()}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return nodes

    @property
    def access(self) -> dict[str, str]:
        """The part of the environment that opens the door: every node and every client has it."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token_path)}


@contextmanager
def two_node_cluster(gpus: int = 2, cpus: int = 2, head_cpus: int = 1) -> Iterator[Cluster]:
    """Start a head (``head_cpus``, no GPU) and a second node (``cpus``, ``gpus``); end both in any case.

    It has ports, a folder and a token of its own, so it runs beside other clusters and never stops them.
    """
    # Ray puts Unix sockets below its folder, and their paths may have 107 bytes: too few for tmp_path.
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    gcs, dashboard, client, head_agent, worker_agent = _free_ports(5)
    cluster = Cluster(folder, f"{HEAD_IP}:{gcs}", f"http://{HEAD_IP}:{dashboard}", folder / "token")
    cluster.token_path.touch(mode=0o600)
    cluster.token_path.write_text(secrets.token_hex(32))
    head = [
        *(
            "--head",
            f"--node-ip-address={HEAD_IP}",
            f"--port={gcs}",
            f"--num-cpus={head_cpus}",
            "--num-gpus=0",
        ),
        *(f"--dashboard-host={HEAD_IP}", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={head_agent}"),
    ]
    worker = [
        *(f"--address={cluster.gcs_address}", f"--node-ip-address={WORKER_IP}"),
        *(f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--dashboard-agent-listen-port={worker_agent}"),
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start_node(cluster, "head", head))
        _wait_for_nodes(cluster, 1, started)  # the second node gives up early where there is no head to join
        started.append(_start_node(cluster, "worker", worker))
        _wait_for_nodes(cluster, 2, started)
        yield cluster
    finally:
        _stop(cluster, started)
        shutil.rmtree(folder, ignore_errors=True)


def _start_node(cluster: Cluster, name: str, options: list[str]) -> subprocess.Popen[bytes]:
    programs = Path(sys.executable).parent
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",  # so that a submitted `python ...` is this Python
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # else a node told to end waits 30 s for its work
        "RAY_JOB_STOP_WAIT_TIME_S": "10",  # for a job to end; 3 by default, few where other tests run beside
        "RAY_USAGE_STATS_ENABLED": "0",
        _MARK: str(cluster.folder),
    }
    common = [f"--temp-dir={cluster.folder / name}", "--object-store-memory=150000000"]
    with open(cluster.folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(
            [programs / "ray", "start", "--block", *options, *common],
            env=_without_ray(os.environ) | cluster.access | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_for_nodes(cluster: Cluster, number: int, started: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    seen: object = "no answer yet"
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in started):
            raise RuntimeError(f"a node of the test cluster ended while starting:\n{_logs(cluster)}")
        try:
            nodes = cluster.nodes()
            seen = [(node["node_ip"], node["state"]) for node in nodes]
            if sum(node["state"] == "ALIVE" for node in nodes) >= number:
                return
        except (OSError, urllib.error.URLError, KeyError, TypeError, ValueError) as error:
            seen = error  # the dashboard is not up yet, or answers before it knows anything
        time.sleep(0.1)
    raise RuntimeError(f"no {number} live nodes after {START_TIMEOUT_S:.0f} s ({seen}):\n{_logs(cluster)}")


def _logs(cluster: Cluster) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(cluster.folder.glob("*.log"))
    )


def _stop(cluster: Cluster, started: list[subprocess.Popen[bytes]]) -> None:
    """End the processes of this cluster, by id, and return once all of them are gone."""
    left = running(cluster.folder)  # before anything ends: orphans can no longer be told by their parents
    for process in reversed(started):  # the head last: a node whose head is gone hangs on when told to end
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    left |= running(cluster.folder)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while left := {pid: born for pid, born in left.items() if _born(pid) == born}:
        for pid in left:
            _send(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        time.sleep(0.05)


def running(folder: Path) -> dict[int, str]:
    """The processes of the cluster in ``folder``, as {id: when it was born}.

    All were started with its mark, but Ray's workers overwrite the memory that holds their environment; so
    whatever a marked process has started counts too.
    """
    mark = f"{_MARK}={folder}".encode()
    parents: dict[int, int] = {}
    members: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int(stat_of(int(entry.name))[1])
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                members.add(int(entry.name))
        except OSError:  # it ended meanwhile, or belongs to somebody else
            continue
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in members} - members
        members |= children
        grown = bool(children)
    return {pid: born for pid in members if (born := _born(pid)) is not None}


def _born(pid: int) -> str | None:
    """When a process began, which with its id names it for good; None when it has ended."""
    try:
        stat = stat_of(pid)
    except OSError:
        return None
    return None if stat[0] in "ZX" else stat[19]


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat from the state on: state, parent, group, session, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _without_ray(environment: "os._Environ[str]") -> dict[str, str]:
    """An outer RAY_ADDRESS or RAY_AUTH_TOKEN would lead to somebody else's cluster."""
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")}


def _free_ports(number: int) -> list[int]:
    """Ports nobody listens on, below those that Linux hands out by itself: no one else is given them."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == number:
            return ports
    raise RuntimeError("found no free ports between 20000 and 32000")
