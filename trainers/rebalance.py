"""What a model does about rare classes while it trains."""

import numpy as np
from numpy.typing import NDArray

LARGEST_RATIO = 50.0
"""Between the weights of two classes: beyond it a few rows would drive all updates."""


def class_weights(y: NDArray[np.int64], num_classes: int, strength: float) -> NDArray[np.float32]:
    """(num_classes,) what a row of each class counts for: the class's number of rows to the power -strength.

    ``strength`` 0 leaves all rows equal, 1 gives each class the same say within ``LARGEST_RATIO``, 0.5 lies
    between. The weights of all rows have mean 1, so that a learning rate keeps its meaning; a class
    without rows weighs 0.
    """
    counts = np.bincount(y, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = counts[present] ** -float(strength)
    weights = weights.clip(max=LARGEST_RATIO * weights[present].min())
    return np.asarray(weights * counts.sum() / (weights @ counts), np.float32)
