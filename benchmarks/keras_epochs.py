"""What training a Keras model costs beside its arithmetic: starting a trial, an epoch, its metrics, memory.

    python benchmarks/keras_epochs.py

Each arm runs in a process of its own with one TensorFlow thread. Starting is the time from asking for a trial
to the end of its first epoch, less a later epoch; ``fit`` trains the same model with plain Keras. Times are
CPU time, so that a busy machine tells little, except where two processes share the cores.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

DATA = ("digits", "28x28")
SETTINGS: dict[str, Any] = {"batch_size": 32}
SIZES = ((1, 4), (1, 4), (8, 64), (8, 64))
OPTIMIZERS = ("adam", "nadam", "rmsprop", "sgd", "adagrad", "adadelta")
ACTIVATIONS = ("relu", "elu", "gelu", "tanh", "leaky_relu", "selu")
FEW = 80
"""Rows to measure a start by: two batches to train on."""
STARTS = 5
"""How often a structure that is known is started again."""


def fold_of(data: str, rows: int | None = None) -> Any:
    """The handwritten digits, or 6,000 pictures of 28x28 at random: costs do not depend on what they show.

    With ``rows``, so many of them.
    """
    from trainers.contract import Fold

    if data == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits().images.astype(np.uint8)[..., None], load_digits().target.astype(np.int64)
    else:
        chance = np.random.default_rng(0)
        x, y = chance.integers(0, 256, (6000, 28, 28, 1), np.uint8), chance.integers(0, 10, 6000)
    x, y = x[:rows], y[:rows]
    first = len(x) * 4 // 5
    scale, classes = float(x.max()), tuple("0123456789")
    return Fold(x, np.arange(first), y[:first], np.arange(first, len(x)), classes, scale, 27, 0)


# ---- arms ----


def _ours(data: str, epochs: int, rows: int | None = None, **settings: Any) -> Iterator[float]:
    """CPU seconds of each epoch, the first one with all that comes before it."""
    from trainers.keras_trainer import KerasTrainer

    trainer = KerasTrainer("cnn")
    fold, made = fold_of(data, rows), trainer.Settings(**SETTINGS, **settings)
    begun = time.process_time()
    training = trainer.train(made, fold, None)  # type: ignore[arg-type]
    epoch = next(training)
    for _ in range(epochs):
        yield time.process_time() - begun
        begun = time.process_time()
        epoch = training.send(0.5)
    assert epoch.number == epochs + 1
    training.close()


def _fit(data: str, epochs: int, in_one: bool, **settings: Any) -> Iterator[float]:
    from trainers.architectures import cnn
    from trainers.keras_backend import import_keras
    from trainers.keras_models import fresh_session

    keras, fold, made = import_keras(), fold_of(data), cnn.Settings(**SETTINGS, **settings)
    x, valid = fold.x_train.astype(np.float32), fold.x_valid.astype(np.float32)
    begun = time.process_time()
    with fresh_session(0, "float32"):
        model = cnn.build(made, fold.x.shape[1:], 10, fold.scale)
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=-(-len(x) // made.batch_size) if in_one else 1,
    )
    for _ in range(epochs):
        model.fit(x, fold.y_train, batch_size=made.batch_size, verbose=0)
        model.predict(valid, batch_size=256, verbose=0)
        yield time.process_time() - begun
        begun = time.process_time()


def time_start(data: str) -> dict[str, float]:
    """Of the first trial of a structure, and the medians of later ones and of later ones of other widths.

    On few rows: starting takes as long on many, and an epoch less, of which it is told apart.
    """

    def start_s(**settings: Any) -> float:
        epochs = list(_ours(data, 6, FEW, **settings))
        return epochs[0] - statistics.median(epochs[1:])

    start_s()  # another structure has warmed the process up
    numbers = range(1, STARTS + 1)
    return {
        "first": start_s(dropout=0.2),
        "second": statistics.median(start_s(dropout=0.4, learning_rate=0.01 / k) for k in numbers),
        "wider": statistics.median(start_s(dropout=0.3, filters=40 + k, dense_units=90 + k) for k in numbers),
    }


def time_epochs(data: str, arm: str, epochs: int = 8) -> dict[str, float]:
    arms: dict[str, Callable[[], Iterator[float]]] = {
        "ours": lambda: _ours(data, epochs),
        "fit": lambda: _fit(data, epochs, in_one=False),
        "fit, all steps in one": lambda: _fit(data, epochs, in_one=True),
    }
    return {"epoch": min(list(arms[arm]())[1:])}


def time_metrics(data: str) -> dict[str, float]:
    from trainers.metrics import score

    fold = fold_of(data)
    chance = np.random.default_rng(0)
    y = chance.integers(0, 10, len(fold.valid))
    probabilities = chance.dirichlet(np.ones(10), len(y)).astype(np.float32)
    times = []
    for _ in range(20):
        begun = time.process_time()
        for _ in range(10):
            score(y, probabilities)
        times.append((time.process_time() - begun) / 10)
    return {"score": min(times)}


def measure_memory(trials: int) -> dict[str, float]:
    """MB in use after each tenth of so many trials, nearly all of them of different structures."""
    chance = np.random.default_rng(0)
    used = {}
    for number in range(1, trials + 1):
        layers, kernel, filters, units = (int(chance.integers(*ends)) for ends in SIZES)
        structure = {
            "conv_layers": layers,
            "kernel_size": kernel,
            "activation": str(chance.choice(ACTIVATIONS)),
            "optimizer": str(chance.choice(OPTIMIZERS)),
            "dropout": float(chance.choice([0.0, 0.3])),
        }
        list(_ours("digits", 2, filters=filters, dense_units=units, **structure))
        if number % max(1, trials // 10) == 0:
            used[str(number)] = _resident_mb()
    return used


def time_oversubscribed() -> dict[str, float]:
    """Wall seconds of the epochs of one of two workers that train at the same time."""
    list(_ours("28x28", 1))
    begun = time.perf_counter()
    list(_ours("28x28", 6))
    return {"seconds": time.perf_counter() - begun}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# ---- a process for each ----

PARTS: dict[str, Callable[..., dict[str, float]]] = {
    part.__name__: part
    for part in (time_start, time_epochs, time_metrics, measure_memory, time_oversubscribed)
}


def measure(part: str, threads: int = 1, onednn: bool = True, **options: Any) -> dict[str, float]:
    environment = os.environ | {
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "TF_ENABLE_ONEDNN_OPTS": str(int(onednn)),
        "CUDA_VISIBLE_DEVICES": "",
    }
    arguments = json.dumps({"part": part, **options})
    command = [sys.executable, str(Path(__file__).resolve()), "--part", arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{part} {options} failed:\n{done.stderr[-4000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _median(part: str, key: str, repeats: int, **options: Any) -> float:
    return statistics.median(measure(part, **options)[key] for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=300, help="of the last part, about memory")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        given = json.loads(options.part)
        print(json.dumps(PARTS[given.pop("part")](**given)))
        return
    table = Table("measured (cnn, batches of 32)", *DATA, title="A Keras trial beside its arithmetic")
    starts = {data: [measure("time_start", data=data) for _ in range(options.repeats)] for data in DATA}
    for key, name in (
        ("first", "ms to start the first trial of a structure"),
        ("second", "  a later one"),
        ("wider", "  a later one of other widths"),
    ):
        table.add_row(
            name, *(f"{1e3 * statistics.median(s[key] for s in starts[data]):.0f}" for data in DATA)
        )
    for key, name in (("second", "  later / first (goal 0.05)"), ("wider", "  of other widths / first")):
        shares = [statistics.median(s[key] / s["first"] for s in starts[data]) for data in DATA]
        table.add_row(name, *(f"{share:.3f}" for share in shares))
    table.add_section()
    arms = ("ours", "fit", "fit, all steps in one")
    times = {
        arm: [_median("time_epochs", "epoch", options.repeats, data=data, arm=arm) for data in DATA]
        for arm in arms
    }
    times["ours, without oneDNN's kernels"] = [
        _median("time_epochs", "epoch", options.repeats, onednn=False, data=data, arm="ours") for data in DATA
    ]
    for arm, of_data in times.items():
        table.add_row(f"ms an epoch with its predictions, {arm}", *(f"{1e3 * s:.0f}" for s in of_data))
    scores = [_median("time_metrics", "score", options.repeats, data=data) for data in DATA]
    table.add_row("ms to score it", *(f"{1e3 * s:.2f}" for s in scores))
    ratios = [score / epoch for score, epoch in zip(scores, times["ours"], strict=True)]
    table.add_row("  share of the epoch (goal 0.02)", *(f"{ratio:.4f}" for ratio in ratios))
    table.add_section()
    for threads in (1, 2):
        with ThreadPoolExecutor(2) as pool:
            pair = [pool.submit(measure, "time_oversubscribed", threads=threads) for _ in range(2)]
            slower = max(each.result()["seconds"] for each in pair)
        table.add_row(f"s for 7 epochs in 2 workers at once, {threads} threads each", "", f"{slower:.1f}")
    table.add_section()
    for number, used in measure("measure_memory", trials=options.trials).items():
        table.add_row(f"MB after {number} trials in one process", f"{used:.0f}", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
