"""The backend that a sweep names is the one it is trained on: in every worker, and after a resume."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from search import load_run

ROOT = Path(__file__).parents[2]


def rungwise(*arguments: object) -> None:
    """Run a command that must succeed, in an environment that names no backend."""
    environment = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "RAY_ADDRESS")}
    done = subprocess.run(
        [sys.executable, "-m", "search", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.ray
def test_a_sweep_that_names_jax_is_trained_on_it_and_goes_on_so(
    sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = sweep_file(
        trainer={"hypermodel": "tests.hypermodels:OnJax", "backend": "jax"},
        search={"suggester": "random", "trials": 2, "seed": 0},
        space={"units": [4, 8, 16]},
        epochs=2,
        asha="off",
    )
    rungwise("run", sweep, "--name", "jax", "--runs", tmp_path)
    rungwise("resume", tmp_path / "jax", "--trials", 3, "--runner", "local")
    trials = load_run(tmp_path / "jax").run.trials.values()
    assert [(trial.status, trial.reason) for trial in trials] == [("complete", "")] * 3
