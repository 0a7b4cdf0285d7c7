"""What several tests of the Keras trainer train: a small cnn to its end, an architecture for any rows."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trainers.contract import Epoch, Fold, Trainer
from trainers.keras_trainer import TrainingSettings

MakeFold = Callable[..., Fold]
SMALL: dict[str, Any] = {"conv_layers": 1, "filters": 4, "dense_units": 8}
CHANGES: dict[str, Any] = {
    "flip": "both",
    "rotation": 0.1,
    "zoom": 0.2,
    "shear": 0.2,
    "shift": 0.1,
    "contrast": 0.3,
    "erasing": 0.5,
}


def train(
    trainer: Trainer,
    fold: Fold,
    start: Path | None = None,
    *,
    scores: Sequence[float] = (0.5,) * 100,
    save_2: Path | None = None,
    **settings: Any,
) -> list[Epoch]:
    """All epochs; epoch n's score is ``scores[n - 1]``, and the second one is saved into ``save_2``."""
    epochs = trainer.train(trainer.Settings(**{**SMALL, **settings}), fold, start)
    seen: list[Epoch] = []
    try:
        seen.append(next(epochs))
        while True:
            score = scores[seen[-1].number - 1]
            if save_2 and seen[-1].number == 2:
                seen[-1].save(save_2, score)
            seen.append(epochs.send(score))
    except StopIteration:
        return seen


def epochs_of(trainer: Trainer, fold: Fold, **settings: Any) -> Iterable[Epoch]:
    return trainer.train(trainer.Settings(**settings), fold, None)


class Vectors:
    """An architecture for rows of any shape: one dense layer."""

    Settings: type[TrainingSettings] = TrainingSettings

    def build(self, settings: Any, shape: tuple[int, ...], num_classes: int, scale: float) -> Any:
        from keras import Input, Sequential, layers

        return Sequential([Input(shape), layers.Flatten(), layers.Dense(num_classes)])
