"""Updates by kernels do what Keras's own do."""

import os
from typing import Any

import numpy as np
import pytest

from trainers.keras_backend import import_keras
from trainers.keras_updates import use_kernels

pytestmark = pytest.mark.skipif(
    os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow", reason="the kernels are TensorFlow's"
)


def trained(kind: str, config: dict[str, Any], by_kernels: bool) -> list[Any]:
    """A matrix and a vector, and all that the optimizer keeps, after ten updates by the same gradients."""
    import tensorflow as tf

    keras, chance = import_keras(), np.random.default_rng(0)
    variables = [keras.Variable(chance.normal(size=shape).astype(np.float32)) for shape in ((3, 4), (4,))]
    optimizer = keras.optimizers.get({"class_name": kind, "config": {"learning_rate": 0.05, **config}})
    optimizer.build(variables)
    keras_own = optimizer._backend_update_step
    if by_kernels:
        use_kernels(optimizer)
    assert (optimizer._backend_update_step == keras_own) != by_kernels

    @tf.function(autograph=False)
    def update(*gradients: Any) -> None:
        optimizer.apply(list(gradients), variables)

    for _ in range(10):
        update(*(tf.constant(chance.normal(size=v.shape).astype(np.float32)) for v in variables))
    return [np.asarray(variable) for variable in (*variables, *optimizer.variables)]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("adam", {}),
        ("adam", {"weight_decay": 0.1, "epsilon": 1e-3}),
        ("sgd", {}),
        ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_kernels_update_as_keras_does(kind: str, config: dict[str, Any]) -> None:
    ours, theirs = trained(kind, config, by_kernels=True), trained(kind, config, by_kernels=False)
    for one, other in zip(ours, theirs, strict=True):
        # A kernel takes 1 - beta_2 of what float32 makes of 0.999, Keras of 0.999 itself.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "config"), [("adam", {"amsgrad": True}), ("rmsprop", {}), ("nadam", {})])
def test_what_no_kernel_does_is_left_to_keras(kind: str, config: dict[str, Any]) -> None:
    optimizer: Any = import_keras().optimizers.get({"class_name": kind, "config": config})
    before = optimizer._backend_update_step
    use_kernels(optimizer)
    assert optimizer._backend_update_step == before
