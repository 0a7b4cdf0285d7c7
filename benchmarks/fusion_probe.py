"""What one program that trains K LeNets side by side saves against K programs, in samples per second.

    python benchmarks/fusion_probe.py                  # K = 1, 8, 32, 128; meant for a GPU
    python benchmarks/fusion_probe.py --quick          # two minutes on a CPU: shows that it works, no more

It needs JAX: pip install jax (for a GPU: pip install "jax[cuda13]").

The K models differ in first weights, learning rate and order of rows, as trials of a sweep do. The separate
ones are one compiled program called K times, the fused ones that program under ``jax.vmap``. Either way a
call trains on all its batches (``lax.scan`` over rows that stay on the device) and nothing waits between
calls. With weights of its own for each model, a convolution becomes one with K groups; "im2col" writes it as
patches times a matrix instead, which becomes K matrix products. A loss that is off tells arms that do not
compute the same.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

try:
    import jax
    import jax.numpy as jnp
    from jax import lax
except ImportError:
    sys.exit("fusion_probe needs JAX: pip install jax (for a GPU: pip install 'jax[cuda13]')")

ROWS, SIDE, CLASSES, KERNEL = 4096, 28, 10, 5
KERNELS = {"conv_1": (KERNEL, KERNEL, 1, 6), "conv_2": (KERNEL, KERNEL, 6, 16)}
UNITS = (400, 120, 84, CLASSES)  # 400 values are left of an image: 16 maps of 5x5

Convolution = Callable[[Any, Any, str], Any]
Trial = tuple[Any, Any, Any]  # its state, its learning rate, the rows of each of its batches


# ---- the model ----


def direct(images: Any, kernel: Any, padding: str) -> Any:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def im2col(images: Any, kernel: Any, padding: str) -> Any:
    if padding == "SAME":
        images = jnp.pad(images, ((0, 0), (KERNEL // 2,) * 2, (KERNEL // 2,) * 2, (0, 0)))
    height, width = (side - KERNEL + 1 for side in images.shape[1:3])
    views = [
        images[:, top : top + height, left : left + width]
        for top, left in itertools.product(range(KERNEL), repeat=2)
    ]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def logits(weights: Any, images: Any, convolution: Convolution) -> Any:
    """LeNet-5 with biases, (n, 28, 28, 1) to (n, CLASSES)."""
    maps = images
    for name, padding in (("conv_1", "SAME"), ("conv_2", "VALID")):
        maps = jnp.tanh(convolution(maps, weights[name], padding) + weights[f"{name}_bias"])
        count, height, width, filters = maps.shape
        maps = maps.reshape(count, height // 2, 2, width // 2, 2, filters).mean(axis=(2, 4))
    values = maps.reshape(len(maps), -1)
    for layer in range(1, len(UNITS)):
        values = values if layer == 1 else jnp.tanh(values)
        values = values @ weights[f"dense_{layer}"] + weights[f"dense_{layer}_bias"]
    return values


def first_weights(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = KERNELS | {f"dense_{i}": pair for i, pair in enumerate(itertools.pairwise(UNITS), start=1)}
    weights = {}
    for name, shape in shapes.items():
        spread = np.sqrt(6 / (np.prod(shape[:-1]) + shape[-1] * np.prod(shape[:-2])))
        weights[name] = rng.uniform(-spread, spread, shape).astype(np.float32)
        weights[f"{name}_bias"] = np.zeros(shape[-1], np.float32)
    return weights


# ---- training ----


def trained(state: Any, rate: Any, places: Any, images: Any, labels: Any, *, convolution: Convolution) -> Any:
    """The state after Adam on the batches of these rows, and the loss of each batch."""

    def loss(weights: Any, rows: Any) -> Any:
        shown = images[rows].astype(jnp.float32) / 255
        chances = jax.nn.log_softmax(logits(weights, shown, convolution))
        return -jnp.take_along_axis(chances, labels[rows, None], axis=1).mean()

    def step(state: Any, rows: Any) -> Any:
        weights, means, squares, count = state
        value, slopes = jax.value_and_grad(loss)(weights, rows)
        count = count + 1
        means = jax.tree.map(lambda mean, slope: 0.9 * mean + 0.1 * slope, means, slopes)
        squares = jax.tree.map(lambda square, slope: 0.999 * square + 0.001 * slope**2, squares, slopes)
        size = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = jax.tree.map(
            lambda weight, mean, square: weight - size * mean / (jnp.sqrt(square) + 1e-7),
            weights,
            means,
            squares,
        )
        return (weights, means, squares, count), value

    return lax.scan(step, state, places)


def trials(number: int, batch_size: int, steps: int) -> list[Trial]:
    made = []
    for seed in range(number):
        weights = first_weights(seed)
        nothing = jax.tree.map(np.zeros_like, weights)
        order = np.random.default_rng([seed, 1]).integers(ROWS, size=(steps, batch_size), dtype=np.int32)
        made.append(((weights, nothing, nothing, np.float32(0)), np.float32(1e-3 * 1.01**seed), order))
    return made


def separately(convolution: Convolution, every: list[Trial], images: Any, labels: Any) -> Callable[[], Any]:
    program = jax.jit(partial(trained, convolution=convolution))
    held = [jax.device_put(trial) for trial in every]
    return lambda: [program(*trial, images, labels)[1] for trial in held]


def fused(convolution: Convolution, every: list[Trial], images: Any, labels: Any) -> Callable[[], Any]:
    program = jax.jit(jax.vmap(partial(trained, convolution=convolution), in_axes=(0, 0, 0, None, None)))
    held = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *every))
    return lambda: program(*held, images, labels)[1]


# ---- measuring ----

ARMS = {
    "separate, conv": (separately, direct),
    "separate, im2col": (separately, im2col),
    "fused, grouped conv": (fused, direct),
    "fused, im2col": (fused, im2col),
}


def measured(call: Callable[[], Any], samples: int, repeats: int) -> tuple[float, float, Any]:
    """Samples per second at the median, seconds of the first call beyond that (compiling), losses."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        losses = jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    usual = float(np.median(seconds[1:]))
    return samples / usual, seconds[0] - usual, np.asarray(losses)


