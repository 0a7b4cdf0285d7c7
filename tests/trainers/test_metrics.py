"""Metrics agree with scikit-learn, and follow the rules for classes nobody can judge."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from trainers.metrics import METRICS, per_class, score, score_folds, standard_error, wilson


def draw(seed, dtype=np.float32):
    """Random labels and probabilities of 2 to 12 classes: imbalanced, some absent, some with ties."""
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 13))
    rows = int(rng.integers(2, 400))
    shares = rng.dirichlet(np.full(num_classes, rng.choice([0.2, 1.0, 10.0])))
    y = rng.choice(num_classes, size=rows, p=shares)
    y[:2] = rng.choice(num_classes, size=2, replace=False)  # scikit-learn warns where there is one class
    logits = rng.normal(size=(rows, num_classes)) + rng.choice([0, 1, 4]) * np.eye(num_classes)[y]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if rng.random() < 0.4:  # few distinct values, zeros and ones among them, as k-nearest neighbours gives
        votes = rng.multinomial(5, np.clip(probabilities, 0, 1) / probabilities.sum(1, keepdims=True))
        probabilities = votes / 5
    if rng.random() < 0.15:  # a model that has lost all classes but one
        probabilities = np.tile(np.eye(num_classes)[rng.integers(num_classes)], (rows, 1))
    return y, probabilities.astype(dtype)


def by_scikit_learn(y, probabilities):
    """The same metrics, each from scikit-learn's own function."""
    predicted = probabilities.argmax(axis=1)
    labels = range(probabilities.shape[1])
    recalls = sklearn_metrics.recall_score(y, predicted, labels=np.unique(y), average=None)
    one_hot = np.eye(len(labels))[y]
    of_present = np.unique(y)
    return {
        "accuracy": sklearn_metrics.accuracy_score(y, predicted),
        "balanced_accuracy": np.mean(recalls),
        "macro_f1": sklearn_metrics.f1_score(y, predicted, average="macro", zero_division=0),
        "weighted_f1": sklearn_metrics.f1_score(y, predicted, average="weighted", zero_division=0),
        "mcc": sklearn_metrics.matthews_corrcoef(y, predicted),
        "worst_class_recall": recalls.min(),
        "macro_average_precision": np.mean(
            [sklearn_metrics.average_precision_score(one_hot[:, k], probabilities[:, k]) for k in of_present]
        ),
        "log_loss": sklearn_metrics.log_loss(y, probabilities, labels=labels),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(100))
def test_every_metric_agrees_with_scikit_learn(seed, dtype):
    y, probabilities = draw(seed, dtype)
    scores = score(y, probabilities)
    expected = by_scikit_learn(y, probabilities)
    assert scores.values.keys() == METRICS.keys() == expected.keys()
    assert scores.values == pytest.approx(expected, rel=1e-5, abs=1e-6)
    labels = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    assert (scores.confusion == sklearn_metrics.confusion_matrix(y, predicted, labels=labels)).all()


@pytest.mark.parametrize("seed", range(40))
def test_single_classes_agree_with_scikit_learn(seed):
    y, probabilities = draw(seed)
    predicted = probabilities.argmax(axis=1)
    classes = per_class(score(y, probabilities).confusion)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        y, predicted, labels=range(probabilities.shape[1]), zero_division=0
    )
    absent = support == 0
    assert classes.precision == pytest.approx(precision)
    assert classes.recall[~absent] == pytest.approx(recall[~absent])
    assert np.isnan(classes.recall[absent]).all()
    assert np.nan_to_num(classes.f1) == pytest.approx(f1)
    assert (classes.support == support).all()
    assert (classes.predicted == np.bincount(predicted, minlength=len(support))).all()


def test_the_draws_above_hold_the_hard_cases():
    draws = [draw(seed) for seed in range(100)]
    assert any(len(np.unique(y)) < p.shape[1] for y, p in draws)
    assert any(len(np.unique(p.argmax(axis=1))) == 1 for _, p in draws)
    assert any(len(np.unique(p)) <= 6 for _, p in draws)
    assert any((np.bincount(y) == 1).any() for y, _ in draws)
    assert {p.shape[1] for _, p in draws} == set(range(2, 13))


def test_the_best_model_there_is_scores_one_and_loses_nothing():
    y = np.array([0, 1, 2, 2])
    values = score(y, np.eye(3, dtype=np.float32)[y]).values
    assert values.pop("log_loss") == pytest.approx(0, abs=1e-6)
    assert set(values.values()) == {1.0}


