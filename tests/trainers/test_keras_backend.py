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


@pytest.mark.jax
def test_another_backend_than_that_of_this_process_is_refused() -> None:
    loaded = import_keras().config.backend()
    other = {"tensorflow": "jax", "jax": "tensorflow"}[loaded]
    use_backend(loaded)
    use_backend(None)
    with pytest.raises(
        SpaceError, match=f"calculates with {loaded} .* already; start another one for {other}"
    ):
        use_backend(other)


WITHOUT_JAX = """
import sys
sys.modules["jax"] = None
from trainers.keras_backend import use_backend
from spaces.params import SpaceError
try:
    use_backend({name!r})
except SpaceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "environment", "told"),
    [
        ("tensorflow", "jax", ""),
        (None, "", ""),
        ("jax", "", "backend: jax is not installed here; pip install 'jax', or on a GPU 'jax[cuda12]'"),
        (None, "jax", "backend: jax is not installed here; pip install 'jax', or on a GPU 'jax[cuda12]'"),
        (None, "torch", "backend: 'torch' of KERAS_BACKEND is not allowed; allowed: tensorflow, jax"),
    ],
)
def test_a_backend_that_cannot_be_had_is_refused_before_keras_is_imported(
    name: str | None, environment: str, told: str
) -> None:
    code = WITHOUT_JAX.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"KERAS_BACKEND": environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told
