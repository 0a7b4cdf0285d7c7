"""ResNet-50 (He et al., 2015) of Keras Applications with a head of its own: transfer, or all of it trained.

With ``train_from: none`` its backbone is frozen: `backbone_key`, `backbone` and `head` then let a trainer
compute features once for all trials (`trainers.features`), and train a head on them. Preprocessing is part
of the model, and the same whatever the weights: what those of ImageNet were trained with.
"""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from trainers.architectures.layers import image_map
from trainers.contract import Infeasible, TrainError
from trainers.keras_trainer import Held, TrainingSettings

if TYPE_CHECKING:
    import keras

_SMALLEST = 32  # below it Keras Applications has no such model
_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")  # how the names of its layers begin


def _checked_weights(text: str) -> str:
    if text in ("imagenet", "none"):
        return text
    if text.endswith(".h5") and _home_expanded(text).is_absolute():
        return text
    raise ValueError(
        f"weights: {text!r} is neither imagenet nor none nor the absolute path of an .h5 file (/..., ~/...); "
        "a relative one would be looked for in another folder by each worker"
    )


class Settings(TrainingSettings):
    """Where the weights come from, which of them are trained, and the layers behind the backbone."""

    weights: Annotated[str, AfterValidator(_checked_weights)] = Field(
        "imagenet",
        description="first weights: imagenet (Keras downloads 94 MB once), none (random), "
        "or the absolute path of an .h5 file",
    )
    train_from: Literal["none", "conv5", "conv4", "conv3", "conv2", "all"] = Field(
        "none", description="the first stage that is trained; none: the head alone"
    )
    norm_momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="share of its moving averages that a trained batch normalisation keeps at each batch; "
        "lower it where an epoch has few batches",
    )
    pooling: Literal["flatten", "average", "max"] = Field(
        "flatten", description="what is made of the backbone's last map of 2048 channels"
    )
    head_units: int = Field(1024, ge=0, le=8192, description="units of the dense layer; 0 = no such layer")
    dropout: Held[float] = Field(0.0, ge=0, lt=1, description="share of values dropped before the last layer")


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, 1 or 3) to logits (n, num_classes).

    Its variables are those of the backbone, then those of ``head(...)`` in the order they have there. The
    weights of a frozen backbone follow from the settings alone: random ones are the same in every process.
    Raises Infeasible for images below 32x32 or of other channels, TrainError where weights cannot be had.
    """
    import keras

    body = backbone(settings, shape, scale) or _body(settings, shape, scale)
    return keras.Sequential(
        [keras.Input(shape), body, head(settings, tuple(body.output_shape[1:]), num_classes)]
    )


def backbone(settings: Settings, shape: tuple[int, ...], scale: float) -> "keras.Model | None":
    """Stored rows (n, height, width, 1 or 3) to features (n, d); None where not all of it is frozen.

    Raises as ``build`` does. Leaves Python's random state as it was.
    """
    if settings.train_from != "none":
        return None
    with _random_state_kept():
        return _body(settings, shape, scale)


def backbone_key(settings: Settings) -> dict[str, str] | None:
    """All that a frozen backbone's features follow from besides the rows, without building it; else None.

    Raises TrainError where there is no such file of weights.
    """
    weights = settings.weights
    if weights not in ("imagenet", "none"):
        weights = hashlib.blake2b(_weights_file(weights).read_bytes(), digest_size=16).hexdigest()
    if settings.train_from != "none":
        return None
    return {"backbone": "resnet50", "weights": weights, "pooling": settings.pooling}


def untrained(settings: Settings) -> Settings:
    """With these ``build`` makes the same layers, of random weights, and needs no network and no file."""
    return settings.model_copy(update={"weights": "none"})


def head(settings: Settings, feature_shape: tuple[int, ...], num_classes: int) -> "keras.Model":
    """Features (n, *feature_shape) to logits (n, num_classes)."""
    from keras import Input, Sequential, layers

    stack: list[Any] = [Input(feature_shape)]
    if settings.head_units:
        stack.append(layers.Dense(settings.head_units, activation="relu"))
    if settings.dropout:
        stack.append(layers.Dropout(settings.dropout))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def drops(settings: Settings) -> list[float]:
    """The rate of each place that may have a dropout layer, in order."""
    return [settings.dropout]


def _body(settings: Settings, shape: tuple[int, ...], scale: float) -> "keras.Model":
    """Stored rows to features: preprocessing, the residual network, pooling."""
    _check(shape)
    from keras import Input, Model, applications, layers

    rows = Input(shape)
    x = layers.Rescaling(255 / scale)(rows)
    if shape[-1] == 1:
        x = layers.Concatenate()([x, x, x])
    x = applications.resnet50.preprocess_input(x)
    x = _network(settings, (*shape[:2], 3))(x)
    pool = {
        "flatten": layers.Flatten,
        "average": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
    }[settings.pooling]
    return Model(rows, pool()(x))


def _network(settings: Settings, shape: tuple[int, ...]) -> Any:
    """The residual network (23,587,712 weights), with those stages frozen that are not to be trained."""
    network = _weighted_network(settings.weights, shape)
    if settings.weights == "none" and settings.train_from == "none":
        _draw_weights(network)
    frozen = _frozen_stages(settings.train_from)
    for layer in network.layers:
        # A frozen normalisation keeps its moving averages and uses them in training too.
        layer.trainable = not layer.name.startswith(frozen)
        if hasattr(layer, "moving_mean"):
            layer.momentum = settings.norm_momentum
    return network


def _frozen_stages(train_from: str) -> tuple[str, ...]:
    if train_from == "all":
        return ()
    return _STAGES[: _STAGES.index(train_from)] if train_from != "none" else _STAGES


def _weighted_network(weights: str, shape: tuple[int, ...]) -> Any:
    from keras.applications import ResNet50

    if weights == "imagenet":
        try:
            return ResNet50(include_top=False, weights="imagenet", input_shape=shape)
        except Exception as error:  # Keras raises nothing narrower when a download fails
            raise TrainError(
                f"weights: imagenet could not be downloaded ({_one_line(error)}); connect this machine once, "
                "or put the file in $KERAS_HOME/models, or give the path of an .h5 file, or weights: none"
            ) from error
    network = ResNet50(include_top=False, weights=None, input_shape=shape)
    if weights != "none":
        file = _weights_file(weights)
        try:
            network.load_weights(file)
        except (OSError, ValueError, KeyError) as error:
            raise TrainError(
                f"weights: {file} does not hold those of a ResNet-50 without its top ({_one_line(error)}); "
                "write them with keras.applications.ResNet50(include_top=False).save_weights('x.weights.h5')"
            ) from error
    return network


def _weights_file(weights: str) -> Path:
    file = _home_expanded(weights)
    if not file.is_file():
        raise TrainError(
            f"weights: there is no file {file}; give the absolute path of an .h5 file, imagenet or none"
        )
    return file


def _home_expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # which, unlike Path's own, leaves an unknown ~user as it is


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check(shape: tuple[int, ...]) -> None:
    image_map(shape, "resnet50", "", at_least=_SMALLEST)
    if shape[-1] not in (1, 3):
        raise Infeasible(
            f"resnet50 needs images of 1 (grey) or 3 (red, green, blue) channels; these have {shape[-1]}; "
            "read them as grey or RGB, or use keras/cnn"
        )


def _draw_weights(network: Any) -> None:
    """Random weights that are never trained: the same whoever draws them, and whatever was drawn before."""
    from keras.initializers import GlorotUniform

    for number, layer in enumerate(network.layers):
        if hasattr(layer, "kernel"):
            layer.kernel.assign(GlorotUniform(seed=number)(layer.kernel.shape))


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Keras draws the seed of each layer from Python's `random`; what comes after must not meet that."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
