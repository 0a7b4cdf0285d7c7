"""The arms of peers.py: one search by each of the peers, as their documentation shows it.

All are given a ``Task``, and make of it the same space, rows and nets. They import their library themselves,
so that none pays for another's.
"""

import json
import math
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SWEEP = Path(__file__).resolve().parents[1] / "spaces" / "catalog" / "digits" / "cnn.yaml"
WORKERS = 2

_LAYERS_AND_RATES: dict[str, list[Any]] = {
    "conv_layers": [1, 2, 3],
    "filters": [16, 32],
    "kernel_size": [3],
    "dense_units": [128],
    "batch_size": [32, 128],
    "learning_rate": [1e-3, 1e-2],
}
GRID: list[dict[str, list[Any]]] = [
    {**_LAYERS_AND_RATES, "optimizer": ["adam"], "momentum": [0.0]},
    {**_LAYERS_AND_RATES, "optimizer": ["sgd"], "momentum": [0.9]},
]
"""48 configurations of the space, as one who knows such nets would choose them."""
QUICK_GRID = [{**GRID[0], "conv_layers": [1], "filters": [16], "batch_size": [128]}]

Params = dict[str, Any]
Answer = tuple[Params, float]
"""The configuration that a search hands to its user, and its score on the validation rows."""


@dataclass(frozen=True)
class Task:
    """One search by one arm."""

    arm: str
    data: str
    seed: int
    trials: int
    epochs: int
    """The most that a configuration is trained."""
    overrides: tuple[str, ...]
    """What the sweep of the digits is changed by, as `rungwise run` is given it with ``--set``."""
    is_quick: bool

    @property
    def grid(self) -> list[dict[str, list[Any]]]:
        return QUICK_GRID if self.is_quick else GRID

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Task":
        return cls(**{**values, "overrides": tuple(values["overrides"])})


def main(task: str, folder: str) -> None:
    """An arm's process: searches, and leaves its notes and its answer in ``folder``."""
    params, score = ARMS[(given := Task.from_json(json.loads(task))).arm](given, Path(folder))
    (Path(folder) / "answer.json").write_text(json.dumps([params, float(score)]))


# ---- the rows ----


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as float32 with their labels, divided as the sweep divides them."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    scale: float
    num_classes: int
    folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    """The numbers of the rows to train on and to be judged by; one pair for a hold-out."""
    test: NDArray[np.int64]

    def one_hot(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.eye(self.num_classes, dtype=np.float32)[self.y[rows]]

    def training(self) -> dict[str, Any]:
        """What Keras's `fit` is given."""
        train, valid = self.folds[0]
        judged_by = (self.x[valid], self.one_hot(valid))
        return {"x": self.x[train], "y": self.one_hot(train), "validation_data": judged_by, "verbose": 0}


@cache
def sweep_of(task: Task) -> Any:
    from search.driver import load_checked_sweep

    return load_checked_sweep(SWEEP, task.overrides)


@cache
def rows_of(task: Task) -> Rows:
    """Read and divided by the code that `rungwise run` uses, with its seed: the very same rows."""
    from search.driver import load_rows

    with tempfile.TemporaryDirectory() as runs:
        dataset, splits = load_rows(sweep_of(task), Path(runs))
    return Rows(
        dataset.x.astype(np.float32),
        dataset.y,
        dataset.scale,
        len(dataset.classes),
        [(fold.train, fold.valid) for fold in splits.folds],
        splits.test,
    )


# ---- the net, as a user of plain Keras trains it ----


def compiled(params: Params, rows: Rows, seed: int) -> Any:
    """Raises Infeasible where a kernel fits no map; what then becomes of the trial, each arm says."""
    import keras

    from trainers.architectures import cnn

    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    settings = cnn.Settings(**params)
    model = cnn.build(settings, rows.x.shape[1:], rows.num_classes, rows.scale)
    model.compile(
        optimizer=(
            keras.optimizers.SGD(settings.learning_rate, momentum=settings.momentum)
            if settings.optimizer == "sgd"
            else keras.optimizers.Adam(settings.learning_rate)
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.F1Score(average="macro", name="macro_f1")],
    )
    return model


def fitted(task: Task, params: Params, rows: Rows, callbacks: Sequence[Any]) -> float:
    """Train to the end, or until a callback raises; returns the last epoch's score."""
    history = compiled(params, rows, task.seed).fit(
        **rows.training(), batch_size=params["batch_size"], epochs=task.epochs, callbacks=callbacks
    )
    return float(history.history["val_macro_f1"][-1])


def after_each_epoch(act: Callable[[int, float], None]) -> Any:
    """A callback: ``act`` is told the epoch, counted from 1, and the macro F1 on the validation rows."""
    import keras

    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: act(epoch + 1, float(logs.get("val_macro_f1", math.nan)))
    )


