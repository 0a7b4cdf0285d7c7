"""KerasTuner's hypermodels: the space found in them, how they are trained, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from spaces.params import SpaceError
from spaces.sweep import Sweep, load_sweep
from trainers.contract import Epoch, Fold, Infeasible, TrainError
from trainers.hypermodel import HyperModelTrainer
from trainers.hypermodel_space import _listed, find_space, fixed_of, hypermodel_yaml, space_of

MakeFold = Callable[..., Fold]

SWEEP = """
dataset: digits
objective: macro_f1
epochs: 3
"""


def trainer_of(name: str) -> HyperModelTrainer:
    return HyperModelTrainer(f"tests.hypermodels:{name}")


def space(name: str) -> dict[str, Any]:
    return space_of(f"tests.hypermodels:{name}")


def sweep_of(hypermodel: str, folder: Path) -> Sweep:
    file = folder / "sweep.yaml"
    file.write_text(SWEEP + hypermodel_yaml(hypermodel))
    return load_sweep(file)


def defaults(settings: type[BaseModel]) -> dict[str, Any]:
    return settings().model_dump()


def train(name: str, fold: Fold, start: Path | None = None, **settings: Any) -> list[Epoch]:
    trainer = trainer_of(name)
    return list(trainer.train(trainer.Settings(**settings), fold, start))


@pytest.fixture(scope="module")
def two_classes(make_fold: MakeFold) -> Fold:
    """Zeros and ones alone."""
    fold = make_fold()
    few = np.flatnonzero(fold.y_train < 2)
    return make_fold(
        train=fold.train[few], y_train=fold.y_train[few], valid=fold.train[few], classes=("0", "1"), epochs=40
    )


# ---- the space ----


def test_space_has_every_kind_and_its_conditional_scopes() -> None:
    assert space("Net") == {
        "kind": ["mlp", "cnn"],
        "mlp/units": {"int": [8, 64], "log": True, "when": {"kind": ["mlp"]}},
        "cnn/filters": {"choice": [4, 8], "when": {"kind": ["cnn"]}},
        "cnn/kernel size": {"choice": [3, 5, 7, 9], "when": {"kind": ["cnn"]}},
        "momentum": {"float": [0.1, 0.9], "when": {"kind": ["cnn"]}},
        "rate": [0.1, 0.01],
        "smoothing": [0.0, 0.1, 0.2, 0.3],
    }
    assert fixed_of("tests.hypermodels:Net") == {"version": "v2"}


def test_space_has_what_a_loop_or_an_if_asks_for() -> None:
    found = space("softmax")
    assert found["units_0"] == [8, 16, 24, 32]
    assert found["units_1"]["when"] == {"layers": [2, 3]}
    assert found["units_2"]["when"] == {"layers": [3]}
    assert found["dropout rate"] == {"float": [0.1, 0.5], "when": {"dropout": [True]}}
    assert found["lr"] == {"float": [1e-4, 1e-1], "log": True}


def test_space_has_what_two_decide_together() -> None:
    found = space("crossing")
    assert found["a1"]["when"] == {"kind": ["a"], "layers": [2]}
    assert found["b1"]["when"] == {"kind": ["b"], "layers": [2]}
    assert found["always"] == {"float": [0.0, 1.0]}


def test_instance_has_the_space_of_its_class() -> None:
    assert space("sized") == space("Sized")


@pytest.mark.parametrize("name", ["softmax", "Net", "Sized", "crossing", "OwnFit"])
def test_yaml_loads_as_part_of_a_sweep_whose_draws_are_settings(name: str, tmp_path: Path) -> None:
    sweep = sweep_of(f"tests.hypermodels:{name}", tmp_path)
    assert sweep.trainer == {"hypermodel": f"tests.hypermodels:{name}"}
    settings = trainer_of(name).Settings
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = {**sweep.fixed, **sweep.space.sample(rng)}
        assert drawn.items() <= settings(**drawn).model_dump().items()


def test_steps_that_are_no_short_numbers_stay_within_the_range() -> None:
    import keras_tuner

    drawn = keras_tuner.HyperParameters()
    drawn.Float("low", 1 / 3, 1.0, step=1 / 3)
    drawn.Float("high", 0.0, 2 / 3, step=1 / 3)
    assert [_listed(param) for param in drawn.space] == [
        (1 / 3, 0.666666666667, 1.0),
        (0.0, 0.333333333333, 2 / 3),
    ]


def test_yaml_says_what_it_cannot_say() -> None:
    assert "# momentum is drawn evenly, not by KerasTuner's reverse_log\n" in hypermodel_yaml(
        "tests.hypermodels:Net"
    )
    comments = hypermodel_yaml("tests.hypermodels:OwnFit")
    assert "# its own fit() is not called" in comments
    assert "# units may be anything in its range: a step of 3" in comments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "fixed"),
    [
        ("HyperResNet", 3 * 2 * 3 * 2 * 3 * 3, {}),
        ("HyperXception", 2 * 3 * 2 * 6 * 7 * 3 * 3 * 7 * 2 * 3, {"initial_strides": 2}),
        ("HyperEfficientNet", 8 * 2 * 4 * 3, {}),
    ],
)
def test_own_applications_of_keras_tuner(
    name: str, size: int, fixed: dict[str, Any], tmp_path: Path, make_fold: MakeFold
) -> None:
    hypermodel = f"keras_tuner.applications:{name}"
    sweep = sweep_of(hypermodel, tmp_path)
    assert sweep.space.size == size
    assert sweep.fixed == fixed
    trainer = HyperModelTrainer(hypermodel)
    images = make_fold(x=np.zeros((160, 32, 32, 3), np.uint8), scale=255.0)
    assert trainer.check(trainer.Settings(), images) > 1_000_000


def test_efficient_net_scales_rows_itself() -> None:
    assert not defaults(HyperModelTrainer("keras_tuner.applications:HyperEfficientNet").Settings)["rescale"]
    assert defaults(trainer_of("Sized").Settings)["rescale"]


# ---- settings ----


def test_settings_keep_names_defaults_and_bounds() -> None:
    settings = trainer_of("Net").Settings
    assert defaults(settings) == dict(
        [("kind", "mlp"), ("mlp/units", 16), ("cnn/filters", 4), ("cnn/kernel size", 3), ("momentum", 0.1)],
        rate=0.1,
        smoothing=0.0,
        version="v2",
        batch_size=32,
        epochs=10_000,
        rescale=True,
    )
    for name, value in {"kind": "rnn", "mlp/units": 65, "momentum": 1, "rate": 0.5, "unit": 3}.items():
        with pytest.raises(ValidationError, match=name):
            settings(**{name: value})


def test_hyperparameter_called_as_a_setting_of_ours_takes_its_place(make_fold: MakeFold) -> None:
    assert defaults(trainer_of("Sized").Settings)["batch_size"] == 48
    assert len(train("Sized", make_fold(), epochs=2)) == 2
    assert len(train("Sized", make_fold(), epochs=1)) == 1


def test_build_gets_only_what_is_active() -> None:
    chosen = {**defaults(trainer_of("Net").Settings), "kind": "cnn"}
    active = find_space("tests.hypermodels:Net").values(chosen).values
    assert active.keys() == {
        "kind",
        "cnn/filters",
        "cnn/kernel size",
        "version",
        "momentum",
        "rate",
        "smoothing",
    }


# ---- training ----


@pytest.mark.jax
@pytest.mark.parametrize(
    ("name", "settings"), [("softmax", {"layers": 2, "dropout": True}), ("Net", {"kind": "cnn"})]
)
def test_goes_on_bit_for_bit_and_loads(
    name: str, settings: dict[str, Any], make_fold: MakeFold, tmp_path: Path
) -> None:
    fold = make_fold(epochs=2)
    trainer = trainer_of(name)
    epochs = trainer.train(trainer.Settings(**settings), fold, None)
    first = next(epochs)
    first.save(tmp_path, 0.5)
    second = epochs.send(0.5)
    (again,) = train(name, fold, tmp_path, **settings)
    assert again.number == second.number == 2
    assert np.array_equal(again.probabilities, second.probabilities)
    assert again.curves == second.curves
    assert np.array_equal(trainer.load(tmp_path).predict(fold.x_valid), first.probabilities)


@pytest.mark.parametrize(("name", "settings"), [("softmax", {"lr": 0.02}), ("Net", {"rate": 0.1})])
def test_learns(name: str, settings: dict[str, Any], make_fold: MakeFold) -> None:
    fold = make_fold()
    *_, last = train(name, make_fold(valid=fold.train, epochs=25), **settings)
    assert last.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (last.probabilities.argmax(axis=1) == fold.y_train).mean() > 0.85


def test_one_sigmoid_unit_is_two_classes_with_or_without_logits(two_classes: Fold) -> None:
    *_, last = train("sigmoid", two_classes)
    assert last.probabilities.shape == (len(two_classes.valid), 2)
    assert (last.probabilities.argmax(axis=1) == two_classes.y_train).all()
    *_, of_logits = train("sigmoid_of_logits", two_classes)
    assert of_logits.probabilities == pytest.approx(last.probabilities, abs=1e-3)


def test_learning_rate_is_the_hypermodels_own(make_fold: MakeFold) -> None:
    (epoch,) = train("softmax", make_fold(epochs=1), lr=0.05)
    assert epoch.curves["learning_rate"] == pytest.approx(0.05)


def test_rows_are_scaled_unless_told_not_to(make_fold: MakeFold) -> None:
    fold = make_fold(epochs=1)
    scaled_before = make_fold(epochs=1, x=fold.x.astype(np.float32) / 16, scale=1.0)
    (by_us,), (before,), (not_at_all,) = (
        train("Sized", fold),
        train("Sized", scaled_before),
        train("Sized", fold, rescale=False),
    )
    assert by_us.probabilities == pytest.approx(before.probabilities, abs=1e-6)
    assert not np.allclose(by_us.probabilities, not_at_all.probabilities, atol=1e-2)


def test_exported_model_gives_the_same_probabilities(make_fold: MakeFold, tmp_path: Path) -> None:
    import keras

    fold = make_fold(epochs=1)
    (epoch,) = train("softmax", fold)
    epoch.save(tmp_path, 0.0)
    trainer_of("softmax").load(tmp_path).export(tmp_path, ["keras"])
    model = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    outputs = model.predict(fold.x_valid.astype(np.float32), verbose=0)
    assert outputs == pytest.approx(epoch.probabilities, abs=1e-6)


def test_saved_model_of_another_hypermodel_is_refused(make_fold: MakeFold, tmp_path: Path) -> None:
    (epoch,) = train("Sized", make_fold(epochs=1))
    epoch.save(tmp_path, 0.0)
    with pytest.raises(TrainError, match="no model of the hypermodel 'tests.hypermodels:softmax'"):
        trainer_of("softmax").load(tmp_path)


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        (
            "narrowing",
            {"layers": 4},
            "does not take rows of shape (8, 8, 1): ValueError: Computed output size",
        ),
        ("too_large", {"large": True}, "FailedTrialError: larger than anyone can train"),
        ("uncompiled", {}, "call model.compile in it"),
        (
            "regression",
            {},
            "cannot read class probabilities from the loss mean_squared_error; known: binary_",
        ),
        ("seven_units", {}, "must be 10 units, one for each class; it is (None, 7) and the data has 10"),
        ("sigmoid", {}, "must be 1 unit and 2 classes; it is (None, 1) and the data has 10 classes"),
    ],
)
def test_configuration_without_a_model_is_infeasible(
    name: str, settings: dict[str, Any], reason: str, fold: Fold
) -> None:
    trainer = trainer_of(name)
    with pytest.raises(Infeasible, match=re.escape(reason)) as caught:
        trainer.check(trainer.Settings(**settings), fold)
    assert "\n" not in str(caught.value)
    with pytest.raises(Infeasible, match=re.escape(reason)):
        train(name, fold, **settings)


def test_forgotten_softmax_is_infeasible(fold: Fold) -> None:
    with pytest.raises(
        Infeasible, match=r"no probabilities, such as \[.*\]: end it with a softmax, or compile"
    ):
        train("forgotten_softmax", fold)


@pytest.mark.parametrize(
    ("hypermodel", "message"),
    [
        ("Net", "a hypermodel is named module:attribute, such as my_models:Net, got 'Net'"),
        ("no_such_module:Net", "cannot import the module of 'no_such_module:Net': ModuleNotFoundError: No"),
        ("tests.hypermodels:Nett", "module tests.hypermodels has no 'Nett'; did you mean 'Net'?"),
        ("tests.hypermodels:number", "'tests.hypermodels:number' is no hypermodel: it must be a"),
        ("tests.hypermodels:Other", "'tests.hypermodels:Other' is no hypermodel: it must be a"),
        ("tests.hypermodels:Needy", "'tests.hypermodels:Needy' needs width; a hypermodel is given"),
        ("tests.hypermodels:forgotten_return", "build must return the compiled keras.Model, got NoneType"),
        ("tests.hypermodels:two_meanings", "'units' has other values in another scope; give each a name"),
        ("tests.hypermodels:underscore", "'_units' cannot be the name of a setting; choose another"),
    ],
)
def test_what_is_no_hypermodel_is_refused(hypermodel: str, message: str) -> None:
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        HyperModelTrainer(hypermodel)
    assert [fault.where for fault in caught.value.faults] == [()]
