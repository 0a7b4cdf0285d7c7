"""From a trial to a model that can be used elsewhere: its weights, what they expect, how good they are."""

import os
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from search.card import model_card
from search.driver import load_rows, threads_of, versions_of
from search.events import Reported, RunError, Trial, read_events
from search.exported import (
    ABOUT,
    CARD,
    Evaluation,
    ExportedModel,
    Input,
    TrainerSpec,
    loading_trainer,
    sha256_of,
)
from search.folder import RunFolder, cache_of
from search.results import Results
from search.search import derived_seed
from search.trial_loop import fold_folder, limit_threads, seeded
from spaces.sweep import Sweep
from trainers.catalog import load_trainer
from trainers.contract import WEIGHTS, Epoch, Fold, Infeasible, Predictor, Trainer, TrainError, take
from trainers.dataset_options import found
from trainers.datasets import Dataset
from trainers.folds import Split, Splits, fingerprint, make_folds
from trainers.keras_formats import FORMATS as KERAS_FORMATS
from trainers.metrics import score, standard_error

FORMATS = tuple(KERAS_FORMATS)
"""What ``rungwise export --format`` may name; which of them a trainer can write, it says itself."""
TOLERANCE = 1e-4
"""How far a probability may lie from the one that the search saw: the last bits depend on the processor."""


def export_trial(
    results: Results,
    trial: int | None,
    to: Path,
    formats: Sequence[str] | None = None,
    refit: bool = False,
) -> Path:
    """Write the model of a trial's best epoch into a new folder, whole or not at all; returns ``to``.

    ``trial`` None is the run's best one. A search keeps few checkpoints: training goes on from the last one
    before the best epoch to the same model, whose validation predictions are compared with those that the
    search kept. With several folds there is no such single model, so there, and wherever ``refit`` asks for
    it, the trial is trained once more on every row but the test rows, until the last epoch that was as good
    as the best one (see ``_epochs_to_refit``), or until training ends by itself. ``formats`` None is
    ``keras`` for Keras models and nothing for others. Test rows are predicted once, by the exported model.

    Raises RunError when the run has no such trial, its data changed, the predictions differ, ``to`` is taken,
    or the model cannot be written in one of ``formats``; DataError when its data cannot be read.
    """
    chosen = _chosen(results, trial)
    _check_free(to)
    assert results.run.started
    sweep = Sweep.from_dict(results.run.sweep)
    limit_threads(threads_of(results.run.started))
    trainer = load_trainer(sweep.trainer)  # first of all: reading the rows may import Keras
    dataset, splits = _unchanged_rows(results, sweep)
    settings = trainer.Settings(**sweep.fixed, **chosen.params)
    refit = refit or len(splits.folds) > 1
    fold = _fold(dataset, splits, sweep, chosen.number, refit, results.folder.path.parent)
    formats = default_formats(sweep.trainer) if formats is None else formats
    with _whole(to) as unfinished:
        try:
            epoch = _train(results, chosen, trainer, settings, fold, refit, unfinished / WEIGHTS)
            predictor = trainer.load(unfinished / WEIGHTS)
            if not refit:
                _compare(results, chosen, predictor.predict(fold.x_valid))
            with _writing(to):
                predictor.export(unfinished, formats)
        except (TrainError, Infeasible) as error:
            raise RunError(f"trial {chosen.number} cannot be exported: {error}") from error
        about = ExportedModel(
            trainer=loading_trainer(sweep.trainer),
            settings=settings.model_dump(mode="json"),
            params=chosen.params,
            classes=dataset.classes,
            input=_input(dataset, sweep.dataset),
            objective=sweep.objective,
            run=results.folder.name,
            trial=chosen.number,
            epoch=epoch,
            best_epoch=chosen.best_epoch,
            refit=refit,
            trained_on=tuple(np.bincount(fold.y_train, minlength=len(dataset.classes)).tolist()),
            repeat=sweep.validation.repeat,
            source=dataset.source,
            notes=tuple(dataset.notes),
            has_groups=dataset.groups is not None,
            data=results.run.started.data,
            validation=Evaluation(values=dict(chosen.metrics), confusion=chosen.confusion),
            test=_tested(predictor, dataset, splits.test),
            versions=versions_of(results.run.started.versions),
            formats=tuple(formats),
            files=sha256_of(unfinished),
        )
        with _writing(to):
            (unfinished / CARD).write_text(model_card(about), encoding="utf-8")
            about = about.model_copy(update={"files": sha256_of(unfinished)})
            (unfinished / ABOUT).write_text(about.model_dump_json(indent=1), encoding="utf-8")
    return to


