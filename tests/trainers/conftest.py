"""Small real data for the tests of trainers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from trainers.contract import Fold, Trainer


@pytest.fixture(scope="session")
def make_fold() -> Callable[..., Fold]:
    """``make_fold(seed=1)``: a fold of 160 handwritten digits, 100 of them to train on."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = images[:160].reshape(-1, 8, 8, 1).astype(np.uint8)
    y = labels[:160].astype(np.int64)

    def make(**changes: Any) -> Fold:
        digits: dict[str, Any] = dict(
            x=x,
            train=np.arange(100),
            y_train=y[:100],
            valid=np.arange(100, 160),
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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small rows are not worth a second thread; boosting crawls where threads outnumber free cores."""
    import sklearn.ensemble  # noqa: F401  # only what is loaded can be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@pytest.fixture
def trainer() -> Trainer:
    """Of a small convolutional net."""
    from trainers.keras_trainer import KerasTrainer

    return KerasTrainer("cnn")
