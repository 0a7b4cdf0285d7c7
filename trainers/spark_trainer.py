"""Spark's multilayer perceptron: trained by iterations of a solver on a cluster or on this machine."""

import atexit
import json
import logging
import math
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spaces.params import Fault, SpaceError
from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.stderr import stderr_to

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_MASTER = re.compile(r"local(\[(\*|[1-9]\d*)(,[1-9]\d*)?\])?|spark://.+|k8s://.+|yarn")
_MOST_UNITS = 65_536
_MOST_WEIGHTS = 2**31 - 1  # Spark keeps all weights in one Java array


def _checked_layers(text: str) -> str:
    for part in text.split("-") if text else ():
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= _MOST_UNITS):
            raise ValueError(
                f"{part!r} is no number of units; write hidden layers as '256-128-64', each from 1 to"
                f" {_MOST_UNITS}, or '' for none"
            )
    return text


class SparkMLPSettings(BaseModel):
    """An epoch is ``iterations_per_epoch`` iterations, and the next one goes on from its weights.

    L-BFGS forgets at each epoch's end what it has learned of the curvature, since Spark hands out nothing but
    weights: many short epochs are no longer the same path as one long one (gd has no memory to lose). With
    ``iterations_per_epoch`` no smaller than ``max_iter`` the only epoch is exactly Spark's own ``fit``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    layers: Annotated[str, AfterValidator(_checked_layers)] = Field(
        "64", max_length=200, description="units of the hidden layers, as in 256-128-64; empty for none"
    )
    solver: Literal["l-bfgs", "gd"] = Field("l-bfgs", description="quasi-Newton, or plain gradient descent")
    step_size: float = Field(0.03, gt=0, le=100, description="step of gd; l-bfgs finds its own")
    max_iter: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000,
        description="iterations after which training ends by itself, those included that a converged solver"
        " is spared",
    )
    iterations_per_epoch: int = Field(
        10, ge=1, le=1_000_000, description="iterations between two reports; see max_iter"
    )
    tol: float = Field(
        1e-6,
        ge=0,
        le=1,
        description="the solver has converged where an iteration gains less than this: what is left of the"
        " epochs repeats its last state, so that folds end together",
    )
    block_size: int = Field(128, ge=1, le=1_000_000, description="rows multiplied at once")
    standardize: bool = Field(
        True, description="shift and scale each column to mean 0 and deviation 1 over the training rows"
    )
    partitions: int = Field(
        1,
        ge=1,
        le=10_000,
        description="parts of the training rows, each summed by a thread of its own; beyond 2 the sums are"
        " added in the order they come, so that one seed no longer gives the same last digits",
    )


class SparkMLPTrainer:
    """Trains Spark's ``MultilayerPerceptronClassifier``: sigmoid hidden layers, softmax output.

    ``master`` is Spark's: ``local[4]``, ``spark://host:7077``, ``k8s://...``. None takes $SPARK_MASTER, else
    as many threads of this machine as the trial has CPUs. Whatever else Spark is to know (memory, executors)
    it reads from its own ``spark-defaults.conf`` and environment. Raises SpaceError for no such master.
    """

    Settings: type[BaseModel] = SparkMLPSettings

    def __init__(self, master: str | None = None) -> None:
        if master is not None and not (isinstance(master, str) and _MASTER.fullmatch(master)):
            allowed = "local, local[N], local[*], spark://HOST:PORT, k8s://URL, yarn"
            raise SpaceError(Fault((), f"master {master!r} is none of Spark's; allowed: {allowed}"))
        self.master = master

    def check(self, settings: SparkMLPSettings, fold: Fold) -> int:
        """The number of weights, told without Spark: the machine that plans a search needs no Java."""
        sizes = _sizes(settings, fold)
        num_weights = sum((inputs + 1) * units for inputs, units in zip(sizes, sizes[1:], strict=False))
        if num_weights > _MOST_WEIGHTS:
            raise Infeasible(
                f"layers: {settings.layers!r} makes {num_weights} weights of {sizes[0]} columns and"
                f" {sizes[-1]} classes; Spark holds at most {_MOST_WEIGHTS}; use fewer units"
            )
        return num_weights

    def train(
        self, settings: SparkMLPSettings, fold: Fold, start: Path | None
    ) -> Generator[Epoch, float, None]:
        self.check(settings, fold)
        about = _describe(settings, fold)
        trained = _restore(about, start) if start else _Trained()
        # Not counted by what the solver did: folds of one trial, in step, must have the same last epoch.
        last = min(fold.epochs, math.ceil(settings.max_iter / settings.iterations_per_epoch))
        if trained.epoch >= last:
            return
        with _training_rows(_session(self.master), settings, fold) as (rows, scaler):
            while trained.epoch < last:
                trained = _train_epoch(rows, settings, about["sizes"], fold.seed, trained)
                predictor = _predictor(about, trained.weights, scaler)
                yield Epoch(
                    trained.epoch,
                    predictor.predict(fold.x_valid),
                    {"train_loss": trained.loss, "iterations": float(trained.iterations)},
                    save=partial(_save, about, trained, scaler),
                )

    def load(self, folder: Path) -> "SparkMLPPredictor":
        """The model as numpy arrays: using it takes neither Spark nor Java."""
        with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
            scaler = _Scaler(arrays["shift"], arrays["factor"])
            return _predictor(_read_about(folder), arrays["weights"], scaler)


@dataclass(frozen=True)
class _Scaler:
    """Rows become ``(row - shift) * factor``, both (features,), as by Spark's StandardScalerModel."""

    shift: NDArray[np.float64]
    factor: NDArray[np.float64]


