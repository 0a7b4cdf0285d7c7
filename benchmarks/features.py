"""What a frozen backbone costs: in every epoch of every trial, or once for all of them.

    python benchmarks/features.py                             # about a minute on two cores
    python benchmarks/features.py --trials 10 --epochs 20     # what is saved grows with both

Both arms train the heads of a frozen ResNet-50 with random weights (those of ImageNet cost the same) with the
same trainer on the same noise, and end with the same probabilities. Each is a process of its own. A layer
behind the backbone counts the rows that come through it, those that fill up a batch included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
ARMS = ("whole network", "features once")
Result = dict[str, Any]


def train(arm: str, trials: int, epochs: int, rows: int, side: int) -> Result:
    from trainers.architectures import resnet50
    from trainers.keras_trainer import KerasTrainer

    counts: list[Any] = []
    architecture = SimpleNamespace(Settings=resnet50.Settings)
    if arm == "whole network":  # an architecture that does not tell its backbone from its head
        architecture.build = lambda *given: _whole(resnet50, counts, *given)
    else:
        architecture.build, architecture.head = resnet50.build, resnet50.head
        architecture.backbone_key = resnet50.backbone_key
        architecture.backbone = lambda *given: _counted(resnet50.backbone(*given), counts)
    trainer = KerasTrainer("resnet50", architecture)
    _warm_up()
    cpu = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        fold = _fold(rows, side, epochs, Path(folder))
        seconds = []
        for trial in range(trials):
            begun = time.perf_counter()
            settings = resnet50.Settings(
                weights="none", pooling="average", head_units=64, learning_rate=1e-3 / (trial + 1)
            )
            for epoch in trainer.train(settings, fold, None):
                probabilities = epoch.probabilities
            seconds.append(time.perf_counter() - begun)
    return {
        "rows": sum(int(count) for count in counts),
        "first_s": seconds[0],
        "later_s": float(np.mean(seconds[1:])) if trials > 1 else 0.0,
        "all_s": sum(seconds),
        "cpu_s": time.process_time() - cpu,
        "probabilities": probabilities.tolist(),
    }


def _whole(
    resnet50: Any, counts: list[Any], settings: Any, shape: Any, num_classes: int, scale: float
) -> Any:
    import keras

    body = _counted(resnet50.backbone(settings, shape, scale), counts)
    return keras.Sequential([body, resnet50.head(settings, body.output_shape[1:], num_classes)])


def _counted(model: Any, counts: list[Any]) -> Any:
    """The model, and in ``counts`` a variable with the number of rows that ever came through it."""
    import keras

    class Count(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(trainable=False)
            self.rows = self.add_weight(shape=(), dtype="int32", initializer="zeros")
            counts.append(self.rows)

        def call(self, x: Any) -> Any:
            self.rows.assign_add(keras.ops.shape(x)[0])
            return x

    return keras.Sequential([keras.Input(model.input_shape[1:]), model, Count()])


def _warm_up() -> None:
    """Whatever a process does once, import and first trace, is part of neither arm."""
    from trainers.architectures import cnn
    from trainers.keras_trainer import KerasTrainer

    fold = _fold(rows=20, side=8, epochs=1, cache=None)
    for _ in KerasTrainer("cnn").train(cnn.Settings(), fold, None):
        pass


def _fold(rows: int, side: int, epochs: int, cache: Path | None) -> Any:
    from trainers.contract import Fold

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
    order = np.arange(rows)
    train, valid = order[: rows * 4 // 5], order[rows * 4 // 5 :]
    return Fold(x, train, rng.integers(0, 3, len(train)), valid, ("a", "b", "c"), 255.0, epochs, 0, cache)


def measure(arm: str, options: argparse.Namespace) -> Result:
    sizes = [f"--{name}={getattr(options, name)}" for name in ("trials", "epochs", "rows", "side")]
    answer = subprocess.run(
        [sys.executable, __file__, "--arm", arm, *sizes],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: Result = json.loads(answer.stdout.splitlines()[-1])
    return result


def table(results: dict[str, Result], options: argparse.Namespace) -> Table:
    title = f"{options.trials} trials of {options.epochs} epochs on {options.rows} images of {options.side}x"
    drawn = Table("measured", title=f"A frozen ResNet-50: {title}{options.side}")
    for arm in ARMS:
        drawn.add_column(arm, justify="right")
    drawn.add_column("ratio", justify="right")
    for name, key, unit in (
        ("rows through the backbone", "rows", 1),
        ("  passes over all rows", "rows", 1 / options.rows),
        ("s, first trial", "first_s", 1),
        ("s, each further trial", "later_s", 1),
        ("s, all trials", "all_s", 1),
        ("s of CPU, all trials", "cpu_s", 1),
    ):
        whole, once = (results[arm][key] * unit for arm in ARMS)
        digits = 0 if name == "rows through the backbone" else 2
        drawn.add_row(
            name, f"{whole:,.{digits}f}", f"{once:,.{digits}f}", f"{whole / once:.1f}" if once else ""
        )
    ends = [np.array(results[arm]["probabilities"]) for arm in ARMS]
    drawn.add_row("largest difference of a probability", "", f"{np.abs(ends[0] - ends[1]).max():.1e}", "")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=320, help="images, a fifth of them for validation")
    parser.add_argument("--side", type=int, default=64, help="their height and width in pixels")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(train(options.arm, options.trials, options.epochs, options.rows, options.side)))
        return
    results = {arm: measure(arm, options) for arm in ARMS}
    Console(width=None if sys.stdout.isatty() else 110).print(table(results, options))


if __name__ == "__main__":
    main()
