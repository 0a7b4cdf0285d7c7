"""Classifiers of scikit-learn: those that can go on yield an epoch after each part, the others yield once."""

import importlib.metadata
import json
import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, create_model

from spaces.params import Fault, SpaceError, did_you_mean
from trainers.contract import ROWS, Epoch, Fold, Infeasible, TrainError
from trainers.imports import first_line, import_for
from trainers.rebalance import class_weights

_LOG = logging.getLogger(__name__)
_MOST_ROWS_AT_ONCE = 4096  # when predicting, so that memory stays bounded


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class _Standardizing(_Settings):
    standardize: bool = Field(
        False,
        description="whether each feature is given mean 0 and deviation 1, as measured in training rows",
    )


class _Rebalancing(_Settings):
    rebalance: Literal["none", "class_weight"] = Field(
        "none", description="what is done for rare classes; class_weight: their rows count more"
    )
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="how far class_weight goes: 0 not at all, 1 until classes count alike or a row for 50",
    )


class KNNSettings(_Standardizing):
    n_neighbors: int = Field(5, ge=1, le=10_000, description="training rows that vote on a row")
    weights: Literal["uniform", "distance"] = Field(
        "uniform", description="whether every neighbour counts alike or near ones count more"
    )
    p: float = Field(2.0, ge=1, le=100, description="power of the distance: 1 = city blocks, 2 = Euclidean")


class LogisticRegressionSettings(_Standardizing, _Rebalancing):
    C: float = Field(1.0, gt=0, le=1e9, description="inverse of the penalty's strength")
    l1_ratio: float = Field(
        0.0, ge=0, le=1, description="share of the L1 penalty, the rest being L2; above 0 for saga only"
    )
    solver: Literal["lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"] = Field(
        "lbfgs", description="how the weights are found"
    )
    max_iter: int = Field(200, ge=1, le=100_000, description="steps of the solver at most")


class RandomForestSettings(_Rebalancing):
    iterations_per_epoch: int = Field(10, ge=1, le=1000, description="trees that an epoch adds")
    criterion: Literal["gini", "entropy"] = Field("gini", description="what a good split lowers")
    max_depth: int = Field(0, ge=0, le=1000, description="levels of a tree at most; 0: as many as it takes")
    min_samples_leaf: int = Field(1, ge=1, le=100_000, description="training rows in a leaf at least")
    max_features: Literal["sqrt", "log2", "all"] = Field(
        "sqrt", description="how many features, drawn anew for each split, it may use"
    )
    max_samples: float = Field(
        1.0, gt=0, le=1, description="rows drawn with replacement for each tree, as a share of all"
    )


class HistGradientBoostingSettings(_Rebalancing):
    iterations_per_epoch: int = Field(10, ge=1, le=1000, description="rounds of boosting in an epoch")
    learning_rate: float = Field(0.1, gt=0, le=10, description="how much of each tree's correction is taken")
    max_leaf_nodes: int = Field(31, ge=2, le=10_000, description="leaves of a tree at most")
    max_depth: int = Field(0, ge=0, le=1000, description="levels of a tree at most; 0: as many as it takes")
    min_samples_leaf: int = Field(20, ge=1, le=100_000, description="training rows in a leaf at least")
    l2_regularization: float = Field(0.0, ge=0, le=1e6, description="penalty on large corrections")
    max_features: float = Field(
        1.0, gt=0, le=1, description="share of the features, drawn anew for each split, that it may use"
    )
    max_bins: int = Field(255, ge=2, le=255, description="values that each feature is rounded to")


