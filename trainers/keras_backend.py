"""Keras, imported once and quietly, on the backend that a sweep or the environment names."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Any

from spaces.params import Fault, SpaceError, did_you_mean, shown
from trainers.imports import no_collections
from trainers.stderr import stderr_to

_XLA_DETERMINISM = "xla_gpu_deterministic_ops"
_BACKENDS = {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda13]"}
"""Each with what `pip` calls it where there is a GPU."""
_before: list[str | None] = []
"""KERAS_BACKEND as it was before a sweep named another."""


@cache
def import_keras() -> Any:
    """Keras, set up once for a process that trains one model after another."""
    # Read once, when a backend is first imported. Whoever set them before wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # else its fast kernels are for AVX-512 alone
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # workers may share a GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the same for JAX
    _ask_xla_for_determinism()
    needless = ["sklearn"]  # of use to wrappers only
    if backend() == "tensorflow":
        needless += ["scipy", "jax"]  # of use to TensorFlow's own old Keras, and to convert models of JAX
    with quiet_import("keras"), no_collections(), _without(*needless):
        import keras

    if keras.config.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.experimental.enable_op_determinism()  # else a GPU adds up in any order
        tensorflow.get_logger().setLevel("ERROR")  # it warns of a new trace for every new model
        if not tensorflow.config.list_physical_devices("GPU"):
            # Rewriting graphs is a fifth of compiling a small model, and on a CPU no epoch gets shorter.
            tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    else:
        with _without("tensorflow"):  # Keras would import it to seed it too; exporting still can
            keras.utils.set_random_seed(0)
    gc.freeze()  # what is loaded stays: a warm worker looks for garbage often, and need not look there
    return keras


def _ask_xla_for_determinism() -> None:
    """Else a GPU adds up in any order, and by whichever kernel was quicker when a program was compiled."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _XLA_DETERMINISM not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_XLA_DETERMINISM}=true".strip()


def use_backend(name: str | None) -> None:
    """Have Keras calculate with tensorflow or jax in this process; None leaves it as it is set up.

    Keras takes one when it is imported and keeps it; until then each call replaces what the last one asked
    for. Raises SpaceError where it cannot be this one.
    """
    while _before:
        _set_variable(_before.pop())
    asked = backend() if name is None else name
    if asked not in [*_BACKENDS]:  # what a file has here may have no hash
        wrong = f"{shown(asked)}{' of KERAS_BACKEND' if name is None else ''} is not allowed"
        wrong += f"; allowed: {', '.join(_BACKENDS)}{did_you_mean(asked, _BACKENDS)}"
    elif "keras" in sys.modules and asked != backend():
        wrong = f"Keras calculates with {backend()} in this process already; start another one for {asked}"
    elif find_spec(asked) is None:
        wrong = f"{asked} is not installed here; pip install '{asked}', or on a GPU '{_BACKENDS[asked]}'"
    else:
        if name is not None:
            _before.append(os.environ.get("KERAS_BACKEND"))
            _set_variable(name)
        return
    raise SpaceError(Fault(("backend",), wrong))


def _set_variable(value: str | None) -> None:
    if value is None:
        os.environ.pop("KERAS_BACKEND", None)
    else:
        os.environ["KERAS_BACKEND"] = value


def backend() -> str:
    """What Keras calculates with, or will once it is imported, as far as the environment tells."""
    keras = sys.modules.get("keras")
    return keras.config.backend() if keras else os.environ.get("KERAS_BACKEND") or "tensorflow"


def no_gpu() -> str:
    """Why Keras, if this process calculates with it, does so without a GPU; empty where it has one."""
    keras = sys.modules.get("keras")
    if keras is None:
        return ""
    if keras.config.backend() == "jax":
        import jax

        has_gpu = jax.default_backend() == "gpu"
    else:
        import tensorflow

        has_gpu = bool(tensorflow.config.list_physical_devices("GPU"))
    name = keras.config.backend()
    return (
        "" if has_gpu else f"{name} sees no GPU here and trains on the CPU; pip install '{_BACKENDS[name]}'"
    )


@contextmanager
def quiet_import(module: str) -> Iterator[None]:
    """TensorFlow's libraries greet from C++ while they load, and heed no setting about it."""
    if module in sys.modules:
        yield
        return
    with open(os.devnull, "w") as nowhere, stderr_to(nowhere.fileno()):
        yield


@contextmanager
def _without(*modules: str) -> Iterator[None]:
    """As if those of these modules that are not loaded yet were not installed: importing them takes long.

    For this thread alone. What it imports meanwhile, and would do more with one of them, never does so.
    """
    finder = _Refusing(frozenset(modules) - sys.modules.keys(), threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@dataclass(eq=False)
class _Refusing(MetaPathFinder):
    """Asked for every module that is not loaded, before any other finder."""

    modules: frozenset[str]
    thread: int

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname.partition(".")[0] in self.modules and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)
