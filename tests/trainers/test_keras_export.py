"""What a Keras trainer exports gives its probabilities where none of our code is; and what it refuses."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainers.keras_training import epochs_of, train
from trainers.contract import Fold, Trainer, TrainError

FILES = {"keras": "model.keras", "h5": "model.h5", "savedmodel": "savedmodel"}
IN_A_FRESH_PROCESS = """
import sys
import keras
import numpy as np
import tensorflow

rows = np.load("rows.npy").astype("float32")
for file in sys.argv[1:]:
    if file.endswith("savedmodel"):
        model = tensorflow.saved_model.load(file)
        made = model.serve(rows)
    else:
        made = keras.saving.load_model(file, safe_mode=True)(rows)
    np.save(f"{file}.npy", np.asarray(made))
assert not {"trainers", "search", "spaces"} & set(sys.modules)
"""


@pytest.mark.jax
def test_exports_give_probabilities_of_stored_rows_without_our_code(
    trainer: Trainer, fold: Fold, tmp_path: Path
) -> None:
    expected: dict[str, Any] = {}
    for precision, formats in {"float32": [*FILES], "mixed_bfloat16": ["keras"]}.items():
        folder = tmp_path / precision
        folder.mkdir()
        (epoch,) = train(trainer, fold, epochs=1, dropout=0.3, flip="both", erasing=0.5, precision=precision)
        epoch.save(folder, 0.5)
        trainer.load(folder).export(folder, formats)
        expected |= {f"{precision}/{FILES[name]}": epoch.probabilities for name in formats}
    np.save(tmp_path / "rows.npy", fold.x_valid)
    code = [sys.executable, "-I", "-c", IN_A_FRESH_PROCESS, *expected]
    subprocess.run(code, check=True, cwd=tmp_path, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    for file, probabilities in expected.items():
        close = 1e-2 if file.startswith("mixed") else 1e-6
        np.testing.assert_allclose(np.load(tmp_path / f"{file}.npy"), probabilities, atol=close)


def test_export_refuses_what_it_cannot_write(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(iter(epochs_of(trainer, fold))).save(tmp_path, 0.5)
    predictor = trainer.load(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TrainError, match=r"as 'pickle', 'pt'; known: keras, h5, savedmodel, onnx"):
        predictor.export(tmp_path, ["keras", "pickle", "pt"])
    predictor.export(tmp_path, [])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is installed")
def test_export_names_the_packages_that_onnx_needs(trainer: Trainer, fold: Fold, tmp_path: Path) -> None:
    next(iter(epochs_of(trainer, fold))).save(tmp_path, 0.5)
    with pytest.raises(TrainError, match=r"pip install onnx tf2onnx"):
        trainer.load(tmp_path).export(tmp_path, ["onnx"])
