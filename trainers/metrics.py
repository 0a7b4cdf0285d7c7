"""Every metric a trial is judged by, from labels and probabilities, in one pass and with numpy alone.

The definitions are scikit-learn's (each is tested against it), with one rule added for classes that have
no row in the labels: they are "not estimable", so their recall is NaN and they enter no average of recalls
or average precisions. scikit-learn itself is not imported: it would cost every driver a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

METRICS: dict[str, Literal["max", "min"]] = {
    "accuracy": "max",
    "balanced_accuracy": "max",
    "macro_f1": "max",
    "weighted_f1": "max",
    "mcc": "max",
    "worst_class_recall": "max",
    "macro_average_precision": "max",
    "log_loss": "min",
}
"""What a sweep may name as its objective, and which way is better."""


@dataclass(frozen=True, eq=False)
class Scores:
    """How one set of predictions did."""

    values: dict[str, float]
    """Every name in ``METRICS``; all NaN where a probability was NaN or infinite.

    In [0, 1] except for mcc, [-1, 1], and log_loss, [0, 36.1) ([0, 16) for float32 probabilities).
    """
    confusion: NDArray[np.int64]
    """(K, K) counts, rows true, columns predicted; all 0 where a probability was NaN or infinite."""


@dataclass(frozen=True, eq=False)
class ClassScores:
    """One number per class, each array (K,); what a confusion matrix says about single classes."""

    precision: NDArray[np.float64]
    """Share of the predicted rows that are right, [0, 1]; 0 for a class that is never predicted."""
    recall: NDArray[np.float64]
    """Share of the true rows that are found, [0, 1]; NaN for a class without true rows."""
    f1: NDArray[np.float64]
    """Harmonic mean of the two, [0, 1]; NaN for a class neither true nor predicted in any row."""
    support: NDArray[np.int64]
    """True rows."""
    predicted: NDArray[np.int64]
    """Predicted rows; 0 marks a class the model has lost."""


def score(y_true: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> Scores:
    """Every metric for labels (n,) in [0, K) and probabilities (n, K), n at least 1.

    The predicted class is the most probable one, the first of equals. A NaN or infinite probability means
    that the model has diverged: argmax would still name a class, so nothing is computed and every value
    is NaN, which ranks last.
    """
    _check_shapes(y_true, probabilities)
    num_classes = probabilities.shape[1]
    if not np.isfinite(probabilities).all():
        return Scores(dict.fromkeys(METRICS, float("nan")), np.zeros((num_classes, num_classes), np.int64))
    cells = y_true.astype(np.int64, copy=False) * num_classes + probabilities.argmax(axis=1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
    present = confusion.sum(axis=1) > 0
    values = {
        **of_decisions(confusion),
        "macro_average_precision": float(_average_precisions(y_true, probabilities, present).mean()),
        "log_loss": _log_loss(y_true, probabilities),
    }
    return Scores(values, confusion)


def of_decisions(confusion: NDArray[np.integer[Any]]) -> dict[str, float]:
    """The metrics that follow from (K, K) counts alone, rows true, at least one row."""
    classes, num_rows = per_class(confusion), confusion.sum()
    present = classes.support > 0
    values = {
        "accuracy": confusion.trace() / num_rows,
        "balanced_accuracy": classes.recall[present].mean(),
        "macro_f1": np.nanmean(classes.f1),
        "weighted_f1": classes.f1[present] @ classes.support[present] / num_rows,
        "mcc": _mcc(confusion),
        "worst_class_recall": classes.recall[present].min(),
    }
    return {name: float(value) for name, value in values.items()}


def score_folds(
    y_true: Sequence[NDArray[np.integer[Any]]], probabilities: Sequence[NDArray[np.floating[Any]]]
) -> tuple[Scores, list[Scores]]:
    """Scores of all folds together, and of each of several: labels (n,) and probabilities (n, K) of each.

    Together they are scored as one set, since F1 of the two or three rows that a fold has of a rare class is
    not to be averaged. Average precision is: it ranks rows by probability, and those of different models have
    different scales. Both are what Forman & Scholz, "Apples-to-apples in cross-validation studies", SIGKDD
    Explorations 2010, found for F1 and for the area under the ROC curve.
    """
    each = [score(*fold) for fold in zip(y_true, probabilities, strict=True)]
    if len(each) == 1:
        return each[0], []
    together = score(np.concatenate(y_true), np.concatenate(probabilities))
    ranked = "macro_average_precision"
    mean = float(np.mean([scores.values[ranked] for scores in each]))
    return replace(together, values=together.values | {ranked: mean}), each


def per_class(confusion: NDArray[np.integer[Any]]) -> ClassScores:
    """Precision, recall, F1, support and predicted rows of each class, from (K, K) counts, rows true."""
    hits = confusion.diagonal()
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        precision=hits / np.maximum(predicted, 1),
        recall=_share(hits, support),
        f1=_share(2 * hits, support + predicted),
        support=support,
        predicted=predicted,
    )


def _check_shapes(y_true: NDArray[Any], probabilities: NDArray[Any]) -> None:
    if probabilities.ndim != 2 or y_true.shape != probabilities.shape[:1] or not len(y_true):
        raise ValueError(
            f"labels {y_true.shape} and probabilities {probabilities.shape} do not fit;"
            " expected (n,) and (n, K) with at least one row"
        )
    if y_true.min() < 0 or y_true.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels from {y_true.min()} to {y_true.max()} do not fit probabilities of"
            f" {probabilities.shape[1]} classes; expected 0 to {probabilities.shape[1] - 1}"
        )


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """part / whole, NaN where there is nothing to share."""
    shares = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _mcc(confusion: NDArray[np.integer[Any]]) -> float:
    """Matthews' correlation for K classes (Gorodkin 2004), [-1, 1]; 0 where one side knows one class only."""
    counts = confusion.astype(np.float64)  # products of four counts overflow int64 from 55,000 rows on
    total, hits = counts.sum(), counts.trace()
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return (total * hits - true @ predicted) / spread**0.5 if spread else 0.0


