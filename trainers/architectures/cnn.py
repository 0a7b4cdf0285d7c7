"""A plain convolutional network: equal conv layers, each with its pool, then one dense layer."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainers.contract import Infeasible
from trainers.keras_trainer import TrainingSettings

if TYPE_CHECKING:
    import keras


class Settings(TrainingSettings):
    """The layers, by their number and size."""

    conv_layers: int = Field(2, ge=0, le=8, description="convolutions, each followed by its pool")
    filters: int = Field(32, ge=1, le=1024, description="filters of every convolution")
    kernel_size: int = Field(3, ge=1, le=15, description="side of every kernel")
    padding: Literal["same", "valid"] = Field("same", description="same: a convolution keeps its map's size")
    pool_size: int = Field(2, ge=1, le=8, description="side of every max pool; 1 = no pooling")
    dense_units: int = Field(64, ge=0, le=8192, description="units of the dense layer; 0 = no such layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of units dropped before the last layer")
    # No silu: TensorFlow never lets go of the graph of a model that has it (4 MB a trial).
    activation: Literal["relu", "elu", "gelu", "tanh", "leaky_relu", "selu"] = Field(
        "relu", description="activation of every layer but the last"
    )


def build(settings: Settings, shape: tuple[int, ...], num_classes: int, scale: float) -> "keras.Model":
    _check_maps(settings, shape)
    from keras import Input, Sequential, layers

    model = Sequential([Input(shape), layers.Rescaling(1 / scale)])
    for _ in range(settings.conv_layers):
        model.add(
            layers.Conv2D(
                settings.filters,
                settings.kernel_size,
                padding=settings.padding,
                activation=settings.activation,
            )
        )
        if settings.pool_size > 1:
            model.add(layers.MaxPooling2D(settings.pool_size))
    model.add(layers.Flatten())
    if settings.dense_units:
        model.add(layers.Dense(settings.dense_units, activation=settings.activation))
    if settings.dropout:
        model.add(layers.Dropout(settings.dropout))
    model.add(layers.Dense(num_classes))
    return model


def _check_maps(settings: Settings, shape: tuple[int, ...]) -> None:
    """Follow the map through the layers and refuse the first kernel or pool that is too large for it."""
    if len(shape) != 3:
        raise Infeasible(f"a cnn needs images (height, width, channels); these rows have shape {shape}")
    height, width = shape[:2]
    kernel, pool = settings.kernel_size, settings.pool_size
    for layer in range(1, settings.conv_layers + 1):
        if settings.padding == "valid":
            _check_fit(layer, "kernel", kernel, height, width, min(height, width))
            height, width = height - kernel + 1, width - kernel + 1
        else:
            # The outermost weights of a larger kernel would only ever meet the padding.
            _check_fit(layer, "kernel", kernel, height, width, 2 * min(height, width) - 1)
        _check_fit(layer, "pool", pool, height, width, min(height, width))
        height, width = height // pool, width // pool


def _check_fit(layer: int, what: str, side: int, height: int, width: int, largest: int) -> None:
    if side > largest:
        raise Infeasible(
            f"conv layer {layer}: a {side}x{side} {what} does not fit its {height}x{width} map; "
            "use fewer conv_layers, a smaller kernel_size or a smaller pool_size"
        )
