"""What libraries greet with from outside Python, before any setting can keep them quiet, led elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stderr_to(file: int) -> Iterator[None]:
    """While it is open, whatever this process writes to stderr goes to the file of this descriptor."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        os.dup2(file, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
