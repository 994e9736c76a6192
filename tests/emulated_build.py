"""Compiles the CUDA sources for the host, against the emulation of a block; only what changed is compiled."""

import ctypes
import functools
import pathlib
import platform
import shlex
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # tools/ is no part of the installed package

from tools import ninja_build  # noqa: E402

CUDA = ROOT / "csrc" / "cuda"
FOLDER = ROOT / "build" / f"emulation-{platform.machine()}"
KERNELS, BINDING = "temporal_attention.so", "ops.so"
FLAGS = "-x c++ -std=c++20 -O2 -g1 -fPIC -Wall -Wextra -Werror -DGEOTDM_EMULATE"

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
    cxx = shlex.join(ninja_build.compiler())
    torch_libraries = f"-L{shlex.quote(str(include.parent / 'lib'))} -ltorch -ltorch_cpu"
    lines = [
        *ninja_build.rule("compile", f"{cxx} {FLAGS} $more -MD -MF $out.d -c $in -o $out"),
        *ninja_build.rule("link", f"{cxx} -shared $in -o $out $more"),
        *edges,
        *ninja_build.edge(KERNELS, "link", objects[:-1]),
        *ninja_build.edge(BINDING, "link", [*objects[-1:], KERNELS], more=f"'-Wl,-rpath,$$ORIGIN' {torch_libraries}"),
    ]
    ninja_build.build(FOLDER, lines, quiet=True)
    return FOLDER / name


@functools.cache
def kernels() -> ctypes.CDLL:
    """The four functions of csrc/cuda/temporal_attention.h, on the host."""
    return ctypes.CDLL(str(built(KERNELS)))


@functools.cache
def load_binding() -> None:
    """Register the ops of csrc/cuda/ops.cpp for the dispatch key PrivateUse1; there they take CPU tensors."""
    torch.ops.load_library(str(built(BINDING)))
