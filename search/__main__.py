"""``python -m search`` is ``rungwise``: what a submitted Ray job runs from its working directory."""

import sys

from search.cli import main

sys.exit(main())
