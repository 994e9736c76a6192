"""How geotdm_fast._C, the module for the CPU, is compiled.

It is written against torch's stable ABI and not against Python, so one file runs beside every torch from 2.10 on and
any Python.
"""

import os
import platform
import shlex
from pathlib import Path

from tools import ninja_build

ROOT = Path(__file__).resolve().parent.parent
IN_SOURCE = ROOT / "geotdm_fast" / "_C.so"  # where an editable install has the module

FLAGS = "-std=c++20 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -fno-math-errno -fno-trapping-math"
# Nothing in the kernels throws, and what cleans up after a throw would be shared by the files of all instruction sets.
KERNEL_FLAGS = "-fno-exceptions"
# Squares are rounded before they are added, as the reference has it.
EXACT = "-ffp-contract=off"
# Products are rounded with their sums, as GCC does it by itself: the silu of the kernels counts on it.
FUSED = "-ffp-contract=fast"
TORCH_SOURCES = {"module": EXACT}
CHOICE = {"cpu/kernels": "", ninja_build.OLDER_SYSTEMS: ""}
KERNELS = {"cpu/kernels_baseline": ""}
SEARCHES = {"cpu/radius_search_baseline": EXACT}
if platform.machine() in ("x86_64", "AMD64"):
    AVX2 = "-mavx2 -mfma"
    KERNELS["cpu/kernels_avx2"] = f"{AVX2} {FUSED}"
    SEARCHES["cpu/radius_search_avx2"] = f"{AVX2} {EXACT}"
    AVX512 = "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma -mprefer-vector-width=512"
    KERNELS["cpu/kernels_avx512"] = f"{AVX512} {FUSED}"
    SEARCHES["cpu/radius_search_avx512"] = f"{AVX512} {EXACT}"
    # every compiler that takes -std=c++20 takes this too (GCC 10, Clang 10)
    KERNELS["cpu/kernels_avx512bf16"] = f"{AVX512} {FUSED} -mavx512bf16"
    KERNELS["cpu/kernels_amx"] = f"{AVX512} {FUSED} -mavx512bf16"  # its tiles are inline assembly


def sources() -> list[Path]:
    """The files to compile."""
    return [ROOT / "csrc" / f"{name}.cpp" for name in (*TORCH_SOURCES, *CHOICE, *KERNELS, *SEARCHES)]


def what_is_missing() -> str | None:
    """What the module cannot be built without and this machine lacks, or None."""
    return ninja_build.what_is_missing()


def compile_module(folder: Path) -> Path:
    """Compile what has changed since the last time in `folder`; raises CalledProcessError where it does not compile."""
    torch = ninja_build.torch_folder()
    include = shlex.join([ninja_build.STABLE_ABI, "-isystem", str(torch / "include")])
    options = {name: f"{include} {flags}" for name, flags in TORCH_SOURCES.items()} | CHOICE
    options |= {name: f"{KERNEL_FLAGS} {flags}" for name, flags in (KERNELS | SEARCHES).items()}
    libraries = shlex.join([f"-L{torch / 'lib'}", "-ltorch_cpu"])
    cxx = shlex.join(ninja_build.compiler())
    flags, link = f"{FLAGS} {os.environ.get('CXXFLAGS', '')}", os.environ.get("LDFLAGS", "")
    edges, objects = ninja_build.objects(folder, dict(zip(sources(), options.values(), strict=True)))
    lines = [
        *ninja_build.rule("compile", f"{cxx} {flags} $more -MD -MF $out.d -c $in -o $out"),
        *ninja_build.rule("link", f"{cxx} -shared $in -o $out {libraries} {link}"),
        *edges,
        *ninja_build.edge(IN_SOURCE.name, "link", objects),
    ]
    ninja_build.build(folder, lines)
    return folder / IN_SOURCE.name
