"""The C++ module as users get it: wheels, editable installs, machines without a compiler, older processors.

Everything is built from a copy of the sources (builds.py).
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from builds import ROOT, copy_of_sources, missing, needs_compiler, recipe, run

from tools import ninja_build

ISAS = ["baseline", "avx2", "avx512", "avx512bf16", "amx"]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
WITHOUT = {"CXX": "no-such-compiler"}

# Forward and backward of a small model, by the implementation that `auto` takes; the numbers go to a file.
STEP = """
import sys
import numpy as np, torch
from geotdm_fast import EGTN, ops
torch.set_num_threads(1)
torch.manual_seed(0)
network = EGTN(2, 1, 1, 48, 16, "silu", False, 0, 0)
x, h = torch.randn(5, 3, 7), torch.randn(5, 1, 7)
edge_index = torch.tensor([[0, 1, 2, 0, 3], [1, 0, 0, 2, 2]])
x_out, h_out = network(torch.zeros(5), x, h, edge_index, torch.randn(5, 1), None)
(x_out.square().sum() + h_out.square().sum()).backward()
numbers = [x_out, h_out, *(p.grad for p in network.parameters() if p.grad is not None)]
np.save(sys.argv[1], torch.cat([n.detach().flatten() for n in numbers]).numpy())
print(ops.native._C.path if ops.native._C else None, ops.status()[0].active)
"""

# STEP once for each instruction set, in processes that begin where torch is imported.
STEPS = """
import os, sys, torch
step, folder, *asked = sys.argv[1:]
for isa in asked:
    if not os.fork():
        os.environ["GEOTDM_CPU_ISA"] = isa
        sys.argv[1:] = [f"{folder}/{isa or 'default'}.npy"]
        exec(step)
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0, isa
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_of_sources(tmp_path_factory.mktemp("sources"), with_objects=True)


@pytest.fixture
def bare_sources(tmp_path):
    (tmp_path / "sources").mkdir()
    return copy_of_sources(tmp_path / "sources", with_objects=False)


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sources, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", ".", "-w", folder, GEOTDM_BUILD="1")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    """A folder to import the wheel's content from."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


