"""A plain convolutional network: convolutions, each with its pool, then one dense layer."""

from typing import TYPE_CHECKING, Any

from pydantic import Field

from trainers.architectures.layers import Activation, Padding, image_map
from trainers.contract import Infeasible
from trainers.keras_trainer import Held, TrainingSettings, Width

if TYPE_CHECKING:
    import keras

_ADVICE = "use fewer conv_layers, a smaller kernel_size or a smaller pool_size"
_MOST_FILTERS = 4096


class Settings(TrainingSettings):
    """The layers, by their number and size."""

    conv_layers: int = Field(2, ge=0, le=8, description="convolutions, each followed by its pool")
    filters: Width[int] = Field(32, ge=1, le=1024, description="filters of the first convolution")
    filters_ratio: Width[float] = Field(
        1.0, ge=0.125, le=4, description="each convolution has this times the filters of the one before"
    )
    kernel_size: int = Field(3, ge=1, le=15, description="side of every kernel")
    padding: Padding = Field("same", description="same: a convolution keeps its map's size")
    pool_size: int = Field(2, ge=1, le=8, description="side of every max pool; 1 = no pooling")
    conv_dropout: Held[float] = Field(
        0.0, ge=0, lt=1, description="share of values dropped after the first pool"
    )
    conv_dropout_step: Held[float] = Field(
        0.0, ge=0, lt=1, description="added to that share after each further pool"
    )
    dense_units: Width[int] = Field(
        64, ge=0, le=8192, description="units of the dense layer; 0 = no such layer"
    )
    dropout: Held[float] = Field(0.0, ge=0, lt=1, description="share of units dropped before the last layer")
    activation: Activation = Field("relu", description="activation of every layer but the last")


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    """Stored rows (n, height, width, channels) to logits (n, num_classes).

    Raises Infeasible where a kernel or pool does not fit its map, or filters or dropout leave their range.
    """
    filters, (*conv_drops, dense_drop) = _filters(settings), drops(settings)
    _check_maps(settings, shape)
    from keras import Input, Sequential, layers

    stack: list[Any] = [Input(shape), layers.Rescaling(1 / scale)]
    for count, drop in zip(filters, conv_drops, strict=True):
        stack.append(
            layers.Conv2D(
                count, settings.kernel_size, padding=settings.padding, activation=settings.activation
            )
        )
        if settings.pool_size > 1:
            stack.append(layers.MaxPooling2D(settings.pool_size))
        if drop:
            stack.append(layers.Dropout(drop))
    stack.append(layers.Flatten())
    if settings.dense_units:
        stack.append(layers.Dense(settings.dense_units, activation=settings.activation))
    if dense_drop:
        stack.append(layers.Dropout(dense_drop))
    stack.append(layers.Dense(num_classes))
    return Sequential(stack)


def widths(settings: Settings) -> list[int]:
    """The filters of each convolution, then the units of the dense layer, if there is one."""
    return [*_filters(settings), *([settings.dense_units] if settings.dense_units else [])]


def _filters(settings: Settings) -> list[int]:
    counts = [round(settings.filters * settings.filters_ratio**i) for i in range(settings.conv_layers)]
    for layer, count in enumerate(counts, 1):
        if not 1 <= count <= _MOST_FILTERS:
            raise Infeasible(
                f"conv layer {layer}: {settings.filters} filters and filters_ratio "
                f"{settings.filters_ratio:g} give it {count}, of 1 to {_MOST_FILTERS}; "
                "use a filters_ratio nearer to 1 or fewer conv_layers"
            )
    return counts


def drops(settings: Settings) -> list[float]:
    """What share is dropped after each convolution and its pool, then before the last layer."""
    shares = [settings.conv_dropout + i * settings.conv_dropout_step for i in range(settings.conv_layers)]
    for layer, share in enumerate(shares, 1):
        if share >= 1:
            raise Infeasible(
                f"conv layer {layer}: conv_dropout {settings.conv_dropout:g} and {layer - 1} times "
                f"conv_dropout_step {settings.conv_dropout_step:g} drop all of it; "
                "use a smaller conv_dropout_step or fewer conv_layers"
            )
    return [*shares, settings.dropout]


def _check_maps(settings: Settings, shape: tuple[int, ...]) -> None:
    """Follow the map through the layers and refuse the first kernel or pool that is too large for it."""
    image = image_map(shape, "a cnn", _ADVICE)
    for number in range(1, settings.conv_layers + 1):
        layer = f"conv layer {number}"
        image = image.convolved(layer, settings.kernel_size, settings.padding)
        image = image.pooled(layer, settings.pool_size)
