"""Triton's interpreter, exact or not; where it does not run, a test that launches a kernel is skipped, and says why."""

import dataclasses
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


def spare_work() -> None:
    """From now on interpreted launches do nothing in vain, and compute what they did.

    triton.language is patched once in a launch, not for each call of a device function: a third of the time of the
    kernels over edges. Sums and products of int32 are not made again in int64: for an assertion that is off.
    """
    if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime import interpreter

    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=options.debug)

    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    languages = {id(interpreter.tl), id(interpreter.tl.core)}
    seen_by, patched = {}, set()  # the languages among the globals of each function; those that this launch has patched

    def patch_what_is_not(function):
        if function not in seen_by:
            seen_by[function] = languages & {*map(id, function.__globals__.values())}
        if seen_by[function] <= patched:
            return interpreter._LangPatchScope()  # nothing to restore
        patched.update(seen_by[function])
        return patch(function)

    def call(executor, *args, **kwargs):
        patched.clear()
        return launch(executor, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_what_is_not, call
