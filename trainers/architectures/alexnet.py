"""AlexNet (Krizhevsky et al., 2012): kernels of 11, 5, 3, 3, 3, three pools, three dense layers, ReLU.

One tower as wide as the paper's two together, without its response normalisation, and with padding:
62,378,344 weights on 224x224x3 images and 1,000 classes. On smaller images it keeps its layers as follows:

- the first convolution steps by 4, 2 or 1 pixels: the most that leaves 3x3 or more behind the last pool;
- a kernel's side is at most twice its map's less one, since weights beyond that would only meet padding;
- a pool (3x3, stride 2) is left out where its map is smaller than 3x3.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from trainers.architectures.layers import image_map
from trainers.keras_trainer import Held, TrainingSettings, Width

if TYPE_CHECKING:
    import keras

_SMALLEST = 8  # below it hardly any of the kernels is left whole
_POOL, _POOL_STRIDE = 3, 2
_LAST_SIDE = 3  # of the map behind the last pool
# Filters, kernel, and whether a pool follows.
_CONVOLUTIONS = ((96, 11, True), (256, 5, True), (384, 3, False), (384, 3, False), (256, 3, True))


class Settings(TrainingSettings):
    """The layers, by their size; the defaults are the paper's."""

    width: Width[float] = Field(
        1.0, ge=0.05, le=2, description="times the paper's filters: 96, 256, 384, 384, 256; at least 1 each"
    )
    dense_units: Width[int] = Field(4096, ge=1, le=8192, description="units of the first two dense layers")
    dropout: Held[float] = Field(
        0.5, ge=0, lt=1, description="share of values dropped before each of these two"
    )


@dataclass(frozen=True)
class Convolution:
    """One convolution with same padding, as it fits its map."""

    filters: int
    kernel: int
    stride: int
    is_pooled: bool


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, channels) to logits (n, num_classes).

    Raises Infeasible for images smaller than 8x8.
    """
    image = image_map(shape, "alexnet", "", at_least=_SMALLEST)
    from keras import Input, Sequential, layers

    stack: list[Any] = [Input(shape), layers.Rescaling(1 / scale)]
    for convolution in fitted(image.side, settings.width):
        stack.append(
            layers.Conv2D(
                convolution.filters,
                convolution.kernel,
                strides=convolution.stride,
                padding="same",
                activation="relu",
            )
        )
        if convolution.is_pooled:
            stack.append(layers.MaxPooling2D(_POOL, strides=_POOL_STRIDE))
    stack.append(layers.Flatten())
    for _ in range(2):
        if settings.dropout:
            stack.append(layers.Dropout(settings.dropout))
        stack.append(layers.Dense(settings.dense_units, activation="relu"))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def drops(settings: Settings) -> list[float]:
    """The rate of each place that may have a dropout layer, in order."""
    return [settings.dropout] * 2


def widths(settings: Settings) -> list[int]:
    """The filters of the convolutions, then the units of the first two dense layers."""
    return [
        *(_scaled(filters, settings.width) for filters, _, _ in _CONVOLUTIONS),
        *[settings.dense_units] * 2,
    ]


def fitted(side: int, width: float = 1.0) -> list[Convolution]:
    """The convolutions for images whose shorter side is ``side`` pixels."""
    stride = next((stride for stride in (4, 2) if _last_side(side, stride) >= _LAST_SIDE), 1)
    convolutions = []
    for filters, kernel, is_pooled in _CONVOLUTIONS:
        kernel = min(kernel, 2 * side - 1)
        side = math.ceil(side / stride)
        is_pooled = is_pooled and side >= _POOL
        convolutions.append(Convolution(_scaled(filters, width), kernel, stride, is_pooled))
        side, stride = _pooled(side) if is_pooled else side, 1
    return convolutions


def _scaled(filters: int, width: float) -> int:
    return max(1, round(filters * width))


def _last_side(side: int, stride: int) -> int:
    """Of the map behind the last pool, were no pool left out; below 1 where it would have to be."""
    side = math.ceil(side / stride)
    for _, _, is_pooled in _CONVOLUTIONS:
        side = _pooled(side) if is_pooled else side
    return side


def _pooled(side: int) -> int:
    return (side - _POOL) // _POOL_STRIDE + 1
