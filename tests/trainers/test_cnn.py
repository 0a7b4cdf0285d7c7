"""What fits a cnn, and which of its layers does not."""

from typing import Any

import pytest

from trainers.contract import Fold, Infeasible, Trainer


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"conv_layers": 3, "kernel_size": 5}, "conv layer 3: a 5x5 kernel does not fit its 2x2 map"),
        ({"conv_layers": 4}, "conv layer 4: a 3x3 kernel does not fit its 1x1 map"),
        ({"conv_layers": 1, "kernel_size": 9, "padding": "valid"}, "a 9x9 kernel does not fit its 8x8 map"),
        ({"conv_layers": 2, "pool_size": 3}, "conv layer 2: a 3x3 pool does not fit its 2x2 map"),
    ],
)
def test_cnn_says_which_layer_does_not_fit(
    trainer: Trainer, fold: Fold, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Infeasible, match=reason):
        trainer.check(trainer.Settings(**settings), fold)


@pytest.mark.parametrize(
    "settings",
    [
        {"conv_layers": 3},
        {"conv_layers": 1, "kernel_size": 8, "padding": "valid", "pool_size": 1},
        {"conv_layers": 0, "dense_units": 0},
        {"conv_layers": 2, "kernel_size": 7, "pool_size": 2},
        {"conv_layers": 1, "pool_size": 8},
    ],
)
def test_cnn_builds_whatever_it_does_not_refuse(
    trainer: Trainer, fold: Fold, settings: dict[str, Any]
) -> None:
    trainer.check(trainer.Settings(**settings), fold)
