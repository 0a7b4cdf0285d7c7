"""Imports that take long: the collector of garbage rests meanwhile, and no longer."""

import gc
from contextlib import suppress

import pytest

from trainers.imports import no_collections


@pytest.mark.parametrize("is_enabled", [True, False])
@pytest.mark.parametrize("error", [None, ImportError("no such thing")])
def test_collector_is_as_before_after_what_ran_without_it(is_enabled: bool, error: Exception | None) -> None:
    if not is_enabled:
        gc.disable()
    try:
        with suppress(ImportError), no_collections():
            assert not gc.isenabled()
            if error:
                raise error
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()
