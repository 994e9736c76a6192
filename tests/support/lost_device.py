"""After an illegal access a process can use its GPU no more: every later test would fail with the same words."""

import os
import sys

import pytest
import torch


def stop_where_the_device_is_lost(report: pytest.TestReport) -> None:
    """Return if the device answers; else write which test lost it and end the process with status 3.

    pytest-xdist starts another worker, and the rest of the tests run.
    """
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        print(report.longreprtext, f"the device is lost after {report.nodeid}: {reason}", sep="\n", file=sys.stderr)
        sys.stderr.flush()
        os._exit(3)
