"""Splits keep every class in its share, repeat by their seed, and are known again by their fingerprint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.sweep import Validation
from trainers.contract import DataError
from trainers.datasets import Dataset, load_dataset
from trainers.folds import Split, Splits, fingerprint, make_folds, split_rows, y_valid


def dataset_of(counts, test_rows=None, seed=0, groups=None):
    """Vectors (n, 1) holding their own row's number, in shuffled order of classes."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.arange(len(y), dtype=np.float32)[:, None]
    classes = tuple(f"c{k}" for k in range(len(counts)))
    return Dataset("made", x, y, classes, 1.0, test_rows, "Made for a test.", groups=groups)


def halves(dataset, holdout=0.2, test=0.2, seed=0):
    return split_rows(dataset, Validation(holdout=holdout, test=test), seed)


def parts(splits):
    (fold,) = splits.folds
    return fold.train, fold.valid, splits.test


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=8),
    holdout=st.floats(0.01, 0.99),
    test=st.floats(0.01, 0.99) | st.just(0.0),
    seed=st.integers(0, 2**32),
)
def test_each_row_is_in_one_part_and_each_class_in_every_part(counts, holdout, test, seed):
    dataset = dataset_of(counts)
    splits = halves(dataset, holdout, test, seed)
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
    splits = halves(dataset, holdout, test, seed)
    in_train, in_valid, in_test = (
        np.bincount(dataset.y[rows], minlength=len(counts)) for rows in parts(splits)
    )
    assert (np.abs(in_test - np.array(counts) * test) < 1).all()
    assert (np.abs(in_valid - (in_train + in_valid) * holdout) < 1).all()
    assert len(splits.test) == round(sum(counts) * test)
    assert len(splits.folds[0].valid) == round((sum(counts) - len(splits.test)) * holdout)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    dataset = dataset_of([30, 20, 10])
    first, again, other = (halves(dataset, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(parts(first), parts(again), strict=True))
    assert not np.array_equal(first.folds[0].valid, other.folds[0].valid)
    assert not np.array_equal(first.test, other.test)


def test_every_row_can_be_drawn():
    dataset = dataset_of([10, 10])
    drawn = {row for seed in range(60) for row in halves(dataset, seed=seed).test}
    assert drawn == set(range(20))


def test_test_rows_that_came_with_the_data_are_the_test_rows():
    dataset = dataset_of([50, 30], test_rows=np.array([79, 3, 40]))
    for test in (0.0, 0.5):
        splits = halves(dataset, 0.25, test)
        assert splits.test.tolist() == [3, 40, 79]
        assert len(splits.folds[0].valid) == round(77 * 0.25)
        assert np.sort(np.concatenate(parts(splits))).tolist() == list(range(80))


def test_classes_with_too_few_rows_are_all_named_with_what_they_need():
    with pytest.raises(DataError) as error:
        halves(dataset_of([2, 9, 1]))
    assert str(error.value).splitlines() == [
        f"data set made: class {name!r} has too few rows to divide: {count}; 3 are needed, one for each side"
        " (folds, or training and validation, and the test set if one is drawn); use fewer folds, or collect"
        " more"
        for name, count in (("c0", 2), ("c2", 1))
    ]


def test_a_class_whose_rows_are_nearly_all_test_rows_is_refused():
    dataset = dataset_of([4, 4])
    dataset = replace(dataset, test_rows=np.flatnonzero(dataset.y == 1)[:3])
    with pytest.raises(DataError, match="class 'c1' has too few rows to divide: 1; 2 are needed"):
        halves(dataset, seed=0)


def test_two_rows_of_a_class_are_enough_without_a_test_set():
    splits = halves(dataset_of([2, 2]), test=0.0)
    assert tuple(map(len, parts(splits))) == (2, 2, 0)


def test_a_fold_holds_the_rows_of_its_split_and_no_validation_labels():
    dataset = dataset_of([30, 20])
    splits = halves(dataset, seed=3)
    (fold,) = make_folds(dataset, splits, epochs=7, seed=11)
    (split,) = splits.folds
    assert (fold.x_train[:, 0] == split.train).all()
    assert (fold.x_valid[:, 0] == split.valid).all()
    assert (fold.y_train == dataset.y[split.train]).all()
    assert (y_valid(dataset, splits)[0] == dataset.y[split.valid]).all()
    assert not set(fold.x[:, 0]) & set(splits.test), "no trainer ever sees the test rows"
    assert (fold.classes, fold.scale, fold.epochs, fold.seed) == (("c0", "c1"), 1.0, 7, 11)


def test_rows_of_a_fold_are_read_only_and_not_copied_where_they_lie_together():
    dataset = dataset_of([30, 20])
    splits = Splits((Split(np.arange(10, 40), np.array([1, 3, 4])),), np.array([], np.int64))
    (fold,) = make_folds(dataset, splits, epochs=1)
    assert np.shares_memory(fold.x_train, dataset.x)
    assert not np.shares_memory(fold.x_valid, dataset.x)
    assert not any(array.flags.writeable for array in (fold.x_train, fold.y_train, fold.x_valid))


def test_a_fingerprint_is_json_and_repeats():
    dataset = load_dataset({"kind": "sklearn", "name": "iris"})
    first, again = (fingerprint(dataset, halves(dataset, test=0.0, seed=5)) for _ in range(2))
    assert first == again == json.loads(json.dumps(first))
    assert (first["rows"], first["classes"]) == (150, ["setosa", "versicolor", "virginica"])
    assert first["class_counts"] == {"train": [40] * 3, "valid": [10] * 3, "test": [0] * 3}
    assert len(first["sha256"]) == 64


def test_a_fingerprint_changes_with_anything_a_result_depends_on():
    dataset = dataset_of([30, 20])
    splits = halves(dataset, seed=3)
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
        (dataset, halves(dataset, seed=4)),
        (dataset, Splits((Split(splits.folds[0].valid, splits.folds[0].train),), splits.test)),
    ]
    prints = [fingerprint(dataset, splits), *(fingerprint(*pair) for pair in changed)]
    assert len({p["sha256"] for p in prints}) == len(prints)


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(6, 60), min_size=2, max_size=6),
    kfold=st.integers(2, 5),
    repeat=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_folds_of_each_repeat_divide_all_rows_and_every_class_evenly(counts, kfold, repeat, seed):
    dataset = dataset_of(counts)
    splits = split_rows(dataset, Validation(kfold=kfold, repeat=repeat, test=0.0), seed)
    assert len(splits.folds) == kfold * repeat
    for first in range(0, len(splits.folds), kfold):
        folds = splits.folds[first : first + kfold]
        assert np.sort(np.concatenate([fold.valid for fold in folds])).tolist() == list(range(sum(counts)))
        for k in range(len(counts)):
            held = [(dataset.y[fold.valid] == k).sum() for fold in folds]
            assert max(held) - min(held) <= 1
        sizes = [len(fold.valid) for fold in folds]
        assert max(sizes) - min(sizes) <= 1
    for fold in splits.folds:
        assert np.array_equal(np.setdiff1d(np.arange(sum(counts)), fold.valid), fold.train)