def default_formats(trainer: TrainerSpec) -> tuple[str, ...]:
    """``keras`` where the trainer trains Keras models."""
    spec = loading_trainer(trainer)
    is_keras = spec.startswith("keras/") if isinstance(spec, str) else "hypermodel" in spec
    return ("keras",) if is_keras else ()


# ---- before anything is trained ----


def _chosen(results: Results, number: int | None) -> Trial:
    run, name = results.run, results.folder.name
    if number is None:
        if run.best is None:
            raise RunError(f"run {name!r} has no result to export yet; see rungwise status {name}")
        return run.best
    if number not in run.trials:
        there = f"1 to {max(run.trials)}" if run.trials else "none yet"
        raise RunError(f"run {name!r} has no trial {number}; it has {there}: see rungwise best {name}")
    trial = run.trials[number]
    if not trial.best_epoch:
        why = f": {trial.reason.splitlines()[0]}" if trial.reason else ""
        raise RunError(
            f"trial {number} of run {name!r} has no result to export, it is {results.status_of(trial)}{why}; "
            f"choose another: rungwise best {name}"
        )
    return trial


def _check_free(to: Path) -> None:
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise RunError(f"--to {to} is there already and not an empty folder; choose another name")


def _unchanged_rows(results: Results, sweep: Sweep) -> tuple[Dataset, Splits]:
    assert results.run.started
    dataset, splits = load_rows(sweep, results.folder.path.parent)
    if fingerprint(dataset, splits) != results.run.started.data:
        raise RunError(
            f"the data of run {results.folder.name!r} changed since it was started ({dataset.source}): "
            "what is exported would not be what was searched; put the data back"
        )
    return dataset, splits


def _fold(dataset: Dataset, splits: Splits, sweep: Sweep, trial: int, refit: bool, runs: Path) -> Fold:
    """The trial's own fold, or one that learns from all rows but the test rows."""
    if refit:
        rows = np.setdiff1d(np.arange(len(dataset.y)), splits.test)
        # Nobody is judged by the one row that is predicted: trainers are never asked to predict none.
        splits = Splits((Split(rows, rows[:1]),), splits.test)
    folds = make_folds(dataset, splits, sweep.epochs, cache_of(runs))
    return seeded(folds, derived_seed(sweep.search.seed, trial))[0]


def _input(dataset: Dataset, spec: str | Mapping[str, Any]) -> Input:
    shape = dataset.x.shape[1:]
    about: dict[str, Any] = {"shape": shape, "dtype": str(dataset.x.dtype), "scale": dataset.scale}
    if isinstance(spec, Mapping) and "classes" in spec:
        about["labels"] = {str(label): str(name) for label, name in spec["classes"].items()}
    if isinstance(spec, Mapping) and spec["kind"] == "csv":
        columns = _csv_columns(spec)
        about |= {"label": spec["label"].strip(), "columns": columns if len(columns) == shape[0] else ()}
    return Input.model_validate(about)


