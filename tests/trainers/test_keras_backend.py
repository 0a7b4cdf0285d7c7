"""What Keras is imported with: backend, kernels, flags."""

import os
import subprocess
import sys

import pytest

from spaces.params import SpaceError
from trainers.keras_backend import import_keras, use_backend

ONEDNN_AND_XLA = """
import os
from trainers.keras_backend import import_keras
import_keras()
from tensorflow.python.util import _pywrap_util_port
print(_pywrap_util_port.IsMklEnabled(), os.environ["XLA_FLAGS"])
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "True --xla_gpu_deterministic_ops=true"),
        ({"XLA_FLAGS": "--xla_dump_to=x"}, "True --xla_dump_to=x --xla_gpu_deterministic_ops=true"),
        (
            {"TF_ENABLE_ONEDNN_OPTS": "0", "XLA_FLAGS": "--xla_gpu_deterministic_ops=false"},
            "False --xla_gpu_deterministic_ops=false",
        ),
    ],
    ids=["left out", "another flag", "both given"],
)
def test_kernels_are_the_fast_and_exact_ones_unless_their_user_says_otherwise(
    given: dict[str, str], told: str
) -> None:
    inherited = {k: v for k, v in os.environ.items() if k not in ("TF_ENABLE_ONEDNN_OPTS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", ONEDNN_AND_XLA],
        env={**inherited, "KERAS_BACKEND": "tensorflow", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told


NEEDLESS = """
import sys
from trainers.keras_backend import import_keras
import_keras()
print(sorted({"jax", "scipy", "sklearn", "tensorflow"} & sys.modules.keys()))
import sklearn.svm
"""


@pytest.mark.parametrize(("name", "loaded"), [("tensorflow", ["tensorflow"]), ("jax", ["jax", "scipy"])])
def test_keras_comes_without_what_it_does_not_need(name: str, loaded: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NEEDLESS],
        env=os.environ | {"KERAS_BACKEND": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(loaded)


@pytest.mark.jax
def test_another_backend_than_that_of_this_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = import_keras().config.backend()
    other = {"tensorflow": "jax", "jax": "tensorflow"}[loaded]
    monkeypatch.setenv("KERAS_BACKEND", loaded)
    use_backend(loaded)
    use_backend(None)
    with pytest.raises(
        SpaceError, match=f"calculates with {loaded} .* already; start another one for {other}"
    ):
        use_backend(other)


WITHOUT_JAX = """
import os, sys
sys.modules["jax"] = None
from trainers.keras_backend import use_backend
from spaces.params import SpaceError
for name in sys.argv[1:]:
    try:
        use_backend(name if name != "none" else None)
        print(os.environ["KERAS_BACKEND"])
    except SpaceError as error:
        print(error)
assert "keras" not in sys.modules
"""
NO_JAX = "backend: jax is not installed here; pip install 'jax', or on a GPU 'jax[cuda13]'"
NO_TORCH = "backend: 'torch' of KERAS_BACKEND is not allowed; allowed: tensorflow, jax"


@pytest.mark.parametrize(
    ("names", "environment", "told"),
    [
        (["tensorflow", "none"], "jax", ["tensorflow", NO_JAX]),
        (["none", "tensorflow", "none"], "", ["", "tensorflow", ""]),
        (["jax", "none"], "", [NO_JAX, ""]),
        (["none", "tensorflow"], "torch", [NO_TORCH, "tensorflow"]),
    ],
    ids=lambda names: " ".join(names) if isinstance(names, list) else names,
)
def test_a_backend_is_for_the_sweep_that_names_it_and_refused_where_it_cannot_be_had(
    names: list[str], environment: str, told: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, *names],
        env=os.environ | {"KERAS_BACKEND": environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == told
