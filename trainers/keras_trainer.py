"""The Keras training loop: any model of logits, one epoch at a time, on any backend."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from trainers.augmentation import AugmentationSettings, asked_changes, augmenter
from trainers.contract import Epoch, Fold, TrainError
from trainers.features import frozen_features
from trainers.keras_models import (
    KerasPredictor,
    assign,
    fresh_session,
    import_keras,
    predict_rows,
    read_about,
    read_arrays,
    ready_to_train,
    restore_state,
    save_model,
    save_state,
    train_epoch,
)
from trainers.rebalance import class_weights

_PLATEAU_MIN_DELTA = 1e-4  # as Keras's ReduceLROnPlateau has it


class TrainingSettings(AugmentationSettings):
    """How any Keras model is trained; an architecture's own `Settings` add its layers."""

    optimizer: Literal["adam", "adamw", "nadam", "rmsprop", "sgd", "adagrad", "adadelta"] = Field(
        "adam", description="update rule; adamw is adam with a weight_decay"
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="step size of the optimizer")
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        "constant",
        description="learning rate over the epochs; cosine falls to nearly 0 at the last one, plateau falls "
        "whenever scores stand still",
    )
    plateau_patience: int = Field(
        2, ge=1, le=1000, description="epochs without a better score before plateau lowers the learning rate"
    )
    plateau_factor: float = Field(0.1, gt=0, lt=1, description="what plateau multiplies it by")
    patience: int = Field(
        0, ge=0, le=1000, description="training ends after so many epochs without a better score; 0 = never"
    )
    epochs: int = Field(
        10_000,
        ge=1,
        le=10_000,
        description="training ends after so many, if the sweep's own end is not nearer",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd and rmsprop; others have none")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="decoupled weight decay, times learning_rate; adam has none"
    )
    batch_size: int = Field(64, ge=1, le=8192, description="rows per update; at most all rows")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread evenly over all classes"
    )
    rebalance: Literal["none", "class_weight"] = Field(
        "none", description="class_weight: rows of rarer classes count for more"
    )
    strength: float = Field(
        1.0, ge=0, le=1, description="of rebalance; 0 = rows count equally, 1 = classes count equally"
    )
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="of the layers' arithmetic; the mixed ones only pay on a GPU"
    )


class Architecture(Protocol):
    """What a module of `trainers.architectures` holds.

    One that begins with a pre-trained backbone also has ``backbone_key(settings)``, JSON that tells a
    backbone that stays as it is from any other, None where it is trained; ``backbone(settings, shape,
    scale)``, rows to features; and ``head(settings, feature_shape, num_classes)``, features to logits, whose
    variables are the last of those of ``build``. One whose first weights come from elsewhere has
    ``untrained(settings)``, with which ``build`` makes the same layers and needs nothing from outside.
    """

    Settings: type[TrainingSettings]

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        """An uncompiled keras.Model from stored rows to logits. Raises Infeasible where there is none."""
        ...


