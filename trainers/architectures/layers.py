"""What the layers of several architectures share: their activations, and which kernels fit which maps."""

from dataclasses import dataclass, replace
from typing import Literal

from trainers.contract import Infeasible

# No silu: TensorFlow never lets go of the graph of a model that has it (4 MB a trial).
Activation = Literal["relu", "elu", "gelu", "tanh", "leaky_relu", "selu"]
Padding = Literal["same", "valid"]


@dataclass(frozen=True)
class Map:
    """The size of what a layer hands to the next one: followed through a model before it is built."""

    height: int
    width: int
    advice: str
    """What to change where a layer does not fit; ends the reason of every Infeasible."""

    @property
    def side(self) -> int:
        """The shorter one."""
        return min(self.height, self.width)

    def convolved(self, layer: str, kernel: int, padding: Padding) -> "Map":
        """The map after a convolution of stride 1. Raises Infeasible where its kernel does not fit."""
        if padding == "valid":
            self._check(layer, "kernel", kernel, self.side)
            return replace(self, height=self.height - kernel + 1, width=self.width - kernel + 1)
        # The outermost weights of a larger kernel would only ever meet the padding.
        self._check(layer, "kernel", kernel, 2 * self.side - 1)
        return self

    def pooled(self, layer: str, pool: int) -> "Map":
        """The map after a pool whose stride is its side. Raises Infeasible where it does not fit."""
        self._check(layer, "pool", pool, self.side)
        return replace(self, height=self.height // pool, width=self.width // pool)

    def _check(self, layer: str, what: str, side: int, largest: int) -> None:
        if side > largest:
            raise Infeasible(
                f"{layer}: a {side}x{side} {what} does not fit its {self.height}x{self.width} map; "
                f"{self.advice}"
            )


def image_map(shape: tuple[int, ...], architecture: str, advice: str, at_least: int = 1) -> Map:
    """The map that an image of ``shape`` (height, width, channels) is.

    Raises Infeasible where rows are no images or have a side below ``at_least`` pixels.
    """
    if len(shape) != 3:
        raise Infeasible(
            f"{architecture} needs images (height, width, channels); these rows have shape {shape}"
        )
    height, width = shape[:2]
    if min(height, width) < at_least:
        raise Infeasible(
            f"{architecture} needs images of at least {at_least}x{at_least} pixels; these are "
            f"{height}x{width}; read them larger, or use keras/cnn"
        )
    return Map(height, width, advice)
