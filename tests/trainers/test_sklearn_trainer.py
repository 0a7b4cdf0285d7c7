"""What is particular to scikit-learn's classifiers; the contract itself is tested in test_trainers.py."""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from spaces.params import SpaceError
from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.sklearn_trainer import ESTIMATORS, EstimatorTrainer, SklearnTrainer

MakeFold = Callable[..., Fold]

MADE: dict[str, tuple[Callable[[], SklearnTrainer], dict[str, Any]]] = {
    **{name: (make, {}) for name, make in ESTIMATORS.items() if name != "hist_gradient_boosting"},
    "boosting": (
        ESTIMATORS["hist_gradient_boosting"],
        {"iterations_per_epoch": 3, "max_leaf_nodes": 4, "learning_rate": 0.5},
    ),
    "forest, weighted": (
        ESTIMATORS["random_forest"],
        {"iterations_per_epoch": 3, "max_samples": 0.7, "rebalance": "class_weight"},
    ),
    "boosting, features drawn": (
        ESTIMATORS["hist_gradient_boosting"],
        {
            "iterations_per_epoch": 2,
            "max_leaf_nodes": 4,
            "max_features": 0.3,
            "rebalance": "class_weight",
            "strength": 0.5,
        },
    ),
    "mlp, sgd": (
        ESTIMATORS["mlp"],
        {
            "solver": "sgd",
            "learning_rate_init": 0.05,
            "layers": 2,
            "units": 20,
            "standardize": True,
            "rebalance": "class_weight",
        },
    ),
    "logistic regression, L1": (
        ESTIMATORS["logistic_regression"],
        {"l1_ratio": 0.5, "solver": "saga", "standardize": True, "rebalance": "class_weight"},
    ),
    "SVC": (lambda: EstimatorTrainer("sklearn.svm.SVC"), {"C": 3.0, "standardize": True}),
    "extra trees": (lambda: EstimatorTrainer("sklearn.ensemble:ExtraTreesClassifier"), {"n_estimators": 5}),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=MADE)
def made(request: pytest.FixtureRequest) -> tuple[SklearnTrainer, Any]:
    make, params = MADE[request.param]
    trainer = make()
    return trainer, trainer.Settings(**params)


def last_epoch(trainer: SklearnTrainer, settings: Any, fold: Fold) -> Epoch:
    return list(trainer.train(settings, fold, None))[-1]


def test_resumed_and_loaded_are_the_same_as_straight(
    made: tuple[SklearnTrainer, Any], make_fold: MakeFold, tmp_path: Path
) -> None:
    trainer, settings = made
    fold = make_fold(epochs=3, seed=5)
    straight = []
    for epoch in trainer.train(settings, fold, None):
        straight.append(epoch)
        if epoch.number == 2:
            epoch.save(tmp_path, 0.5)
    if len(straight) == 1:
        straight[0].save(tmp_path, 0.5)
    resumed = list(trainer.train(settings, fold, tmp_path))
    assert [epoch.number for epoch in resumed] == [epoch.number for epoch in straight[2:]]
    for one, other in zip(straight[2:], resumed, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.curves == other.curves
    predicted = trainer.load(tmp_path).predict(fold.x_valid)
    assert np.array_equal(predicted, straight[min(2, len(straight)) - 1].probabilities)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}


