"""Imports that may fail in any way, of what a sweep names, and imports that take long."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from spaces.params import Fault, SpaceError


def import_for(name: str, module: str) -> ModuleType:
    """The module that ``name`` lies in. Raises SpaceError with the reason if it cannot be imported."""
    try:
        return import_module(module)
    except Exception as error:
        fault = Fault((), f"cannot import the module of {name!r}: {first_line(error)}")
        raise SpaceError(fault) from error


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"


@contextmanager
def no_collections() -> Iterator[None]:
    """Nothing that an import makes is garbage, and looking for some takes a seventh of its time.

    In all of the process, as Python's collector is one for all threads.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
