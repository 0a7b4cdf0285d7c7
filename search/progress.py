"""How a sweep is going, on the terminal while it goes, and its leaderboard at the end."""

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.results import Results, clock, metrics_shown, varying
from search.search import Search

LIVE_S = 0.25
LINE_S = 5.0


@contextmanager
def watched(search: Search) -> Iterator[None]:
    """Show the search on stderr while the context lasts: a live panel on a terminal, plain lines
    elsewhere."""
    terminal = Console(stderr=True, highlight=False)
    shown = _live(search, terminal) if terminal.is_terminal else _lines(search)
    with shown:
        yield


@contextmanager
def _live(search: Search, terminal: Console) -> Iterator[None]:
    panel = Live(console=terminal, get_renderable=lambda: _panel(search), refresh_per_second=1 / LIVE_S)
    panel.start()
    try:
        yield
    finally:
        with _unheard():
            panel.stop()


@contextmanager
def _lines(search: Search) -> Iterator[None]:
    stop = threading.Event()

    def print_lines() -> None:
        last = ""
        while not stop.wait(LINE_S):
            line = _line(search)
            if line != last:
                _say(line)
            last = line

    thread = threading.Thread(target=print_lines, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _say(_line(search))


def _say(line: str) -> None:
    with _unheard():
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _unheard() -> Iterator[None]:
    """Where nobody reads any more, or the terminal is gone: that is no fault of the run's."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _panel(search: Search) -> Group:
    rungs = Text("  ".join(_rungs(search)), style="dim")
    return Group(Text(_counts(search)), Text(_best(search), style="bold"), rungs)


def _line(search: Search) -> str:
    return "  ".join([_counts(search), _best(search), *_rungs(search)])


def _counts(search: Search) -> str:
    trials = list(
        search.run.trials.values()
    )  # one step for the interpreter: the driver adds trials meanwhile
    counts = Counter(trial.status for trial in trials)
    started = f"{len(trials) - counts['infeasible']}/{search.sweep.search.trials}"
    others = ", ".join(
        f"{counts[status]} {status}"
        for status in ("complete", "running", "paused", "stopped", "failed", "infeasible")
        if counts[status] or status in ("complete", "running", "stopped", "failed")
    )
    epochs = f"{search.run.epochs} epochs"
    if search.run.wasted_epochs:
        epochs += f" and {search.run.wasted_epochs} wasted"
    return f"trials {started}: {others} | {epochs} | {clock(search.elapsed())}{_eta(search)}"


def _best(search: Search) -> str:
    best = search.run.best
    if best is None:
        return "no result yet"
    return (
        f"best {search.sweep.objective} {best.best_value:.4f} (trial {best.number}, epoch {best.best_epoch})"
    )


def _rungs(search: Search) -> Iterable[str]:
    for rung in list(search.asha.rungs.values()):
        promoted = f", {rung.num_promoted} went on" if search.asha.rule == "promote" else ""
        yield f"rung {rung.epoch}: {len(rung.values)}{promoted}"


def _eta(search: Search) -> str:
    """Left of the epochs that such a search trains, at the pace so far; nothing until there is a pace, nor
    when nothing more will be trained."""
    run = search.run
    if not run.epochs or not search.num_at_once or search.over():
        return ""
    left = max(0, search.asha.expected_epochs(search.sweep.search.trials) - run.epochs)
    seconds = search.elapsed() / run.epochs * left
    minutes = search.sweep.budget.minutes
    if minutes is not None:
        seconds = min(seconds, max(0.0, 60 * minutes - search.elapsed()))
    return f" | about {clock(seconds)} left"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process with the exit code of a failed run."""
        raise


def console() -> Console:
    """Standard output; wide where nobody's window limits it."""
    return _Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def leaderboard(results: Results, top: int) -> Table:
    """The best trials as a table: the objective, what accuracy hides, the params that vary."""
    trials = results.best(top)
    metrics = metrics_shown(results.objective)
    differing = varying(trials)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", *metrics, "epoch"):
        table.add_column(name.replace("_", "\n"), justify="right", no_wrap=True)
    if has_folds := any(trial.folds for trial in trials):
        table.add_column(f"{results.objective.replace('_', ' ')}\nby fold", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("params that vary" if len(trials) > 1 else "params", style="dim")
    for trial in trials:
        table.add_row(
            str(trial.number),
            *(f"{trial.metrics[name]:.4f}" for name in metrics),
            f"{trial.best_epoch}/{trial.epoch}",
            *([_spread(trial.folds)] if has_folds else []),
            results.status_of(trial),
            " ".join(f"{name}={short(trial.params[name])}" for name in differing if name in trial.params),
        )
    return table


def _spread(folds: Sequence[float]) -> str:
    """The worst and the best fold; NaN where one of them diverged."""
    return f"{np.min(folds):.3f}..{np.max(folds):.3f}" if folds else ""


def short(value: object) -> str:
    """A param's value as people read it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
