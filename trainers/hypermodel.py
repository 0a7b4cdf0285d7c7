"""Any KerasTuner hypermodel as a trainer: its own layers, loss and optimizer, trained epoch by epoch.

Its models see rows as float32, divided by the data's scale unless ``rescale`` is off. A ``fit`` of its own is
not called, nor are callbacks: epochs, early stopping and checkpoints are the search's.
"""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.hypermodel_space import find_space, load_hypermodel, no_downloads, settings_of
from trainers.imports import first_line
from trainers.keras_backend import use_backend
from trainers.keras_models import (
    KerasPredictor,
    assign,
    fresh_session,
    predict_rows,
    read_about,
    read_arrays,
    ready_to_train,
    restore_state,
    save_state,
    train_epoch,
)

_PROBED_ROWS = 8
_SMALLEST = 1e-30  # a probability whose logarithm float32 still holds


class HyperModelTrainer:
    """Trains what one hypermodel builds."""

    def __init__(self, hypermodel: str, backend: str | None = None) -> None:
        """``hypermodel`` is "module:attribute": a keras_tuner.HyperModel, an instance of one, or a function
        build(hp). Builds it a few times to find its space; raises SpaceError where that cannot be done.
        ``backend`` is for the whole process, see `use_backend`."""
        use_backend(backend)
        self.hypermodel = hypermodel
        self._space = find_space(hypermodel)
        self._make = load_hypermodel(hypermodel)
        self.Settings: type[BaseModel] = settings_of(self._space, _own_settings(hypermodel))

    def check(self, settings: BaseModel, fold: Fold) -> int:
        with no_downloads():
            model = self._new_model(self._describe(settings, fold), fold.seed)
        return int(model.whole.count_params())

    def train(self, settings: BaseModel, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        about = self._describe(settings, fold)
        with no_downloads() if start else nullcontext():
            model = self._new_model(about, fold.seed)
        model.check_outputs(fold.x[fold.train[:_PROBED_ROWS]])
        scores = restore_state(model.whole, model.training_state, about, start) if start else []
        chosen = about["settings"]
        while len(scores) < min(chosen["epochs"], fold.epochs):
            number = len(scores) + 1
            curves = _train_epoch(model, fold, chosen["batch_size"], number)
            probabilities = predict_rows(model.whole, fold.x, fold.valid)
            save = partial(save_state, model.whole, model.training_state, about, scores)
            scores = [*scores, (yield Epoch(number, probabilities, curves, save))]

    def load(self, folder: Path) -> KerasPredictor:
        about, _ = read_about(folder)
        if about.get("hypermodel") != self.hypermodel:
            raise TrainError(
                f"{folder} holds no model of the hypermodel {self.hypermodel!r}; "
                "load it with the trainer that wrote it"
            )
        with no_downloads():  # other weights take their place
            model = self._new_model(about, seed=0)
        assign(model.whole.variables, read_arrays(folder / "weights.npz"))
        return KerasPredictor(classes=tuple(about["classes"]), model=model.whole)

    def _describe(self, settings: BaseModel, fold: Fold) -> dict[str, Any]:
        """All it takes to build the model again, as plain JSON."""
        return {
            "hypermodel": self.hypermodel,
            "settings": settings.model_dump(),
            "shape": list(fold.x.shape[1:]),
            "classes": list(fold.classes),
            "scale": fold.scale,
        }

    def _new_model(self, about: dict[str, Any], seed: int) -> "_Model":
        chosen, shape, classes = about["settings"], tuple(about["shape"]), len(about["classes"])
        # Where the hypermodel has a `rescale` of its own, what becomes of the rows is its business.
        rescales = chosen["rescale"] and "rescale" not in self._space.params
        with fresh_session(seed, "float32"):  # unless its author sets another precision
            built = self._build(chosen, shape, classes)
            return _wrapped(built, shape, classes, about["scale"] if rescales else 1.0)

    def _build(self, chosen: dict[str, Any], shape: tuple[int, ...], classes: int) -> Any:
        """What the hypermodel's author wrote, run with the chosen values."""
        import keras_tuner

        try:
            return self._make(shape, classes).build(self._space.values(chosen))
        except keras_tuner.errors.FatalError:  # says of itself that it ends a search, not a trial
            raise
        except (keras_tuner.errors.FailedTrialError, ValueError) as error:
            raise Infeasible(f"{self.hypermodel} has no such model: {first_line(error)}") from error


def _own_settings(hypermodel: str) -> dict[str, Any]:
    """Settings of every hypermodel; one that asks for a hyperparameter of such a name has its own instead."""
    scales_itself = hypermodel.endswith(":HyperEfficientNet")
    about_rescale = "rows are divided by the data's scale, images into [0, 1]; off for a model that does so"
    return {
        "batch_size": (int, Field(32, ge=1, le=8192, description="rows per update; at most all rows")),
        "epochs": (
            int,
            Field(10_000, ge=1, le=10_000, description="training ends after so many, or the sweep's"),
        ),
        "rescale": (bool, Field(not scales_itself, description=about_rescale)),
    }


# ---- what a compiled model wants and gives ----

_Targets = Literal["index", "one_hot", "binary"]

_LOSSES: dict[str, _Targets] = {
    "sparse_categorical_crossentropy": "index",
    "SparseCategoricalCrossentropy": "index",
    "categorical_crossentropy": "one_hot",
    "CategoricalCrossentropy": "one_hot",
    "categorical_focal_crossentropy": "one_hot",
    "CategoricalFocalCrossentropy": "one_hot",
    "binary_crossentropy": "binary",
    "BinaryCrossentropy": "binary",
    "binary_focal_crossentropy": "binary",
    "BinaryFocalCrossentropy": "binary",
}
"""Losses by their names in Keras, as functions and as classes, and the targets that each compares with."""


@dataclass(frozen=True)
class _Model:
    """A hypermodel's model in the form in which it is trained, and in the form in which it is used."""

    trained: Any
    """As its author compiled it, from rows as it wants them."""
    whole: Any
    """The same weights, from stored rows to logits."""
    targets: _Targets
    gives_logits: bool
    classes: int
    scale: float

    @property
    def training_state(self) -> list[Any]:
        """The variables that training changes besides those of the model in use."""
        in_use = {id(variable) for variable in self.whole.variables}
        others = [variable for variable in self.trained.variables if id(variable) not in in_use]
        return [*others, *self.trained.optimizer.variables]

    def rows(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return x.astype(np.float32) * np.float32(1 / self.scale)

    def labels(self, y: NDArray[np.int64]) -> NDArray[Any]:
        match self.targets:
            case "index":
                return y
            case "one_hot":
                return np.eye(self.classes, dtype=np.float32)[y]
            case "binary":
                return y[:, None].astype(np.float32)

    def check_outputs(self, x: NDArray[Any]) -> None:
        """Raise Infeasible where the loss takes for probabilities what are none."""
        if self.gives_logits:
            return
        import keras

        outputs = np.asarray(keras.ops.convert_to_numpy(self.trained(self.rows(x), training=False)))
        sums = outputs.astype(np.float32).sum(axis=1)
        are_shares = bool(((outputs >= 0) & (outputs <= 1.01)).all())
        if not are_shares or (self.targets != "binary" and not np.allclose(sums, 1, atol=0.01)):
            raise Infeasible(
                f"its outputs are no probabilities, such as {outputs[0].round(3).tolist()}: end it with "
                f"{'a sigmoid' if self.targets == 'binary' else 'a softmax'}, or compile its loss with "
                "from_logits=True"
            )


def _wrapped(built: Any, shape: tuple[int, ...], classes: int, scale: float) -> _Model:
    """The model that its author built, understood; Infeasible where it is no classifier of these classes."""
    import keras

    if not isinstance(built, keras.Model) or not built.compiled:
        raise Infeasible("build must return a compiled model: call model.compile in it")
    targets, gives_logits = _read_loss(built)
    inputs = keras.Input(shape)
    try:
        outputs = built(keras.layers.Rescaling(1 / scale)(inputs))
    except ValueError as error:
        raise Infeasible(f"the model does not take rows of shape {shape}: {first_line(error)}") from error
    units = 1 if targets == "binary" else classes
    if getattr(outputs, "shape", None) != (None, units) or (targets == "binary" and classes != 2):
        got = getattr(outputs, "shape", type(outputs).__name__)
        needed = "1 unit and 2 classes" if targets == "binary" else f"{classes} units, one for each class"
        raise Infeasible(
            f"with this loss the output must be {needed}; it is {got} and the data has {classes} classes"
        )
    whole = keras.Model(inputs, _logits(outputs, targets, gives_logits))
    built.steps_per_execution = 1  # we hand over one batch at a time
    ready_to_train(built.optimizer, built.trainable_variables)
    return _Model(built, whole, targets, gives_logits, classes, scale)


def _read_loss(model: Any) -> tuple[_Targets, bool]:
    """The targets that its compiled loss compares with, and whether it takes the outputs for logits."""
    import keras

    try:
        loss = keras.losses.get(model.loss)
    except (TypeError, ValueError):  # a list, a dict or a name that is none
        loss = model.loss
    name = getattr(loss, "__name__", type(loss).__name__)
    if name not in _LOSSES:
        known = ", ".join(sorted(name for name in _LOSSES if name.islower()))
        raise Infeasible(f"cannot read class probabilities from the loss {name}; known: {known}")
    gives_logits = isinstance(loss, keras.losses.Loss) and bool(loss.get_config().get("from_logits"))
    return _LOSSES[name], gives_logits


def _logits(outputs: Any, targets: _Targets, gives_logits: bool) -> Any:
    """(n, classes) logits, whose softmax is what the model says."""
    from keras import ops

    outputs = ops.cast(outputs, "float32")
    if targets == "binary" and gives_logits:
        return ops.concatenate([ops.zeros_like(outputs), outputs], axis=1)
    if gives_logits:
        return outputs
    both = ops.concatenate([1 - outputs, outputs], axis=1) if targets == "binary" else outputs
    return ops.log(ops.maximum(both, _SMALLEST))


def _train_epoch(model: _Model, fold: Fold, batch_size: int, number: int) -> dict[str, float]:
    def batch_of(places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        return model.rows(fold.x[fold.train[places]]), model.labels(fold.y_train[places])

    # The model's own metrics are left out: they count the rows that fill up the last batch.
    return train_epoch(model.trained, fold, batch_size, number, batch_of)
