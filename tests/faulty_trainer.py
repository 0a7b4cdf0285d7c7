"""A trainer whose module cannot be imported."""

undefined  # type: ignore[name-defined]  # noqa: B018, F821
