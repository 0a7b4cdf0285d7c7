"""Class weights: their formula, their mean over the rows, and their limits."""

import numpy as np
import pytest

from trainers.rebalance import LARGEST_RATIO, class_weights


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0])
def test_weights_fall_with_the_power_of_the_count(strength: float) -> None:
    weights = class_weights(labels(80, 15, 5), 3, strength)
    assert weights.dtype == np.float32
    assert weights[1] / weights[0] == pytest.approx((80 / 15) ** strength)
    assert weights[2] / weights[0] == pytest.approx((80 / 5) ** strength)


@pytest.mark.parametrize("counts", [(80, 15, 5), (1, 1000, 3), (7, 7), (0, 4, 6)])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_rows_weigh_one_on_average(counts: tuple[int, ...], strength: float) -> None:
    y = labels(*counts)
    assert class_weights(y, len(counts), strength)[y].mean() == pytest.approx(1, rel=1e-6)


def test_full_strength_gives_each_class_the_same_say() -> None:
    counts = np.array([60, 30, 10])
    np.testing.assert_allclose(class_weights(labels(*counts), 3, 1.0) * counts, 100 / 3, rtol=1e-6)


def test_no_strength_leaves_rows_as_they_are() -> None:
    assert class_weights(labels(90, 10), 2, 0.0).tolist() == [1, 1]


def test_no_class_outweighs_another_by_more_than_the_limit() -> None:
    weights = class_weights(labels(10_000, 1_000, 1), 3, 1.0)
    assert weights[2] / weights[0] == pytest.approx(LARGEST_RATIO)
    assert weights[1] / weights[0] == pytest.approx(10)


def test_a_class_without_rows_weighs_nothing() -> None:
    assert class_weights(labels(5, 0, 5, 0), 4, 1.0).tolist() == [1, 0, 1, 0]