class KerasTrainer:
    """Trains one architecture on whichever backend Keras runs on."""

    def __init__(self, name: str, architecture: Architecture | None = None) -> None:
        """``architecture`` None: the module of `trainers.architectures` called ``name``."""
        self.name = name
        self._architecture = architecture or cast(
            Architecture, import_module(f"trainers.architectures.{name}")
        )
        self.Settings: type[BaseModel] = self._architecture.Settings

    def check(self, settings: TrainingSettings, fold: Fold) -> int:
        shape = fold.x.shape[1:]
        self._backbone_key(settings)  # refuses a file of weights that is not there
        model = self._whole(self._untrained(settings), shape, len(fold.classes), fold.scale, fold.seed)
        augmenter(settings, shape, fold.scale)  # refuses what is no image
        return int(model.count_params())

    def train(
        self, settings: TrainingSettings, fold: Fold, start: Path | None
    ) -> Generator[Epoch, float, None]:
        key = self._backbone_key(settings)
        about = {**self._describe(settings, fold), "backbone": key}
        model, fold = self._part_to_train(settings, fold, key)
        trained = _behind(augmenter(settings, fold.x.shape[1:], fold.scale), model)
        _compile(trained, settings, _class_weights(settings, fold))
        scores = restore_state(model, trained, about, start) if start else []
        last = min(settings.epochs, fold.epochs)
        while len(scores) < last and not _is_out_of_patience(settings, scores):
            number = len(scores) + 1
            trained.optimizer.learning_rate = settings.learning_rate * _share_of_rate(settings, scores, last)
            curves = _train_epoch(trained, settings, fold, number)
            probabilities = predict_rows(trained, fold.x, fold.valid)
            save = partial(save_state, model, trained, about, scores)
            scores = [*scores, (yield Epoch(number, probabilities, curves, save))]

    def load(self, folder: Path) -> "KerasPredictor":
        about, scores = read_about(folder)
        if about["architecture"] != self.name:
            raise TrainError(
                f"{folder} holds a model of the architecture {about['architecture']!r}, "
                f"not {self.name!r}; load it with the trainer that wrote it"
            )
        settings = self.Settings.model_validate(about["settings"])
        shape, classes, scale = tuple(about["shape"]), tuple(about["classes"]), about["scale"]
        arrays = read_arrays(folder / "weights.npz")
        backbone = about.get("backbone")
        if backbone is None:
            model = self._whole(self._untrained(settings), shape, len(classes), scale, seed=0)
            assign(model.variables, arrays)
            return KerasPredictor(classes, model)
        if self._backbone_key(settings) != backbone:
            raise TrainError(
                f"{folder} holds a head that was trained on another backbone than its settings give now: "
                "the file of weights has changed; put it back"
            )
        model = self._whole(settings, shape, len(classes), scale, seed=0)
        assign(model.variables[-len(arrays) :], arrays)
        return KerasPredictor(classes, model, partial(save_model, model, {**about, "backbone": None}, scores))

    def _describe(self, settings: TrainingSettings, fold: Fold) -> dict[str, Any]:
        """All it takes to build the model again, as plain JSON."""
        return {
            "architecture": self.name,
            "settings": settings.model_dump(),
            "shape": list(fold.x.shape[1:]),
            "classes": list(fold.classes),
            "scale": fold.scale,
        }

    def _backbone_key(self, settings: Any) -> dict[str, Any] | None:
        """What tells the backbone from any other, where the head alone is trained and saved; else None."""
        if not hasattr(self._architecture, "backbone_key"):
            return None
        key: dict[str, Any] | None = self._architecture.backbone_key(settings)
        return None if asked_changes(settings) else key  # no two epochs see one feature of a changed image

    def _untrained(self, settings: Any) -> Any:
        """Settings of the same model whose first weights are soon replaced, or do not matter."""
        architecture: Any = self._architecture
        return architecture.untrained(settings) if hasattr(architecture, "untrained") else settings

    def _part_to_train(self, settings: Any, fold: Fold, key: Mapping[str, Any] | None) -> tuple[Any, Fold]:
        """The model to train and its rows: head and features where ``key`` tells of a frozen backbone."""
        shape, num_classes = fold.x.shape[1:], len(fold.classes)
        if key is None:
            return self._whole(settings, shape, num_classes, fold.scale, fold.seed), fold

        keras, architecture = import_keras(), cast(Any, self._architecture)
        made_by = {"keras": keras.__version__, "backend": keras.config.backend()}

        def backbone() -> Any:
            with fresh_session(fold.seed, settings.precision):
                return architecture.backbone(settings, shape, fold.scale)

        features = frozen_features(fold, backbone, {**key, **made_by, "precision": settings.precision})
        with fresh_session(fold.seed, settings.precision):
            return architecture.head(settings, features.x.shape[1:], num_classes), features

    def _whole(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float, seed: int) -> Any:
        """A new model from stored rows to logits."""
        with fresh_session(seed, settings.precision):
            return self._architecture.build(settings, shape, num_classes, scale)


