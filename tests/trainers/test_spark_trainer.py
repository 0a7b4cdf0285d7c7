"""Spark's perceptron: the same numbers as Spark's own, iterations as epochs, one quiet session, no Java."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.latent_vectors import latent_vectors, write_latent_vectors
from spaces.params import SpaceError
from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.datasets import load_dataset
from trainers.spark_trainer import SparkMLPSettings, SparkMLPTrainer, _default_master, java_fault

MakeFold = Callable[..., Fold]
ROOT = Path(__file__).parents[2]

needs_java = pytest.mark.skipif(java_fault() is not None, reason=str(java_fault()))


@pytest.fixture
def trainer() -> SparkMLPTrainer:
    return SparkMLPTrainer()


def train(fold: Fold, start: Path | None = None, **settings: Any) -> list[Epoch]:
    defaults: dict[str, Any] = {"layers": "8", "iterations_per_epoch": 4}
    chosen = SparkMLPSettings(**{**defaults, **settings})
    return list(SparkMLPTrainer().train(chosen, fold, start))


# Without Java.


def test_check_counts_the_weights_of_the_reports_networks(
    trainer: SparkMLPTrainer, make_fold: MakeFold
) -> None:
    fold = make_fold(x=np.zeros((160, 512), np.float32), classes=("none", "glasses"))
    counts = [trainer.check(SparkMLPSettings(layers=layers), fold) for layers in ("256-128-64", "128-64", "")]
    assert counts == [172_610, 74_050, 1_026]


def test_more_weights_than_a_java_array_are_infeasible(trainer: SparkMLPTrainer, fold: Fold) -> None:
    with pytest.raises(Infeasible, match="layers: '65536-65536' makes 4299948042 weights .* use fewer units"):
        trainer.check(SparkMLPSettings(layers="65536-65536"), fold)


@pytest.mark.parametrize("layers", ["64-", "-64", "64-0", "65537", "64,32", "many", "64--32", " 64", "²"])
def test_layers_that_are_no_numbers_of_units_are_refused(layers: str) -> None:
    with pytest.raises(ValidationError, match="is no number of units; write hidden layers as '256-128-64'"):
        SparkMLPSettings(layers=layers)


@pytest.mark.parametrize(
    "master", ["local[2]", "local[*]", "local", "spark://host:7077", "k8s://https://host"]
)
def test_masters_of_spark_are_taken(master: str) -> None:
    assert SparkMLPTrainer(master).master == master


@pytest.mark.parametrize("master", ["", "local[0]", "localhost", "sc://host", 3])
def test_other_masters_are_refused(master: Any) -> None:
    with pytest.raises(SpaceError, match=r"is none of Spark's; allowed: local, local\[N\]"):
        SparkMLPTrainer(master)


def test_master_follows_from_the_environment_or_the_cpus_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_MASTER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _default_master() == "local[3]"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert _default_master() == f"local[{len(os.sched_getaffinity(0))}]"
    monkeypatch.setenv("SPARK_MASTER", "spark://host:7077")
    assert _default_master() == "spark://host:7077"


def test_missing_java_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs Java 17 or newer and found no java in PATH; install one" in str(java_fault())
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"no java in JAVA_HOME ({tmp_path})" in str(java_fault())


TRAINS_ONE_EPOCH = """
import signal, sys
import numpy as np
from trainers.contract import Fold, TrainError
from trainers.spark_trainer import SparkMLPTrainer

x = np.random.default_rng(0).random((20, 3), np.float32)
y = (x[:, 0] > 0.5).astype(np.int64)
fold = Fold(x, np.arange(16), y[:16], np.arange(16, 20), ("a", "b"), 1.0, epochs=1, seed=0)
trainer = SparkMLPTrainer()
handler = signal.getsignal(signal.SIGINT)
try:
    (epoch,) = trainer.train(trainer.Settings(), fold, None)
except TrainError as error:
    sys.exit(str(error))
from pyspark import SparkContext

assert signal.getsignal(signal.SIGINT) is handler, "Spark took over SIGINT"
print(SparkContext._gateway.proc.pid)
"""


def in_a_process_of_its_own(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", TRAINS_ONE_EPOCH]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_training_without_java_says_so(tmp_path: Path) -> None:
    ended = in_a_process_of_its_own(JAVA_HOME=str(tmp_path))
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "found no java in JAVA_HOME" in line


def test_latent_vectors_are_the_same_every_time(tmp_path: Path) -> None:
    write_latent_vectors(tmp_path / "latent.csv", rows=300)
    x, y = latent_vectors(300)
    assert 0.5 < y.mean() < 0.75
    dataset = load_dataset({"kind": "csv", "path": str(tmp_path / "latent.csv"), "label": "glasses"})
    assert dataset.classes == ("0", "1")
    assert np.array_equal(dataset.y, y)
    np.testing.assert_allclose(dataset.x, x, rtol=1e-4)
    header = (tmp_path / "latent.csv").read_text().splitlines()[0].split(",")
    assert [header[0], header[511], header[512]] == ["V1", "V512", "glasses"]


# With Java: one session serves all of these.


@needs_java
@pytest.mark.parametrize("block_size", [16, 128])
def test_first_epoch_is_what_sparks_own_pipeline_predicts(fold: Fold, block_size: int) -> None:
    (epoch,) = train(fold, max_iter=4, block_size=block_size)
    own = spark_probabilities(fold, maxIter=4, layers=[64, 8, 10], blockSize=block_size, seed=fold.seed)
    np.testing.assert_allclose(epoch.probabilities, own, atol=1e-6)


def spark_probabilities(fold: Fold, **settings: Any) -> np.ndarray:
    """As Spark's documentation has it: a scaler and a classifier in a pipeline, fitted, then transforming."""
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import MultilayerPerceptronClassifier
    from pyspark.ml.feature import StandardScaler

    scaler = StandardScaler(inputCol="values", outputCol="features", withMean=True, withStd=True)
    pipeline = Pipeline(stages=[scaler, MultilayerPerceptronClassifier(**settings)])
    model = pipeline.fit(spark_frame(fold.x_train, fold.y_train))
    predicted = model.transform(spark_frame(fold.x_valid, np.zeros(len(fold.x_valid))))
    return np.array([row.probability.toArray() for row in predicted.select("probability").collect()])


