"""The Keras training loop: any model of logits, one epoch at a time, on either backend."""

import json
import math
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from trainers import augmentation, keras_programs
from trainers.augmentation import AugmentationSettings, asked_changes, augmenter, hold_strengths
from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.features import frozen_features
from trainers.keras_backend import backend, import_keras, use_backend
from trainers.keras_models import (
    KerasPredictor,
    assign,
    batches,
    read_about,
    read_arrays,
    restore_state,
    save_model,
    save_state,
    seeded,
)
from trainers.keras_programs import Numbers, Program, borrowed
from trainers.rebalance import class_weights

_PLATEAU_MIN_DELTA = 1e-4  # as Keras's ReduceLROnPlateau has it
_HELD, _WIDTH = "held", "width"
_T = TypeVar("_T")
Held = Annotated[_T, _HELD]
"""A setting that changes no compiled graph: trials that differ in such settings alone share one."""
Width = Annotated[_T, _WIDTH]
"""A setting that changes widths of layers and no more, which on TensorFlow changes no graph either."""


class TrainingSettings(AugmentationSettings):
    """How any Keras model is trained; an architecture's own `Settings` add its layers."""

    optimizer: Literal["adam", "adamw", "nadam", "rmsprop", "sgd", "adagrad", "adadelta"] = Field(
        "adam", description="update rule; adamw is adam with a weight_decay"
    )
    learning_rate: Held[float] = Field(1e-3, gt=0, le=10, description="step size of the optimizer")
    schedule: Held[Literal["constant", "cosine", "plateau"]] = Field(
        "constant",
        description="learning rate over the epochs; cosine falls to nearly 0 at the last one, plateau falls "
        "whenever scores stand still",
    )
    plateau_patience: Held[int] = Field(
        2, ge=1, le=1000, description="epochs without a better score before plateau lowers the learning rate"
    )
    plateau_factor: Held[float] = Field(0.1, gt=0, lt=1, description="what plateau multiplies it by")
    patience: Held[int] = Field(
        0, ge=0, le=1000, description="training ends after so many epochs without a better score; 0 = never"
    )
    epochs: Held[int] = Field(
        10_000,
        ge=1,
        le=10_000,
        description="training ends after so many, if the sweep's own end is not nearer",
    )
    momentum: Held[float] = Field(
        0.0, ge=0, lt=1, description="momentum of sgd and rmsprop; others have none"
    )
    weight_decay: Held[float] = Field(
        0.0, ge=0, le=1, description="decoupled weight decay, times learning_rate; adam has none"
    )
    batch_size: Held[int] = Field(64, ge=1, le=8192, description="rows per update; at most all rows")
    label_smoothing: Held[float] = Field(
        0.0, ge=0, lt=1, description="share of each label that is spread evenly over all classes"
    )
    rebalance: Held[Literal["none", "class_weight"]] = Field(
        "none", description="class_weight: rows of rarer classes count for more"
    )
    strength: Held[float] = Field(
        1.0,
        ge=0,
        le=1,
        description="of rebalance; 0 = rows count equally, 1 = classes do, but no row over 50 of another",
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
    ``untrained(settings)``, with which ``build`` makes the same layers and needs nothing from outside. One
    that marks rates of dropout as ``Held`` has ``drops(settings)``: for each place where ``build`` may put a
    Dropout layer, in order, its rate; 0 stands for no layer. One that marks settings as ``Width`` has
    ``widths(settings)``: of each layer with weights but the last, in order, its filters or units.
    """

    Settings: type[TrainingSettings]

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        """An uncompiled keras.Model from stored rows to logits. Raises Infeasible where there is none."""
        ...


class KerasTrainer:
    """Trains one architecture on either backend."""

    def __init__(
        self, name: str, architecture: Architecture | None = None, backend: str | None = None
    ) -> None:
        """``architecture`` None: the module of `trainers.architectures` called ``name``.

        ``backend`` is for the whole process, see `use_backend`.
        """
        use_backend(backend)
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

    def structure(self, settings: TrainingSettings) -> str | None:
        """What two trials have in common whose compiled model is the same one; None where none is kept."""
        if hasattr(self._architecture, "backbone_key"):
            return None  # to know whether weights come from a file would take reading it
        try:
            return self._graph(settings)
        except Infeasible:
            return None

    def forget(self) -> None:
        keras_programs.forget()

    def train(
        self, settings: TrainingSettings, fold: Fold, start: Path | None
    ) -> Generator[Epoch, float, None]:
        import_keras()  # its backend is asked for below
        key = self._backbone_key(settings)
        about = {**self._describe(settings, fold), "backbone": key}
        fold = self._rows_to_train(settings, fold, key)
        with borrowed(
            self._program_key(settings, fold, key), partial(self._program, settings, fold, key)
        ) as own:
            own.begin(fold.seed, self._numbers(settings, fold))
            if own.augment:
                hold_strengths(own.augment, settings)
            scores = restore_state(own.model, own.training_state, about, start) if start else []
            last = min(settings.epochs, fold.epochs)
            while len(scores) < last and not _is_out_of_patience(settings, scores):
                number = len(scores) + 1
                own.optimizer.learning_rate = settings.learning_rate * _share_of_rate(settings, scores, last)
                curves = _train_epoch(own, settings, fold, number)
                probabilities = own.predict(fold.x, fold.valid)
                save = partial(save_state, own.model, own.training_state, about, scores)
                # A new list: ``save`` holds the one before this epoch, and is given its score.
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

    def _rows_to_train(self, settings: Any, fold: Fold, key: Mapping[str, Any] | None) -> Fold:
        """The fold with features in place of its rows where ``key`` tells of a frozen backbone."""
        if key is None:
            return fold
        keras, architecture, shape = import_keras(), cast(Any, self._architecture), fold.x.shape[1:]
        made_by = {"keras": keras.__version__, "backend": keras.config.backend()}

        def backbone() -> Any:
            with seeded(fold.seed, settings.precision):
                return architecture.backbone(settings, shape, fold.scale)

        return frozen_features(fold, backbone, {**key, **made_by, "precision": settings.precision})

    def _program(self, settings: Any, fold: Fold, key: Mapping[str, Any] | None) -> Program:
        """The model to train, compiled: the head alone where ``key`` tells of a frozen backbone."""
        shape, num_classes = fold.x.shape[1:], len(fold.classes)
        if key is None:
            model = self._whole(settings, shape, num_classes, fold.scale, fold.seed)
        else:
            with seeded(fold.seed, settings.precision):
                model = cast(Any, self._architecture).head(settings, shape, num_classes)
        augment, optimizer = augmenter(settings, shape, fold.scale), _optimizer(settings)
        return Program(
            model,
            augment,
            optimizer,
            fold.x.dtype,
            comes_trained=self._comes_trained(key),
            has_open_widths=self._widths(settings) is not None,
        )

    def _program_key(self, settings: Any, fold: Fold, key: Mapping[str, Any] | None) -> str | None:
        """What a program can be used again for; None where it comes trained."""
        if self._comes_trained(key):
            return None
        rows = [fold.x.shape[1:], str(fold.x.dtype), fold.scale, len(fold.classes)]
        return json.dumps([rows, key is None, self._graph(settings)])

    def _comes_trained(self, key: Mapping[str, Any] | None) -> bool:
        """Whether a backbone, and not its head alone, is what is trained."""
        return key is None and hasattr(self._architecture, "backbone_key")

    def _graph(self, settings: Any) -> str:
        """All settings that change the graph; of a held number only whether there is any."""
        fields, widths = type(settings).model_fields, self._widths(settings)
        free = {_HELD} if widths is None else {_HELD, _WIDTH}
        held = {name for name, field in fields.items() if free & {*map(str, field.metadata)}}
        changes = {
            "layers": None if widths is None else len(widths),
            "augmentation": augmentation.structure(settings),
            "drops": [drop > 0 for drop in self._drops(settings)],
            "momentum": settings.momentum > 0,
            "weight_decay": settings.weight_decay > 0,
        }
        graph = settings.model_dump(exclude=held | set(AugmentationSettings.model_fields))
        return json.dumps([self.name, graph, changes], sort_keys=True)

    def _numbers(self, settings: Any, fold: Fold) -> Numbers:
        return Numbers(
            drops=[drop for drop in self._drops(settings) if drop > 0],
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            label_smoothing=settings.label_smoothing,
            class_weights=_class_weights(settings, fold),
            widths=self._widths(settings),
        )

    def _widths(self, settings: Any) -> list[int] | None:
        """Of each layer with weights but the last, where the backend leaves widths open; else None."""
        architecture: Any = self._architecture
        if not hasattr(architecture, "widths") or backend() != "tensorflow":
            return None
        widths: list[int] = architecture.widths(settings)
        return widths

    def _drops(self, settings: Any) -> list[float]:
        architecture: Any = self._architecture
        drops: list[float] = architecture.drops(settings) if hasattr(architecture, "drops") else []
        return drops

    def _whole(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float, seed: int) -> Any:
        """A new model from stored rows to logits.

        Keras's session is not cleared for it: that would throw away what kept programs have compiled.
        """
        with seeded(seed, settings.precision):
            return self._architecture.build(settings, shape, num_classes, scale)


def _optimizer(settings: TrainingSettings) -> Any:
    import keras

    config: dict[str, float | None] = {"learning_rate": settings.learning_rate}
    if settings.optimizer != "adam":
        config["weight_decay"] = settings.weight_decay or None
    if settings.optimizer in ("sgd", "rmsprop"):
        config["momentum"] = settings.momentum
    rule = settings.optimizer.removesuffix("w")  # Keras's adamw is its adam with another default weight_decay
    optimizer = keras.optimizers.get({"class_name": rule, "config": config})
    if settings.precision == "mixed_float16":  # gradients would fall below its smallest number
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


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


def _train_epoch(program: Program, settings: TrainingSettings, fold: Fold, number: int) -> dict[str, float]:
    """Train on every row once; means over the rows, each as its batch met it, and the learning rate."""
    places, counts = batches(len(fold.train), settings.batch_size, fold.seed, number)
    loss, right = program.train(fold.x, fold.train[places], fold.y_train[places], counts)
    return {
        "train_loss": loss / len(fold.train),
        "train_accuracy": right / len(fold.train),
        "learning_rate": float(program.optimizer.learning_rate),
    }