def noting(folder: Path, params: Params) -> Any:
    return after_each_epoch(lambda epoch, value: note(folder, params, value))


def note(folder: Path, params: Params, value: float, epochs: int = 1) -> None:
    """Append what was trained by now, and what came of it; one short write, so that processes may share."""
    with (folder / "notes.jsonl").open("a") as file:
        file.write(json.dumps([time.time(), json.dumps(params, sort_keys=True), value, epochs]) + "\n")


# ---- a grid, and scikit-learn ----


def whole_grid(task: Task, folder: Path) -> Answer:
    """Every configuration to its end, by a pool of processes."""
    from sklearn.model_selection import ParameterGrid

    points = list(ParameterGrid(task.grid))
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        scores = list(pool.map(partial(_score, task, folder), points))
    best = int(np.argmax(scores))
    return points[best], scores[best]


def _score(task: Task, folder: Path, params: Params) -> float:
    return fitted(task, params, rows_of(task), [noting(folder, params)])


def grid_search_cv(task: Task, folder: Path) -> Answer:
    from sklearn.model_selection import GridSearchCV

    return _scikit_learn(task, folder, GridSearchCV, task.epochs)


def halving_grid_search_cv(task: Task, folder: Path) -> Answer:
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    by_epochs = {"resource": "epochs", "max_resources": task.epochs, "random_state": task.seed}
    return _scikit_learn(task, folder, partial(HalvingGridSearchCV, **by_epochs), 1)


def _scikit_learn(task: Task, folder: Path, make: Callable[..., Any], epochs: int) -> Answer:
    """Over the very folds that a sweep with ``kfold: 3`` has; its user learns nothing before the end."""
    rows = rows_of(task)
    given = np.setdiff1d(np.arange(len(rows.y)), rows.test)
    folds = [tuple(np.searchsorted(given, side) for side in fold) for fold in rows.folds]
    net = _keras_classifier()(folder, rows.scale, task.seed, epochs)
    search = make(
        net, task.grid, cv=folds, scoring="f1_macro", refit=False, n_jobs=WORKERS, error_score="raise"
    ).fit(rows.x[given], rows.y[given])
    params = {name: search.best_params_[name] for name in task.grid[0]}
    note(folder, params, search.best_score_, epochs=0)
    return params, search.best_score_