@pytest.fixture
def environment(tmp_path):
    """The Python of a new virtual environment that sees all packages of this one except geotdm_fast."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder / "bin" / "python"


def installed(python, folder, *arguments, **variables) -> str:
    """Where the module is after `pip install`, and what runs egcl."""
    keep = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    # ninja may be in the environment that the new one borrows from, and nowhere else
    keep["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), keep["PATH"]])
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", *arguments]
    subprocess.run(pip, check=True, env=keep, cwd=folder)
    code = "from geotdm_fast import ops; print(ops.native.__file__, ops.native._C, ops.status()[0].active)"
    return subprocess.run([python, "-c", code], check=True, env=keep, cwd="/", stdout=subprocess.PIPE, text=True).stdout


def names_in(wheel: pathlib.Path) -> list[str]:
    with zipfile.ZipFile(wheel) as file:
        return file.namelist()


@needs_compiler
def test_wheel_has_the_module_and_no_sources(wheel):
    names = names_in(wheel)
    assert [name for name in names if name.endswith(".so")] == [f"geotdm_fast/{recipe().IN_SOURCE.name}"]
    folders = {name.split("/")[0] for name in names}
    assert len(folders) == 2 and "geotdm_fast" in folders  # and the .dist-info
    kernels = {f"geotdm_fast/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert kernels <= set(names) and len(kernels) > 1
    assert re.fullmatch(r"geotdm_fast-[\d.]+-py3-none-linux_\w+\.whl", wheel.name), "for every Python"


@pytest.mark.recorded("builds")
@needs_compiler
def test_wheel_installs_and_runs(wheel, environment, tmp_path):
    said = installed(environment, tmp_path, wheel)
    assert str(environment.parent.parent) in said and "_C.so" in said and " cpu (" in said


@pytest.mark.recorded("builds")
@needs_compiler
def test_editable_install_compiles_only_what_changed(sources, environment):
    said = installed(environment, sources, "-e", ".", GEOTDM_BUILD="1")
    assert str(sources / "geotdm_fast") in said and " cpu (" in said
    module = sources / "geotdm_fast" / recipe().IN_SOURCE.name
    assert module.is_file()

    (folder,) = (sources / "build").glob(f"torch-{torch.__version__}-*")
    dry_run = [ninja_build.ninja(), "-C", folder, "-n"]
    plan = lambda: subprocess.run(dry_run, check=True, capture_output=True, text=True)
    assert "no work to do" in plan().stdout
    (sources / "csrc/cpu/simd.h").touch()  # read by the kernels alone
    compiled = set(re.findall(r"-o (\w+)\.\S+", plan().stdout))
    assert compiled == {pathlib.Path(name).name for name in recipe().KERNELS} | {"_C"}

    said = installed(environment, sources, "-e", ".", GEOTDM_BUILD="0")
    assert not module.exists() and " None reference" in said


@pytest.mark.recorded("builds")
def test_without_a_compiler_the_package_installs_with_one_warning(bare_sources, tmp_path):
    said = run(bare_sources, "-c", BUILD, tmp_path, **WITHOUT)
    assert said.count("geotdm_fast._C is not built") == 1
    assert "no C++ compiler no-such-compiler (install g++" in said or missing
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl") and not [name for name in names_in(wheel) if name.endswith(".so")]
    assert "geotdm_fast/ops/native.py" in names_in(wheel)


@pytest.mark.recorded("builds")
@needs_compiler
def test_with_a_failing_compiler_too(bare_sources, tmp_path):
    said = run(bare_sources, "-c", BUILD, tmp_path, CXX="false")
    assert said.count('building extension "geotdm_fast._C" failed') == 1 and "slower" in said
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in names_in(wheel) if name.endswith(".so")]
    assert "non-zero exit status" in run(bare_sources, "-c", BUILD, tmp_path, ok=False, CXX="false", GEOTDM_BUILD="1")


@pytest.mark.recorded("builds")
def test_geotdm_build_asks_for_the_module_or_leaves_it_out(bare_sources, tmp_path):
    said = run(bare_sources, "-c", BUILD, tmp_path, ok=False, GEOTDM_BUILD="1", **WITHOUT)
    assert "geotdm_fast._C cannot be built: no " in said
    said = run(bare_sources, "-c", BUILD, tmp_path, ok=False, GEOTDM_BUILD="yes")
    assert "GEOTDM_BUILD must be 0 or 1, got yes" in said
    assert not list(tmp_path.glob("*.whl"))
    assert "not built" not in run(bare_sources, "-c", BUILD, tmp_path, GEOTDM_BUILD="0")
    (wheel,) = tmp_path.glob("*.whl")
    assert not [name for name in names_in(wheel) if name.endswith(".so")]


def test_source_distribution_is_complete(bare_sources, tmp_path):
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(bare_sources, "-c", code, tmp_path, **WITHOUT)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path)
    (folder,) = tmp_path.glob("geotdm_fast-*/")
    for part in ("csrc", "kernels"):
        listed = lambda root, part=part: {path.relative_to(root) for path in (root / part).rglob("*.*")}
        assert listed(folder) == listed(bare_sources) != set()


@pytest.mark.recorded("builds")
def test_without_the_module_the_reference_runs_with_one_warning(bare_sources, tmp_path):
    said = run(bare_sources, "-c", STEP, tmp_path / "numbers.npy")
    assert said.count("RuntimeWarning") == 1
    assert "geotdm_fast._C is not built (with torch, ninja and a C++ compiler at hand: pip install" in said
    assert "None reference" in said
    assert "RuntimeWarning" not in run(bare_sources, "-m", "geotdm_fast", "doctor")


@pytest.mark.recorded("builds")
@needs_compiler
def test_a_module_that_does_not_load_is_told(unpacked, tmp_path):
    shutil.copytree(unpacked / "geotdm_fast", tmp_path / "geotdm_fast")
    module = tmp_path / "geotdm_fast" / recipe().IN_SOURCE.name
    content = module.read_bytes()
    # As beside a torch that is older than its stable ABI.
    module.write_bytes(content.replace(b"torch_library_impl\0", b"torch_library_none\0"))
    said = run(tmp_path, "-c", STEP, tmp_path / "numbers.npy")
    assert "geotdm_fast._C is not loading: " in said and "undefined symbol: torch_library_none" in said
    assert "None reference" in said

    module.write_bytes(b"no library")
    said = run(tmp_path, "-m", "geotdm_fast", "doctor")
    assert "geotdm_fast._C is not loading: " in said and "file too short" in said


@pytest.mark.recorded("builds")
@needs_compiler
def test_every_instruction_set_gives_the_same_numbers(unpacked, tmp_path):
    """Forcing the choice down is how an older processor is tried; a set that this one lacks is never taken."""
    widest = {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "baseline")
    numbers = {}
    lines = run(unpacked, "-c", STEPS, STEP, tmp_path, "", *ISAS).splitlines()
    for asked, said in zip(("", *ISAS), lines, strict=True):
        expected = min(asked or widest, widest, key=ISAS.index)  # the last two are for bfloat16 alone
        assert str(unpacked) in said and f" cpu ({expected})" in said
        numbers[asked] = np.load(tmp_path / f"{asked or 'default'}.npy")
    assert np.isfinite(numbers[""]).all() and np.abs(numbers[""]).max() > 1
    for asked in ISAS:
        error = np.abs(numbers[asked] - numbers[""]).max() / np.abs(numbers[""]).max()
        assert error < 1e-5, f"{asked}: {error}"

    said = run(unpacked, "-c", STEP, tmp_path / "wrong.npy", ok=False, GEOTDM_CPU_ISA="sse9")
    assert "ValueError: GEOTDM_CPU_ISA must be baseline, avx2, avx512, avx512bf16 or amx, got sse9" in said


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils are not installed")
def test_no_function_of_one_instruction_set_can_be_taken_by_another(sources, wheel):
    """The linker keeps one copy of an inline function: one compiled for AVX-512 must be seen by those alone."""
    (folder,) = (sources / "build").glob(f"torch-{torch.__version__}-*")
    kernels = [pathlib.Path(name).name for name in recipe().KERNELS | recipe().SEARCHES]
    for name in kernels:
        isa = name.rpartition("_")[2]
        listing = subprocess.run(["nm", "-C", folder / f"{name}.o"], check=True, capture_output=True, text=True).stdout
        symbols = [re.match(r"[0-9a-f ]{16} (\w) (.*)", line).groups() for line in listing.splitlines()]
        assert ("D", f"geotdm::{name}") in symbols or ("R", f"geotdm::{name}") in symbols
        shared = [symbol for kind, symbol in symbols if kind in "WVuwT" and f"geotdm::{isa}::" not in symbol]
        assert not shared
        wanted = {symbol for kind, symbol in symbols if kind == "U"}
        assert wanted <= {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}


@needs_compiler
@pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")
def test_bfloat16_products_are_in_their_own_kernels_alone(sources, wheel):
    (folder,) = (sources / "build").glob(f"torch-{torch.__version__}-*")
    for name in map(pathlib.Path, recipe().KERNELS):
        disassembled = subprocess.run(["objdump", "-d", folder / f"{name.name}.o"], check=True, capture_output=True)
        for instruction, kernels in ((b"vdpbf16ps", "kernels_avx512bf16"), (b"tdpbf16ps", "kernels_amx")):
            assert (instruction in disassembled.stdout) == (name.name == kernels)


@needs_compiler
@pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")
def test_the_neighbour_search_fuses_no_product_with_a_sum(sources, wheel):
    (folder,) = (sources / "build").glob(f"torch-{torch.__version__}-*")
    fused = re.compile(rb"\bv?fn?m(add|sub|la|ls)\w*\b")
    of = lambda name: subprocess.run(["objdump", "-d", folder / f"{name}.o"], check=True, capture_output=True).stdout
    for name in (*recipe().SEARCHES, "module"):  # the search in boxes is part of the latter
        assert not fused.search(of(pathlib.Path(name).name))
    if "cpu/kernels_avx2" in recipe().KERNELS:
        assert fused.search(of("kernels_avx2"))
