"""From a sweep file to ranked trials; the names that notebooks import."""

from typing import Any

_PUBLIC = {
    "load_sweep": ("search.driver", "load_checked_sweep"),
    "run_sweep": ("search.driver", "run_sweep"),
    "resume_run": ("search.driver", "resume_run"),
    "load_run": ("search.results", "load_run"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import search.events`` loads nothing else."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'search' has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    from importlib import import_module

    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
