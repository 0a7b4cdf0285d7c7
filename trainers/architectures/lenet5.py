"""LeNet-5 (LeCun et al., 1998): two convolutions with average pools, then dense layers of 120 and 84 units.

As everywhere today, each filter of the second convolution sees all maps of the first (the paper connects
some of them), and the last layer gives logits. On 32x32x1 images and ten classes that makes 61,706 weights.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainers.architectures.layers import Activation, Map, Padding, image_map
from trainers.contract import Infeasible
from trainers.keras_trainer import Held, TrainingSettings, Width

if TYPE_CHECKING:
    import keras

_ADVICE = "use a smaller kernel_size, or read the images larger"
_POOL = 2


class Settings(TrainingSettings):
    """The layers, by their size; the defaults are the paper's."""

    filters_1: Width[int] = Field(6, ge=1, le=512, description="filters of the first convolution")
    filters_2: Width[int] = Field(16, ge=1, le=512, description="filters of the second convolution")
    kernel_size: int = Field(5, ge=1, le=15, description="side of both kernels")
    padding: Literal["auto", "same", "valid"] = Field(
        "auto", description="same: convolutions keep their map's size; auto: valid, but same on small images"
    )
    pooling: Literal["average", "max"] = Field("average", description="what each 2x2 pool takes")
    dense_1: Width[int] = Field(120, ge=1, le=4096, description="units of the first dense layer")
    dense_2: Width[int] = Field(84, ge=1, le=4096, description="units of the second dense layer")
    dropout: Held[float] = Field(0.0, ge=0, lt=1, description="share of units dropped before the last layer")
    activation: Activation = Field("tanh", description="activation of every layer but the last")


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, channels) to logits (n, num_classes).

    Raises Infeasible where a kernel or pool does not fit its map.
    """
    padding = _padding(settings, image_map(shape, "lenet5", _ADVICE))
    from keras import Input, Sequential, layers

    pool = {"average": layers.AveragePooling2D, "max": layers.MaxPooling2D}[settings.pooling]
    stack: list[Any] = [Input(shape), layers.Rescaling(1 / scale)]
    for filters in (settings.filters_1, settings.filters_2):
        stack.append(
            layers.Conv2D(filters, settings.kernel_size, padding=padding, activation=settings.activation)
        )
        stack.append(pool(_POOL))
    stack.append(layers.Flatten())
    for units in (settings.dense_1, settings.dense_2):
        stack.append(layers.Dense(units, activation=settings.activation))
    if settings.dropout:
        stack.append(layers.Dropout(settings.dropout))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def drops(settings: Settings) -> list[float]:
    """The rate of each place that may have a dropout layer, in order."""
    return [settings.dropout]


def widths(settings: Settings) -> list[int]:
    """The filters of both convolutions, then the units of both dense layers."""
    return [settings.filters_1, settings.filters_2, settings.dense_1, settings.dense_2]


def _padding(settings: Settings, image: Map) -> Padding:
    if settings.padding != "auto":
        _follow(image, settings.kernel_size, settings.padding)
        return settings.padding
    try:
        _follow(image, settings.kernel_size, "valid")
    except Infeasible:
        _follow(image, settings.kernel_size, "same")
        return "same"
    return "valid"


def _follow(image: Map, kernel: int, padding: Padding) -> None:
    for layer in ("conv layer 1", "conv layer 2"):
        image = image.convolved(layer, kernel, padding).pooled(layer, _POOL)
