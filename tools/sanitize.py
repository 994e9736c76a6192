"""Runs the tests of the C++ module under AddressSanitizer and UndefinedBehaviorSanitizer: `python tools/sanitize.py`.

The package is built once more, into build/sanitize, and tested from there, for every instruction set of this machine;
arguments go to pytest. Anything that a sanitizer reports ends the run with an error.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sanitize"
TESTS = (
    "test_edges.py",
    "test_egcl.py",
    "test_layer_pairs*.py",
    "test_packed_pairs.py",
    "test_prepared_layers.py",
    "test_reference_frame.py",
    "test_temporal_attention.py",
    "test_radius_graph*.py",
    "test_graphs_search.py",
    "test_graphs_periodic.py",
    "test_native_*.py",
)
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
COMPILER = os.environ.get("CXX", "g++")


def main() -> int:
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(FOLDER / "lib")]
    build += ["build_ext", "--build-temp", str(FOLDER / "objects")]
    flags = {"CXX": COMPILER, "CXXFLAGS": FLAGS, "LDFLAGS": FLAGS, "GEOTDM_BUILD": "1"}
    subprocess.run(build, cwd=ROOT, env=os.environ | flags, check=True)
    environment = os.environ | {
        # Python itself is not built with the sanitizers, so their libraries have to come first.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(FOLDER / "lib"),
    }
    tests = sorted(str(path) for pattern in TESTS for path in (ROOT / "tests").rglob(pattern))
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *sys.argv[1:]]
    done = []
    for wanted in ("amx", "avx512bf16", "avx2", "baseline"):
        environment["GEOTDM_CPU_ISA"] = wanted
        isa = loaded_isa(environment)
        if isa in done:  # this processor has no wider one
            continue
        done.append(isa)
        print(f"sanitize: {isa}", flush=True)
        # the working folder comes first on the path of `python -m`, so the tests import the package that lies there
        if code := subprocess.run([*pytest, *tests], cwd=FOLDER / "lib", env=environment).returncode:
            return code
    print(f"sanitize: clean for {', '.join(done)}")
    return 0


def library(name: str) -> str:
    shown = subprocess.run([COMPILER, f"-print-file-name={name}"], stdout=subprocess.PIPE, check=True, text=True)
    return shown.stdout.strip()


def loaded_isa(environment: dict[str, str]) -> str:
    """The widest instruction set that runs, of the module with the sanitizers and no other."""
    code = "from geotdm_fast.ops import native; print(native._C.path, native.build_info()['low_precision_isa'])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER / "lib", env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    file, _, isa = shown.stdout.strip().rpartition(" ")
    if not file.startswith(str(FOLDER)):
        raise SystemExit(f"sanitize: {file} was loaded instead of the module in {FOLDER}")
    return isa


if __name__ == "__main__":
    sys.exit(main())
