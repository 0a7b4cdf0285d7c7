"""First weights drawn by NumPy are distributed as those of Keras, and nothing else is drawn by it."""

from typing import Any

import numpy as np
import pytest

from trainers.keras_backend import import_keras
from trainers.keras_draws import drawn_by_numpy, quick_draws

pytestmark = pytest.mark.jax
SHAPE = (3, 3, 40, 50)
INITIALIZERS = (
    *("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal"),
    *("random_uniform", "random_normal", "truncated_normal"),
)


def initializer(name: str) -> Any:
    made = import_keras().initializers.get(name)
    return type(made).from_config({**made.get_config(), "seed": 7})


def test_only_jax_is_spared_its_own_draws() -> None:
    own = np.asarray(initializer("glorot_uniform")(SHAPE))
    with quick_draws():
        drawn = np.asarray(initializer("glorot_uniform")(SHAPE))
    assert (drawn == own).all() == (import_keras().config.backend() != "jax")


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_draw_the_same_distribution(name: str) -> None:
    own = np.asarray(initializer(name)(SHAPE))
    with drawn_by_numpy():
        drawn, again = (np.asarray(initializer(name)(SHAPE)) for _ in range(2))
    np.testing.assert_array_equal(drawn, again)
    assert drawn.dtype == own.dtype == np.float32
    assert (drawn != own).any()
    ranks = np.linspace(0, 1, 21)[1:-1]
    np.testing.assert_allclose(
        np.quantile(drawn, ranks), np.quantile(own, ranks), atol=0.05 * own.std(), rtol=0
    )
    np.testing.assert_allclose(abs(drawn).max(), abs(own).max(), rtol=0.2)


def test_a_stream_of_random_numbers_goes_on_as_it_would() -> None:
    keras = import_keras()

    def noise(generator: Any) -> Any:
        return np.asarray(keras.random.uniform((4,), seed=generator))

    mine, other = keras.random.SeedGenerator(3), keras.random.SeedGenerator(3)
    expected = [noise(mine), noise(mine)]
    with drawn_by_numpy():
        first = noise(other)
    np.testing.assert_array_equal([first, noise(other)], expected)


def test_what_keras_draws_with_is_put_back() -> None:
    own = np.asarray(initializer("glorot_uniform")(SHAPE))
    with pytest.raises(ZeroDivisionError), drawn_by_numpy():
        _ = 1 / 0
    np.testing.assert_array_equal(np.asarray(initializer("glorot_uniform")(SHAPE)), own)
