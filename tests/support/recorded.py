"""Tests whose verdict depends on files and versions alone: they run when one of these has changed since they passed.

    pytestmark = pytest.mark.recorded("kernels", always=r"test_sizes.*fp32")

puts the tests of a module into a group. `make record` runs all groups and writes into tests/recorded.json the digest of
all that the verdict of a group depends on, if all its tests passed. While the digest is the same, the tests of the
group are skipped, except those whose names have the pattern `always`: they show that the tests still run. With any
other digest, or none, all run. A test that draws other numbers in every run belongs into no group.
"""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
from places import ROOT

from tools import ninja_build

RECORD = ROOT / "tests" / "recorded.json"
SHARED = ("tests/conftest.py", "tests/support/*")
PROPERTY = "recorded"  # of a test's report: the name of its group


class Group(NamedTuple):
    """What the verdict of tests depends on. tests, files: patterns of paths, from the root of the tree."""

    tests: tuple[str, ...]
    files: tuple[str, ...]
    versions: tuple[Callable[[], str], ...]

    def digest(self, root: pathlib.Path = ROOT) -> str:
        """SHA-256 of the versions, and of the name and content of every file; ValueError for a pattern of no file."""
        paths = {}
        for pattern in (*self.tests, *self.files, *SHARED):
            found = [path for path in root.glob(pattern) if path.is_file() and "__pycache__" not in path.parts]
            if not found:
                raise ValueError(f"recorded: no file is named {pattern}")
            paths |= {path.relative_to(root).as_posix(): path for path in found}
        total = hashlib.sha256(repr([version() for version in self.versions]).encode())
        for name, path in sorted(paths.items()):
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()

    def holds(self, path: pathlib.Path, root: pathlib.Path = ROOT) -> bool:
        """Whether the file of a test is part of the digest."""
        return any(path in root.glob(pattern) for pattern in self.tests)


def package(name: str) -> Callable[[], str]:
    """The version of an installed package, '' where there is none."""

    def version() -> str:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            return ""

    return version


def python() -> str:
    return "Python {}.{}".format(*sys.version_info)


@functools.cache
def compiler() -> str:
    """The C++ compiler's first line about itself, and the machine that it compiles for; '' where there is none."""
    try:
        said = subprocess.run([*ninja_build.compiler(), "--version"], capture_output=True, text=True).stdout
    except OSError:
        return ""
    return f"{said.partition(chr(10))[0]} {platform.machine()}"


def nvcc() -> str:
    """Where the compiler for CUDA is."""
    from tools import cuda_module

    return f"nvcc {cuda_module.nvcc()} {cuda_module.cuda_version(cuda_module.nvcc() or '')}"


