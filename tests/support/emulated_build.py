"""Compiles the CUDA sources for the host, against the emulation of a block; only what changed is compiled."""

import ctypes
import functools
import os
import pathlib
import platform
import shlex

import pytest
import torch
from filelock import FileLock  # which torch needs
from places import ROOT

from tools import ninja_build

CUDA = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / f"emulation-{platform.machine()}"
KERNELS, BINDING = "temporal_attention.so", "ops.so"
FLAGS = "-x c++ -std=c++20 -O2 -fPIC -Wall -Wextra -Werror -DGEOTDM_EMULATE"

# Instances that are also compiled as nvcc compiles: a b + c is rounded once. The sums of all others are rounded twice.
CONTRACTED_FOLDER = FOLDER.with_name(f"{FOLDER.name}-contracted")
CONTRACTED = [
    CUDA / "instances" / f"{direction}_{precision}_{width}.cu"
    for direction in ("forward", "backward")
    for precision in ("fp32", "bf16")
    for width in (32, 128)
]

missing = ninja_build.what_is_missing()
needs_emulation = pytest.mark.skipif(missing is not None, reason=f"the emulation cannot be compiled here: {missing}")


def sources() -> list[pathlib.Path]:
    """What the kernels are compiled from."""
    return sorted(CUDA.rglob("*.cu"))


@functools.cache
def built(name: str) -> pathlib.Path:
    """The library `KERNELS`, four functions of pointers, or `BINDING`: those as ops of torch, for CPU tensors."""
    include = ninja_build.torch_folder() / "include"
    binding = f"-DTORCH_TARGET_VERSION=0x020a000000000000 -isystem {shlex.quote(str(include))}"
    files = dict.fromkeys(sources(), "") | {CUDA / "ops.cpp": binding}
    edges, objects = ninja_build.objects(FOLDER, files)
    torch_libraries = f"-L{shlex.quote(str(include.parent / 'lib'))} -ltorch -ltorch_cpu"
    lines = [
        *_rules(),
        *edges,
        *ninja_build.edge(KERNELS, "link", objects[:-1]),
        *ninja_build.edge(BINDING, "link", [*objects[-1:], KERNELS], more=f"'-Wl,-rpath,$$ORIGIN' {torch_libraries}"),
    ]
    _build(FOLDER, lines)
    return FOLDER / name


def _build(folder: pathlib.Path, lines: list[str]) -> None:
    """Of the processes that share the tests one compiles, the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        ninja_build.build(folder, lines, quiet=True)


def _rules() -> list[str]:
    cxx = shlex.join(ninja_build.compiler())
    compile_rule = ninja_build.rule("compile", f"{cxx} {FLAGS} $more -MD -MF $out.d -c $in -o $out")
    return [*compile_rule, *ninja_build.rule("link", f"{cxx} -shared $in -o $out $more")]


@functools.cache
def contracted_kernels() -> ctypes.CDLL:
    """As `kernels`, with the instances of CONTRACTED, which are linked first: inline functions are theirs."""
    built(KERNELS)
    folder = CONTRACTED_FOLDER
    edges, objects = ninja_build.objects(folder, dict.fromkeys(CONTRACTED, "-mfma -ffp-contract=fast"))
    others = [FOLDER / path.with_suffix(".o").name for path in sources() if path not in CONTRACTED]
    objects += [os.path.relpath(path, folder) for path in others]
    _build(folder, [*_rules(), *edges, *ninja_build.edge(KERNELS, "link", objects)])
    return ctypes.CDLL(str(folder / KERNELS))


def why_not_contracted() -> str | None:
    """Why the contracted kernels cannot be compiled or run here, or None."""
    fused = platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return missing if fused else "the processor is not known to have fused multiply-adds"


@functools.cache
def kernels() -> ctypes.CDLL:
    """The four functions of csrc/cuda/temporal_attention.h, on the host."""
    return ctypes.CDLL(str(built(KERNELS)))


@functools.cache
def load_binding() -> None:
    """Register the ops of csrc/cuda/ops.cpp for the dispatch key PrivateUse1; there they take CPU tensors."""
    torch.ops.load_library(str(built(BINDING)))
