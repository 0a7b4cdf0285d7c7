"""Two wide convolutions and no dense layer between them and the logits: a network for faces with glasses.

Its first pool has stride 1, so that maps keep their size until the second convolution halves them. The
defaults, on 64x64x3 images and two classes, have 2,235,906 weights.
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from trainers.architectures.layers import image_map
from trainers.keras_trainer import Held, TrainingSettings, Width

if TYPE_CHECKING:
    import keras

_ADVICE = "use a smaller kernel_size or pool_size"


class Settings(TrainingSettings):
    """The layers, by their size."""

    filters_1: Width[int] = Field(256, ge=1, le=1024, description="filters of the first convolution")
    filters_2: Width[int] = Field(512, ge=1, le=2048, description="filters of the second convolution")
    kernel_size: int = Field(3, ge=1, le=15, description="side of both kernels")
    stride: int = Field(2, ge=1, le=8, description="step of the second convolution: maps shrink by this")
    leak: float = Field(
        0.3, ge=0, lt=1, description="slope of the first activation below zero; 0 makes it a ReLU"
    )
    pool_size: int = Field(2, ge=1, le=8, description="side of the max pool of stride 1; 1 = no pooling")
    dropout: Held[float] = Field(0.0, ge=0, lt=1, description="share of values dropped before the last layer")


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, channels) to logits (n, num_classes).

    The second convolution is linear, as in the model that this one follows. Raises Infeasible where the
    kernel or the pool does not fit the image.
    """
    _check_map(settings, shape)
    from keras import Input, Sequential, layers

    stack: list[Any] = [
        Input(shape),
        layers.Rescaling(1 / scale),
        layers.Conv2D(settings.filters_1, settings.kernel_size, padding="same"),
        layers.LeakyReLU(negative_slope=settings.leak),
    ]
    if settings.pool_size > 1:
        stack.append(layers.MaxPooling2D(settings.pool_size, strides=1, padding="same"))
    stack.append(
        layers.Conv2D(settings.filters_2, settings.kernel_size, strides=settings.stride, padding="same")
    )
    stack.append(layers.Flatten())
    if settings.dropout:
        stack.append(layers.Dropout(settings.dropout))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def drops(settings: Settings) -> list[float]:
    """The rate of each place that may have a dropout layer, in order."""
    return [settings.dropout]


def widths(settings: Settings) -> list[int]:
    """The filters of both convolutions."""
    return [settings.filters_1, settings.filters_2]


def _check_map(settings: Settings, shape: tuple[int, ...]) -> None:
    image = image_map(shape, "a glassmodel", _ADVICE)
    image.convolved("both conv layers", settings.kernel_size, "same").pooled("the pool", settings.pool_size)
