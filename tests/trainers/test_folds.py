"""Splits keep every class in its share, repeat by their seed, and are known again by their fingerprint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.contract import DataError
from trainers.datasets import Dataset, load_dataset
from trainers.folds import Splits, fingerprint, make_fold, split_rows, y_valid


def dataset_of(counts, test_rows=None, seed=0):
    """Vectors (n, 1) holding their own row's number, in shuffled order of classes."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    classes = tuple(f"c{k}" for k in range(len(counts)))
    return Dataset("made", x, y, classes, 1.0, test_rows, "Made for a test.")


def parts(splits):
    return splits.train, splits.valid, splits.test


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=8),
    holdout=st.floats(0.01, 0.99),
    test=st.floats(0.01, 0.99) | st.just(0.0),
    seed=st.integers(0, 2**32),
)
def test_each_row_is_in_one_part_and_each_class_in_every_part(counts, holdout, test, seed):
    dataset = dataset_of(counts)
    splits = split_rows(dataset, holdout, test, seed)
    assert np.sort(np.concatenate(parts(splits))).tolist() == list(range(len(dataset.y)))
    for rows in parts(splits)[: 3 if test else 2]:
        assert (np.diff(rows) > 0).all()
        assert set(dataset.y[rows]) == set(range(len(counts)))
    assert test or not len(splits.test)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(50, 200), min_size=2, max_size=8),
    holdout=st.floats(0.1, 0.9),
    test=st.floats(0.1, 0.5),
    seed=st.integers(0, 2**32),
)
def test_each_class_has_its_share_to_within_one_row(counts, holdout, test, seed):
    dataset = dataset_of(counts)
    splits = split_rows(dataset, holdout, test, seed)
    in_train, in_valid, in_test = (
        np.bincount(dataset.y[rows], minlength=len(counts)) for rows in parts(splits)
    )
    assert (np.abs(in_test - np.array(counts) * test) < 1).all()
    assert (np.abs(in_valid - (in_train + in_valid) * holdout) < 1).all()
    assert len(splits.test) == round(sum(counts) * test)
    assert len(splits.valid) == round((sum(counts) - len(splits.test)) * holdout)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    dataset = dataset_of([30, 20, 10])
    first, again, other = (split_rows(dataset, 0.2, 0.2, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(parts(first), parts(again), strict=True))
    assert not np.array_equal(first.valid, other.valid)
    assert not np.array_equal(first.test, other.test)


def test_every_row_can_be_drawn():
    dataset = dataset_of([10, 10])
    drawn = {row for seed in range(60) for row in split_rows(dataset, 0.2, 0.2, seed).test}
    assert drawn == set(range(20))


def test_test_rows_that_came_with_the_data_are_the_test_rows():
    dataset = dataset_of([50, 30], test_rows=np.array([79, 3, 40]))
    for test in (0.0, 0.5):
        splits = split_rows(dataset, 0.25, test, seed=0)
        assert splits.test.tolist() == [3, 40, 79]
        assert len(splits.valid) == round(77 * 0.25)
        assert np.sort(np.concatenate(parts(splits))).tolist() == list(range(80))


def test_classes_with_too_few_rows_are_all_named_with_what_they_need():
    with pytest.raises(DataError) as error:
        split_rows(dataset_of([2, 9, 1]), 0.2, 0.2, seed=0)
    assert str(error.value).splitlines() == [
        "data set made: class 'c0' has too few rows to divide: 2;"
        " at least 3 are needed, one each for train, validation, test",
        "data set made: class 'c2' has too few rows to divide: 1;"
        " at least 3 are needed, one each for train, validation, test",
    ]


def test_a_class_whose_rows_are_nearly_all_test_rows_is_refused():
    dataset = dataset_of([4, 4])
    dataset = replace(dataset, test_rows=np.flatnonzero(dataset.y == 1)[:3])
    with pytest.raises(DataError, match="class 'c1' has too few rows to divide: 1; at least 2 are needed"):
        split_rows(dataset, 0.2, 0.2, seed=0)


def test_two_rows_of_a_class_are_enough_without_a_test_set():
    splits = split_rows(dataset_of([2, 2]), 0.2, 0.0, seed=0)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (2, 2, 0)


def test_a_fold_holds_the_rows_of_its_split_and_no_validation_labels():
    dataset = dataset_of([30, 20])
    splits = split_rows(dataset, 0.2, 0.2, seed=3)
    fold = make_fold(dataset, splits, epochs=7, seed=11)
    assert (fold.x_train[:, 0] == splits.train).all()
    assert (fold.x_valid[:, 0] == splits.valid).all()
    assert (fold.y_train == dataset.y[splits.train]).all()
    assert (y_valid(dataset, splits) == dataset.y[splits.valid]).all()
    assert (fold.classes, fold.scale, fold.epochs, fold.seed) == (("c0", "c1"), 1.0, 7, 11)


def test_rows_of_a_fold_are_read_only_and_not_copied_where_they_lie_together():
    dataset = dataset_of([30, 20])
    fold = make_fold(dataset, Splits(np.arange(10, 40), np.array([1, 3, 4]), np.array([], np.int64)), 1, 0)
    assert np.shares_memory(fold.x_train, dataset.x)
    assert not np.shares_memory(fold.x_valid, dataset.x)
    assert not any(array.flags.writeable for array in (fold.x_train, fold.y_train, fold.x_valid))


def test_a_fingerprint_is_json_and_repeats():
    dataset = load_dataset({"kind": "sklearn", "name": "iris"})
    first, again = (fingerprint(dataset, split_rows(dataset, 0.2, 0.0, seed=5)) for _ in range(2))
    assert first == again == json.loads(json.dumps(first))
    assert (first["rows"], first["classes"]) == (150, ["setosa", "versicolor", "virginica"])
    assert first["class_counts"] == {"train": [40] * 3, "valid": [10] * 3, "test": [0] * 3}
    assert len(first["sha256"]) == 64


def test_a_fingerprint_changes_with_anything_a_result_depends_on():
    dataset = dataset_of([30, 20])
    splits = split_rows(dataset, 0.2, 0.2, seed=3)
    x = dataset.x.copy()
    x[17, 0] += 1e-3
    y = dataset.y.copy()
    y[[np.argmin(y), np.argmax(y)]] = 1, 0  # as many rows in each class as before
    changed = [
        (replace(dataset, x=x), splits),
        (replace(dataset, x=dataset.x.astype(np.float64)), splits),
        (replace(dataset, x=dataset.x.reshape(25, 2)), splits),
        (replace(dataset, y=y), splits),
        (replace(dataset, classes=("c1", "c0")), splits),
        (replace(dataset, scale=2.0), splits),
        (dataset, split_rows(dataset, 0.2, 0.2, seed=4)),
        (dataset, Splits(splits.train, splits.test, splits.valid)),
    ]
    prints = [fingerprint(dataset, splits), *(fingerprint(*pair) for pair in changed)]
    assert len({p["sha256"] for p in prints}) == len(prints)
