"""First weights drawn by NumPy where the backend would compile a program for each of their shapes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Draw = Callable[..., NDArray[np.float64]]


def quick_draws() -> AbstractContextManager[None]:
    """`drawn_by_numpy` on JAX; other backends draw at once, and are left alone.

    JAX compiles a program for every shape, which takes as long as compiling the training of a small model.
    """
    import keras

    return drawn_by_numpy() if keras.config.backend() == "jax" else nullcontext()


@contextmanager
def drawn_by_numpy() -> Iterator[None]:
    """While it is open, Keras's initializers draw the same distributions with NumPy.

    What is drawn from a stream of random numbers, as by a layer of dropout, is left to the backend.
    """
    from keras.src.backend import random  # where initializers take their numbers from; no public name has it

    kept = {name: getattr(random, name) for name in _DRAWS}
    for name, draw in _DRAWS.items():
        setattr(random, name, partial(_drawn, draw, kept[name]))
    try:
        yield
    finally:
        for name, own in kept.items():
            setattr(random, name, own)


def _drawn(draw: _Draw, own: Callable[..., Any], shape: Any, *, seed: Any, dtype: Any, **ends: float) -> Any:
    if not isinstance(seed, int):
        return own(shape, seed=seed, dtype=dtype, **ends)
    return draw(np.random.default_rng(seed), tuple(shape), **ends).astype(dtype or np.float32)


def _uniform(
    chance: np.random.Generator, shape: tuple[int, ...], minval: float, maxval: float
) -> NDArray[np.float64]:
    return chance.uniform(minval, maxval, shape)


def _normal(
    chance: np.random.Generator, shape: tuple[int, ...], mean: float, stddev: float
) -> NDArray[np.float64]:
    return chance.normal(mean, stddev, shape)


def _truncated_normal(
    chance: np.random.Generator, shape: tuple[int, ...], mean: float, stddev: float
) -> NDArray[np.float64]:
    """Within two standard deviations, by the inverse of the distribution."""
    from scipy.special import ndtr, ndtri

    within: NDArray[np.float64] = ndtri(chance.uniform(ndtr(-2), ndtr(2), shape))
    return mean + stddev * within


_DRAWS: dict[str, _Draw] = {
    "uniform": _uniform,
    "normal": _normal,
    "truncated_normal": _truncated_normal,
}