def spark_frame(x: np.ndarray, y: np.ndarray) -> Any:
    from pyspark.ml.linalg import Vectors
    from pyspark.sql import SparkSession

    rows = [
        (Vectors.dense(row / 16.0), float(label)) for row, label in zip(x.reshape(-1, 64), y, strict=True)
    ]
    session = SparkSession.getActiveSession()
    assert session is not None
    return session.createDataFrame(rows, ["values", "label"]).coalesce(1)


@needs_java
def test_max_iter_ends_training_within_an_epoch(fold: Fold) -> None:
    epochs = train(fold, max_iter=6)
    assert [epoch.curves["iterations"] for epoch in epochs] == [4, 6]


@needs_java
def test_gd_goes_on_as_if_it_had_never_stopped_and_l_bfgs_takes_another_path(fold: Fold) -> None:
    def last(solver: str, step: int) -> np.ndarray:
        settings: dict[str, Any] = {
            "solver": solver,
            "step_size": 0.5,
            "max_iter": 8,
            "iterations_per_epoch": step,
        }
        return train(fold, **settings)[-1].probabilities

    assert np.array_equal(last("gd", 4), last("gd", 8))
    assert not np.allclose(last("l-bfgs", 4), last("l-bfgs", 8), atol=1e-3)


@needs_java
def test_a_converged_solver_repeats_its_last_state_until_max_iter(
    make_fold: MakeFold, tmp_path: Path
) -> None:
    fold = make_fold(epochs=9)
    settings: dict[str, Any] = {"tol": 0.5, "iterations_per_epoch": 50, "max_iter": 120}
    first, *others = train(fold, **settings)
    assert first.curves["iterations"] < 50
    assert [epoch.number for epoch in others] == [2, 3]
    first.save(tmp_path, 0.0)
    resumed = train(fold, start=tmp_path, **settings)
    assert [epoch.number for epoch in resumed] == [2, 3]
    for epoch in (*others, *resumed):
        assert np.array_equal(epoch.probabilities, first.probabilities)
        assert epoch.curves == first.curves
    others[-1].save(tmp_path, 0.0)
    assert train(fold, start=tmp_path, **settings) == []


@needs_java
def test_two_partitions_sum_the_same_every_time(fold: Fold) -> None:
    one, other = (train(fold, partitions=2, max_iter=4)[-1] for _ in range(2))
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.curves == other.curves


@needs_java
def test_columns_of_any_unit_train_alike_unless_left_as_they_are(fold: Fold, make_fold: MakeFold) -> None:
    units = 10.0 ** (np.arange(64) % 3).reshape(8, 8, 1)
    scaled = make_fold(x=fold.x.astype(np.float64) * units)
    one, other = train(fold, max_iter=4)[-1], train(scaled, max_iter=4)[-1]
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
    as_they_are = train(scaled, max_iter=4, standardize=False)[-1]
    assert not np.allclose(one.probabilities, as_they_are.probabilities, atol=1e-2)


@needs_java
def test_a_trial_never_goes_on_from_other_settings(fold: Fold, tmp_path: Path) -> None:
    train(fold, max_iter=4)[-1].save(tmp_path, 0.0)
    with pytest.raises(TrainError, match="differs in settings"):
        train(fold, start=tmp_path, max_iter=8)


@needs_java
def test_a_loaded_model_exports_to_no_format(trainer: SparkMLPTrainer, fold: Fold, tmp_path: Path) -> None:
    train(fold, max_iter=4)[-1].save(tmp_path, 0.0)
    predictor = trainer.load(tmp_path)
    predictor.export(tmp_path, ())
    with pytest.raises(TrainError, match="has no format onnx; known: none"):
        predictor.export(tmp_path, ("onnx",))


@needs_java
def test_spark_lets_go_of_rows_when_a_trial_is_closed(trainer: SparkMLPTrainer, fold: Fold) -> None:
    from pyspark.sql import SparkSession

    epochs = trainer.train(SparkMLPSettings(layers="", iterations_per_epoch=1), fold, None)
    next(epochs)
    session = SparkSession.getActiveSession()
    assert session is not None

    def held() -> int:
        return int(session.sparkContext._jsc.getPersistentRDDs().size())

    holding = held()
    epochs.close()
    assert held() == holding - 1


@needs_java
def test_another_master_in_the_same_process_is_refused(fold: Fold) -> None:
    train(fold, max_iter=1)
    with pytest.raises(TrainError, match=r"'local\[7\]' was asked for, but this process runs Spark on"):
        next(SparkMLPTrainer("local[7]").train(SparkMLPSettings(), fold, None))


@needs_java
@pytest.mark.slow
def test_a_session_is_quiet_and_leaves_no_java_behind() -> None:
    ended = in_a_process_of_its_own(OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    pid = int(ended.stdout)
    assert not Path(f"/proc/{pid}").exists()


@needs_java
def test_trial_after_the_death_of_sparks_process_trains_in_another_one(make_fold: MakeFold) -> None:
    from pyspark import SparkContext

    before = train(make_fold(epochs=1), iterations_per_epoch=1)
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.proc.kill()
    gateway.proc.wait()
    after = train(make_fold(epochs=1), iterations_per_epoch=1)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
