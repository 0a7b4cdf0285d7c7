"""A plan on the terminal, to be read in half a minute."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from search.plan import Data, Plan, shown_bytes, shown_weights
from search.plan_cost import Cost, Ladder, Range
from search.plan_samples import Draws, Sample
from search.progress import short
from search.results import clock

_CLASSES_SHOWN = 10
_PARAMS_SHOWN = 80
_BYTES_A_WEIGHT = 16
"""The most that training holds of a float32 weight: itself, its gradient, and the two moments of Adam."""


def plan_page(plan: Plan) -> Group:
    """Each section under its name and how its figures were got."""
    num_folds = plan.data.num_folds
    sections: dict[tuple[str, str], Iterable[Text | Table]] = {
        ("data", "counted"): _data_lines(plan.data),
        ("space", "built"): _space_lines(plan.draws),
        ("ladder", "simulated"): _ladder_lines(plan.ladder, num_folds),
        ("epochs", "measured"): [_samples_table(plan.samples, num_folds)] if plan.samples else [],
        ("cost", "expected"): _cost_lines(plan.cost) if plan.cost else [],
        ("beware", ""): [Text(warning, style="yellow") for warning in plan.warnings],
    }
    page = Table.grid(padding=(0, 2))
    page.add_column(no_wrap=True)
    page.add_column()
    for (name, how), lines in sections.items():
        if shown := list(lines):
            page.add_row(Text.assemble((name, "bold"), (f"\n{how}" if how else "", "dim")), Group(*shown))
    return Group(Text(f"{plan.trainer}, ranked by {plan.objective}", style="bold"), page)


def _data_lines(data: Data) -> Iterator[Text | Table]:
    rows = sum(map(sum, data.counts.values()))
    yield Text(f"{data.name}: {rows:,} rows of {'x'.join(map(str, data.shape))}. {data.source}")
    for note in data.notes:
        yield Text(note)
    yield _classes_table(data)
    guessing = ", ".join(f"{name} {value:.3f}" for name, value in data.guessing.items())
    yield Text(f"answering with the classes' shares in training: {guessing}", style="dim")


def _classes_table(data: Data) -> Table:
    """One row a part; of many classes the rarest and the commonest."""
    train = data.counts["train"]
    shown = sorted(range(len(train)), key=lambda k: train[k])
    if len(shown) > _CLASSES_SHOWN:
        shown = [*shown[: _CLASSES_SHOWN - 2], *shown[-2:]]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("rows", "all", *(_cut(data.classes[k], 12) for k in sorted(shown))):
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=True)
    for part, counts in data.counts.items():
        times = f" (1 of {data.num_folds} folds)" if part == "valid" and data.num_folds > 1 else ""
        if sum(counts):
            table.add_row(part + times, f"{sum(counts):,}", *(f"{counts[k]:,}" for k in sorted(shown)))
    return table


def _space_lines(draws: Draws) -> Iterator[Text]:
    size = f"{draws.size:,} configurations" if draws.size else "continuous"
    what = f"all {draws.drawn}" if draws.is_whole else f"{draws.drawn} of {draws.asked} draws"
    if draws.drawn == draws.asked and not draws.is_whole:
        what = f"{draws.drawn} draws"
    until = "until time was up" if draws.drawn < draws.asked else f"in {_seconds(draws.seconds)}"
    infeasible = f"{1 - draws.feasible / draws.drawn:.0%} infeasible"
    yield Text(f"{draws.params} params, {size}; {what} built {until}: {infeasible}")
    for reason, count in list(draws.infeasible.items())[:3]:
        yield Text(f"  {count} x {_cut(reason, 80)}", style="dim")
    if draws.largest.weights:
        sizes = sorted({draws.smallest.weights, draws.largest.weights})
        weights = " to ".join(map(shown_weights, sizes))
        memory = " to ".join(shown_bytes(_BYTES_A_WEIGHT * size) for size in sizes)
        yield Text(f"{weights} weights; at most {memory} in training, plus activations")


def _ladder_lines(ladder: Ladder, num_folds: int) -> Iterator[Text]:
    steps = ", ".join(f"{trials:.0f} to epoch {epoch}" for epoch, trials in ladder.reached.items())
    yield Text(f"rule {ladder.rule}: of {ladder.trials} trials {steps}")
    folds = f", each over {num_folds} folds" if num_folds > 1 else ""
    share = ladder.epochs.central / ladder.full_epochs
    less = f" of {ladder.full_epochs:,.0f} ({share:.0%})" if ladder.rule != "off" else ""
    yield Text(f"{_range(ladder.epochs, lambda epochs: f'{epochs:,.0f}')} epochs{less}{folds}")
    if ladder.other_rules:
        others = ", ".join(f"rule {rule}: {epochs:,.0f}" for rule, epochs in ladder.other_rules.items())
        yield Text(f"{others} epochs", style="dim")


def _samples_table(samples: Sequence[Sample], num_folds: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    folds = f"\n({num_folds} folds)" if num_folds > 1 else ""
    for name in ("weights", f"an epoch{folds}", "start-up", "checkpoint"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("params", style="dim")
    for sample in samples:
        more = "> " if sample.is_given_up else ""
        measured = (
            "failed" if sample.epoch_s is None else f"{more}{_seconds(sample.epoch_s)}",
            "-" if sample.startup_s is None else _seconds(sample.startup_s),
            shown_bytes(sample.checkpoint_bytes) if sample.checkpoint_bytes else "-",
        )
        params = " ".join(f"{name}={short(value)}" for name, value in sample.params.items())
        table.add_row(shown_weights(sample.weights), *measured, _cut(params, _PARAMS_SHOWN))
    return table


def _cost_lines(cost: Cost) -> Iterator[Text]:
    at_a_time = "one trial" if cost.parallel == 1 else f"{cost.parallel} trials"
    yield Text(
        f"wall time {_range(cost.wall_s, _seconds, cost.is_more)}, {at_a_time} at a time on {cost.cpus} CPUs"
    )
    if cost.cut_off is not None:
        yield Text(f"budget.minutes ends it after about {cost.cut_off:.0%} of that", style="yellow")
    if cost.once_s:
        yield Text(f"once per run up to {_seconds(cost.once_s)} more, less what the cache of all runs holds")
    if cost.disk_bytes:
        cached = f", and {shown_bytes(cost.cache_bytes)} in the cache of all runs" if cost.cache_bytes else ""
        yield Text(f"disk {_range(cost.disk_bytes, shown_bytes, cost.is_more)}{cached}")
    if cost.gpu_hours:
        hours = _range(cost.gpu_hours, lambda hours: f"{hours:.2g}", cost.is_more)
        yield Text(f"GPU-hours {hours}, if epochs take as long there")


def _range(values: Range, shown: Callable[[float], str], is_more: bool = False) -> str:
    """The best guess, and how far off it may be if that can be seen."""
    low, central, high = shown(values.low), shown(values.central), shown(values.high)
    if is_more:
        return f"about {central} ({low} to more than {high})"
    return f"about {central} ({low} to {high})" if low != high else central


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 60 else clock(seconds)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
