"""Loads the compiled CPU module, or says why the package runs without it."""

import functools
import importlib
import importlib.machinery
import re
import warnings
from pathlib import Path
from types import ModuleType
from typing import cast

import torch

import geotdm_fast
from geotdm_fast.ops.fakes import other_op, register

HOW = "with torch, ninja and a C++ compiler at hand: pip install --no-build-isolation . in the sources"


def load_module() -> tuple[ModuleType | None, str | None]:
    """(`geotdm_fast._C`, None), or (None, what is wrong with it): not built, built with another torch, not loading,
    built from other sources than these.

    Raises ValueError where GEOTDM_CPU_ISA names no instruction set.
    """
    # in this package's own folder: an editable install of another copy would offer the module of that one
    spec = importlib.machinery.PathFinder.find_spec("geotdm_fast._C", geotdm_fast.__path__)
    if spec is None or spec.origin is None:
        return None, f"not built ({HOW})"
    # One that was compiled with another torch may crash as it loads, so the file is asked before.
    built = re.search(rb"geotdm_fast\._C built with torch (\d+\.\d+)", Path(spec.origin).read_bytes())
    own = cast("re.Match[str]", re.match(r"\d+\.\d+", torch.__version__))[0]
    if built and built[1].decode() != own:
        return None, f"built with torch {built[1].decode()}, and this is {torch.__version__} (anew, {HOW})"
    try:
        module = importlib.import_module("geotdm_fast._C")
    except ImportError as error:
        return None, f"not loading: {error}"
    module.build_info()
    other = other_op()
    if other is not None:
        return None, f"built from other sources than this package: {other} (anew, {HOW})"
    register()
    return module, None


@functools.cache
def warn_missing(missing: str) -> None:
    """Once: a user whom pip showed nothing of the build should know why it is slow."""
    warnings.warn(
        f"geotdm_fast._C is {missing}. The CPU runs the reference, which is slower.", RuntimeWarning, stacklevel=6
    )