def test_model_that_another_scikit_learn_fits_again_is_told(
    fold: Fold, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, file = ESTIMATORS["knn"](), tmp_path / "about.json"
    last_epoch(trainer, trainer.Settings(), fold).save(tmp_path, 0.5)
    trainer.load(tmp_path)
    assert not caplog.records
    file.write_text(json.dumps({**json.loads(file.read_text()), "scikit-learn": "0.1"}))
    trainer.load(tmp_path)
    assert "was fitted by scikit-learn 0.1 and is fitted again by" in caplog.text


def test_a_class_missing_from_training_is_never_likely(
    made: tuple[SklearnTrainer, Any], fold: Fold, make_fold: MakeFold
) -> None:
    trainer, settings = made
    kept = fold.y_train != 4
    lacking = make_fold(train=fold.train[kept], y_train=fold.y_train[kept], epochs=2)
    probabilities = last_epoch(trainer, settings, lacking).probabilities
    assert probabilities.shape == (60, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities[:, 4].mean() < 0.1


def test_two_classes_have_two_columns(
    made: tuple[SklearnTrainer, Any], fold: Fold, make_fold: MakeFold
) -> None:
    trainer, settings = made
    odd = make_fold(y_train=fold.y_train % 2, classes=("even", "odd"), valid=fold.train, epochs=4)
    probabilities = last_epoch(trainer, settings, odd).probabilities
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (probabilities.argmax(axis=1) == odd.y_train).mean() > 0.7


@pytest.mark.parametrize("name", ["logistic_regression", "random_forest", "hist_gradient_boosting", "mlp"])
def test_rebalancing_helps_the_rare_class(name: str, fold: Fold, make_fold: MakeFold) -> None:
    threes = np.flatnonzero(fold.y_train == 3)
    rest = np.flatnonzero(fold.y_train != 3)
    rows = np.sort(np.concatenate([threes[:2], rest]))
    rare = make_fold(train=rows, y_train=(fold.y_train[rows] == 3).astype(np.int64), classes=("not 3", "3"))
    trainer = ESTIMATORS[name]()
    limits = {"max_depth": 2} if name == "random_forest" else {}
    plain, half, full = (
        last_epoch(trainer, trainer.Settings(**limits, **params), rare).probabilities[:, 1].mean()
        for params in (
            {},
            {"rebalance": "class_weight", "strength": 0.5},
            {"rebalance": "class_weight"},
        )
    )
    assert plain < half < full


def test_standardizing_makes_the_units_of_features_irrelevant(fold: Fold, make_fold: MakeFold) -> None:
    trainer = ESTIMATORS["knn"]()
    x = fold.x.reshape(160, 64).astype(np.float32)
    stretched = x * np.linspace(1, 1000, 64, dtype=np.float32)
    for standardize, same in ((True, True), (False, False)):
        one, other = (
            last_epoch(trainer, trainer.Settings(standardize=standardize), make_fold(x=rows, scale=1.0))
            for rows in (x, stretched)
        )
        assert np.array_equal(one.probabilities, other.probabilities) is same


def test_standardizing_learns_from_training_rows_only(fold: Fold, make_fold: MakeFold) -> None:
    trainer = ESTIMATORS["mlp"]()
    settings = trainer.Settings(standardize=True)
    x = fold.x.copy()
    x[150:] = 255  # validation rows, as are 100 to 149
    one, other = (last_epoch(trainer, settings, make_fold(x=rows, epochs=1)) for rows in (fold.x, x))
    assert np.array_equal(one.probabilities[:50], other.probabilities[:50])


def test_constant_features_survive_standardizing(fold: Fold, make_fold: MakeFold) -> None:
    x = fold.x.copy()
    x[:, 0] = 7
    trainer = ESTIMATORS["logistic_regression"]()
    probabilities = last_epoch(trainer, trainer.Settings(standardize=True), make_fold(x=x)).probabilities
    assert np.isfinite(probabilities).all()


def test_trees_and_rounds_grow_with_the_epochs(fold: Fold) -> None:
    for name in ("random_forest", "hist_gradient_boosting"):
        trainer = ESTIMATORS[name]()
        epochs = list(trainer.train(trainer.Settings(iterations_per_epoch=3), fold, None))
        assert [epoch.curves["iterations"] for epoch in epochs] == [3, 6, 9, 12]


def test_neighbours_are_those_of_one_call_over_all_rows(fold: Fold) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    trainer = ESTIMATORS["knn"]()
    flat = fold.x.reshape(160, -1).astype(np.float32) / np.float32(16)
    model = KNeighborsClassifier(5).fit(flat[:100], fold.y_train)
    probabilities = last_epoch(trainer, trainer.Settings(), fold).probabilities
    assert np.array_equal(probabilities, model.predict_proba(flat[100:]).astype(np.float32))


def test_mlp_counts_its_weights(fold: Fold, make_fold: MakeFold) -> None:
    trainer = ESTIMATORS["mlp"]()
    settings = trainer.Settings(layers=2, units=5)
    two = make_fold(y_train=fold.y_train % 2, classes=("even", "odd"))
    assert trainer.check(settings, fold) == 65 * 5 + 6 * 5 + 6 * 10
    assert trainer.check(settings, two) == 65 * 5 + 6 * 5 + 6


def test_mlp_that_diverges_is_seen_by_its_numbers(make_fold: MakeFold) -> None:
    trainer = ESTIMATORS["mlp"]()
    settings = trainer.Settings(solver="sgd", learning_rate_init=10.0, activation="identity", layers=8)
    epoch = last_epoch(trainer, settings, make_fold(scale=1e-6, epochs=2))
    assert not np.isfinite(epoch.probabilities).all()


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("knn", {"n_neighbors": 101}, "n_neighbors: 101 .* 100 training rows"),
        ("logistic_regression", {"l1_ratio": 0.5}, "solver lbfgs .* use the solver saga"),
        ("random_forest", {"min_samples_leaf": 51}, "min_samples_leaf: two leaves of 51 .* 100"),
        ("hist_gradient_boosting", {"min_samples_leaf": 51}, "min_samples_leaf: two leaves of 51 .* 100"),
    ],
)
def test_no_model_is_infeasible(name: str, params: dict[str, Any], reason: str, fold: Fold) -> None:
    trainer = ESTIMATORS[name]()
    settings = trainer.Settings(**params)
    with pytest.raises(Infeasible, match=reason):
        trainer.check(settings, fold)
    with pytest.raises(Infeasible, match=reason):
        next(trainer.train(settings, fold, None))