def _behind(augment: Any, model: Any) -> Any:
    """The model as it is trained: what it is shown has gone through ``augment``, if there is one."""
    import keras

    return keras.Sequential([augment, model]) if augment else model


def _compile(model: Any, settings: TrainingSettings, weights: NDArray[np.float32]) -> None:
    import keras

    optimizer = _optimizer(settings)
    if settings.precision == "mixed_float16":  # gradients would fall below its smallest number
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=_loss(settings.label_smoothing, weights),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        # XLA costs TensorFlow more time on a CPU than it saves; other backends know best.
        jit_compile=False if keras.config.backend() == "tensorflow" else "auto",
    )
    ready_to_train(model)


def _optimizer(settings: TrainingSettings) -> Any:
    import keras

    config: dict[str, float | None] = {"learning_rate": settings.learning_rate}
    if settings.optimizer != "adam":
        config["weight_decay"] = settings.weight_decay or None
    if settings.optimizer in ("sgd", "rmsprop"):
        config["momentum"] = settings.momentum
    rule = settings.optimizer.removesuffix("w")  # Keras's adamw is its adam with another default weight_decay
    return keras.optimizers.get({"class_name": rule, "config": config})


def _loss(label_smoothing: float, weights: NDArray[np.float32]) -> Callable[[Any, Any], Any]:
    """Of each row, given labels (n,) and logits (n, classes): its cross-entropy times its class's weight.

    Class weights stand here and not among the row weights, so that the accuracy counts all rows alike.
    Keras hands both over as float32, whatever the precision of the layers.
    """
    from keras import losses, ops

    def loss(labels: Any, logits: Any) -> Any:
        labels = ops.cast(labels, "int32")
        one_hot = ops.one_hot(labels, len(weights))
        rows = losses.categorical_crossentropy(
            one_hot, logits, from_logits=True, label_smoothing=label_smoothing
        )
        return rows * ops.take(ops.convert_to_tensor(weights), labels)

    return loss


def _class_weights(settings: TrainingSettings, fold: Fold) -> NDArray[np.float32]:
    if settings.rebalance == "none":
        return np.ones(len(fold.classes), np.float32)
    return class_weights(fold.y_train, len(fold.classes), settings.strength)


def _share_of_rate(settings: TrainingSettings, scores: Sequence[float], last: int) -> float:
    """What the learning rate is multiplied by in the epoch after these scores, of ``last`` epochs in all."""
    match settings.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return (1 + math.cos(math.pi * len(scores) / last)) / 2
        case "plateau":
            waits = _epochs_since_best(scores, _PLATEAU_MIN_DELTA)
            lowered = sum(wait > 0 and wait % settings.plateau_patience == 0 for wait in waits)
            return settings.plateau_factor**lowered


def _is_out_of_patience(settings: TrainingSettings, scores: Sequence[float]) -> bool:
    if not settings.patience or not scores:
        return False
    return _epochs_since_best(scores, min_delta=0.0)[-1] >= settings.patience


def _epochs_since_best(scores: Sequence[float], min_delta: float) -> list[int]:
    """After each epoch, how long ago a score was last better than all before it, by more than ``min_delta``.

    A score that is not a number is never better.
    """
    best, waits = -math.inf, [0]
    for score in scores:
        is_better = score - min_delta > best
        best = score if is_better else best
        waits.append(0 if is_better else waits[-1] + 1)
    return waits[1:]


def _train_epoch(model: Any, settings: TrainingSettings, fold: Fold, number: int) -> dict[str, float]:
    def batch_of(places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        return fold.x[fold.train[places]].astype(np.float32), fold.y_train[places]

    return train_epoch(model, fold, settings.batch_size, number, batch_of, ("loss", "accuracy"))
