"""K nearest neighbours from scikit-learn: a trainer without epochs, so it yields once."""

import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from trainers.contract import Epoch, Fold, Infeasible


class KNNSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    n_neighbors: int = Field(5, ge=1, le=10_000, description="training rows that vote on a row")
    weights: Literal["uniform", "distance"] = Field(
        "uniform", description="whether every neighbour counts alike or near ones count more"
    )
    p: float = Field(2.0, ge=1, le=100, description="power of the distance: 1 = city blocks, 2 = Euclidean")


class KNNTrainer:
    """Predicts the classes of the nearest training rows."""

    Settings: type[BaseModel] = KNNSettings

    def check(self, settings: KNNSettings, fold: Fold) -> None:
        if settings.n_neighbors > len(fold.x_train):
            raise Infeasible(
                f"n_neighbors: {settings.n_neighbors} neighbours are more than the {len(fold.x_train)} "
                "training rows; use fewer"
            )

    def train(self, settings: KNNSettings, fold: Fold, start: Path | None) -> Generator[Epoch, float, None]:
        self.check(settings, fold)
        if start is None:
            predictor = _fit(settings, fold.x_train, fold.y_train, fold.classes, fold.scale)
            yield Epoch(1, predictor.predict(fold.x_valid), {}, save=partial(_save, settings, fold))

    def load(self, folder: Path) -> "KNNPredictor":
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        settings = KNNSettings.model_validate(about["settings"])
        with np.load(folder / "rows.npz", allow_pickle=False) as rows:
            return _fit(settings, rows["x"], rows["y"], tuple(about["classes"]), about["scale"])


@dataclass
class KNNPredictor:
    """The training rows, ready to be asked."""

    classes: tuple[str, ...]
    scale: float
    model: Any

    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        probabilities = np.zeros((len(x), len(self.classes)), np.float32)
        if len(x):
            # The model knows only the classes that its training rows have.
            probabilities[:, self.model.classes_] = self.model.predict_proba(_as_vectors(x, self.scale))
        return probabilities


def _fit(
    settings: KNNSettings, x: NDArray[Any], y: NDArray[np.int64], classes: tuple[str, ...], scale: float
) -> KNNPredictor:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(settings.n_neighbors, weights=settings.weights, p=settings.p)
    return KNNPredictor(classes, scale, model.fit(_as_vectors(x, scale), y))


def _as_vectors(x: NDArray[Any], scale: float) -> NDArray[np.float32]:
    return x.reshape(len(x), -1).astype(np.float32) / np.float32(scale)


def _save(settings: KNNSettings, fold: Fold, folder: Path) -> None:
    np.savez(folder / "rows.npz", x=fold.x_train, y=fold.y_train)
    about = {"settings": settings.model_dump(), "classes": fold.classes, "scale": fold.scale}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
