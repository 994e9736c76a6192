"""Triton's interpreter, exact or not; where it does not run, a test that launches a kernel is skipped, and says why."""

import importlib.metadata
import importlib.util
import os
from unittest import mock

import pytest

# Whether it approximates as a GPU does: `pytest --inexact`.
inexact = False


def why_broken() -> str | None:
    """Since numpy 2.4 `int()` of an array of one element is an error, which triton's loops made until 3.7."""
    if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        return None
    triton, numpy = (importlib.metadata.version(name).split(".")[:2] for name in ("triton", "numpy"))
    if [*map(int, triton)] >= [3, 7] or [*map(int, numpy)] < [2, 4]:
        return None
    return f"the interpreter of triton {'.'.join(triton)} does not run loops with numpy {'.'.join(numpy)}"


def skip_launches(reason: str) -> None:
    """From now on every interpreted launch skips its test."""
    from triton.runtime.interpreter import GridExecutor

    mock.patch.object(GridExecutor, "__call__", lambda *args, **options: pytest.skip(reason)).start()
