"""Building the C++ module in a copy of the sources, which takes along what is compiled: only changes cost time."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
from places import ROOT


def recipe(name: str = "cpu_module", folder: pathlib.Path = ROOT) -> ModuleType:
    """tools/<name>.py of a copy of the sources: how a module is compiled."""
    spec = importlib.util.spec_from_file_location(name, folder / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


missing = recipe().what_is_missing()
needs_compiler = pytest.mark.skipif(missing is not None, reason=f"the module cannot be built here: {missing}")


def run(folder, *arguments, ok=True, **variables):
    """What a Python process says that finds modules in `folder` first."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("GEOTDM_", "CXX", "PYTHONPATH"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=keep | variables, capture_output=True, text=True
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy_of_sources(folder: pathlib.Path, with_objects: bool) -> pathlib.Path:
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("csrc", "geotdm_fast", "kernels", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    if with_objects:
        for objects in (ROOT / "build").glob("torch-*"):
            shutil.copytree(objects, folder / "build" / objects.name)
    return folder
