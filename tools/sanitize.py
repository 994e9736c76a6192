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
TESTS = ("test_egcl.py", "test_temporal_attention.py", "test_native_*.py")
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
COMPILER = os.environ.get("CXX", "g++")
WHICH = "from geotdm_fast import _C; print(_C.__file__, _C.build_info()['isa'])"


def main() -> int:
    build = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(FOLDER / "lib")]
    environment = os.environ | {"CXX": COMPILER, "CXXFLAGS": FLAGS, "LDFLAGS": FLAGS, "GEOTDM_BUILD": "1"}
    subprocess.run(
        [*build, "build_ext", "--build-temp", str(FOLDER / "objects")], cwd=ROOT, env=environment, check=True
    )

    # Python itself is not built with the sanitizers, so their libraries have to come first.
    libraries = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, check=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little at its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(FOLDER / "lib"),
    }
    tests = sorted(str(path) for pattern in TESTS for path in (ROOT / "tests").glob(pattern))
    for wanted in ("", "avx2", "baseline"):
        environment["GEOTDM_CPU_ISA"] = wanted
        # the working folder comes first on the path of `python -m`, so the tests import the package that lies there
        python = {"cwd": FOLDER / "lib", "env": environment}
        shown = subprocess.run(
            [sys.executable, "-c", "import torch; " + WHICH], **python, capture_output=True, text=True
        )
        file, _, isa = shown.stdout.strip().partition(" ")
        if not file.startswith(str(FOLDER)):
            print(f"sanitize: the module of {FOLDER} does not load: {shown.stderr or file}", file=sys.stderr)
            return 1
        if wanted not in ("", isa) or (isa == "baseline" and wanted == ""):
            continue
        print(f"sanitize: {isa}", flush=True)
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *sys.argv[1:]]
        done = subprocess.run([*pytest, *tests], **python)
        if done.returncode:
            return done.returncode
    print("sanitize: clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
