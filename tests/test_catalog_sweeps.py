"""Every sweep of the catalog is valid and trains: two trials of each, on small data in the same formats."""

from pathlib import Path
from typing import Any

import pytest

from search.driver import load_checked_sweep, run_sweep
from search.results import load_run
from spaces.sweep import Sweep
from tests.catalog_data import write_all
from trainers.spark_trainer import java_fault

CATALOG = Path(__file__).parents[1] / "spaces" / "catalog"
SWEEPS = sorted(CATALOG.rglob("*.yaml"))

SMALLER: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (32, {"width": 0.125, "dense_units": 32}),
    "glassmodel": (16, {}),
    "resnet50": (32, {"weights": "none"}),
}
"""By architecture: the images' size and the params with which it trains in a second or two."""


def name(path: Path) -> str:
    return path.relative_to(CATALOG).as_posix()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_all(folder)
    return folder


@pytest.fixture(autouse=True)
def data_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNGWISE_DATA", str(data))


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_sweep_is_valid(path: Path) -> None:
    sweep = load_checked_sweep(path)
    assert sweep.asha is None if "as_reported" in path.name else sweep.search.trials >= 2


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_two_trials_train_to_a_result(path: Path, tmp_path: Path) -> None:
    sweep = load_checked_sweep(path)
    if sweep.trainer == "spark/mlp" and (fault := java_fault()):
        pytest.skip(fault)
    run_sweep(load_checked_sweep(path, small(path, sweep)), tmp_path / "run", runner="local")
    results = load_run(tmp_path / "run")
    trials = [trial for trial in results.run.trials.values() if trial.status != "infeasible"]
    assert len(trials) == min(2, sweep.space.size or 2)
    assert [trial.reason for trial in trials if trial.status == "failed"] == []
    assert all(0 <= trial.best_value <= 1 for trial in trials)
    assert all(len(trial.folds) == (2 if sweep.validation.kfold else 0) for trial in trials)


def small(path: Path, sweep: Sweep) -> list[str]:
    """Two epochs at most, two folds where there are several, and less of what is large."""
    epochs = 1 if sweep.trainer == "spark/mlp" else min(2, sweep.epochs)  # a job of Spark's takes its time
    overrides = [f"search.trials={min(2, sweep.space.size or 2)}", f"epochs={epochs}"]
    if sweep.validation.kfold:
        overrides.append("validation.kfold=2")
    if sweep.asha:
        overrides.append("asha.grace=1")
    if (architecture := path.name.partition(".")[0]) in SMALLER:
        size, params = SMALLER[architecture]
        overrides.append(f"dataset.size={size}")
        for param, value in params.items():
            is_varied = param in sweep.space.params
            overrides.append(f"space.{param}=[{value}]" if is_varied else f"fixed.{param}={value}")
    return overrides
