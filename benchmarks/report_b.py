"""A grid search of six params by GridSearchCV against a search of the same space: epochs, time, score.

    python benchmarks/report_b.py --data DIR          # DIR holds glasses_faces/images and labels.csv
    python benchmarks/report_b.py --data DIR --quick   # an eighth of the grid, one seed: shows that it works

Both arms see the same pictures, the same three folds and the same six params
(spaces/catalog/glasses_faces/cnn.as_reported.yaml), and each person is on one side of every split.
GridSearchCV fits the net with Keras's own `fit`, as the report did. Each arm's chosen configuration is then
trained anew with several seeds on all rows that are not test rows, and scored on the test rows, by the same
code.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ROOT / "spaces" / "catalog" / "glasses_faces" / "cnn.as_reported.yaml"
ALIKE = ("dataset.group=person", "validation.test=0.3", "space.epochs=[15, 30]", "epochs=30")
"""For both arms. A tenth of 40 people would be a test of four; and there is a thirtieth of the report's
pictures to learn from, so 2 to 4 epochs are a dozen updates, after which no net is better than chance."""
OURS = ("search.suggester=tpe", "search.trials=14", "asha={grace: 3, reduction: 3}")
QUICK = (
    *("space.filters=[32]", "space.kernel_size=[3]", "space.pool_size=[2]"),
    *("space.dense_units=[64, 128]", "space.batch_size=[32, 64]", "space.epochs=[3, 6]", "epochs=6"),
)
Params = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds glasses_faces")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=5, help="of the final training (default 5)")
    parser.add_argument("--searches", type=int, default=3, help="of ours, each with its own seed (default 3)")
    options = parser.parse_args()
    os.environ["RUNGWISE_DATA"] = str(options.data.absolute())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    overrides = [*ALIKE, *(QUICK if options.quick else ())]
    seeds, searches = (1, 1) if options.quick else (options.seeds, options.searches)

    arms = [("GridSearchCV, cv=3", grid_search(overrides))]
    arms += [(f"Rungwise, seed {seed}", search(overrides, seed)) for seed in range(searches)]
    grid_epochs = arms[0][1]["epochs"]
    table = Table("arm", title="Report B's grid on glasses_faces, split by person", caption_justify="left")
    for column in (
        "trials",
        "epochs x folds",
        "of the grid's",
        "wall s",
        "CV accuracy",
        "test accuracy",
        "test macro F1",
    ):
        table.add_column(column, justify="right")
    table.add_column("chosen")
    for name, arm in arms:
        tested = [final_scores(overrides, arm["params"], seed) for seed in range(seeds)]
        table.add_row(
            name,
            str(arm["trials"]),
            str(arm["epochs"]),
            f"{arm['epochs'] / grid_epochs:.3f}",
            f"{arm['wall_s']:.0f}",
            f"{arm['cv']:.4f}",
            *(
                _mean_and_deviation([scores[metric] for scores in tested])
                for metric in ("accuracy", "macro_f1")
            ),
            " ".join(f"{key}={value}" for key, value in arm["params"].items()),
        )
    Console(width=None if sys.stdout.isatty() else 170).print(table)


def grid_search(overrides: list[str]) -> dict[str, Any]:
    """scikit-learn's grid over the sweep's whole space; the data is read and divided by our loader."""
    from sklearn.model_selection import GridSearchCV

    from search.driver import load_checked_sweep, load_rows

    sweep = load_checked_sweep(SWEEP, overrides)
    with tempfile.TemporaryDirectory() as runs:
        dataset, splits = load_rows(sweep, Path(runs))
    begun = time.perf_counter()
    grid = GridSearchCV(
        keras_classifier()(),
        {name: list(param.grid()) for name, param in sweep.space.params.items()},
        cv=[(fold.train, fold.valid) for fold in splits.folds],
        scoring="accuracy",
        refit=False,
    ).fit(dataset.x / np.float32(dataset.scale), dataset.y)
    wall_s = time.perf_counter() - begun
    return {
        "trials": len(grid.cv_results_["params"]),
        "epochs": sum(params["epochs"] for params in grid.cv_results_["params"]) * len(splits.folds),
        "wall_s": wall_s,
        "cv": grid.best_score_,
        "params": grid.best_params_,
    }


def keras_classifier() -> type:
    """The report's net behind scikit-learn's contract, as a user of GridSearchCV writes it."""
    import keras
    import tensorflow
    from sklearn.base import BaseEstimator, ClassifierMixin

    tensorflow.get_logger().setLevel("ERROR")  # it warns of a new trace for every new model

    class OneConvolution(ClassifierMixin, BaseEstimator):
        def __init__(
            self,
            filters: int = 64,
            kernel_size: int = 3,
            pool_size: int = 2,
            dense_units: int = 128,
            batch_size: int = 64,
            epochs: int = 4,
        ) -> None:
            self.filters = filters
            self.kernel_size = kernel_size
            self.pool_size = pool_size
            self.dense_units = dense_units
            self.batch_size = batch_size
            self.epochs = epochs

        def fit(self, x: NDArray[Any], y: NDArray[Any]) -> "OneConvolution":
            keras.utils.clear_session()
            keras.utils.set_random_seed(0)
            self.classes_ = np.unique(y)
            self.model_ = keras.Sequential(
                [
                    keras.Input(x.shape[1:]),
                    keras.layers.Conv2D(self.filters, self.kernel_size, padding="same", activation="relu"),
                    keras.layers.MaxPooling2D(self.pool_size),
                    keras.layers.Flatten(),
                    keras.layers.Dense(self.dense_units, activation="relu"),
                    keras.layers.Dense(1, activation="sigmoid"),
                ]
            )
            self.model_.compile("adam", "binary_crossentropy")
            self.model_.fit(x, y, batch_size=self.batch_size, epochs=self.epochs, verbose=0)
            return self

        def predict(self, x: NDArray[Any]) -> NDArray[Any]:
            return (self.model_.predict(x, verbose=0)[:, 0] > 0.5).astype(int)

    return OneConvolution


def search(overrides: list[str], seed: int) -> dict[str, Any]:
    """Ours over the same space, from the command line to the end of the command, Ray's start included."""
    with tempfile.TemporaryDirectory() as runs:
        settings = [*overrides, *OURS, f"search.seed={seed}"]
        command = [sys.executable, "-m", "search", "run", str(SWEEP), "--name", "b", "--runs", runs]
        begun = time.perf_counter()
        subprocess.run(
            [*command, *(part for setting in settings for part in ("--set", setting))],
            check=True,
            cwd=ROOT,
            capture_output=True,
        )
        wall_s = time.perf_counter() - begun
        from search.results import load_run

        run = load_run("b", Path(runs)).run
        assert run.best
        num_folds = len(run.best.folds)
        return {
            "trials": len(run.trials),
            "epochs": run.epochs * num_folds,
            "wall_s": wall_s,
            "cv": run.best.best_value,
            "params": run.best.params,
        }


def final_scores(overrides: list[str], params: Params, seed: int) -> dict[str, float]:
    """Scores on the test rows of the chosen configuration, trained to its end on all the others."""
    from search.driver import load_checked_sweep, load_rows
    from trainers.catalog import load_trainer
    from trainers.contract import Fold
    from trainers.metrics import score

    sweep = load_checked_sweep(SWEEP, overrides)
    with tempfile.TemporaryDirectory() as runs:
        dataset, splits = load_rows(sweep, Path(runs))
    train = np.setdiff1d(np.arange(len(dataset.y)), splits.test)
    fold = Fold(
        dataset.x, train, dataset.y[train], splits.test, dataset.classes, dataset.scale, sweep.epochs, seed
    )
    trainer = load_trainer(sweep.trainer)
    *_, last = trainer.train(trainer.Settings(**{**sweep.fixed, **params}), fold, None)
    return score(dataset.y[splits.test], last.probabilities).values


def _mean_and_deviation(values: list[float]) -> str:
    return f"{np.mean(values):.4f} ± {np.std(values):.4f}"


if __name__ == "__main__":
    main()
