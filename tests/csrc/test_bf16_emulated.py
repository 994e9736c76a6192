"""The kernels of AVX512_BF16 and AMX on any x86-64: the module is built once more with both emulated, and tested.

The same sources in the same vector widths; only what these instructions do, and their rounding, is written out.
"""

import pathlib
import platform
import shutil

import pytest
import torch
from builds import copy_of_sources, needs_compiler, recipe, run

pytestmark = [
    needs_compiler,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these kernels are for x86-64"),
]

TESTS = """
import sys
import pytest
from geotdm_fast.ops import native
assert native._C.path.is_relative_to(sys.argv[1]), native._C.path
assert native.build_info()["low_precision_isa"] == sys.argv.pop(2), native.build_info()
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """A folder to import the package from."""
    folder = copy_of_sources(tmp_path_factory.mktemp("emulated"), with_objects=True)
    cpu_module = recipe(folder=folder)
    cpu_module.CHOICE["cpu/kernels"] += " -DGEOTDM_EMULATE"
    flags = "-O1 -Wno-psabi -DGEOTDM_EMULATE"  # later flags win: -O3 compiles vectors this wide for a minute
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        flags += " -mavx2 -mfma"
    for name in ("cpu/kernels_avx512", "cpu/kernels_avx512bf16", "cpu/kernels_amx"):
        cpu_module.KERNELS[name] = flags
    cpu_module.SEARCHES["cpu/radius_search_avx512"] = f"{flags} {cpu_module.EXACT}"
    module = cpu_module.compile_module(folder / "build" / f"torch-{torch.__version__}-{platform.machine()}")
    shutil.copy2(module, folder / "geotdm_fast" / module.name)
    return folder


@pytest.mark.recorded("emulated cpu")
@pytest.mark.parametrize("isa", ["avx512bf16", "amx"])
def test_products_of_bfloat16(emulated, isa):
    tests = [pathlib.Path(__file__).with_name(f"test_native_{name}.py") for name in ("low_precision", "dispatch")]
    tests.append(pathlib.Path(__file__).parents[1] / "ops" / "test_layer_pairs.py")
    chosen = "low_precision or bfloat16 or status or do_run or every_option"
    said = run(
        emulated, "-c", TESTS, emulated, isa, *tests, "-k", chosen,
        GEOTDM_CPU_ISA=isa,
    )  # fmt: skip
    assert " passed" in said and "skipped" not in said
