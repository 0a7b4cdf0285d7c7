"""Widths as data, on TensorFlow: layers whose filters and units change without another graph.

A variable of TensorFlow may leave its shape open, and a graph that was traced with such variables calculates
with the shape of whatever they hold. Keras's layers write their own widths into the graph, so the two that
have weights here are given a ``call`` that does not, and the variables of a model and of its optimizer are
replaced by open ones.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from trainers.contract import TrainError


class Widths:
    """Of a ``Sequential`` model whose only layers with weights are two-dimensional convolutions and dense
    ones, all with a bias. The last of these keeps its width, which is the number of classes.

    Raises TrainError for any other layer with weights.
    """

    def __init__(self, model: Any) -> None:
        if others := {type(layer).__name__ for layer in model.layers if layer.weights} - set(_CALLS):
            raise TrainError(
                f"widths cannot be left open in a model with {', '.join(sorted(others))}; known: "
                f"{', '.join(_CALLS)}; take widths() out of its architecture"
            )
        self._model = model
        self._weighted = [layer for layer in model.layers if layer.weights]
        self._slots: dict[str, list[Any]] = {}
        for layer in self._weighted:
            layer.call = partial(_CALLS[type(layer).__name__], layer, is_last=layer is self._weighted[-1])
            for variable in layer.weights:
                _open(variable)

    def follow(self, optimizer: Any) -> None:
        """Let what the optimizer remembers of each weight, by Keras's names, have that weight's shape."""
        for weight in self._model.trainable_variables:
            stem = weight.path.replace("/", "_") + "_"
            self._slots[weight.path] = [slot for slot in optimizer.variables if slot.name.startswith(stem)]
            for slot in self._slots[weight.path]:
                _open(slot)

    def set(self, widths: Sequence[int]) -> None:
        """Give each layer with weights but the last its width. What the variables hold is not theirs yet."""
        for layer, width in zip(self._weighted[:-1], widths, strict=True):
            setattr(layer, "filters" if hasattr(layer, "filters") else "units", width)
        shape = self._model.input_shape
        for layer in self._model.layers:
            for weight, own in zip(layer.weights, _shapes(layer, shape), strict=False):
                for variable in (weight, *self._slots[weight.path]):
                    variable._shape = own  # Keras checks it whenever a value is assigned
            shape = layer.compute_output_shape(shape)


def _open(variable: Any) -> None:
    import tensorflow as tf

    variable._value = tf.Variable(
        variable.value,
        trainable=variable.trainable,
        name=variable.name,
        shape=tf.TensorShape([None] * len(variable.shape)),
    )


def _shapes(layer: Any, inputs: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Of a layer's kernel and bias, given the shape of its inputs."""
    width = layer.filters if hasattr(layer, "filters") else layer.units
    yield (*getattr(layer, "kernel_size", ()), inputs[-1], width)
    yield (width,)


def _convolve(layer: Any, inputs: Any, is_last: bool) -> Any:
    from keras import ops

    kernel, bias = _weights(layer, inputs, is_last)
    outputs = ops.conv(
        inputs,
        kernel,
        strides=list(layer.strides),
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    return layer.activation(ops.add(outputs, bias))


def _multiply(layer: Any, inputs: Any, is_last: bool, training: bool = False) -> Any:
    from keras import ops

    kernel, bias = _weights(layer, inputs, is_last)
    return layer.activation(ops.add(ops.matmul(inputs, kernel), bias))


def _weights(layer: Any, inputs: Any, is_last: bool) -> tuple[Any, Any]:
    """Kernel and bias as tensors of which as much is known as no width decides."""
    import tensorflow as tf

    kernel, bias = tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias)
    width = layer.units if is_last else None
    kernel.set_shape((*getattr(layer, "kernel_size", ()), inputs.shape[-1], width))
    bias.set_shape((width,))
    return kernel, bias


_CALLS = {"Conv2D": _convolve, "Dense": _multiply}
