"""Sweeps on a GPU with Keras on JAX: one trial at a time and several that share it, beside plain Keras `fit`.

    python benchmarks/gpu_sweep.py            # digits and 6,000 rows of Fashion-MNIST
    python benchmarks/gpu_sweep.py --quick    # on a CPU too: shows that it works, no more

Needs JAX: pip install jax (for a GPU: pip install "jax[cuda13]").

The sweeps are those of peers.py. Plain Keras trains what the first of them trained, in its order: each
configuration for as many epochs, by `fit` in one process, and predicts the validation rows after each. Epochs
per second are all epochs but the first by the seconds after it: starting Python, Ray and Keras is left out,
compiling is not, of which every new structure takes some. ``--seconds`` ends each arm after so much training;
the rates of arms that were ended tell of the trials that they came to.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import ROOT, environment, own_folder
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(ROOT))

from peer_arms import SWEEP, Params, Task, compiled, rows_of
from peers import PARTS, task_of

AT_ONCE = (1, 4, 8)


@dataclass(frozen=True)
class Arm:
    """What one arm did: when each epoch ended, how long those after a trial's first took, its best score."""

    title: str
    begun: float
    trials: Sequence[tuple[Params, int]]
    """Each configuration with its number of epochs."""
    ends: Sequence[float]
    seconds: Sequence[float]
    best: float

    def cells(self, plain: float) -> Iterator[str]:
        yield self.title
        yield str(len(self.trials))
        yield str(len(self.ends))
        yield f"{self.ends[0] - self.begun:.1f}"
        yield f"{self.ends[-1] - self.begun:.1f}"
        yield f"{self.rate:.2f}"
        yield f"{self.rate / plain:.2f}"
        yield f"{1e3 * statistics.median(self.seconds):.1f}" if self.seconds else ""
        yield f"{self.best:.4f}"

    @property
    def rate(self) -> float:
        """Epochs per second."""
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])


def swept(task: Task, at_once: int, is_on_gpu: bool, seconds: float | None) -> Arm:
    from search.events import Reported, read_events
    from search.results import load_run

    cores = os.cpu_count() or 1
    share = {"cpu": cores // at_once or cores / at_once, "gpu": 1 / at_once if is_on_gpu else 0}
    overrides = [*task.overrides, *(f"resources.{name}={amount}" for name, amount in share.items())]
    if seconds:
        overrides.append(f"budget.minutes={seconds / 60}")
    with own_folder() as folder:
        command = [sys.executable, "-m", "search", "run", str(SWEEP), "--name", "gpu", "--runs", str(folder)]
        begun = time.time()
        _run([*command, *(part for each in overrides for part in ("--set", each))])
        run = load_run("gpu", folder).run
        reports = [e for e, _ in read_events(folder / "gpu" / "events.jsonl") if isinstance(e, Reported)]
    trials = [(dict(trial.params), trial.epoch) for trial in run.trials.values() if trial.epoch]
    return Arm(
        f"Rungwise, {at_once} at once" if at_once > 1 else "Rungwise, one at a time",
        begun,
        trials,
        sorted(report.time for report in reports),
        [report.seconds for report in reports if report.epoch > 1],
        max(report.metrics["macro_f1"] for report in reports),
    )


def fitted(task: Task, trials: Sequence[tuple[Params, int]], seconds: float | None) -> Arm:
    with own_folder() as folder:
        given = {"task": vars(task), "trials": trials, "seconds": seconds, "folder": str(folder)}
        begun = time.time()
        _run([sys.executable, str(Path(__file__).resolve()), "--fit", json.dumps(given)])
        told = json.loads((folder / "answer.json").read_text())
    return Arm("plain Keras, fit", begun, **told)


def fit(given: Mapping[str, Any]) -> None:
    """In a process of its own: plain Keras over the configurations given."""
    from sklearn.metrics import f1_score

    rows = rows_of(Task.from_json(given["task"]))
    train, valid = rows.folds[0]
    x, y, shown, truth = rows.x[train], rows.one_hot(train), rows.x[valid], rows.y[valid]
    told: dict[str, Any] = {"trials": [], "ends": [], "seconds": [], "best": 0.0}
    end = time.time() + (given["seconds"] or 1e9)
    for params, epochs in given["trials"]:
        model, number = compiled(params, rows, 0), 0
        while number < epochs and time.time() < end:
            begun = time.perf_counter()
            model.fit(x, y, batch_size=params["batch_size"], verbose=0)
            found = model.predict(shown, batch_size=256, verbose=0).argmax(axis=1)
            number += 1
            told["ends"].append(time.time())
            if number > 1:
                told["seconds"].append(time.perf_counter() - begun)
            told["best"] = max(told["best"], float(f1_score(truth, found, average="macro")))
        told["trials"] += [(params, number)] if number else []
    (Path(given["folder"]) / "answer.json").write_text(json.dumps(told))


def _run(command: Sequence[str]) -> str:
    """To its end, on JAX and with the GPU; returns what it printed."""
    own = environment() | {"KERAS_BACKEND": "jax"}
    del own["CUDA_VISIBLE_DEVICES"]
    places = (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))
    own["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    done = subprocess.run(
        command, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE, metavar="K", help="trials per GPU")
    parser.add_argument("--seconds", type=float, help="of training in each arm, at most")
    parser.add_argument("--quick", action="store_true", help="few trials and epochs, on a CPU if need be")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        fit(json.loads(options.fit))
        return
    versions, device, is_on_gpu = _device()
    if not (is_on_gpu or options.quick):
        sys.exit(f"gpu_sweep needs a GPU, and JAX has found a {device} here; --quick runs on that too")
    for name in options.data:
        part, task = PARTS[name], task_of("rungwise", name, 0, options.quick)
        first, *others = options.at_once
        arms = [_told(swept(task, first, is_on_gpu, options.seconds))]
        plain = _told(fitted(task, arms[0].trials, options.seconds))
        arms += [_told(swept(task, k, is_on_gpu, options.seconds)) for k in others]
        table = Table("arm", title=f"Sweeps on one {device}, {part.title}", caption_justify="left")
        for column in ("trials", "epochs", "first epoch s", "wall s", "epochs/s", "x plain", "ms", "best"):
            table.add_column(column, justify="right")
        for arm in (plain, *arms):
            table.add_row(*arm.cells(plain.rate))
        table.caption = (
            f"{task.trials} trials of at most {task.epochs} epochs"
            + (f", ended after {options.seconds:g} s" if options.seconds else "")
            + f"; {versions}.\nEpochs/s: all but the first, by the time after it, compiling among it. "
            "ms: the median epoch with its predictions, of those after a trial's first.\n"
            "Best: macro F1 on the validation rows."
        )
        Console(width=None if sys.stdout.isatty() else 110).print(table)


def _told(arm: Arm) -> Arm:
    """At once, so that a benchmark which is cut short was not for nothing."""
    print(f"{arm.title}: {len(arm.ends)} epochs, {arm.rate:.2f}/s", file=sys.stderr)
    return arm


def _device() -> tuple[str, str, bool]:
    """Asked in a process of its own, as whoever asks holds on to a piece of the GPU."""
    code = (
        "import json, jax, keras; d = jax.devices()[0]; "
        "print(json.dumps([f'Keras {keras.__version__}, JAX {jax.__version__}', d.device_kind, d.platform]))"
    )
    done = _run([sys.executable, "-c", code])
    versions, kind, platform = json.loads(done.splitlines()[-1])
    return versions, kind, platform != "cpu"


if __name__ == "__main__":
    main()