def _csv_columns(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that were learned from, in their order."""
    import pandas as pd  # as for training, so that compressed files are read too

    path = found(spec["path"])
    assert path is not None  # it has been read before
    others = {spec["label"], spec.get("group"), *spec.get("drop", ())}
    return tuple(name.strip() for name in pd.read_csv(path, nrows=0) if name not in others)


# ---- the model ----


def _train(
    results: Results,
    trial: Trial,
    trainer: Trainer,
    settings: BaseModel,
    fold: Fold,
    refit: bool,
    weights: Path,
) -> int:
    """Put the state after the trial's best epoch, or after those of ``_epochs_to_refit``, into the new folder
    ``weights``; returns the epoch, which is an earlier one where a refit ends by itself."""
    last = _epochs_to_refit(results, trial) if refit else trial.best_epoch
    start_epoch, start = (0, None) if refit else _start(results.folder, trial)
    with _writing(weights):
        if start and start_epoch == last:
            shutil.copytree(start, weights)
            return last
        weights.mkdir()
    # What is handed back steers patience and schedules, so it is what the trial was told then.
    scores = _scores(results, trial.number)
    while True:
        with closing(trainer.train(settings, fold, start)) as epochs:
            reached = _train_up_to(last, epochs, start_epoch, scores, weights)
        if reached == last:
            return last
        if not (refit and reached):
            raise RunError(
                f"trial {trial.number} ended by itself after epoch {reached}, but its best epoch was "
                f"{trial.best_epoch}; "
                f"{'export another trial' if refit else 'train it anew with --refit'}"
            )
        last = reached  # its state was gone when the next epoch was asked for, so it is trained once more


def _train_up_to(
    last: int,
    epochs: Generator[Epoch, float, None],
    start_epoch: int,
    scores: Mapping[int, float],
    weights: Path,
) -> int:
    """Save epoch ``last`` into ``weights``; returns the last epoch there was, and if lower none is saved."""
    score: float | None = None
    for number in range(start_epoch + 1, last + 1):
        try:
            epoch = epochs.send(score)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration:
            return number - 1
        score = scores[number]
    with _writing(weights):
        epoch.save(weights, scores[last])
    return last


def _start(folder: RunFolder, trial: Trial) -> tuple[int, Path | None]:
    """The checkpoint to go on from, and its epoch; if it was thrown away, training begins anew."""
    start = fold_folder(folder.checkpoint(trial.number, trial.best_checkpoint), 1)
    return (trial.best_checkpoint, start) if start.is_dir() else (0, None)


def _epochs_to_refit(results: Results, trial: Trial) -> int:
    """Until the last epoch that was as good as the best one, to within its standard error.

    On a plateau the best epoch is only the luckiest, and often an early one: training on gave better models
    (docs/performance.md). Of an objective that has no such error here it is the best epoch.
    """
    scores = _scores(results, trial.number)
    repeat = results.run.sweep["validation"]["repeat"]
    error = standard_error(results.objective, np.array(trial.confusion), repeat)
    least = scores[trial.best_epoch] - error
    return max(epoch for epoch, score in scores.items() if score >= least)


def _scores(results: Results, trial: int) -> dict[int, float]:
    """The objective after each epoch of a trial, turned so that larger is better."""
    sign = 1 if results.run.direction == "max" else -1
    return {
        event.epoch: sign * event.metrics[results.objective]
        for event, _ in read_events(results.folder.events)
        if isinstance(event, Reported) and event.trial == trial
    }


def _compare(results: Results, trial: Trial, probabilities: NDArray[np.float32]) -> None:
    kept = _kept_predictions(results.folder, trial)
    difference = float(np.abs(kept - probabilities).max()) if kept.shape == probabilities.shape else np.inf
    if not difference <= TOLERANCE:
        then = results.run.versions
        changed = [
            f"{name} {then[name]} then, {now} now"
            for name, now in versions_of(then).items()
            if now != then[name]
        ]
        raise RunError(
            f"trial {trial.number} does not come out as in the search: a validation probability differs by "
            f"{difference:.2g} ({'; '.join(changed) or 'perhaps another processor or device'}). "
            "Export it where the run was made, or train it anew with --refit"
        )


def _kept_predictions(folder: RunFolder, trial: Trial) -> NDArray[np.float32]:
    path = folder.predictions(trial.number)
    try:
        # Opened here: NumPy leaves a file open that is cut off.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            epoch, probabilities = int(kept["epoch"]), np.asarray(kept["probabilities"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(
            f"{path} cannot be read ({error}), so there is nothing to compare the model with; "
            "train anew with --refit"
        ) from error
    if epoch != trial.best_epoch:
        raise RunError(
            f"{path} holds epoch {epoch}, but the best one is {trial.best_epoch}: the run is going on, or was"
            " killed in between; wait for it or resume it"
        )
    return probabilities


def _tested(predictor: Predictor, dataset: Dataset, rows: NDArray[np.int64]) -> Evaluation | None:
    if not len(rows):
        return None
    scores = score(take(dataset.y, rows), predictor.predict(take(dataset.x, rows)))
    return Evaluation(values=scores.values, confusion=tuple(map(tuple, scores.confusion.tolist())))


@contextmanager
def _whole(to: Path) -> Iterator[Path]:
    """A folder beside ``to`` that becomes ``to`` at the end, or goes if there is an error."""
    to = to.absolute()
    unfinished = to.with_name(f".{to.name}-{os.getpid()}")
    try:
        with _writing(to):
            unfinished.mkdir(parents=True)
        yield unfinished
        with _writing(to):
            unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _writing(to: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {to}: {error.strerror or error}") from error