def _average_precisions(
    y_true: NDArray[Any], probabilities: NDArray[Any], present: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Area under each present class's precision-recall steps against the rest, (classes present,), [0, 1].

    That is the mean over the class's rows of the precision if all rows at least as probable were taken. Rows
    of equal probability are taken together: no threshold tells them apart.
    """
    columns = np.sort(probabilities.T, axis=1)

    def area(k: np.intp) -> float:
        of_class = np.sort(probabilities[y_true == k, k])
        taken = len(y_true) - columns[k].searchsorted(of_class)
        hits = len(of_class) - of_class.searchsorted(of_class)
        return float((hits / taken).mean())

    return np.array([area(k) for k in np.flatnonzero(present)])


def _log_loss(y_true: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """Mean of -log(probability of the true class), clipped by the precision of the probabilities' type."""
    eps = np.finfo(probabilities.dtype).eps
    of_truth = probabilities[np.arange(len(y_true)), y_true]
    return float(-np.log(of_truth.clip(eps, 1 - eps), dtype=np.float64).mean())


FEW_ROWS = 30
"""With fewer rows of a class than this its recall's interval may be a third wide: it says next to nothing."""


def standard_error(metric: str, confusion: NDArray[np.integer[Any]], repeat: int = 1) -> float:
    """How far a metric would vary over other rows of the same classes, at least one row's worth; 0 where it
    does not follow from the (K, K) counts, rows true, which hold each row ``repeat`` times.

    By bootstrap (Efron, Annals of Statistics 7, 1979): the decisions on each class are drawn anew, 200 times,
    from those that there were.
    """
    if metric not in of_decisions(confusion):
        return 0.0
    rows = confusion.sum(axis=1)
    shares = confusion / np.maximum(rows, 1)[:, None]
    drawn = np.random.default_rng(0).multinomial(rows, shares, size=(200, len(rows)))
    varies = float(np.std([of_decisions(counts)[metric] for counts in drawn])) * repeat**0.5
    return max(varies, repeat / float(rows.sum()))


def wilson(hits: float, rows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), within [0, 1]; (0, 1) where there are no rows.

    Unlike share +- 1.96 standard errors it does not shrink to nothing where all or none of few rows are hit.
    """
    if not rows:
        return 0.0, 1.0
    z = 1.959964  # of the normal distribution, 2.5 % lie beyond
    share, shrink = hits / rows, 1 + z**2 / rows
    middle = share + z**2 / (2 * rows)
    spread = z * math.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return max(0.0, (middle - spread) / shrink), min(1.0, (middle + spread) / shrink)
