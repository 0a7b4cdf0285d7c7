"""A measurement in a process and a folder of its own, and whether it meets its goal."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Result = dict[str, Any]
SHARED_MEMORY = Path("/dev/shm")


def measure(part: str, where: Path | None = None, **options: Any) -> Result:
    """Run a part of the script that was started in a process and a folder of its own, and take both away."""
    with own_folder(where) as folder:
        file = folder / "answer.json"
        arguments = json.dumps({"part": part, "answer": str(file), **options, "folder": str(folder)})
        with subprocess.Popen(
            [sys.executable, str(Path(sys.argv[0]).resolve()), "--part", arguments],
            cwd=ROOT,
            env=environment(),
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
        if process.returncode or not file.exists():
            raise SystemExit(f"{part} {options} failed:\n{errors[-4000:]}")
        result: Result = json.loads(file.read_text())
        return result


@contextmanager
def own_folder(where: Path | None = None) -> Iterator[Path]:
    # Ray puts Unix sockets below its folder, and their paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="rw", dir=where or "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """This one without what was set for another Ray, and quiet, on the CPU."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}
    ours_too = {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return inherited | ours_too


def answer(arguments: str, parts: Mapping[str, Callable[..., Result]]) -> None:
    """In that process: run the part asked for and write down what it returns."""
    options = json.loads(arguments)
    part, file, folder = options.pop("part"), Path(options.pop("answer")), Path(options.pop("folder"))
    file.write_text(json.dumps(parts[part](**options, folder=folder)))


def verdict(value: float, goal: float, at_least: bool = False) -> str:
    return "met" if (value >= goal if at_least else value <= goal) else "MISSED"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
