"""Kind sklearn, the small sets that scikit-learn ships, read from its files."""

import importlib.metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from trainers.contract import DataError
from trainers.sources.rows import Rows, as_float32

_FILES = {"iris": "iris.csv", "wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv"}


def read_sklearn(name: Literal["digits", "iris", "wine", "breast_cancer"]) -> Rows:
    """One of the small sets that scikit-learn ships; digits as images, the others as vectors.

    As its ``load_digits`` and so on have them, which would import all of scikit-learn: a second and more.
    """
    source = f"Shipped with scikit-learn {importlib.metadata.version('scikit-learn')}."
    if name == "digits":
        pixels = np.loadtxt(_file("digits.csv.gz"), delimiter=",", dtype=np.uint8)
        images, labels = pixels[:, :-1].reshape(-1, 8, 8, 1), pixels[:, -1].astype(np.int64)
        return Rows(name, images, labels, 16.0, source, [str(digit) for digit in range(10)])
    file = _file(_FILES[name])
    with file.open() as lines:
        _, _, *classes = next(lines).strip().split(",")  # after the numbers of rows and of features
        table = np.loadtxt(lines, delimiter=",")
    return Rows(name, as_float32(table[:, :-1]), table[:, -1].astype(np.int64), 1.0, source, classes)


def _file(name: str) -> Path:
    spec = find_spec("sklearn")  # where it lies, without importing it
    assert spec and spec.origin
    file = Path(spec.origin).parent / "datasets" / "data" / name
    if not file.is_file():
        raise DataError(f"scikit-learn's data set is not at {file}: this scikit-learn keeps it elsewhere")
    return file