def test_repeats_divide_anew():
    splits = split_rows(dataset_of([30, 20]), Validation(kfold=2, repeat=2), seed=0)
    assert not np.array_equal(splits.folds[0].valid, splits.folds[2].valid)
    twice = split_rows(dataset_of([30, 20]), Validation(holdout=0.2, repeat=2), seed=0)
    assert len(twice.folds) == 2 and not np.array_equal(twice.folds[0].valid, twice.folds[1].valid)


@pytest.mark.parametrize("validation", [Validation(holdout=0.25), Validation(kfold=4)])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides_and_classes_keep_about_their_shares(validation, seed):
    chance = np.random.default_rng(seed)
    groups = chance.integers(0, 40, 400)
    dataset = replace(dataset_of([280, 120], seed=seed), groups=groups)
    splits = split_rows(dataset, validation, seed)
    for fold in splits.folds:
        sides = [set(groups[rows]) for rows in (fold.train, fold.valid, splits.test)]
        assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(groups))
        for k, count in enumerate(np.bincount(dataset.y)):
            in_test = (dataset.y[splits.test] == k).sum() / count
            in_valid = (dataset.y[fold.valid] == k).sum() / count
            assert abs(in_test - 0.2) < 0.05 and abs(in_valid - 0.25 * 0.8) < 0.05


def of_groups_of_all_sizes(amount=50):
    """Group g has g + 1 rows."""
    groups = np.repeat(np.arange(amount), np.arange(amount) + 1)
    return replace(dataset_of([len(groups) // 2, len(groups) - len(groups) // 2]), groups=groups)


def test_groups_of_different_sizes_are_divided_anew_by_each_repeat_and_seed():
    dataset = of_groups_of_all_sizes(20)
    divided = [
        fold.valid.tobytes()
        for seed in range(3)
        for fold in split_rows(dataset, Validation(kfold=3, repeat=3), seed).folds
    ]
    assert len(set(divided)) == len(divided)


def test_groups_of_every_size_are_judged():
    dataset = of_groups_of_all_sizes()
    drawn = [dataset.groups[fold.valid] for seed in range(20) for fold in halves(dataset, seed=seed).folds]
    assert all(groups.max() >= 40 for groups in drawn), "the largest are not all learned from"
    assert np.mean([len(set(groups) & set(range(25))) / len(set(groups)) for groups in drawn]) < 0.7
    assert all(abs(len(groups) / len(dataset.y) - 0.16) < 0.02 for groups in drawn)


def test_a_class_of_too_few_groups_is_refused_by_name():
    dataset = replace(dataset_of([40, 6]), groups=np.zeros(46, np.int64))
    dataset.groups[dataset.y == 0] = np.arange(40) // 2 + 1
    with pytest.raises(DataError, match="class 'c1' lie in 1 groups, which cannot be dealt to 2 sides"):
        split_rows(dataset, Validation(holdout=0.3, test=0.0), seed=0)


def test_groups_that_given_test_rows_share_with_the_others_are_refused():
    dataset = replace(dataset_of([8, 8]), groups=np.arange(16) // 2, test_rows=np.array([0, 2]))
    with pytest.raises(DataError, match="2 groups have rows among the test rows and among the others"):
        split_rows(dataset, Validation(), seed=0)
