"""Loads the compiled CPU module, or says why the package runs without it."""

import functools
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

import geotdm_fast
from geotdm_fast.ops.fakes import build_info, other_op, register

INSTALL = "pip install --no-build-isolation . in the sources, or make venv in a clone"
HOW = f"with torch, ninja and a C++ compiler at hand: {INSTALL}"


class Module(NamedTuple):
    """The module that is loaded: its file, and what it says of its build (`native.build_info`)."""

    path: Path
    info: dict[str, str | int]


def load_module() -> tuple[Module | None, str | None]:
    """(`geotdm_fast._C`, None), or (None, what is wrong with it): not built, not loading, built from other sources than
    these.

    It knows torch by its stable ABI alone, and nothing of Python, so one file runs beside every torch from 2.10 on.

    Raises ValueError where GEOTDM_CPU_ISA names no instruction set.
    """
    # in this package's own folder: an editable install of another copy would offer the module of that one
    path = Path(geotdm_fast.__path__[0]) / "_C.so"
    if not path.is_file():
        return None, f"not built ({HOW})"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return None, f"not loading: {error.__cause__ or error}"  # torch says no more than the file
    other = other_op()
    if other is not None:
        return None, f"built from other sources than this package: {other} (anew, {HOW})"
    info = build_info()
    register()
    return Module(path, info), None


@functools.cache
def warn_missing(missing: str) -> None:
    """Once: a user whom pip showed nothing of the build should know why it is slow."""
    warnings.warn(
        f"geotdm_fast._C is {missing}. The CPU runs the reference, which is slower.", RuntimeWarning, stacklevel=6
    )