def test_any_estimator_has_its_own_params() -> None:
    from sklearn.svm import SVC

    trainer = EstimatorTrainer("sklearn.svm.SVC")
    assert set(trainer.Settings.model_fields) == {"standardize", *SVC().get_params()}
    settings: Any = trainer.Settings(C=2, gamma=0.5, kernel="rbf", shrinking=False)
    assert (settings.C, settings.gamma, settings.shrinking) == (2, 0.5, False)
    assert trainer.Settings(gamma="auto", class_weight="balanced", random_state=3)
    with pytest.raises(ValidationError, match="kernal"):
        trainer.Settings(kernal="rbf")
    for wrong in ({"C": "much"}, {"shrinking": 3}, {"degree": "two"}, {"C": float("nan")}):
        with pytest.raises(ValidationError):
            trainer.Settings(**wrong)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"C": -1.0}, "The 'C' parameter of SVC must be .* Got -1.0"),
        ({"kernel": "cubic"}, "The 'kernel' parameter of SVC must be"),
    ],
)
def test_a_value_that_the_estimator_refuses_is_infeasible(
    params: dict[str, Any], reason: str, fold: Fold
) -> None:
    trainer = EstimatorTrainer("sklearn.svm.SVC")
    settings = trainer.Settings(**params)
    with pytest.raises(Infeasible, match=reason):
        trainer.check(settings, fold)
    with pytest.raises(Infeasible, match=reason) as caught:
        next(trainer.train(settings, fold, None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "params", "reason"),
    [
        (
            "sklearn.svm.LinearSVC",
            {"penalty": "l1", "loss": "hinge"},
            "penalty='l1' and loss='hinge' is not supported",
        ),
        ("sklearn.neighbors.RadiusNeighborsClassifier", {"radius": 1e-6}, "No neighbors found"),
    ],
)
def test_params_that_fit_or_predict_refuse_are_infeasible(
    path: str, params: dict[str, Any], reason: str, fold: Fold
) -> None:
    trainer = EstimatorTrainer(path)
    with pytest.raises(Infeasible, match=reason):
        next(trainer.train(trainer.Settings(**params), fold, None))


def test_the_folds_seed_is_the_estimators_unless_it_is_set(make_fold: MakeFold) -> None:
    trainer = EstimatorTrainer("sklearn.ensemble.ExtraTreesClassifier")

    def probabilities(seed: int, **params: Any) -> Any:
        settings = trainer.Settings(n_estimators=5, **params)
        return last_epoch(trainer, settings, make_fold(seed=seed)).probabilities

    assert np.array_equal(probabilities(1), probabilities(1))
    assert not np.array_equal(probabilities(1), probabilities(2))
    assert np.array_equal(probabilities(1, random_state=8), probabilities(2, random_state=8))


@pytest.mark.parametrize("num_classes", [2, 10])
def test_without_probabilities_the_decision_function_ranks(
    num_classes: int, fold: Fold, make_fold: MakeFold
) -> None:
    from sklearn.svm import LinearSVC

    y = fold.y_train % num_classes
    changed = make_fold(y_train=y, classes=fold.classes[:num_classes])
    trainer = EstimatorTrainer("sklearn.svm.LinearSVC")
    probabilities = last_epoch(trainer, trainer.Settings(), changed).probabilities
    flat = fold.x.reshape(160, -1).astype(np.float32) / np.float32(16)
    expected = LinearSVC(random_state=0).fit(flat[:100], y).predict(flat[100:])
    assert np.array_equal(probabilities.argmax(axis=1), expected)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


