"""What an exported model's folder holds, and how it is read back without running anything it says.

glasses/
  model.json     what the model is: trainer, settings, classes, input, scores, and the sha256 of every file
  README.md      the model card, for people
  weights/       what the trainer wrote; all that ``Trainer.load`` needs
  model.keras    and other formats, as asked for
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from spaces.params import SpaceError, Value
from trainers.catalog import TRAINERS, load_trainer
from trainers.contract import WEIGHTS, DataError, Predictor, TrainError

FORMAT = 1
"""Rises when an older reader would misread a folder."""
ABOUT, CARD = "model.json", "README.md"

TrainerSpec = str | dict[str, Any]
"""A sweep's ``trainer:``, a name or a mapping."""


class _Part(BaseModel):
    # NaN (the recall of a class without rows) would be written as null, which pydantic then refuses to read.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


_COLOURS = {1: "grey", 3: "RGB"}


class Input(_Part):
    """What one row must be before the model sees it."""

    shape: tuple[int, ...]
    """(height, width, channels) of an image, (features,) of a vector."""
    dtype: Literal["uint8", "float32"]
    scale: float = Field(gt=0)
    """White, for images; the model divides by it."""
    columns: tuple[str, ...] = ()
    """The features of a CSV file in their order; empty where they had no names."""
    label: str = "label"
    """The column of a CSV file that holds known labels."""
    labels: dict[str, str] = {}
    """{label: class} where labels in files are other texts than the classes."""

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    def __str__(self) -> str:
        if not self.is_image:
            return f"vectors of {self.shape[0]} numbers"
        height, width, channels = self.shape
        return f"images of {height}x{width}, {_COLOURS.get(channels, f'{channels} channels')}"


class Evaluation(_Part):
    """How predictions on rows with known labels did."""

    values: dict[str, float]
    """Every metric of ``trainers.metrics``."""
    confusion: tuple[tuple[int, ...], ...]
    """(n_classes, n_classes) counts, rows true, columns predicted."""


def _checked_file_name(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError(f"{name!r} is no file in the model's folder")
    return name


_FileName = Annotated[str, AfterValidator(_checked_file_name)]


class ExportedModel(_Part):
    """``model.json``."""

    format: int = Field(FORMAT, le=FORMAT)
    trainer: TrainerSpec
    settings: dict[str, Any]
    """Every setting that the trainer was given, defaults included."""
    params: dict[str, Value]
    """Those of them that the search chose."""
    classes: tuple[str, ...]
    input: Input
    decision: Literal["most probable class"] = "most probable class"
    objective: str
    run: str
    trial: int
    epoch: int
    """After how many epochs of training it was taken."""
    best_epoch: int
    """The trial's best in the search; after a refit ``epoch`` may be another."""
    refit: bool
    """Whether it was trained once more, on the validation rows too."""
    trained_on: tuple[int, ...]
    """How many rows of each class it was trained on."""
    repeat: int = Field(1, ge=1)
    """How many times over the search's validation judged the rows; its counts hold all of them."""
    source: str
    notes: tuple[str, ...] = ()
    """What was found in the data, or done to it, that whoever reads its scores should know."""
    has_groups: bool
    """Whether rows came in groups, none of which lay in two splits."""
    data: dict[str, Any]
    """Class counts of the splits and the fingerprint, as the run logged them."""
    validation: Evaluation
    """Of the trial, by which it was chosen; with ``refit`` not of the exported model."""
    test: Evaluation | None
    """Of the exported model on rows that no part of the search has seen; None where none were set apart."""
    versions: dict[str, str]
    formats: tuple[str, ...]
    files: dict[_FileName, str]
    """The sha256 of every file but this one, by its path in the folder."""


def sha256_of(folder: Path) -> dict[str, str]:
    """The sha256 of every file below ``folder``, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def loading_trainer(spec: TrainerSpec) -> TrainerSpec:
    """The trainer that loads what ``spec`` trained.

    One of the catalog needs its name only: the rest of its mapping (a cluster's address, a backend) says
    where to train. What somebody else wrote may need all of it.
    """
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    return name if name in TRAINERS else spec


def load_model(folder: Path, trust: bool = False) -> tuple[ExportedModel, Predictor]:
    """The model that ``rungwise export`` wrote into ``folder``.

    Only the catalog's own trainers are loaded, which read numbers and never code. One that the folder names
    by module and class would have Python import and call whatever stands there, and whoever can write the
    folder can write that name (and the hashes): it is loaded only with ``trust``, said by someone who knows
    where the folder comes from.

    Raises DataError for a folder that is no export, was changed since, or asks for ``trust``.
    """
    about = read_about(folder)
    _check_unchanged(folder, about)
    if not (trust or is_ours(about.trainer)):
        raise DataError(
            f"{folder}: its trainer {about.trainer!r} is not one of Rungwise's own, and loading it runs that "
            "code; if you know where the folder comes from, say so with --trust"
        )
    try:
        predictor = load_trainer(about.trainer).load(folder / WEIGHTS)
    except (SpaceError, TrainError) as error:
        raise DataError(f"{folder}: its model cannot be loaded: {error}") from error
    return about, predictor


def is_ours(spec: TrainerSpec) -> bool:
    """Whether loading its models runs nobody else's code."""
    return isinstance(spec, str) and spec in TRAINERS


def read_about(folder: Path) -> ExportedModel:
    """``model.json``, checked. Raises DataError."""
    path = folder / ABOUT
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder} is no exported model: {path.name}: {error.strerror}; make one with rungwise export"
        ) from None
    try:
        return ExportedModel.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors()[0]
        if detail["loc"] == ("format",) and isinstance(detail["input"], int):
            why = f"it is of format {detail['input']}, this Rungwise reads up to {FORMAT}; upgrade Rungwise"
        else:
            why = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".lstrip(": ")
        raise DataError(f"{path} cannot be read: {why}") from None


def _check_unchanged(folder: Path, about: ExportedModel) -> None:
    """Of what is loaded: the card is for people, who may write into it."""
    told = {name: digest for name, digest in about.files.items() if Path(name).parts[0] == WEIGHTS}
    found = {f"{WEIGHTS}/{name}": digest for name, digest in sha256_of(folder / WEIGHTS).items()}
    faults = [
        f"{folder / name} {_what_happened(told, found, name)} after export; export the trial again"
        for name in sorted(told.keys() | found.keys())
        if told.get(name) != found.get(name)
    ]
    if faults:
        raise DataError("\n".join(faults))


def _what_happened(told: Mapping[str, str], found: Mapping[str, str], name: str) -> str:
    if name not in found:
        return "was removed"
    return "was changed" if name in told else "was added"
