"""The module for GPUs as it is built: which architectures, which compiler, and what becomes of a build that fails."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest
from builds import ROOT, copy_of_sources, needs_compiler, recipe, run

cuda_module = recipe("cuda_module")
cuda_missing = cuda_module.what_is_missing()
needs_nvcc = pytest.mark.skipif(cuda_missing is not None, reason=f"nothing for GPUs can be compiled: {cuda_missing}")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

# The kernels' place, taken by one that compiles in seconds.
STAND_IN = """
#include "temporal_attention.h"
#define FUNCTION extern "C"
__global__ void nothing() {}
FUNCTION size_t geotdm_temporal_forward_workspace(const geotdm::cuda::TemporalAttention*) { return 0; }
FUNCTION size_t geotdm_temporal_backward_workspace(const geotdm::cuda::TemporalAttention*) { return 0; }
FUNCTION const char* geotdm_temporal_forward(const geotdm::cuda::TemporalForward*, geotdm::cuda::StreamHandle stream) {
  nothing<<<1, 1, 0, stream>>>();
  return nullptr;
}
FUNCTION const char* geotdm_temporal_backward(const geotdm::cuda::TemporalBackward*, geotdm::cuda::StreamHandle) {
  return nullptr;
}
"""
LOADS = """
import sys, torch
from geotdm_fast.ops import native
assert native.build_info()
torch.ops.load_library(sys.argv[1])
key = torch._C.DispatchKey.CUDA
name = "geotdm_fast::temporal_attention_forward"
assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
print("it loads")
"""


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    copy_of_sources(folder, with_objects=True)
    for path in (folder / "csrc" / "cuda").rglob("*.cu"):
        path.unlink()
    (folder / "csrc" / "cuda" / "temporal_attention.cu").write_text(STAND_IN)
    return folder


def modules_in(folder: pathlib.Path) -> set[str]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "unpacked")
    wheel.unlink()
    return {path.name.split(".")[0] for path in (folder / "unpacked" / "geotdm_fast").glob("*.so")}


@pytest.mark.recorded("builds")
@needs_nvcc
@needs_compiler
def test_a_wheel_has_the_module_and_it_loads_without_a_gpu(sources, tmp_path):
    flags = {"GEOTDM_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "7.5;9.0a"}
    run(sources, "-c", BUILD, tmp_path, **flags)
    assert modules_in(tmp_path) == {"_C", "_C_cuda"}
    module = tmp_path / "unpacked" / "geotdm_fast" / "_C_cuda.so"
    assert re.search(rb"geotdm_fast\._C_cuda built with CUDA \d+\.\d+ for 9\.0a\n", module.read_bytes())
    assert b"-lineinfo" in (next((sources / "build").glob("torch-*/cuda")) / "build.ninja").read_bytes()
    assert "it loads" in run(tmp_path / "unpacked", "-c", LOADS, module)


@pytest.mark.recorded("builds")
@needs_nvcc
@needs_compiler
def test_a_build_that_fails_leaves_the_module_for_the_cpu(sources, tmp_path):
    (sources / "csrc" / "cuda" / "temporal_attention.cu").write_text("#error no kernels today\n")
    said = run(sources, "-c", BUILD, tmp_path, ok=False, GEOTDM_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0a")
    assert "no kernels today" in said and "on a GPU temporal attention runs in plain PyTorch" in said
    setup = (sources / "setup.py").read_text()  # as if torch were a build for CUDA
    (sources / "setup.py").write_text(setup.replace("cuda_module.torch_has_cuda()", "True"))
    said = run(sources, "-c", BUILD, tmp_path, TORCH_CUDA_ARCH_LIST="9.0a")
    assert said.count('building extension "geotdm_fast._C_cuda" failed') == 1
    assert modules_in(tmp_path) == {"_C"}


@pytest.mark.recorded("builds")
@needs_compiler
def test_where_nvcc_is_missing(sources, tmp_path):
    hidden = {"CUDA_HOME": str(tmp_path)}
    said = run(sources, "-c", BUILD, tmp_path, ok=False, GEOTDM_CUDA="1", **hidden)
    assert f"geotdm_fast._C_cuda cannot be built: no nvcc in CUDA_HOME={tmp_path} (install the CUDA toolkit" in said
    said = run(sources, "-c", BUILD, tmp_path, ok=False, GEOTDM_CUDA="yes", **hidden)
    assert "GEOTDM_CUDA must be 0 or 1, got yes" in said
    setup = (sources / "setup.py").read_text()
    (sources / "setup.py").write_text(setup.replace("cuda_module.torch_has_cuda()", "True"))
    said = run(sources, "-c", BUILD, tmp_path, **hidden)
    assert said.count("geotdm_fast._C_cuda is not built: no nvcc in ") == 1
    assert modules_in(tmp_path) == {"_C"}
    assert "_C_cuda is not built" not in run(sources, "-c", BUILD, tmp_path, GEOTDM_CUDA="0", **hidden)


@pytest.mark.parametrize(
    ("given", "version", "expected"),
    [
        ("", (13, 0), ["8.0", "9.0a", "10.0+PTX"]),
        ("", (12, 6), ["8.0+PTX", "9.0a"]),
        ("8.0;9.0a;10.0+PTX", (13, 0), ["8.0", "9.0a", "10.0+PTX"]),
        ("7.5 8.6 8.6 12.0+PTX", (13, 0), ["8.6", "12.0+PTX"]),
    ],
)
def test_architectures(given, version, expected, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    assert cuda_module.architectures(version) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("8.0;Hopper", "TORCH_CUDA_ARCH_LIST must be as in '8.0 9.0a 10.0.PTX', got Hopper"),
        ("7.0;7.5", "TORCH_CUDA_ARCH_LIST must have one of 8.0 or newer, got 7.0 7.5"),
    ],
)
def test_wrong_architectures_are_named(given, message, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    with pytest.raises(ValueError, match=message):
        cuda_module.architectures((13, 0))


def test_options_for_the_compiler(monkeypatch):
    assert cuda_module.code_options(["8.0", "9.0a", "10.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    monkeypatch.delenv("MAX_JOBS", raising=False)
    assert cuda_module.threads(["8.0", "9.0a"]) == "--threads 2 "
    monkeypatch.setenv("MAX_JOBS", "2")
    assert cuda_module.threads(["8.0", "9.0a"]) == ""


def test_the_compiler_is_looked_for_in_cuda_home_then_on_path(tmp_path, monkeypatch):
    def install(folder, version):
        folder.mkdir(parents=True)
        (folder / "nvcc").write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.88'\n")
        (folder / "nvcc").chmod(0o755)
        return str(folder / "nvcc")

    on_path, at_home = install(tmp_path / "path", "12.3"), install(tmp_path / "home" / "bin", "13.0")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "path"), os.environ["PATH"]]))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert cuda_module.nvcc() == on_path and cuda_module.cuda_version(on_path) == (12, 3)
    assert cuda_module.what_is_missing() == f"{on_path} must be of CUDA 12.4 or newer, and is 12.3"
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert cuda_module.nvcc() == at_home and cuda_module.cuda_version(at_home) == (13, 0)
    assert cuda_module.cuda_version("no-such-nvcc") is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_module.what_is_missing().startswith(f"no nvcc in CUDA_HOME={tmp_path} (")


@pytest.mark.parametrize(("line", "expected"), [("cuda = '13.0'", True), ("cuda = None", False), ("", False)])
def test_a_torch_for_cuda_is_known_by_its_file(line, expected, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text(f"__version__ = '2.11.0'\n{line}\n")
    monkeypatch.setattr(cuda_module, "ninja_build", SimpleNamespace(torch_folder=lambda: tmp_path))
    assert cuda_module.torch_has_cuda() == expected


def test_no_gpu_is_asked():
    for path in (ROOT / "setup.py", *(ROOT / "tools").glob("*.py")):
        assert not re.search(r"nvidia-smi|cuda\.is_available", path.read_text())


def test_sources_for_gpus_are_in_a_source_distribution(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    copy_of_sources(folder, with_objects=False)
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=folder, check=True, capture_output=True)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for name in ("csrc/cuda/ops.cpp", "csrc/cuda/block.cuh", "tools/cuda_module.py", "tools/ninja_build.py"):
        assert (unpacked / name).is_file(), name
