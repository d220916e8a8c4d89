"""``python -m simpair.cli``: the ``simpair`` program if its script is not on the path."""

from __future__ import annotations

import sys

from simpair.cli import main

if __name__ == "__main__":
    sys.exit(main())