def rows_of_table(numbers: Iterable[int], batch_size: int, steps: int, repeats: int) -> Iterable[list[str]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=ROWS)
    patterns = rng.integers(0, 256, (CLASSES, SIDE, SIDE, 1))
    images = ((patterns[labels] + rng.integers(0, 256, (ROWS, SIDE, SIDE, 1))) // 2).astype(np.uint8)
    on_device = jax.device_put((images, labels.astype(np.int32)))
    for number in numbers:
        every = trials(number, batch_size, steps)
        results = {
            arm: measured(way(convolution, every, *on_device), number * batch_size * steps, repeats)
            for arm, (way, convolution) in ARMS.items()
        }
        separate_speed, _, separate_losses = results["separate, conv"]
        for arm, (speed, compiling, losses) in results.items():
            yield [
                str(number),
                arm,
                f"{speed:,.0f}",
                f"{speed / separate_speed:.2f}",
                f"{compiling:.1f}",
                f"{np.abs(losses - separate_losses).max():.0e}",
                f"{losses[:, 0].mean():.2f} to {losses[:, -1].mean():.2f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description="K LeNets in one program against K programs, on JAX.")
    parser.add_argument("--models", type=int, nargs="+", default=[1, 8, 32, 128], metavar="K")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=64, help="batches in one call")
    parser.add_argument("--repeats", type=int, default=5, help="calls that are timed after the first")
    parser.add_argument("--quick", action="store_true", help="K = 1 and 4, 8 steps, 2 repeats")
    given = parser.parse_args()
    if given.quick:
        given.models, given.steps, given.repeats = [1, 4], 8, 2
    table = Table(
        "K",
        "arm",
        "samples/s",
        "x separate conv",
        "compiling s",
        "loss off by",
        "loss",
        title=f"JAX {jax.__version__} on {jax.devices()[0].device_kind}, batches of {given.batch_size}",
    )
    for row in rows_of_table(given.models, given.batch_size, given.steps, given.repeats):
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
