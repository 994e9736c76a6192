"""Builds what is released: `python -m tools.wheels`, Linux on x86-64, with nvcc but no GPU.

Into dist/, from which those of before are removed, go

    a wheel with both modules, for every torch from 2.10 on and every Python,
    a pure wheel, which runs the reference: for every other system,
    the sources.

The first is for systems from glibc 2.28 on, as torch's own wheels, whatever system builds it: what newer compilers take
from a newer one is in `csrc/older_systems.cpp`, and the CUDA runtime is linked with older versions of the C library's
symbols (`older_symbols.py`). What the modules ask for is looked at before the wheel has its name.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = "manylinux_2_28_x86_64"
# The newest versions of symbols in AlmaLinux 8, on which the name rests.
NEWEST = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (8, 0, 0)}
# Of the system, and of torch, which has loaded its own before.
LIBRARIES = re.compile(
    r"(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux-x86-64)\.so\.\d+|libtorch\w*\.so"
)
BUILD = """
import sys
from setuptools import build_meta
kind, folder, *options = sys.argv[1:]
if kind == "wheel":
    build_meta.build_wheel(folder, {"--build-option": options})
else:
    build_meta.build_sdist(folder)
"""


def main(argv: list[str] | None = None) -> int:
    """Build: 0, or 1 where a module asks for more than `PLATFORM` has, with the reason in its line.

    Raises CalledProcessError where something does not compile.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.wheels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default: dist")
    parser.add_argument("--no-cuda", action="store_true", help="without the module for GPUs, where there is no nvcc")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for left in built(args.out):
        left.unlink()
    try:
        build_for_platform(args.out, GEOTDM_CUDA="0" if args.no_cuda else "1")
    except ValueError as error:
        print(f"wheels: {error}", file=sys.stderr)
        return 1
    build(args.out, "wheel", GEOTDM_BUILD="0")
    build(args.out, "sdist", GEOTDM_BUILD="0")
    for path in built(args.out):
        print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path}")
    return 0


def built(folder: Path) -> list[Path]:
    """The wheels and sources of this project in `folder`, of any version; other files there are not ours."""
    return sorted(path for kind in ("whl", "tar.gz") for path in folder.glob(f"geotdm_fast-*.{kind}") if path.is_file())


def build_for_platform(folder: Path, **variables: str) -> None:
    """The wheel with compiled modules into `folder`.

    Raises ValueError where its modules ask for more than `PLATFORM` has; `folder` is without it then.
    """
    with tempfile.TemporaryDirectory() as aside:
        build(Path(aside), "wheel", "--plat-name", PLATFORM, GEOTDM_BUILD="1", **variables)
        (wheel,) = Path(aside).glob("*.whl")
        too_new = beyond(needs_of_modules(wheel))
        if too_new:
            raise ValueError(f"{wheel.name} must be of {PLATFORM}, and needs {', '.join(too_new)}")
        shutil.move(wheel, folder)


def build(folder: Path, kind: str, *options: str, **variables: str) -> None:
    """A wheel or the sources into `folder`. Raises CalledProcessError where that fails."""
    clean()
    command = [sys.executable, "-c", BUILD, kind, str(folder.resolve()), *options]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
    clean()


def clean() -> None:
    """Remove what setuptools leaves beside the objects: of another kind of wheel it would come along."""
    for left in (*(ROOT / "build").glob("lib*"), *(ROOT / "build").glob("bdist*"), *ROOT.glob("*.egg-info")):
        shutil.rmtree(left)


def needs_of_modules(wheel: Path) -> list[str]:
    """What the modules of a wheel ask for; see `needs`."""
    with tempfile.TemporaryDirectory() as aside, zipfile.ZipFile(wheel) as file:
        modules = [Path(file.extract(name, aside)) for name in file.namelist() if name.endswith(".so")]
        return sorted({what for module in modules for what in needs(module)})


def needs(module: Path) -> list[str]:
    """The libraries and the versions of symbols that a module asks for: `libc.so.6`, `GLIBC_2.14`."""
    said = subprocess.run(["objdump", "-p", str(module)], capture_output=True, text=True, check=True).stdout
    return [*re.findall(r"NEEDED\s+(\S+)", said), *re.findall(r"\b((?:GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+)$", said, re.M)]


def beyond(needed: Iterable[str]) -> list[str]:
    """Those of `needs` that `PLATFORM` does not promise."""

    def is_promised(what: str) -> bool:
        kind, _, version = what.partition("_")
        if kind in NEWEST and version:
            return tuple(map(int, version.split("."))) <= NEWEST[kind]
        return LIBRARIES.fullmatch(what) is not None

    return [what for what in needed if not is_promised(what)]


if __name__ == "__main__":
    sys.exit(main())
