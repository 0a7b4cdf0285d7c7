"""Report A's grids through Spark's own tuning and through ours: result, cost, and the price of short epochs.

    python benchmarks/spark_cv.py                               # A1 and A2 at full size: hours on two cores
    python benchmarks/spark_cv.py --only holdout                # A2 alone
    python benchmarks/spark_cv.py --rows 600 --features 32      # minutes: shows that it works, no more
    python benchmarks/spark_cv.py --set space.max_iter=[50]     # a smaller grid, for both

Both arms train on the same generated vectors and are tested on the same test rows, in one Spark session on
this machine, with the same grid and the same number of partitions. Spark divides its rows by chance, ours by
class. Each arm's best configuration is trained once more on all rows but the test rows, as Spark does by
itself.
`--only restarts` measures what L-BFGS loses when it begins anew, from the weights that it had, every so many
iterations, which is what lets a search stop a trial between two epochs.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from latent_vectors import write_latent_vectors
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from search.driver import load_checked_sweep, load_rows, run_sweep
from search.folder import RunFolder
from search.results import load_run
from spaces.sweep import Sweep
from trainers.contract import Fold
from trainers.datasets import Dataset
from trainers.folds import Split, Splits, make_folds
from trainers.metrics import score
from trainers.spark_trainer import SparkMLPSettings, SparkMLPTrainer, _frame, _session

ROOT = Path(__file__).resolve().parents[1]
SWEEPS = {
    "cv": ROOT / "spaces/catalog/latent_vectors/spark_mlp_cv.as_reported.yaml",
    "holdout": ROOT / "spaces/catalog/latent_vectors/spark_mlp_holdout.as_reported.yaml",
}
RESTARTS = (10, 25, 50, 150)


@dataclass(frozen=True)
class Outcome:
    fits: int
    wall_s: float
    best: float
    """Accuracy on the validation rows."""
    params: dict[str, Any]
    probabilities: NDArray[np.float32]
    """Of the test rows, by the best configuration trained on all others."""


def ours(sweep: Sweep, dataset: Dataset, splits: Splits, folder: Path) -> Outcome:
    begun = time.perf_counter()
    run_sweep(sweep, RunFolder(folder / "run"), "local")
    results = load_run(folder / "run")
    best, trials = results.best(1)[0], results.frame()
    settings = SparkMLPSettings(**sweep.fixed, **best.params)
    *_, last = SparkMLPTrainer().train(settings, _tested(dataset, splits, sweep.epochs), None)
    return Outcome(
        fits=len(trials) * len(splits.folds) + 1,
        wall_s=time.perf_counter() - begun,
        best=best.best_value,
        params=dict(best.params),
        probabilities=last.probabilities,
    )


def sparks_own(sweep: Sweep, dataset: Dataset, splits: Splits, folder: Path) -> Outcome:
    """Pipeline, evaluator and validator as Spark's guide to tuning puts them together."""
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import MultilayerPerceptronClassifier
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.feature import StandardScaler
    from pyspark.ml.tuning import CrossValidator, TrainValidationSplit

    begun = time.perf_counter()
    fold = _tested(dataset, splits, sweep.epochs)
    fixed = SparkMLPSettings(**sweep.fixed)
    hidden = [int(units) for units in fixed.layers.split("-") if units]
    perceptron = MultilayerPerceptronClassifier(
        layers=[dataset.x.shape[1], *hidden, len(dataset.classes)],
        solver=fixed.solver,
        tol=fixed.tol,
        seed=sweep.search.seed,
    )
    scaler = StandardScaler(inputCol="values", outputCol="features", withMean=True, withStd=True)
    grid = sweep.space.grid()
    spark_names = {"block_size": perceptron.blockSize, "max_iter": perceptron.maxIter}
    common: dict[str, Any] = {
        "estimator": Pipeline(stages=[scaler, perceptron]),
        "estimatorParamMaps": [{spark_names[name]: point[name] for name in point} for point in grid],
        "evaluator": MulticlassClassificationEvaluator(metricName="accuracy"),
        "seed": sweep.search.seed,
    }
    folds = sweep.validation.kfold
    validator: Any = (
        CrossValidator(numFolds=folds, **common)
        if folds
        else TrainValidationSplit(trainRatio=1 - (sweep.validation.holdout or 0.2), **common)
    )
    rows = _frame(_session(None), fold.x_train.astype(np.float64), fold.y_train)
    model = validator.fit(rows.repartition(fixed.partitions).persist())
    scores = model.avgMetrics if folds else model.validationMetrics
    test = _frame(_session(None), fold.x_valid.astype(np.float64), np.zeros(len(fold.valid), np.int64))
    predicted = model.transform(test).select("probability").collect()
    return Outcome(
        fits=len(grid) * (folds or 1) + 1,
        wall_s=time.perf_counter() - begun,
        best=max(scores),
        params=grid[int(np.argmax(scores))],
        probabilities=np.array([row.probability.toArray() for row in predicted], np.float32),
    )


