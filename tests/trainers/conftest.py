"""Small real data for the tests of trainers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainers.contract import Fold


@pytest.fixture(scope="session")
def make_fold() -> Callable[..., Fold]:
    """``make_fold(seed=1)``: a fold of 160 handwritten digits, 100 of them to train on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = images[:160].reshape(-1, 8, 8, 1).astype(np.uint8)
    y = labels[:160].astype(np.int64)

    def make(**changes: Any) -> Fold:
        digits: dict[str, Any] = dict(
            x_train=x[:100],
            y_train=y[:100],
            x_valid=x[100:],
            classes=tuple("0123456789"),
            scale=16.0,
            epochs=4,
            seed=0,
        )
        return Fold(**{**digits, **changes})

    return make


@pytest.fixture(scope="session")
def fold(make_fold: Callable[..., Fold]) -> Fold:
    return make_fold()