PLAIN = '''
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Mode(ClassifierMixin, BaseEstimator):
    """Always the commonest class, give or take."""

    def __init__(self, shift=0):
        self.shift = shift

    def fit(self, x, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.mode_ = self.classes_[(counts.argmax() + self.shift) % len(self.classes_)]
        return self

    def predict(self, x):
        return np.full(len(x), self.mode_)


class Needy(Mode):
    def __init__(self, other):
        self.other = other


class Mute(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        return self
'''


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain_estimators.py").write_text(PLAIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plain_estimators", raising=False)
    importlib.invalidate_caches()


def test_an_estimator_of_ones_own_that_only_predicts(plain: None, fold: Fold, tmp_path: Path) -> None:
    trainer = EstimatorTrainer("plain_estimators:Mode")
    epoch = last_epoch(trainer, trainer.Settings(shift=1), fold)
    assert set(np.unique(epoch.probabilities)) == {0.0, 1.0}
    assert (epoch.probabilities.sum(axis=1) == 1).all()
    folder = tmp_path / "saved"
    folder.mkdir()
    epoch.save(folder, 0.1)
    assert np.array_equal(trainer.load(folder).predict(fold.x_valid), epoch.probabilities)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("SVC", "'SVC' is no path; .* such as sklearn.svm.SVC"),
        ("sklearn.svm:", "is no path"),
        (".svm.SVC", "cannot import the module of '.svm.SVC'"),
        (
            "no_such_module.SVC",
            "cannot import the module of 'no_such_module.SVC': ModuleNotFoundError: No module",
        ),
        ("sklearn.svm.SVV", "module sklearn.svm has no 'SVV'; did you mean 'SVC'\\?"),
        ("sklearn.linear_model.Ridge", "'sklearn.linear_model.Ridge' is no classifier: name a class"),
        ("sklearn.base.clone", "'sklearn.base.clone' is no classifier"),
        ("sklearn.ensemble.VotingClassifier", "cannot be made without arguments .*estimators"),
        ("plain_estimators:Needy", "cannot be made without arguments .*other"),
        ("plain_estimators:Mute", "and has fit and one of predict_proba, decision_function, predict"),
    ],
)
def test_what_is_no_classifier_is_refused(plain: None, path: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        EstimatorTrainer(path)
    assert [fault.where for fault in caught.value.faults] == [()]


def test_a_model_of_another_trainer_is_refused(fold: Fold, tmp_path: Path) -> None:
    knn = ESTIMATORS["knn"]()
    next(knn.train(knn.Settings(), fold, None)).save(tmp_path, 0.0)
    assert json.loads((tmp_path / "about.json").read_text())["trainer"] == "knn"
    with pytest.raises(TrainError, match="holds a model of the trainer 'knn', not 'random_forest'"):
        ESTIMATORS["random_forest"]().load(tmp_path)


def test_there_is_no_format_to_export(fold: Fold, tmp_path: Path) -> None:
    trainer = ESTIMATORS["knn"]()
    next(trainer.train(trainer.Settings(), fold, None)).save(tmp_path, 0.0)
    predictor = trainer.load(tmp_path)
    saved = set(tmp_path.iterdir())
    predictor.export(tmp_path, ())
    with pytest.raises(TrainError, match="cannot be exported as onnx, h5: .* ask for none"):
        predictor.export(tmp_path, ("onnx", "h5"))
    assert set(tmp_path.iterdir()) == saved


def test_scores_of_pairs_are_not_taken_for_those_of_three_classes(make_fold: MakeFold) -> None:
    chance = np.random.default_rng(0)
    y = np.arange(160) % 3
    x = (np.eye(3)[y] * 4 + chance.normal(size=(160, 3))).astype(np.float32)
    fold = make_fold(x=x, classes=("a", "b", "c"))
    fold = replace(fold, y_train=y[fold.train])
    trainer = EstimatorTrainer("sklearn.svm.SVC")
    for shape in ("ovo", "ovr"):
        epoch = last_epoch(trainer, trainer.Settings(decision_function_shape=shape), fold)
        assert (epoch.probabilities.argmax(1) == y[fold.valid]).mean() > 0.9