def _keras_classifier() -> Any:
    """The same net behind scikit-learn's contract."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    @dataclass(eq=False, repr=False)
    class Net(ClassifierMixin, BaseEstimator):
        folder: Path
        scale: float
        seed: int
        epochs: int
        conv_layers: int = 2
        filters: int = 32
        kernel_size: int = 3
        dense_units: int = 128
        batch_size: int = 32
        learning_rate: float = 1e-3
        optimizer: str = "adam"
        momentum: float = 0.0

        def fit(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> "Net":
            self.classes_ = np.unique(y)
            rows = Rows(x, y, self.scale, len(self.classes_), folds=(), test=y[:0])
            params = {name: getattr(self, name) for name in GRID[0]}
            self.model_ = compiled(params, rows, self.seed)
            self.model_.fit(
                x,
                rows.one_hot(np.arange(len(y))),
                batch_size=self.batch_size,
                epochs=self.epochs,
                verbose=0,
                callbacks=[noting(self.folder, params)],
            )
            return self

        def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
            return np.asarray(self.classes_[self.model_.predict(x, verbose=0).argmax(axis=1)])

    return Net


# ---- KerasTuner ----


def keras_tuner_hyperband(task: Task, folder: Path) -> Answer:
    import keras_tuner

    return _keras_tuner(task, folder, partial(keras_tuner.Hyperband, max_epochs=task.epochs))


def keras_tuner_bayesian(task: Task, folder: Path) -> Answer:
    import keras_tuner

    return _keras_tuner(task, folder, partial(keras_tuner.BayesianOptimization, max_trials=task.trials))


def _keras_tuner(task: Task, folder: Path, make: Callable[..., Any]) -> Answer:
    import keras_tuner

    rows, space = rows_of(task), sweep_of(task).space

    class Net(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            return compiled(_keras_tuner_params(hp, space), rows, task.seed)

        def fit(self, hp: Any, model: Any, *args: Any, callbacks: Sequence[Any], **kwargs: Any) -> Any:
            params = _keras_tuner_params(hp, space)
            watching = [*callbacks, noting(folder, params)]
            return model.fit(*args, batch_size=params["batch_size"], callbacks=watching, **kwargs)

    tuner = make(
        Net(),
        objective=keras_tuner.Objective("val_macro_f1", "max"),
        seed=task.seed,
        max_consecutive_failed_trials=task.trials,  # infeasible ones are failures to it, and 3 would end it
        directory=folder,
        project_name="tuner",
    )
    tuner.search(**rows.training(), epochs=task.epochs)
    (best,) = tuner.oracle.get_best_trials(1)
    return _keras_tuner_params(best.hyperparameters, space), best.score


def _keras_tuner_params(hp: Any, space: Any) -> Params:
    from spaces.params import Float, Int

    def draw(name: str, param: Any) -> Any:
        where = {}
        if param.when:
            ((other, values),) = param.when.items()
            where = {"parent_name": other, "parent_values": list(values)}
        match param:
            case Int() | Float():
                ranged = hp.Int if isinstance(param, Int) else hp.Float
                sampling = "log" if param.log else "linear"
                return ranged(name, param.low, param.high, sampling=sampling, **where)
        return hp.Choice(name, list(param.values), **where)

    return dict(space.fill(draw))


# ---- Optuna ----


def optuna_alone(task: Task, folder: Path) -> Answer:
    return _optuna(task, folder, None, 0)


def optuna_processes(task: Task, folder: Path) -> Answer:
    """Processes that share a journal, each with a sampler of its own; the trials are counted together."""
    journal = folder / "journal.log"
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        answers = pool.map(partial(_optuna, task, folder, journal), range(WORKERS))
        return max(answers, key=lambda answer: answer[1])  # the last to end has seen all trials


def _optuna(task: Task, folder: Path, journal: Path | None, number: int) -> Answer:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    search = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))) if journal else None,
        study_name="peers",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=WORKERS * task.seed + number),
        pruner=optuna.pruners.SuccessiveHalvingPruner(),
    )
    enough = optuna.study.MaxTrialsCallback(task.trials, states=None)
    search.optimize(partial(_optuna_objective, task, folder), callbacks=[enough])
    return search.best_params, search.best_value


def _optuna_objective(task: Task, folder: Path, trial: Any) -> float:
    import optuna

    from spaces.params import Float, Int
    from trainers.contract import Infeasible

    def draw(name: str, param: Any) -> Any:
        match param:
            case Int():
                return trial.suggest_int(name, param.low, param.high, log=param.log)
            case Float():
                return trial.suggest_float(name, param.low, param.high, log=param.log)
        return trial.suggest_categorical(name, param.values)

    def prune(epoch: int, value: float) -> None:
        trial.report(value, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    params = sweep_of(task).space.fill(draw)
    try:
        return fitted(task, params, rows_of(task), [noting(folder, params), after_each_epoch(prune)])
    except Infeasible as error:
        raise optuna.TrialPruned from error


# ---- Ray Tune ----


def ray_documented(task: Task, folder: Path) -> Answer:
    return _ray_function(task, folder)


def ray_optuna(task: Task, folder: Path) -> Answer:
    from ray.tune.search.optuna import OptunaSearch

    return _ray_function(task, folder, search_alg=OptunaSearch(seed=task.seed))


def _ray_function(task: Task, folder: Path, **config: Any) -> Answer:
    """A function that reports each epoch; schedulers, loggers and output as they are by default."""
    from ray import tune

    from trainers.contract import Infeasible

    def train(config: Params, rows: Rows) -> None:
        report = after_each_epoch(lambda epoch, value: tune.report({"macro_f1": value}))
        try:
            fitted(task, config, rows, [noting(folder, config), report])
        except Infeasible:
            tune.report({"macro_f1": 0.0})

    return _ray(task, train, tune.RunConfig(storage_path=str(folder)), folder, **config)


def ray_tuned(task: Task, folder: Path) -> Answer:
    """All that Ray offers to make it quick: a class, actors that are used again, and nothing written."""
    from ray import tune

    from trainers.contract import Infeasible

    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

    class Train(tune.Trainable):
        def setup(self, config: Params, rows: Rows) -> None:  # type: ignore[override]
            self.rows = rows
            self.training = rows.training()
            self.reset_config(config)

        def reset_config(self, new_config: Params) -> bool:
            self.params = dict(new_config)
            try:
                self.model = compiled(self.params, self.rows, task.seed)
            except Infeasible:
                self.model = None
            return True

        def step(self) -> dict[str, Any]:
            if self.model is None:
                return {"macro_f1": 0.0, "done": True}
            history = self.model.fit(
                **self.training,
                batch_size=self.params["batch_size"],
                initial_epoch=self.iteration,
                epochs=self.iteration + 1,
                callbacks=[noting(folder, self.params)],
            )
            return {"macro_f1": history.history["val_macro_f1"][-1]}

    quiet = tune.RunConfig(
        storage_path=str(folder),
        verbose=0,
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )
    return _ray(task, Train, quiet, folder, reuse_actors=True)


def _ray(task: Task, trainable: Any, run_config: Any, folder: Path, **config: Any) -> Answer:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    random.seed(task.seed)
    np.random.seed(task.seed)
    ray.init(
        "local",
        num_cpus=WORKERS,
        _temp_dir=str(folder / "ray"),
        _node_ip_address="127.0.0.2",  # Ray replaces 127.0.0.1 by an address of the network
    )
    results = tune.Tuner(
        tune.with_parameters(trainable, rows=rows_of(task)),
        param_space=_ray_space(sweep_of(task).space),
        tune_config=tune.TuneConfig(
            metric="macro_f1",
            mode="max",
            num_samples=task.trials,
            scheduler=ASHAScheduler(max_t=task.epochs),
            **config,
        ),
        run_config=run_config,
    ).fit()
    ray.shutdown()
    if results.errors:
        raise RuntimeError(f"{len(results.errors)} trials failed; the first: {results.errors[0]}")
    best = results.get_best_result()
    assert best.config and best.metrics
    return best.config, best.metrics["macro_f1"]


def _ray_space(space: Any) -> Params:
    """As a flat mapping: Ray has no conditions, and a momentum that Adam has no use for does no harm."""
    from ray import tune

    from spaces.params import Float, Int

    def domain(param: Any) -> Any:
        match param:
            case Int():
                whole = tune.lograndint if param.log else tune.randint
                return whole(param.low, param.high + 1)  # Ray leaves the upper end out
            case Float():
                return (tune.loguniform if param.log else tune.uniform)(param.low, param.high)
        return tune.choice(list(param.values))

    return {name: domain(param) for name, param in space.params.items()}


ARMS: dict[str, Callable[[Task, Path], Answer]] = {
    "ray": ray_documented,
    "ray-tuned": ray_tuned,
    "ray-optuna": ray_optuna,
    "optuna": optuna_alone,
    "optuna-2": optuna_processes,
    "kt-hyperband": keras_tuner_hyperband,
    "kt-bayesian": keras_tuner_bayesian,
    "grid": whole_grid,
    "halving-cv": halving_grid_search_cv,
    "grid-cv": grid_search_cv,
}
