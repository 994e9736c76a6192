"""Lines beside what a command prints: what was chosen for the user."""

import os
import sys


def tell(text: str) -> None:
    """A line on stderr; under torchrun the first process alone writes it."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
