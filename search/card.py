"""The model card: what an exported model is, how good it is class by class, and what not to trust it with."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from search.exported import Evaluation, ExportedModel, is_ours
from search.progress import short
from spaces.sweep import trainer_name
from trainers.contract import ROWS, WEIGHTS
from trainers.keras_formats import FORMATS
from trainers.metrics import FEW_ROWS, per_class, wilson


def model_card(about: ExportedModel) -> str:
    """Markdown, one section after the other."""
    sections = (_what, _data, _scores, _params, _use, _limits)
    return "\n".join(line for section in sections for line in (*section(about), ""))


def _what(about: ExportedModel) -> Iterator[str]:
    yield f"# {about.run}, trial {about.trial}"
    yield ""
    yield f"Tells {_listed(about.classes)} apart. It takes {about.input} and gives a probability for each"
    yield f"class; the decision is the {about.decision}."
    yield ""
    yield from _table(
        ("", ""),
        [
            ("trainer", f"`{trainer_name(about.trainer)}`"),
            ("searched in", f"run `{about.run}`, trial {about.trial}, by {_name(about.objective)}"),
            ("trained", _trained(about)),
            ("versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())),
        ],
    )


def _trained(about: ExportedModel) -> str:
    epochs, rows = f"{about.epoch} epoch{'s' if about.epoch > 1 else ''}", sum(about.trained_on)
    if not about.refit:
        return f"for {epochs} (the trial's best) on {rows} rows"
    best = f"the trial's best epoch in the search was {about.best_epoch}"
    why = ""
    if about.epoch < about.best_epoch:
        why = f"; it ended there by itself, {best}"
    elif about.epoch > about.best_epoch:
        why = f"; {best}, and later ones were as good to within a standard error"
    return f"once more after the search, for {epochs} on all {rows} rows but the test rows{why}"


def _data(about: ExportedModel) -> Iterator[str]:
    counts = about.data["class_counts"]
    yield "## Data"
    yield ""
    yield about.source
    yield ""
    yield from _table(
        ("class", "training", "validation", "test"),
        zip(
            about.classes,
            about.trained_on,
            _once(np.array(counts["valid"]), about.repeat),
            counts["test"],
            strict=True,
        ),
    )
    yield ""
    if about.refit:
        yield "The validation rows are among the training rows: the model learned from them after the search."
        yield ""
    for note in about.notes:
        yield f"- {_cell(note)}"
    if about.notes:
        yield ""
    yield f"Fingerprint of rows, labels and splits (sha256): `{about.data['sha256']}`"


def _scores(about: ExportedModel) -> Iterator[str]:
    yield "## Scores"
    yield ""
    if about.test:
        yield "Test rows took no part in the search; they were predicted once, by this model, for this card."
    else:
        yield "No test rows were set apart, so there are only the scores on the validation rows."
    columns = {"test": about.test} if about.test else {}
    columns["validation"] = about.validation
    yield "Validation scores flatter: the best of all trials and epochs was picked by them."
    if about.refit:
        yield (
            "They are those of the trial in the search: this model was trained on the validation rows too, "
            "so it cannot be judged by them."
        )
    yield ""
    yield from _table(
        ("metric", *columns),
        (
            (_name(metric), *(f"{part.values[metric]:.4f}" for part in columns.values()))
            for metric in about.validation.values
        ),
    )
    for name, part in columns.items():
        yield ""
        yield from _by_class(name, part, about.classes, about.repeat if part is about.validation else 1)


def _by_class(name: str, part: Evaluation, classes: Sequence[str], repeat: int) -> Iterator[str]:
    confusion = np.array(part.confusion, np.int64)
    each = per_class(confusion)
    hits, rows, predicted = (
        _once(counts, repeat) for counts in (confusion.diagonal(), each.support, each.predicted)
    )
    yield f"### {name.capitalize()}, class by class"
    yield ""
    yield from _table(
        ("class", "precision", "recall", "95 % interval", "F1", "rows", "predicted"),
        (
            (
                label,
                *map(_share, (each.precision[k], each.recall[k])),
                "{:.3f} to {:.3f}".format(*wilson(int(hits[k]), int(rows[k]))),
                *(_share(each.f1[k]), rows[k], predicted[k]),
            )
            for k, label in enumerate(classes)
        ),
    )
    yield ""
    if repeat > 1:
        yield f"Rows were divided anew {repeat} times: the table counts as many as are judged in one such"
        yield "division, the matrix those of all."
        yield ""
    yield "Confusion matrix, rows true, columns predicted; the interval is that of the recall (Wilson):"
    yield ""
    yield from _table(
        ("", *classes), ((label, *counts) for label, counts in zip(classes, confusion, strict=True))
    )


def _params(about: ExportedModel) -> Iterator[str]:
    yield "## Params"
    yield ""
    yield from _table(
        ("setting", "value", ""),
        (
            (name, f"`{short(value)}`", "searched" if name in about.params else "")
            for name, value in about.settings.items()
        ),
    )


def _use(about: ExportedModel) -> Iterator[str]:
    inputs = "photo.png images/ rows.npy --grid out.png" if about.input.is_image else "rows.csv rows.npy"
    yield "## Use"
    yield ""
    yield f"    rungwise predict FOLDER {inputs}{'' if is_ours(about.trainer) else ' --trust'}"
    yield ""
    yield "- It prints a table; `--output csv` and `--output json` are for programs."
    yield from _input_lines(about)
    for name in about.formats:
        if name in FORMATS:
            yield f"- {FORMATS[name].use}"


def _input_lines(about: ExportedModel) -> Iterator[str]:
    what = about.input
    if what.is_image:
        height, width, channels = what.shape
        if channels in (1, 3):
            colour = "grey" if channels == 1 else "into RGB"
            yield f"- Image files are turned {colour} and resized to {height}x{width}."
        shape = f"(n, {height}, {width}, {channels})"
        yield f"- `.npy` files hold {shape}, values of 0 to {what.scale:g}, or floats of 0 to 1."
        return
    yield f"- `.npy` files hold (n, {what.shape[0]})."
    if what.columns:
        yield f"- CSV files have the columns {_listed([f'`{name}`' for name in what.columns])}; a column"
        yield f"  `{what.label}` with known labels may stand beside them."


def _limits(about: ExportedModel) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"- It answers with one of its {len(about.classes)} classes whatever it is given."
    yield "- Probabilities were not calibrated: 0.9 need not mean right in 9 of 10 cases."
    yield "- The scores hold for rows like those it was trained and tested on, and for no others."
    name, part, repeat = (
        ("test", about.test, 1) if about.test else ("validation", about.validation, about.repeat)
    )
    each = per_class(np.array(part.confusion, np.int64))
    rows = _once(each.support, repeat)
    for k, label in enumerate(about.classes):
        if not each.predicted[k]:
            yield f"- **The class {_cell(label)} is lost: none of the {name} rows is given it.**"
        if rows[k] < FEW_ROWS:
            few = f"has {rows[k]} {name} rows only"
            yield f"- **The class {_cell(label)} {few}: see how wide the interval of its recall is.**"
    if f"{WEIGHTS}/{ROWS}" in about.files:
        version = about.versions.get("scikit-learn", "")
        yield f"- **`{WEIGHTS}/{ROWS}` holds the training rows**: whoever is given this folder has them. The"
        yield "  model is fitted to them anew whenever it is loaded, and is the one judged here only with"
        yield f"  scikit-learn {version}."
    if about.has_groups:
        yield "- Rows of a group (of one person, say) are alike, but an interval takes each row for one of"
        yield "  its own: with few groups it is too narrow."


def _once(counts: NDArray[np.int64], repeat: int) -> NDArray[np.int64]:
    """Of counts over ``repeat`` divisions those of one: no row says more for being judged again."""
    return np.rint(counts / repeat).astype(np.int64)


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"


def _cell(value: object) -> str:
    """Labels and columns come from data: they must not end a cell or begin a tag."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split())


def _listed(names: Sequence[str]) -> str:
    shown = names if len(names) <= 12 else [*names[:9], "...", *names[-2:]]
    return ", ".join(map(_cell, shown))


def _name(metric: str) -> str:
    return metric.replace("_", " ")


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
