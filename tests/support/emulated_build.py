"""Compiles the CUDA sources for the host, against the emulation of a block: what is called, where it has changed.

One library for each padded width: the tests of one width need not wait for the others. The instances of a direction
and width are compiled as one file: alone each would read the same headers and compile the same functions again.
"""

import ctypes
import functools
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
WIDTHS = (32, 64, 128, 256)  # padded, as in csrc/cuda/pipeline.cuh
PRECISIONS = ("fp32", "tf32", "bf16")
# -O1 takes two thirds of the time of -O2 to compile, and runs as fast: most of what runs is the emulation's checks.
FLAGS = f"-x c++ -std=c++20 -O1 -fPIC -Wall -Wextra -Werror -DGEOTDM_EMULATE -I{shlex.quote(str(CUDA))}"
# As nvcc compiles: a b + c is rounded once. The sums of the kernels above are rounded twice.
CONTRACTED_FLAGS = f"{FLAGS} -O2 -mfma -ffp-contract=fast"  # -O1 fuses nothing
CONTRACTED_FOLDER = FOLDER.with_name(f"{FOLDER.name}-contracted")
BINDING_WIDTH = 32

missing = ninja_build.what_is_missing()
needs_emulation = pytest.mark.skipif(missing is not None, reason=f"the emulation cannot be compiled here: {missing}")


def why_not_contracted() -> str | None:
    """Why the contracted kernels cannot be compiled or run here, or None."""
    fused = platform.machine() == "x86_64" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return missing if fused else "the processor is not known to have fused multiply-adds"


@functools.cache
def kernels(width: int) -> ctypes.CDLL:
    """The four functions of csrc/cuda/temporal_attention.h on the host, for widths padded as `width` is."""
    padded = _padded(width)
    _build(FOLDER, FLAGS, _library(FOLDER, padded))
    return ctypes.CDLL(str(FOLDER / _name(padded)))


@functools.cache
def contracted_kernels(width: int) -> ctypes.CDLL:
    """As `kernels`, where a b + c is rounded once."""
    padded = _padded(width)
    _build(CONTRACTED_FOLDER, CONTRACTED_FLAGS, _library(CONTRACTED_FOLDER, padded))
    return ctypes.CDLL(str(CONTRACTED_FOLDER / _name(padded)))


@functools.cache
def load_binding() -> None:
    """Register the ops of csrc/cuda/ops.cpp for the dispatch key PrivateUse1, where they take CPU tensors.

    H may be up to BINDING_WIDTH.
    """
    include = ninja_build.torch_folder() / "include"
    more = f"{ninja_build.STABLE_ABI} -isystem {shlex.quote(str(include))}"
    libraries = f"-L{shlex.quote(str(include.parent / 'lib'))} -ltorch -ltorch_cpu"
    edges, objects = ninja_build.objects(FOLDER, {CUDA / "ops.cpp": more})
    linked = [*objects, _name(BINDING_WIDTH)]
    edges += ninja_build.edge("ops.so", "link", linked, more=f"'-Wl,-rpath,$$ORIGIN' {libraries}")
    _build(FOLDER, FLAGS, [*_library(FOLDER, BINDING_WIDTH), *edges])
    torch.ops.load_library(str(FOLDER / "ops.so"))


def _padded(width: int) -> int:
    return min((padded for padded in WIDTHS if padded >= width), default=WIDTHS[-1])


def _name(padded: int) -> str:
    return f"temporal_attention_{padded}.so"


def _library(folder: pathlib.Path, padded: int) -> list[str]:
    """The edges for the library of one width; its sources are written."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / f"{direction}_{padded}.cu": _instances(direction, padded) for direction in ("forward", "backward")
    }
    texts[folder / f"choice_{padded}.cu"] = _choice(padded)
    with FileLock(folder / "lock"):
        for path, text in texts.items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
    edges, objects = ninja_build.objects(folder, dict.fromkeys(texts, ""))
    return [*edges, *ninja_build.edge(_name(padded), "link", objects)]


def _instances(direction: str, padded: int) -> str:
    return "".join(f'#include "instances/{direction}_{precision}_{padded}.cu"\n' for precision in PRECISIONS)


def _choice(padded: int) -> str:
    """The functions of the header; called for another width, they end the process."""
    absent = ["#include <cstdlib>", '#include "pipelines.h"', "namespace geotdm::cuda {"]
    for other in WIDTHS:
        for precision in ("kFp32", "kTf32", "kBf16") if other != padded else ():
            for direction in ("Forward", "Backward"):
                kernels_of = f"{direction}<{precision}, {other}>"
                absent.append(
                    f"template <> size_t {kernels_of}::workspace(const TemporalAttention&) {{ std::abort(); }}"
                )
                call = f"const Temporal{direction}&, StreamHandle"
                absent.append(f"template <> int {kernels_of}::run({call}) {{ std::abort(); }}")
    return "\n".join([*absent, "}", '#include "temporal_attention.cu"', ""])


def _build(folder: pathlib.Path, flags: str, lines: list[str]) -> None:
    """Of the processes that share the tests one compiles, the others wait for it."""
    cxx = shlex.join(ninja_build.compiler())
    rules = ninja_build.rule("compile", f"{cxx} {flags} $more -MD -MF $out.d -c $in -o $out")
    rules += ninja_build.rule("link", f"{cxx} -shared $in -o $out $more")
    with FileLock(folder / "lock"):
        ninja_build.build(folder, [*rules, *lines], quiet=True)