def _tested(dataset: Dataset, splits: Splits, epochs: int) -> Fold:
    """All rows but the test rows to train on, and the test rows to predict."""
    train = np.setdiff1d(np.arange(len(dataset.y)), splits.test)
    whole = Splits((Split(train, splits.test),), test=splits.test[:0])
    return make_folds(dataset, whole, epochs)[0]


ARMS: dict[str, Callable[[Sweep, Dataset, Splits, Path], Outcome]] = {
    "Rungwise": ours,
    "Spark's own": sparks_own,
}


def compare(table: Table, name: str, overrides: list[str], folder: Path) -> None:
    sweep = load_checked_sweep(SWEEPS[name], overrides)
    dataset, splits = load_rows(sweep, folder)
    for arm, run in ARMS.items():
        outcome = run(sweep, dataset, splits, folder / name)
        tested = score(dataset.y[splits.test], outcome.probabilities)
        table.add_row(
            f"{name}: {arm}",
            str(outcome.fits),
            f"{outcome.wall_s:.0f}",
            f"{outcome.best:.4f}",
            ", ".join(f"{key}={value}" for key, value in outcome.params.items()),
            f"{tested.values['accuracy']:.4f}",
            f"{tested.values['weighted_f1']:.4f}",
            "/".join(str(count) for row in tested.confusion for count in row),
        )


def measure_restarts(table: Table, overrides: list[str], folder: Path) -> None:
    """One configuration of each sweep, 150 iterations in epochs of several lengths."""
    for name in SWEEPS:
        sweep = load_checked_sweep(SWEEPS[name], overrides)
        dataset, splits = load_rows(sweep, folder)
        for step in RESTARTS:
            fixed = {**sweep.fixed, "max_iter": max(RESTARTS), "iterations_per_epoch": step}
            fold = _tested(dataset, splits, epochs=max(RESTARTS))
            begun = time.perf_counter()
            *_, last = SparkMLPTrainer().train(SparkMLPSettings(**fixed), fold, None)
            accuracy = score(dataset.y[splits.test], last.probabilities).values["accuracy"]
            table.add_row(
                str(sweep.fixed["layers"]),
                "never" if step == max(RESTARTS) else f"every {step}",
                f"{last.curves['iterations']:.0f}",
                f"{last.curves['train_loss']:.4g}",
                f"{accuracy:.4f}",
                f"{time.perf_counter() - begun:.0f}",
            )


@contextmanager
def vectors(rows: int, features: int) -> Iterator[tuple[Path, list[str]]]:
    """A folder for the runs, and what points a sweep at freshly written vectors."""
    with tempfile.TemporaryDirectory(prefix="rungwise-") as name:
        folder = Path(name)
        write_latent_vectors(folder / "latent_vectors.csv", rows, features)
        for sweep in SWEEPS:
            (folder / sweep).mkdir()
        yield folder, [f"dataset.path={folder / 'latent_vectors.csv'}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4500)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--partitions", type=int, default=2, help="of the training rows, in both arms")
    parser.add_argument("--only", choices=(*SWEEPS, "restarts"), help="one part (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for rungwise run")
    options = parser.parse_args()
    parts = (options.only,) if options.only else (*SWEEPS, "restarts")
    _session(f"local[{len(os.sched_getaffinity(0))}]")  # started before the clock is
    console = Console(width=None if sys.stdout.isatty() else 150)
    size = f"{options.rows} x {options.features}"
    with vectors(options.rows, options.features) as (folder, overrides):
        overrides += [f"fixed.partitions={options.partitions}", *options.set]
        table = Table("grid", "fits", "s", "best score", "of", "test accuracy", "F1", "confusion", title=size)
        for name in parts:
            if name in SWEEPS:
                compare(table, name, overrides, folder)
        if table.rows:
            console.print(table)
        if "restarts" in parts:
            columns = ("layers", "begun anew", "iterations", "train loss", "test accuracy", "s")
            table = Table(*columns, title=f"L-BFGS, {size}")
            measure_restarts(table, overrides, folder)
            console.print(table)


if __name__ == "__main__":
    main()
