"""Every architecture has the layers it claims: counted weights, shapes that fit, reasons where none do."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trainers.architectures import alexnet, cnn, glassmodel, lenet5, lung_cnn, resnet50
from trainers.contract import Fold, Infeasible, Trainer, TrainError
from trainers.features import frozen_features
from trainers.keras_trainer import KerasTrainer

ROOT = Path(__file__).parents[2]

D2: dict[str, Any] = dict(conv_layers=1, conv_dropout=0.0)
POINTS: list[tuple[str, ModuleType, dict[str, Any], tuple[int, int, int], int, int]] = [
    (
        "one convolution",
        cnn,
        dict(conv_layers=1, filters=64, padding="valid", dense_units=128),
        (50, 50, 3),
        2,
        3 * 9 * 64 + 64 + 24 * 24 * 64 * 128 + 128 + 128 * 2 + 2,
    ),
    (
        "two convolutions, the second half as wide",
        cnn,
        dict(
            filters=64,
            filters_ratio=0.5,
            kernel_size=4,
            conv_dropout=0.1,
            conv_dropout_step=0.2,
            dense_units=256,
            dropout=0.5,
        ),
        (28, 28, 1),
        10,
        438_122,
    ),
    ("glassmodel", glassmodel, {}, (64, 64, 3), 2, 2_235_906),
    ("lenet5 as in the paper", lenet5, {}, (32, 32, 1), 10, 61_706),
    ("lenet5 on digits", lenet5, {}, (8, 8, 1), 10, 6 * 26 + 16 * 151 + 65 * 120 + 121 * 84 + 850),
    ("lung_cnn", lung_cnn, {}, (64, 64, 1), 3, 3_705_475),
    ("lung_cnn of one convolution", lung_cnn, D2, (64, 64, 1), 3, 1_968_707),
    (
        "lung_cnn with nothing dense",
        lung_cnn,
        dict(D2, dense_units=0, dropout=0.0),
        (64, 64, 1),
        3,
        92_579,
    ),
    ("alexnet", alexnet, {}, (224, 224, 3), 1000, 62_378_344),
]


@pytest.mark.parametrize(
    "module, settings, shape, num_classes, weights",
    [point[1:] for point in POINTS],
    ids=[point[0] for point in POINTS],
)
def test_architecture_has_exactly_the_weights_it_claims(
    module: ModuleType, settings: dict[str, Any], shape: tuple[int, ...], num_classes: int, weights: int
) -> None:
    model = module.build(module.Settings(**settings), shape, num_classes, 255.0)
    assert model.count_params() == weights
    assert model.output_shape == (None, num_classes)


def test_cnn_drops_more_after_each_pool(keras: Any) -> None:
    settings = cnn.Settings(conv_layers=3, conv_dropout=0.1, conv_dropout_step=0.2, dropout=0.6)
    model = cnn.build(settings, (8, 8, 1), 10, 16.0)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == pytest.approx([0.1, 0.3, 0.5, 0.6])


def test_cnn_has_its_ratio_more_filters_in_each_convolution(keras: Any) -> None:
    model = cnn.build(cnn.Settings(conv_layers=3, filters=10, filters_ratio=1.5), (8, 8, 1), 10, 16.0)
    filters = [layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert filters == [10, 15, 22]


@pytest.mark.parametrize(
    "module, settings, shape, reason",
    [
        (cnn, {}, (64,), r"a cnn needs images \(height, width, channels\); these rows have shape \(64,\)"),
        (cnn, dict(filters_ratio=0.125, filters=2), (8, 8, 1), "conv layer 2: .* give it 0, of 1 to 4096"),
        (
            cnn,
            dict(filters_ratio=4.0, filters=1024, conv_layers=3),
            (8, 8, 1),
            "conv layer 3: .* fewer conv_",
        ),
        (cnn, dict(conv_dropout=0.4, conv_dropout_step=0.6), (8, 8, 1), "conv layer 2: conv_dropout 0.4 and"),
        (lung_cnn, dict(kernel_size=5), (8, 8, 1), "conv layer 2: a 5x5 kernel does not fit its 4x4 map"),
        (lung_cnn, dict(pool_size=8), (8, 8, 1), "the pool: a 8x8 pool does not fit its 4x4 map; use fewer"),
        (lenet5, dict(padding="valid"), (8, 8, 1), "conv layer 2: a 5x5 kernel does not fit its 2x2 map"),
        (lenet5, {}, (4, 4, 1), "conv layer 2: a 5x5 kernel does not fit its 2x2 map; use a smaller kernel"),
        (glassmodel, dict(kernel_size=9), (4, 4, 3), "a 9x9 kernel does not fit its 4x4 map; use a smaller"),
        (glassmodel, dict(pool_size=8), (6, 6, 3), "the pool: a 8x8 pool does not fit its 6x6 map"),
        (alexnet, {}, (7, 30, 3), "alexnet needs images of at least 8x8 pixels; these are 7x30; read them"),
        (resnet50, {}, (31, 64, 3), "resnet50 needs images of at least 32x32 pixels; these are 31x64"),
        (resnet50, {}, (32, 32, 4), r"1 \(grey\) or 3 \(red, green, blue\) channels; these have 4"),
        (resnet50, dict(train_from="conv5"), (512,), "resnet50 needs images"),
    ],
)
def test_what_has_no_model_is_infeasible_and_the_reason_says_what_to_do(
    module: ModuleType, settings: dict[str, Any], shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(Infeasible, match=reason):
        module.build(module.Settings(**settings), shape, 3, 255.0)


@pytest.mark.parametrize("side, flat", [(32, 5 * 5 * 16), (28, 4 * 4 * 16), (8, 2 * 2 * 16)])
def test_lenet5_pads_only_where_images_are_too_small_for_it(side: int, flat: int) -> None:
    model = lenet5.build(lenet5.Settings(), (side, side, 1), 10, 255.0)
    assert model.layers[5].output.shape == (None, flat)


@pytest.mark.parametrize(
    "side, stride, kernels, pools",
    [
        (224, 4, [11, 5, 3, 3, 3], 3),
        (64, 2, [11, 5, 3, 3, 3], 3),
        (50, 1, [11, 5, 3, 3, 3], 3),
        (28, 1, [11, 5, 3, 3, 3], 3),
        (8, 1, [11, 5, 1, 1, 1], 2),
    ],
)
def test_alexnet_adapts_to_small_images(side: int, stride: int, kernels: list[int], pools: int) -> None:
    convolutions = alexnet.fitted(side)
    assert [convolution.stride for convolution in convolutions] == [stride, 1, 1, 1, 1]
    assert [convolution.kernel for convolution in convolutions] == kernels
    assert sum(convolution.is_pooled for convolution in convolutions) == pools
    model = alexnet.build(alexnet.Settings(width=0.05, dense_units=8), (side, side, 1), 4, 255.0)
    assert model.output_shape == (None, 4)


@pytest.fixture(scope="module")
def keras() -> Any:
    import keras

    return keras


# ---- the backbone that is frozen, and the one that is not ----

SHAPE = (32, 32, 1)
FROZEN = resnet50.Settings(weights="none", pooling="average", head_units=7, dropout=0.1)


@pytest.fixture(scope="module")
def frozen(keras: Any) -> Any:
    keras.utils.set_random_seed(1)
    return resnet50.build(FROZEN, SHAPE, 3, 255.0)


@pytest.fixture(scope="module")
def backbone(keras: Any) -> Any:
    keras.utils.set_random_seed(2)
    return resnet50.backbone(FROZEN, SHAPE, 255.0)


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (6, *SHAPE)).astype(np.uint8)


def test_frozen_resnet50_trains_its_head_alone(frozen: Any, backbone: Any) -> None:
    assert backbone.count_params() == 23_587_712
    assert backbone.trainable_variables == []
    assert [tuple(variable.shape) for variable in frozen.trainable_variables] == [
        (2048, 7),
        (7,),
        (7, 3),
        (3,),
    ]


def test_variables_of_a_frozen_model_end_with_those_of_its_head(
    keras: Any, frozen: Any, backbone: Any
) -> None:
    keras.utils.set_random_seed(1)
    head = resnet50.head(FROZEN, (2048,), 3)
    body, tail = frozen.variables[: -len(head.variables)], frozen.variables[-len(head.variables) :]
    assert all(map(np.array_equal, body, backbone.variables))
    assert len(body) == len(backbone.variables)
    assert all(
        map(np.array_equal, tail, head.variables)
    )  # from the same seed: the backbone takes no part of it


def test_head_on_features_answers_as_the_whole_model(frozen: Any, backbone: Any, images: Any) -> None:
    head = resnet50.head(FROZEN, (2048,), 3)
    for variable, value in zip(head.variables, frozen.variables[-len(head.variables) :], strict=True):
        variable.assign(value)
    fold = features_fold(images)
    features = frozen_features(fold, lambda: backbone, {"test": "head"}).x
    assert features.std() > 0.1
    np.testing.assert_allclose(features, backbone.predict_on_batch(images.astype(np.float32)), rtol=1e-4)
    whole = frozen.predict_on_batch(images.astype(np.float32))
    np.testing.assert_allclose(head.predict_on_batch(features), whole, rtol=1e-3, atol=1e-4)


def test_resnet50_trains_from_a_stage_on_and_leaves_the_rest_as_it_was(keras: Any, images: Any) -> None:
    settings = FROZEN.model_copy(update={"train_from": "conv5", "norm_momentum": 0.5})
    model = resnet50.build(settings, SHAPE, 3, 255.0)
    before = {variable.path: np.asarray(variable).copy() for variable in model.variables}
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.train_on_batch(images.astype(np.float32), np.array([0, 1, 2, 0, 1, 2]))
    changed = {v.path for v in model.variables if not np.array_equal(before[v.path], np.asarray(v))}
    network = {path.split("/")[-2] for path in changed if "conv" in path}
    assert network and all(layer.startswith("conv5_") for layer in network)
    assert any("moving_mean" in path for path in changed)
    assert resnet50.backbone(settings, SHAPE, 255.0) is None
    assert resnet50.backbone_key(settings) is None


def test_key_of_a_backbone_tells_its_weights_and_pooling(tmp_path: Path) -> None:
    file = tmp_path / "x.weights.h5"
    keys = [resnet50.backbone_key(FROZEN.model_copy(update={"pooling": "max"}))]
    keys.append(resnet50.backbone_key(FROZEN))
    keys.append(resnet50.backbone_key(FROZEN.model_copy(update={"weights": "imagenet"})))
    for content in (b"one", b"two"):
        file.write_bytes(content)
        keys.append(resnet50.backbone_key(FROZEN.model_copy(update={"weights": str(file)})))
    assert len({json.dumps(key) for key in keys}) == 5
    assert resnet50.backbone_key(FROZEN.model_copy(update={"head_units": 0})) == keys[1]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras writes weights so
def test_resnet50_takes_its_weights_from_a_file(keras: Any, backbone: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.weights.h5"
    network = next(layer for layer in backbone.layers if layer.name.startswith("resnet50"))
    first = np.asarray(network.variables[0]).copy()
    network.variables[0].assign(first + 1)
    network.save_weights(file)
    loaded: Any = resnet50.backbone(FROZEN.model_copy(update={"weights": str(file)}), SHAPE, 255.0)
    network.variables[0].assign(first)
    np.testing.assert_allclose(loaded.variables[0], first + 1, atol=1e-6)


@pytest.mark.parametrize(
    "content, reason", [(None, "there is no file /"), (b"x", "does not hold those of a Res")]
)
def test_weights_that_cannot_be_had_are_a_train_error(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.h5"
    if content:
        file.write_bytes(content)
    with pytest.raises(TrainError, match=reason):
        resnet50.build(FROZEN.model_copy(update={"weights": str(file)}), SHAPE, 3, 255.0)


@pytest.mark.parametrize("weights", ["imagnet", "own.weights.h5", "~", "/own.weights", "~nobody-here/x.h5"])
def test_misspelt_or_relative_weights_are_refused(weights: str) -> None:
    with pytest.raises(ValueError, match="neither imagenet nor none nor the absolute path of an .h5 file"):
        resnet50.Settings(weights=weights)


def test_weights_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = resnet50.Settings(weights="~/own.weights.h5")
    with pytest.raises(TrainError, match=f"no file {tmp_path}/own.weights.h5"):
        resnet50.backbone_key(settings)
    (tmp_path / "own.weights.h5").write_bytes(b"x")
    assert resnet50.backbone_key(settings)


def test_resnet50_is_counted_without_its_weights_and_their_file_is_missed(
    images: Any, tmp_path: Path
) -> None:
    file = tmp_path / "own.weights.h5"
    trainer: Trainer = KerasTrainer("resnet50")
    settings = resnet50.Settings(weights=str(file), pooling="average", head_units=0, train_from="conv5")
    with pytest.raises(TrainError, match="there is no file"):
        trainer.check(settings, features_fold(images))
    file.write_bytes(b"numbers that nobody can read")
    assert trainer.check(settings, features_fold(images)) == 23_587_712 + 2049 * 3


@pytest.mark.slow
def test_another_process_has_the_same_random_backbone_and_says_when_it_has_no_network(
    backbone: Any, tmp_path: Path
) -> None:
    code = (
        "from trainers.architectures import resnet50 as r; from trainers.contract import TrainError\n"
        "s = r.Settings(weights='none', pooling='average')\n"
        f"m = r.backbone(s, {SHAPE}, 255.0)\n"
        "print(float(sum(abs(v.numpy()).sum(dtype='f8') for v in m.variables)))\n"
        "try: r.backbone(r.Settings(), (32, 32, 3), 255.0)\n"
        "except TrainError as error: print(error)\n"
    )
    nowhere = {
        name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    }
    lines = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **nowhere, "KERAS_HOME": str(tmp_path), "no_proxy": "", "NO_PROXY": ""},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    total = float(sum(abs(np.asarray(variable)).sum(dtype="f8") for variable in backbone.variables))
    assert float(lines[0]) == total
    assert "weights: imagenet could not be downloaded" in lines[-1]
    assert "or weights: none" in lines[-1]


# ---- features, with a backbone small enough to count ----


class Doubling:
    """A model whose features are twice the rows; counts how many were made, and how many rows it saw."""

    made = rows = 0

    def __init__(self) -> None:
        Doubling.made += 1

    def predict_on_batch(self, x: Any) -> Any:
        Doubling.rows += len(x)
        return 2 * x.reshape(len(x), -1)


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    Doubling.made = Doubling.rows = 0


def features_fold(x: Any, cache: Path | None = None) -> Fold:
    rows = np.arange(len(x))
    return Fold(x, rows[:4], rows[:4] % 3, rows[4:], ("a", "b", "c"), 255.0, 3, 0, cache)


def rows(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (70, 2, 2, 1)).astype(np.uint8)


@pytest.mark.parametrize("cached", [False, True])
def test_features_are_computed_once_and_hold_all_rows(cached: bool, tmp_path: Path) -> None:
    x = rows(seed=1 + cached)
    fold = features_fold(x, tmp_path / "cache" if cached else None)
    other = replace(fold, train=fold.valid, valid=fold.train)
    for given in (fold, other, fold):
        seen = frozen_features(given, Doubling, {"layer": 1})
        assert np.array_equal(seen.x, 2.0 * x.reshape(70, 4))
        assert seen.x.dtype == np.float32 and not seen.x.flags.writeable
        assert seen.scale == 1.0 and seen.train is given.train
    assert Doubling.made == 1
    assert Doubling.rows == 96  # three batches of one length


def test_other_rows_scale_or_backbone_have_features_of_their_own(tmp_path: Path) -> None:
    fold = features_fold(rows(seed=3), tmp_path)
    changed = fold.x.copy()
    changed[-1, -1, -1, -1] ^= 1
    frozen_features(fold, Doubling, {"layer": 1})
    for given, key in (
        (fold, {"layer": 2}),
        (replace(fold, x=changed), {"layer": 1}),
        (replace(fold, scale=1.0), {"layer": 1}),
        (replace(fold, x=fold.x.reshape(70, 4, 1, 1)), {"layer": 1}),
    ):
        before = Doubling.made
        frozen_features(given, Doubling, key)
        assert Doubling.made == before + 1
    frozen_features(fold, Doubling, {"layer": 1})  # long pushed out of memory, but stored
    assert Doubling.made == 5


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    x = rows(seed=4)
    seen = frozen_features(features_fold(x, in_the_way), Doubling, {})
    assert np.array_equal(seen.x, 2.0 * x.reshape(70, 4))


def test_backbone_that_fails_leaves_no_half_features(tmp_path: Path) -> None:
    class Failing(Doubling):
        def predict_on_batch(self, x: Any) -> Any:
            if Doubling.rows:
                raise RuntimeError("no more memory")
            return super().predict_on_batch(x)

    fold = features_fold(rows(seed=5), tmp_path)
    with pytest.raises(RuntimeError, match="no more memory"):
        frozen_features(fold, Failing, {})
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert frozen_features(fold, Doubling, {}).x.shape == (70, 4)


def test_of_two_processes_with_one_cache_one_computes(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from tests.trainers.test_architectures import Doubling, features_fold, frozen_features, rows\n"
        f"fold = features_fold(rows(6), pathlib.Path({str(tmp_path)!r}))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(frozen_features(fold, Doubling, {}).x.sum(), Doubling.made)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n")[0].split() for process in processes]
    assert [answer[0] for answer in answers] == [str(np.float32(2 * rows(6).sum(dtype=float)))] * 2
    assert sorted(answer[1] for answer in answers) == ["0", "1"]