class MLPSettings(_Standardizing, _Rebalancing):
    layers: int = Field(1, ge=1, le=20, description="hidden layers")
    units: int = Field(100, ge=1, le=100_000, description="units of each hidden layer")
    activation: Literal["relu", "tanh", "logistic", "identity"] = Field(
        "relu", description="what follows each hidden layer"
    )
    solver: Literal["adam", "sgd"] = Field("adam", description="update rule")
    learning_rate_init: float = Field(1e-3, gt=0, le=10, description="step size of the solver")
    momentum: float = Field(0.9, ge=0, le=1, description="momentum of sgd; adam has its own")
    alpha: float = Field(1e-4, ge=0, le=1e6, description="L2 penalty on the weights")
    batch_size: int = Field(32, ge=1, le=100_000, description="rows per update; at most all rows")


@dataclass
class SklearnPredictor:
    """A fitted classifier."""

    classes: tuple[str, ...]
    center: NDArray[np.float32]
    """() or (n_features,): taken off stored rows, which are then divided by ``spread`` of the same shape."""
    spread: NDArray[np.float32]
    model: Any

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        probabilities = np.zeros((len(x), len(self.classes)), np.float32)
        for first in range(0, len(x), _MOST_ROWS_AT_ONCE):
            rows = slice(first, first + _MOST_ROWS_AT_ONCE)
            # A model knows only the classes that its training rows have.
            probabilities[rows, self.model.classes_] = _probabilities(self.model, self.as_vectors(x[rows]))
        return probabilities

    def as_vectors(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(n, n_features): what the model sees of the rows (n, ...) as stored."""
        vectors = x.reshape(len(x), -1).astype(np.float32)
        vectors -= self.center
        vectors /= self.spread
        return vectors

    def export(self, folder: Path, formats: Sequence[str]) -> None:
        if formats:
            raise TrainError(
                f"a scikit-learn model cannot be exported as {', '.join(formats)}: it has no other format "
                "than its run's own; ask for none (keras and onnx are for the keras trainers)"
            )


@dataclass
class _Fitting:
    """A classifier and the training rows as it sees them."""

    settings: Any
    fold: Fold
    predictor: SklearnPredictor
    x: NDArray[np.float32]
    sample_weight: NDArray[np.float32] | None


class SklearnTrainer:
    """Trains the classifiers that ``make`` makes, and goes on by fitting again.

    What is saved are the training rows and how many epochs they were fitted for. Fitting is repeated where a
    trial goes on or a model is loaded: scikit-learn has no way to write a tree or a support vector machine
    down but pickle, whose files can run code, while the same rows and seed give the same model bit for bit.
    So a checkpoint is as large as the training rows, and reading it costs all epochs so far once more.
    """

    def __init__(
        self, name: str, settings: type[BaseModel], make: Callable[[Any, Fold], Any], rounds: str
    ) -> None:
        """``make(settings, fold)`` is an unfitted classifier, or raises Infeasible with the reason.

        ``rounds`` is its param that grows by ``settings.iterations_per_epoch`` with every epoch; where it is
        empty there is a single epoch.
        """
        self.name = name
        self.Settings = settings
        self._make = make
        self._rounds = rounds

    def check(self, settings: Any, fold: Fold) -> int:
        self._make(settings, fold)
        return 0

    def train(self, settings: Any, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        trained = _read_about(start, self.name)["epoch"] if start else 0
        numbers = range(trained + 1, self._num_epochs(fold) + 1)
        if not numbers:
            return
        fitting = self._begin(settings, fold)
        if start:
            self._restore(fitting, start, trained)
        x_valid = fold.x_valid
        for number in numbers:
            curves = self._fit_epoch(fitting, number)
            with _refusals_are_infeasible():
                probabilities = fitting.predictor.predict(x_valid)
            yield Epoch(number, probabilities, curves, save=partial(self._save, fitting, number))

    def load(self, folder: Path) -> SklearnPredictor:
        about = _read_about(folder, self.name)
        if (then := about.get("scikit-learn", _version())) != _version():
            _LOG.warning(
                "%s was fitted by scikit-learn %s and is fitted again by %s: it may predict otherwise",
                *(folder, then, _version()),
            )
        with np.load(folder / ROWS, allow_pickle=False) as rows:
            x, y = rows["x"], rows["y"]
        everything = np.arange(len(x))
        fold = Fold(
            x=x,
            train=everything,
            y_train=y,
            valid=everything[:0],
            classes=tuple(about["classes"]),
            scale=about["scale"],
            epochs=about["epoch"],
            seed=about["seed"],
        )
        fitting = self._begin(self.Settings.model_validate(about["settings"]), fold)
        self._restore(fitting, folder, about["epoch"])
        return fitting.predictor

    def _num_epochs(self, fold: Fold) -> int:
        return fold.epochs if self._rounds else 1

    def _begin(self, settings: Any, fold: Fold) -> _Fitting:
        model = self._make(settings, fold)
        stored = fold.x_train
        predictor = SklearnPredictor(fold.classes, *_center_and_spread(settings, stored, fold.scale), model)
        weights = _sample_weight(settings, fold.y_train, len(fold.classes))
        return _Fitting(settings, fold, predictor, predictor.as_vectors(stored), weights)

    def _fit_epoch(self, fitting: _Fitting, number: int) -> dict[str, float]:
        """Fit what epoch ``number`` adds; what to draw of it."""
        model, curves = fitting.predictor.model, {}
        if self._rounds:
            rounds = number * fitting.settings.iterations_per_epoch
            model.set_params(**{self._rounds: rounds})
            curves = {"iterations": float(rounds)}
        weights = {} if fitting.sample_weight is None else {"sample_weight": fitting.sample_weight}
        with _refusals_are_infeasible():
            model.fit(fitting.x, fitting.fold.y_train, **weights)
        return curves

    def _restore(self, fitting: _Fitting, start: Path, trained: int) -> None:
        for number in range(1, trained + 1):
            self._fit_epoch(fitting, number)

    def _save(self, fitting: _Fitting, number: int, folder: Path, score: float) -> None:
        np.savez(folder / ROWS, x=fitting.fold.x_train, y=fitting.fold.y_train)
        _write_about(folder, self.name, fitting, number)


class MLPTrainer(SklearnTrainer):
    """Trains a multi-layer perceptron; an epoch is one pass over the training rows.

    Its whole state is a few arrays, so going on and loading cost nothing. The order of the rows follows from
    the seed and the epoch's number alone.
    """

    def __init__(self) -> None:
        super().__init__("mlp", MLPSettings, lambda settings, fold: _mlp(settings), "")

    def check(self, settings: MLPSettings, fold: Fold) -> int:
        num_features = int(np.prod(fold.x.shape[1:]))
        num_outputs = 1 if len(fold.classes) == 2 else len(fold.classes)
        sizes = [num_features, *[settings.units] * settings.layers, num_outputs]
        return sum((before + 1) * after for before, after in zip(sizes, sizes[1:], strict=False))

    def load(self, folder: Path) -> SklearnPredictor:
        about = _read_about(folder, self.name)
        settings = MLPSettings.model_validate(about["settings"])
        with np.load(folder / "model.npz", allow_pickle=False) as arrays:
            model = _mlp_from(settings, arrays, len(about["classes"]))
            return SklearnPredictor(tuple(about["classes"]), arrays["center"], arrays["spread"], model)

    def _num_epochs(self, fold: Fold) -> int:
        return fold.epochs

    def _fit_epoch(self, fitting: _Fitting, number: int) -> dict[str, float]:
        model, fold = fitting.predictor.model, fitting.fold
        (state,) = np.random.SeedSequence([fold.seed, number]).generate_state(1)
        model.set_params(random_state=int(state), batch_size=min(fitting.settings.batch_size, len(fitting.x)))
        everything = np.arange(len(fold.classes))
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of overflow; the train_loss shows it
            try:
                model.partial_fit(fitting.x, fold.y_train, fitting.sample_weight, classes=everything)
            except ValueError:
                if all(np.isfinite(weights).all() for weights in model.coefs_):
                    raise
                # It diverged: its predictions are not numbers, which is for the one who scores to see.
        return {"train_loss": float(model.loss_)}

    def _restore(self, fitting: _Fitting, start: Path, trained: int) -> None:
        with np.load(start / "model.npz", allow_pickle=False) as arrays:
            fitting.predictor.model = _mlp_from(fitting.settings, arrays, len(fitting.fold.classes))

    def _save(self, fitting: _Fitting, number: int, folder: Path, score: float) -> None:
        predictor = fitting.predictor
        np.savez(
            folder / "model.npz",
            center=predictor.center,
            spread=predictor.spread,
            updates=getattr(predictor.model._optimizer, "t", 0),
            **{
                f"{name}{layer}": array
                for holder, name in _mlp_state(predictor.model)
                for layer, array in enumerate(getattr(holder, name))
            },
        )
        _write_about(folder, self.name, fitting, number)


class EstimatorTrainer(SklearnTrainer):
    """Trains any classifier that follows scikit-learn's conventions, in one epoch.

    Its settings are the classifier's own params and `standardize`. Where the classifier predicts no
    probabilities, they are the softmax of its decision function, which ranks classes as it does but is not
    calibrated; where it has no such function for each class either, the class it predicts gets 1.
    """

    def __init__(self, estimator: str) -> None:
        """``estimator`` is package.module.Class or module:Class; SpaceError where that is no classifier."""
        made_by = _classifier(estimator)
        super().__init__(estimator, _settings_of(estimator, made_by), partial(_any, made_by), "")


def _knn(settings: KNNSettings, fold: Fold) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    if settings.n_neighbors > len(fold.train):
        raise Infeasible(
            f"n_neighbors: {settings.n_neighbors} neighbours are more than the {len(fold.train)} "
            "training rows; use fewer"
        )
    # It compares all rows with all where there are more than 15 features, and builds a tree where fewer.
    return KNeighborsClassifier(settings.n_neighbors, weights=settings.weights, p=settings.p)


def _logistic_regression(settings: LogisticRegressionSettings, fold: Fold) -> Any:
    from sklearn.linear_model import LogisticRegression

    if settings.l1_ratio > 0 and settings.solver != "saga":
        raise Infeasible(
            f"l1_ratio: {settings.l1_ratio} asks for an L1 penalty, which the solver {settings.solver} does "
            "not have; use the solver saga, or l1_ratio 0"
        )
    return LogisticRegression(
        C=settings.C,
        l1_ratio=settings.l1_ratio,
        solver=settings.solver,
        max_iter=settings.max_iter,
        random_state=fold.seed % 2**32,
    )


def _random_forest(settings: RandomForestSettings, fold: Fold) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    _check_leaf(settings.min_samples_leaf, fold)
    return RandomForestClassifier(
        criterion=settings.criterion,
        max_depth=settings.max_depth or None,
        min_samples_leaf=settings.min_samples_leaf,
        max_features=None if settings.max_features == "all" else settings.max_features,
        max_samples=settings.max_samples,
        warm_start=True,
        random_state=fold.seed % 2**32,
    )


def _hist_gradient_boosting(settings: HistGradientBoostingSettings, fold: Fold) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    _check_leaf(settings.min_samples_leaf, fold)
    return HistGradientBoostingClassifier(
        learning_rate=settings.learning_rate,
        max_leaf_nodes=settings.max_leaf_nodes,
        max_depth=settings.max_depth or None,
        min_samples_leaf=settings.min_samples_leaf,
        l2_regularization=settings.l2_regularization,
        max_features=settings.max_features,
        max_bins=settings.max_bins,
        early_stopping=False,  # it would set training rows aside; whoever scores the epochs does this
        warm_start=True,
        random_state=fold.seed % 2**32,
    )


def _check_leaf(min_samples_leaf: int, fold: Fold) -> None:
    if 2 * min_samples_leaf > len(fold.train):
        raise Infeasible(
            f"min_samples_leaf: two leaves of {min_samples_leaf} rows are more than the {len(fold.train)} "
            "training rows, so that no tree can split; use fewer"
        )


def _mlp(settings: MLPSettings) -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(
        hidden_layer_sizes=(settings.units,) * settings.layers,
        activation=settings.activation,
        solver=settings.solver,
        learning_rate_init=settings.learning_rate_init,
        momentum=settings.momentum,
        alpha=settings.alpha,
        batch_size=1,  # every epoch sets it, when the number of rows is known
    )


def _mlp_state(model: Any) -> list[tuple[Any, str]]:
    """Where the lists are, each with an array per layer, that a perceptron goes on from."""
    moments = ("ms", "vs") if model.solver == "adam" else ("velocities",)
    return [(model, "coefs_"), (model, "intercepts_"), *((model._optimizer, name) for name in moments)]


def _mlp_from(settings: MLPSettings, arrays: Any, num_classes: int) -> Any:
    """The perceptron whose state was saved in ``arrays``."""
    model = _mlp(settings)
    # One made-up row brings everything else about the model to life.
    row = np.zeros((1, len(arrays["coefs_0"])), arrays["coefs_0"].dtype)
    model.partial_fit(row, [0], classes=np.arange(num_classes))
    for holder, name in _mlp_state(model):
        setattr(holder, name, [arrays[f"{name}{layer}"] for layer in range(len(getattr(holder, name)))])
    model._optimizer.t = int(arrays["updates"])  # Adam's; sgd has no use for it
    return model


def _classifier(path: str) -> type:
    """The class at ``path``, made sure to be a classifier."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module or not name:
        raise _fault(
            f"{path!r} is no path; name the class of a classifier, such as sklearn.svm.SVC or module:Class"
        )
    there = vars(import_for(path, module))
    classifiers = {name: found for name, found in there.items() if _is_classifier(found)}
    if name not in there:
        raise _fault(f"module {module} has no {name!r}{did_you_mean(name, classifiers)}")
    if name not in classifiers:
        raise _fault(
            f"{path!r} is no classifier: name a class, such as sklearn.svm.SVC, that inherits "
            "sklearn.base.ClassifierMixin and sklearn.base.BaseEstimator, and has fit and one of "
            f"{', '.join(_ANSWERS)}{did_you_mean(name, classifiers)}"
        )
    return classifiers[name]


_ANSWERS = ("predict_proba", "decision_function", "predict")


def _is_classifier(found: object) -> TypeGuard[type]:
    from sklearn.base import BaseEstimator, ClassifierMixin

    return (
        isinstance(found, type)
        and issubclass(found, ClassifierMixin)
        and issubclass(found, BaseEstimator)
        and hasattr(found, "fit")
        and any(hasattr(found, method) for method in _ANSWERS)
    )


def _fault(message: str) -> SpaceError:
    return SpaceError(Fault((), message))


def _settings_of(path: str, made_by: type) -> type[BaseModel]:
    """The params of a classifier as settings; bounds and choices stay for the classifier to judge."""
    try:
        params = made_by().get_params(deep=False)
    except Exception as error:  # somebody else's code
        raise _fault(
            f"{path!r} cannot be made without arguments ({first_line(error)}); name another classifier"
        ) from error
    fields: dict[str, Any] = {name: _field(name, default, path) for name, default in params.items()}
    return create_model(made_by.__name__ + "Settings", __base__=_Standardizing, **fields)


_Scalar = bool | int | float | str


def _field(name: str, default: Any, path: str) -> tuple[Any, Any]:
    description = f"param of {path}, {default!r} if it is not set"
    kinds = {bool: bool, int: int | float, float: float}  # many whole numbers may be given as a share, too
    kind = kinds.get(type(default))
    if kind is None:
        return _Scalar | None, Field(default if isinstance(default, str) else None, description=description)
    return kind, Field(default, description=description)


def _any(made_by: type, settings: BaseModel, fold: Fold) -> Any:
    given = settings.model_dump(include=settings.model_fields_set - {"standardize"})
    with _refusals_are_infeasible():
        model = made_by(**given)
        if hasattr(model, "_parameter_constraints"):  # which not everyone who follows the conventions has
            model._validate_params()
    if "random_state" in type(settings).model_fields and "random_state" not in given:
        model.set_params(random_state=fold.seed % 2**32)
    return model


@contextmanager
def _refusals_are_infeasible() -> Iterator[None]:
    """A ValueError is scikit-learn's word for params that contradict each other or the rows."""
    with warnings.catch_warnings():
        # That an iteration ended before it converged, say: scores tell what that is worth.
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:
            raise Infeasible(str(error).strip().partition("\n")[0]) from error


def _center_and_spread(
    settings: Any, stored: NDArray[Any], scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    if not (isinstance(settings, _Standardizing) and settings.standardize):
        return np.array(0, np.float32), np.array(scale, np.float32)
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(stored.reshape(len(stored), -1))
    return scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32)


def _sample_weight(settings: Any, y: NDArray[np.int64], num_classes: int) -> NDArray[np.float32] | None:
    """(n,) how much each training row counts; None where all count alike."""
    if isinstance(settings, _Rebalancing) and settings.rebalance == "class_weight":
        return class_weights(y, num_classes, settings.strength)[y]
    return None


def _probabilities(model: Any, vectors: NDArray[np.float32]) -> NDArray[Any]:
    """(n, n_known) for the classes that the model knows, in the order of its ``classes_``."""
    from scipy.special import softmax

    if hasattr(model, "predict_proba"):
        return model.predict_proba(vectors)
    if hasattr(model, "decision_function"):
        scores = model.decision_function(vectors)
        if scores.ndim == 1:  # of two classes, how much more likely the second is
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        # One against one there is a score for each pair, and three classes have as many pairs.
        is_by_pairs = getattr(model, "decision_function_shape", None) == "ovo" and len(model.classes_) > 2
        if scores.shape[1] == len(model.classes_) and not is_by_pairs:
            return softmax(scores, axis=1)
    return model.predict(vectors)[:, None] == model.classes_


def _write_about(folder: Path, trainer: str, fitting: _Fitting, number: int) -> None:
    about = {
        "trainer": trainer,
        "settings": fitting.settings.model_dump(
            exclude_unset=True
        ),  # an estimator's defaults may be anything
        "classes": fitting.fold.classes,
        "scale": fitting.fold.scale,
        "seed": fitting.fold.seed,
        "epoch": number,
        "scikit-learn": _version(),
    }
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _version() -> str:
    return importlib.metadata.version("scikit-learn")


def _read_about(folder: Path, trainer: str) -> dict[str, Any]:
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if about["trainer"] != trainer:
        raise TrainError(
            f"{folder} holds a model of the trainer {about['trainer']!r}, not {trainer!r}; "
            "load it with the trainer that wrote it"
        )
    return about


ESTIMATORS: dict[str, Callable[[], SklearnTrainer]] = {
    "knn": partial(SklearnTrainer, "knn", KNNSettings, _knn, ""),
    "logistic_regression": partial(
        SklearnTrainer, "logistic_regression", LogisticRegressionSettings, _logistic_regression, ""
    ),
    "random_forest": partial(
        SklearnTrainer, "random_forest", RandomForestSettings, _random_forest, "n_estimators"
    ),
    "hist_gradient_boosting": partial(
        SklearnTrainer,
        "hist_gradient_boosting",
        HistGradientBoostingSettings,
        _hist_gradient_boosting,
        "max_iter",
    ),
    "mlp": MLPTrainer,
}
"""Trainers by name, none with an option left to give; any other classifier is for `EstimatorTrainer`."""