def processor() -> str:
    """The widest vectors that torch uses here."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


# The operations, the network, and all below them: tests/test_rooms.py holds them to importing nothing else of ours.
ROOMS = tuple(
    f"geotdm_fast/{name}"
    for name in (
        "__init__.py",
        "conditioning.py",
        *(f"{room}/*.py" for room in ("nn", "ops", "graphs", "reference", "runtime")),
    )
)
PACKAGES = (python, package("torch"), package("numpy"))
GROUPS = {
    # Triton kernels in its interpreter; on the CPU, with GPU kernels emulated beside.
    "interpreted": Group(
        ("tests/kernels/*.py", "tests/ops/*.py"),
        (*ROOMS, "kernels/*.py", "csrc/**/*", "bench/common/*.py", "tools/ninja_build.py"),
        (*PACKAGES, package("triton"), compiler),
    ),
    # Machine code for GPUs of the Triton kernels.
    "codegen": Group(
        ("tests/bench/test_codegen.py", "tests/bench/test_gpu_variants.py"),
        (*ROOMS, "kernels/*.py", "bench/**/*.py", "bench/ops/codegen_limits.json"),
        (*PACKAGES, package("triton")),
    ),
    # Training and sampling on a pretended GPU, and the programs for a GPU on a CPU: they reach everything.
    "gpu paths": Group(
        ("tests/bench/test_gpu_*.py", "tests/training/*.py", "tests/diffusion/*.py", "tests/kernels/*.py"),
        ("geotdm_fast/**/*.py", "kernels/*.py", "csrc/**/*", "bench/**/*.py", "tools/*.py", "pyproject.toml"),
        (*PACKAGES, package("triton"), compiler),
    ),
    # CUDA kernels against the emulation of a block, which tests/csrc/test_cuda_emulation.py tries in every run.
    "emulated cuda": Group(
        ("tests/csrc/test_cuda_temporal.py", "tests/csrc/test_cuda_ops.py"),
        (*ROOMS, "csrc/**/*", "tools/ninja_build.py"),
        (*PACKAGES, compiler),
    ),
    # The package as it is built, installed and found to lack something.
    "builds": Group(
        ("tests/tools/test_build.py", "tests/tools/test_build_cuda.py"),
        ("geotdm_fast/**/*.py", "kernels/*.py", "csrc/**/*", "tools/*.py", "setup.py", "pyproject.toml", "MANIFEST.in"),
        (*PACKAGES, package("setuptools"), package("pip"), package("ninja"), compiler, nvcc, processor),
    ),
    # CPU kernels with emulated instructions.
    "emulated cpu": Group(
        ("tests/csrc/test_bf16_emulated.py", "tests/csrc/test_native_*.py", "tests/ops/test_layer_pairs.py"),
        ("geotdm_fast/**/*.py", "kernels/*.py", "csrc/**/*", "tools/*.py", "setup.py"),
        (*PACKAGES, compiler, processor),
    ),
}


class Recorded:
    """The plugin. mode: `skip` what the record knows, `run` it all the same, or `write`: run it alone and record it."""

    def __init__(self, mode: str = "skip", groups: dict[str, Group] = GROUPS, path: pathlib.Path = RECORD):
        self.mode, self.groups, self.path = mode, groups, path
        # By group: how many tests it has, how many passed, and a line for one that did not.
        self.count, self.passed, self.others = {}, Counter(), {}
        self.digests = {}

    def pytest_sessionstart(self, session):
        if self.mode == "write":  # of what the tests see, whatever changes while they run
            self.digests = {name: group.digest(session.config.rootpath) for name, group in self.groups.items()}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config, items):
        known = self.read()
        marks = (item.get_closest_marker("recorded") for item in items if not item.get_closest_marker("gpu"))
        counts = Counter(mark.args[0] for mark in marks if mark)
        kept, left = [], []
        for item in items:
            mark = item.get_closest_marker("recorded")
            (kept if mark or self.mode != "write" else left).append(item)
            if mark is None:
                continue
            name, group = mark.args[0], self.groups.get(mark.args[0])
            if group is None or not group.holds(item.path, config.rootpath):
                raise pytest.UsageError(
                    f"{item.nodeid}: the group {name!r} in tests/support/recorded.py has not its file"
                )
            if item.get_closest_marker("gpu"):
                continue  # what a GPU computes no file decides
            item.user_properties.append((PROPERTY, [name, counts[name]]))
            always = mark.kwargs.get("always")
            if self.mode != "skip" or (always and re.search(always, item.name)):
                continue
            if name in known and known[name]["digest"] == self.digest(name, config.rootpath):
                item.add_marker(pytest.mark.skip(reason=f"passed with these files and versions (make record): {name}"))
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = kept

    def digest(self, name: str, root: pathlib.Path) -> str:
        if name not in self.digests:
            self.digests[name] = self.groups[name].digest(root)
        return self.digests[name]

    def read(self) -> dict:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def pytest_runtest_logreport(self, report):
        """In the process that gathers what the others ran."""
        for name, count in (value for key, value in report.user_properties if key == PROPERTY):
            self.count[name] = count
            if report.when == "call" and report.passed:
                self.passed[name] += 1
            elif not report.passed:
                why = report.longrepr[2] if report.skipped else report.outcome
                self.others.setdefault(name, f"{report.nodeid}: {why}")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter, config):
        if self.mode != "write":
            return
        terminalreporter.section("recorded")
        option = config.option
        some = [
            option.keyword,
            option.deselect,
            option.ignore,
            option.ignore_glob,
            option.markexpr not in ("", *config.getini("addopts")),
        ]
        if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or any(some):
            terminalreporter.write_line("nothing is recorded of a part of the tests")
            return
        known = {name: entry for name, entry in self.read().items() if name in self.groups}
        for name in self.groups:
            if name in self.count and self.passed[name] == self.count[name]:
                known[name] = {"tests": self.passed[name], "digest": self.digest(name, config.rootpath)}
                terminalreporter.write_line(f"{name}: {self.passed[name]} tests passed")
            else:
                known.pop(name, None)
                terminalreporter.write_line(f"{name} is not recorded: {self.others.get(name, 'not all its tests ran')}")
        self.path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
