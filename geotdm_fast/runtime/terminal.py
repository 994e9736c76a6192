"""The terminal that a command writes to, and that may be closed under it."""

import contextlib
import os
import stat


def leave_closed_terminal() -> None:
    """Send what is still printed nowhere if the terminal has gone: writing to it is an error."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
