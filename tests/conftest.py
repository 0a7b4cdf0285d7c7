"""What holds for all tests: hypothesis draws the same examples every time."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")