def test_folds_are_scored_as_one_set_but_ranked_each_by_itself():
    y = np.array([0, 0, 1])
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.6, 0.7, 0.8])
    folds = [np.column_stack([1 - p, p]) for p in (low, high)]
    together, each = score_folds([y, y], folds)
    assert together.confusion.tolist() == [[2, 2], [1, 1]]
    assert together.values["macro_f1"] == score(np.tile(y, 2), np.concatenate(folds)).values["macro_f1"]
    assert [fold.values["macro_average_precision"] for fold in each] == [1.0, 1.0]
    assert together.values["macro_average_precision"] == 1.0, "each model ranks its rows without a mistake"
    folds[0][0] = np.nan
    assert all(np.isnan(value) for value in score_folds([y, y], folds)[0].values.values())


def test_a_class_without_rows_is_not_estimable_and_lowers_no_average():
    y = np.array([0, 0, 1, 1])
    scores = score(y, np.eye(4, dtype=np.float32)[[0, 0, 1, 2]])
    classes = per_class(scores.confusion)
    assert classes.recall == pytest.approx([1, 0.5, np.nan, np.nan], nan_ok=True)
    assert classes.f1 == pytest.approx([1, 2 / 3, 0, np.nan], nan_ok=True)
    assert scores.values["balanced_accuracy"] == pytest.approx(0.75)
    assert scores.values["worst_class_recall"] == pytest.approx(0.5)
    assert scores.values["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_model_that_never_predicts_the_rare_class_is_seen_by_all_but_accuracy():
    y = np.array([0] * 97 + [1] * 3)
    values = score(y, np.tile(np.array([0.9, 0.1], np.float32), (100, 1))).values
    assert values["accuracy"] == pytest.approx(0.97)
    assert values["balanced_accuracy"] == pytest.approx(0.5)
    assert values["macro_f1"] == pytest.approx(0.492, abs=1e-3)
    assert values["worst_class_recall"] == values["mcc"] == 0
    assert values["macro_average_precision"] == pytest.approx(0.5)


def test_labels_of_a_narrow_type_do_not_overflow():
    y = np.arange(40, dtype=np.uint8)
    assert score(y, np.eye(40, dtype=np.float32)[y]).values["accuracy"] == 1


def test_mcc_does_not_overflow_on_many_rows():
    y = np.arange(200_000) % 2
    assert score(y, np.eye(2, dtype=np.float32)[y]).values["mcc"] == pytest.approx(1)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_diverged_model_has_no_score_at_all(poison):
    probabilities = np.full((3, 2), 0.5, np.float32)
    probabilities[1, 0] = poison
    scores = score(np.array([0, 1, 1]), probabilities)
    assert scores.values.keys() == METRICS.keys()
    assert np.isnan(list(scores.values.values())).all()
    assert (scores.confusion == np.zeros((2, 2))).all()


def test_labels_and_probabilities_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"labels \(3,\) and probabilities \(2, 2\) do not fit"):
        score(np.array([0, 1, 1]), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="at least one row"):
        score(np.array([], np.int64), np.empty((0, 2)))
    with pytest.raises(ValueError, match="labels from 0 to 2 do not fit probabilities of 2 classes"):
        score(np.array([0, 2]), np.full((2, 2), 0.5))


@pytest.mark.parametrize(("hits", "rows"), [(0, 5), (5, 5), (3, 7), (980, 1000)])
def test_interval_is_that_of_scipy(hits: int, rows: int) -> None:
    from scipy.stats import binomtest

    wanted = binomtest(hits, rows).proportion_ci(method="wilson")
    assert wilson(hits, rows) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_interval_of_no_rows_says_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


def test_standard_error_is_that_of_the_rows_a_metric_hangs_on():
    balanced = np.array([[180, 20], [20, 180]])
    assert standard_error("accuracy", balanced) == pytest.approx((0.9 * 0.1 / 400) ** 0.5, rel=0.15)
    rare = np.array([[2, 1], [3, 294]])
    assert standard_error("worst_class_recall", rare) == pytest.approx((2 / 3 * 1 / 3 / 3) ** 0.5, rel=0.15)
    assert standard_error("accuracy", rare) < 0.02
    assert standard_error("macro_f1", np.array([[3, 0], [0, 297]])) == 1 / 300, (
        "one row might have been wrong"
    )
    perfect = np.array([[30, 0], [0, 70]])
    assert standard_error("accuracy", 4 * perfect, repeat=4) == standard_error("accuracy", perfect) == 1 / 100
    assert standard_error("accuracy", 4 * balanced, repeat=4) == pytest.approx(0.015, rel=0.15)
    assert standard_error("mcc", np.array([[5, 5, 0], [0, 10, 0], [0, 0, 0]])) > 0.05, "a class without rows"
    assert standard_error("log_loss", balanced) == standard_error("macro_average_precision", balanced) == 0
