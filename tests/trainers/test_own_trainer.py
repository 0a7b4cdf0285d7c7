"""The trainer that docs/trainers.md shows, taken from there: it keeps the contract and goes the whole way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search import load_run
from search.cli import main
from spaces.sweep import Sweep
from trainers.catalog import load_trainer
from trainers.contract import Fold

DOCUMENT = Path(__file__).parents[2] / "docs" / "trainers.md"
SWEEP = {
    "dataset": "digits",
    "objective": "macro_f1",
    "epochs": 4,
    "search": {"suggester": "random", "trials": 3},
    "space": {"learning_rate": {"float": [0.01, 1.0], "log": True}, "batch_size": [32, 100_000]},
}


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The trainer, as a sweep names it; in a module of this test's own."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    module = f"my_trainer_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return f"{module}:Softmax"


def test_documented_trainer_goes_on_bit_for_bit(
    named: str, tmp_path: Path, make_fold: Callable[..., Fold]
) -> None:
    trainer, fold = load_trainer(named), make_fold(epochs=4)
    settings: Any = trainer.Settings(learning_rate=0.3)
    whole = []
    for epoch in trainer.train(settings, fold, None):
        whole.append(epoch.probabilities)
        if epoch.number == 2:
            epoch.save(tmp_path, 0.5)
    rest = [epoch.probabilities for epoch in trainer.train(settings, fold, tmp_path)]
    assert len(whole) == 4 and len(rest) == 2
    np.testing.assert_array_equal(rest, whole[2:])
    assert whole[0].dtype == np.float32 and not np.array_equal(whole[0], whole[1])
    np.testing.assert_array_equal(trainer.load(tmp_path).predict(fold.x_valid), whole[1])


def test_documented_trainer_goes_from_sweep_to_prediction(
    named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.yaml").write_text(Sweep.from_dict({**SWEEP, "trainer": named}).to_yaml())
    assert main(["space", named]) == 0
    assert "learning_rate: 0.1" in capsys.readouterr().out
    assert main(["run", "sweep.yaml", "--name", "own", "--runner", "local"]) == 0
    results = load_run(tmp_path / "runs" / "own")
    assert results.run.best and results.run.best.best_value > 0.8
    assert results.run.num_infeasible, "a batch of 100,000 rows"
    assert main(["export", "own", "--to", "model"]) == 0
    assert "--trust" in capsys.readouterr().out
    np.save("rows.npy", np.zeros((1, 8, 8), np.uint8))
    assert main(["predict", "model", "rows.npy", "--trust", "--output", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
