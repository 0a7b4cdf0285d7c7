"""Networks for small grey X-rays: convolutions without pools between them, one pool, a dense layer.

The defaults, on 64x64x1 images and three classes, have 3,705,475 weights. Smaller ones of the same family are
conv_layers 1, conv_dropout 0 (1,968,707 weights), and that with dense_units 0, dropout 0 (92,579).
"""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from trainers.architectures.layers import Activation, Padding, image_map
from trainers.keras_trainer import Held, TrainingSettings, Width

if TYPE_CHECKING:
    import keras

_ADVICE = "use fewer conv_layers, a smaller kernel_size or a smaller pool_size"


class Settings(TrainingSettings):
    """The layers, by their number and size."""

    conv_layers: int = Field(2, ge=1, le=5, description="convolutions before the one pool")
    filters: Width[int] = Field(
        32, ge=1, le=256, description="filters of the first convolution; each further one has twice as many"
    )
    kernel_size: int = Field(3, ge=1, le=15, description="side of every kernel")
    padding: Padding = Field("valid", description="same: a convolution keeps its map's size")
    pool_size: int = Field(2, ge=1, le=16, description="side of the max pool; 1 = no pooling")
    conv_dropout: Held[float] = Field(0.25, ge=0, lt=1, description="share of values dropped after the pool")
    dense_units: Width[int] = Field(
        64, ge=0, le=4096, description="units of the dense layer; 0 = no such layer"
    )
    dropout: Held[float] = Field(0.5, ge=0, lt=1, description="share of units dropped before the last layer")
    activation: Activation = Field("relu", description="activation of every layer but the last")


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, channels) to logits (n, num_classes).

    Raises Infeasible where a kernel or the pool does not fit its map.
    """
    _check_maps(settings, shape)
    from keras import Input, Sequential, layers

    stack: list[Any] = [Input(shape), layers.Rescaling(1 / scale)]
    for filters in _filters(settings):
        stack.append(
            layers.Conv2D(
                filters,
                settings.kernel_size,
                padding=settings.padding,
                activation=settings.activation,
            )
        )
    if settings.pool_size > 1:
        stack.append(layers.MaxPooling2D(settings.pool_size))
    if settings.conv_dropout:
        stack.append(layers.Dropout(settings.conv_dropout))
    stack.append(layers.Flatten())
    if settings.dense_units:
        stack.append(layers.Dense(settings.dense_units, activation=settings.activation))
    if settings.dropout:
        stack.append(layers.Dropout(settings.dropout))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def drops(settings: Settings) -> list[float]:
    """The rate of each place that may have a dropout layer, in order."""
    return [settings.conv_dropout, settings.dropout]


def widths(settings: Settings) -> list[int]:
    """The filters of each convolution, then the units of the dense layer, if there is one."""
    return [*_filters(settings), *([settings.dense_units] if settings.dense_units else [])]


def _filters(settings: Settings) -> list[int]:
    return [settings.filters * 2**number for number in range(settings.conv_layers)]


def _check_maps(settings: Settings, shape: tuple[int, ...]) -> None:
    image = image_map(shape, "a lung_cnn", _ADVICE)
    for number in range(1, settings.conv_layers + 1):
        image = image.convolved(f"conv layer {number}", settings.kernel_size, settings.padding)
    image.pooled("the pool", settings.pool_size)