@dataclass(frozen=True)
class _Trained:
    """Where training stands; all of it that the next epoch needs."""

    weights: NDArray[np.float64] | None = None
    epoch: int = 0
    iterations: int = 0
    loss: float = float("nan")
    has_converged: bool = False
    """Whether the solver found no further way down."""


@dataclass(frozen=True)
class SparkMLPPredictor:
    """The trained perceptron, computed by numpy."""

    classes: tuple[str, ...]
    scale: float
    scaler: _Scaler
    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    """Weights (inputs, units) and biases (units,) of each layer."""

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        values = (_as_vectors(x, self.scale) - self.scaler.shift) * self.scaler.factor
        for weights, biases in self.layers[:-1]:
            values = _sigmoid(values @ weights + biases)
        weights, biases = self.layers[-1]
        return _softmax(values @ weights + biases).astype(np.float32)

    def export(self, folder: Path, formats: Sequence[str]) -> None:
        if formats:
            raise TrainError(
                f"a Spark perceptron has no format {', '.join(formats)}; known: none. What is saved beside it"
                " (weights.npz, about.json) holds all of the model: leave the formats out"
            )


def java_fault() -> str | None:
    """Why Spark cannot start here: one line if there is no Java, None if there is."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None):
        return None
    where = f"JAVA_HOME ({home})" if home else "PATH"
    return (
        f"the trainer spark/mlp needs Java 17 or newer and found no java in {where}; install one"
        " (Debian: openjdk-17-jre-headless) or point JAVA_HOME to it"
    )


# The model, as Spark lays it out.


def _sizes(settings: SparkMLPSettings, fold: Fold) -> list[int]:
    """Units of all layers, from the columns of a row to the classes."""
    hidden = [int(units) for units in settings.layers.split("-")] if settings.layers else []
    return [int(np.prod(fold.x.shape[1:])), *hidden, len(fold.classes)]


def _predictor(
    about: dict[str, Any], weights: NDArray[np.float64] | None, scaler: _Scaler
) -> SparkMLPPredictor:
    """Spark lists for each layer its weights, one input after another, and then its biases."""
    assert weights is not None
    layers, first = [], 0
    for inputs, units in zip(about["sizes"], about["sizes"][1:], strict=False):
        middle, last = first + inputs * units, first + (inputs + 1) * units
        layers.append((weights[first:middle].reshape(inputs, units), weights[middle:last]))
        first = last
    return SparkMLPPredictor(tuple(about["classes"]), about["scale"], scaler, tuple(layers))


def _as_vectors(x: NDArray[Any], scale: float) -> NDArray[np.float64]:
    return x.reshape(len(x), int(np.prod(x.shape[1:]))).astype(np.float64) / scale


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # exp grows infinite where the result is 0 anyway
        return 1 / (1 + np.exp(-values))


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# What is saved.


def _describe(settings: SparkMLPSettings, fold: Fold) -> dict[str, Any]:
    """All but the arrays that it takes to predict or to go on, as plain JSON."""
    return {
        "settings": settings.model_dump(),
        "sizes": _sizes(settings, fold),
        "classes": list(fold.classes),
        "scale": fold.scale,
    }


def _save(about: dict[str, Any], trained: _Trained, scaler: _Scaler, folder: Path, score: float) -> None:
    assert trained.weights is not None
    np.savez(folder / "weights.npz", weights=trained.weights, shift=scaler.shift, factor=scaler.factor)
    progress = {
        "epoch": trained.epoch,
        "iterations": trained.iterations,
        "loss": trained.loss,
        "has_converged": trained.has_converged,
    }
    text = json.dumps({**about, "trained": progress})
    (folder / "about.json").write_text(text, encoding="utf-8")


def _read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about


def _restore(about: dict[str, Any], folder: Path) -> _Trained:
    saved = _read_about(folder)
    if differing := [name for name in about if saved[name] != about[name]]:
        raise TrainError(
            f"cannot go on from {folder}: it was written by a trial that differs in {', '.join(differing)}"
        )
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        return _Trained(arrays["weights"], **saved["trained"])


# Training.


def _train_epoch(
    rows: "DataFrame", settings: SparkMLPSettings, sizes: list[int], seed: int, before: _Trained
) -> _Trained:
    if before.has_converged:
        return replace(before, epoch=before.epoch + 1)
    from pyspark.ml.classification import MultilayerPerceptronClassifier
    from pyspark.ml.linalg import Vectors

    wanted = min(settings.iterations_per_epoch, settings.max_iter - before.iterations)
    classifier = MultilayerPerceptronClassifier(
        layers=sizes,
        solver=settings.solver,
        stepSize=settings.step_size,
        maxIter=wanted,
        tol=settings.tol,
        blockSize=settings.block_size,
        seed=seed % 2**63,  # of the first weights, the only thing that is random
    )
    if before.weights is not None:
        classifier.setInitialWeights(Vectors.dense(before.weights))
    model = classifier.fit(rows)
    summary = model.summary()
    return _Trained(
        weights=model.weights.toArray(),
        epoch=before.epoch + 1,
        # Spark counts a step twice when its line search failed and was tried again.
        iterations=before.iterations + min(summary.totalIterations, wanted),
        loss=float(summary.objectiveHistory[-1]),
        has_converged=summary.totalIterations < wanted,
    )


@contextmanager
def _training_rows(
    session: "SparkSession", settings: SparkMLPSettings, fold: Fold
) -> Iterator[tuple["DataFrame", _Scaler]]:
    """The training rows as columns ``features`` and ``label``, held by Spark until the block is left."""
    rows = _frame(session, _as_vectors(fold.x_train, fold.scale), fold.y_train)
    rows, scaler = _standardized(rows) if settings.standardize else _as_they_are(rows, fold)
    parts = min(settings.partitions, len(fold.train))
    # By row number, not by chance, and from one partition: the same rows in the same order in each part,
    # however many threads there are.
    kept = rows.repartitionById(parts, "number").select("features", "label").persist()
    try:
        yield kept, scaler
    finally:
        kept.unpersist()


def _frame(session: "SparkSession", x: NDArray[np.float64], y: NDArray[np.int64]) -> "DataFrame":
    """Columns ``number``, ``values`` (a vector) and ``label``, in one partition and in order.

    They travel as an Arrow table: as Python rows they would each be pickled, and as a pandas frame
    pyspark 4.3 warns of pandas 3.
    """
    import pyarrow as pa
    from pyspark.ml.functions import array_to_vector

    table = pa.table(
        {
            "number": np.arange(len(x), dtype=np.int32),
            "values": pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1]),
            "label": y.astype(np.float64),
        }
    )
    frame = session.createDataFrame(table).coalesce(1)
    return frame.withColumn("values", array_to_vector(frame["values"]))


def _standardized(rows: "DataFrame") -> tuple["DataFrame", _Scaler]:
    from pyspark.ml.feature import StandardScaler

    model = StandardScaler(inputCol="values", outputCol="features", withMean=True, withStd=True).fit(rows)
    deviation = model.std.toArray()
    # A constant column becomes 0, as Spark has it.
    factor = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation != 0)
    return model.transform(rows), _Scaler(model.mean.toArray(), factor)


def _as_they_are(rows: "DataFrame", fold: Fold) -> tuple["DataFrame", _Scaler]:
    num_columns = int(np.prod(fold.x.shape[1:]))
    scaler = _Scaler(np.zeros(num_columns), np.ones(num_columns))
    return rows.withColumnRenamed("values", "features"), scaler


# The session: one in a process, started when first needed, kept warm from trial to trial.


def _session(master: str | None) -> "SparkSession":
    """The session of this process, be it ours or that of whoever imported us.

    Raises TrainError if Spark cannot start, or runs on another master than the one asked for.
    """
    from pyspark.sql import SparkSession

    _let_go_of_the_dead()
    session = SparkSession.getActiveSession() or _start(master or _default_master())
    running = session.sparkContext.master
    if master not in (None, running):
        raise TrainError(
            f"master {master!r} was asked for, but this process runs Spark on {running!r} and can hold one"
            " session only; leave the master out, or stop that session"
        )
    return session


def _let_go_of_the_dead() -> None:
    """Spark ends its Java process when a task runs out of memory; PySpark would ask that process for ever.

    It has no name for this, so what it keeps of the session is taken from it.
    """
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    process = getattr(SparkContext._gateway, "proc", None)
    if process is not None and process.poll() is not None:
        process.stdin.close()
        SparkContext._active_spark_context = SparkContext._gateway = SparkContext._jvm = None
        SparkSession._instantiatedSession = SparkSession._activeSession = None


def _default_master() -> str:
    # A worker sets OMP_NUM_THREADS to the CPUs of its trials.
    threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    return os.environ.get("SPARK_MASTER") or f"local[{threads}]"


def _start(master: str) -> "SparkSession":
    if fault := java_fault():
        raise TrainError(fault)
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master).appName("rungwise")
    for name, value in {**_QUIET, **(_ON_LOOPBACK if master.startswith("local") else {})}.items():
        builder = builder.config(name, value)
    with tempfile.TemporaryFile() as said, stderr_to(said.fileno()), _interrupts_kept():
        try:
            session = builder.getOrCreate()
        except Exception as error:
            said.seek(0)
            raise TrainError(_why_not_started(master, error, said.read().decode(errors="replace"))) from error
    atexit.register(_stop, session, session.sparkContext._gateway)
    # An interrupt in the middle of a fit is told by the run, in a line; Py4J would tell it in forty.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_is_not_of_py4j)
    return session


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """Py4J logs an interrupt on the root logger."""
    return Path(record.pathname).parent.name != "py4j"


_QUIET = {
    "spark.log.level": "ERROR",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
_ON_LOOPBACK = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}


def _why_not_started(master: str, error: Exception, said: str) -> str:
    lines = [line for line in said.splitlines() if "Exception" in line or "Error" in line]
    reason = lines[-1].strip() if lines else str(error).strip().splitlines()[0]
    return f"Spark did not start on {master!r}: {reason}; it needs Java 17 or newer and a master that answers"


def _stop(session: "SparkSession", gateway: Any) -> None:
    """End the session and wait for its Java process: one that nobody waited for stays behind as a zombie."""
    if gateway is not None and gateway.proc.poll() is not None:
        return  # it ended by itself
    session.stop()
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()  # what the process takes as its sign to end
        gateway.proc.wait(timeout=30)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """A new SparkContext takes over SIGINT, which a driver of ours handles in a way of its own."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
