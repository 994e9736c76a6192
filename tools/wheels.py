"""Builds what is released: `python -m tools.wheels`, Linux on x86-64, with nvcc but no GPU.

Into dist/, from which those of before are removed, go

    a wheel with both modules, for every torch from 2.10 on and every Python,
    a wheel with the CPU's alone, where that asks for less of the system than both,
    a pure wheel, which runs the reference: for every other system,
    the sources.

The platform of a wheel is the oldest of `PLATFORMS` that has what its modules ask for; pip takes the newest that its
system has. The CPU's module asks for 2.28, as torch's own wheels. What nvcc links into the other was made for the C
library of the machine that builds: on one of glibc 2.34 or newer both need that, in a container of manylinux_2_28 not.
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
# By the version of glibc, the newest versions of symbols in AlmaLinux 8 and 9, on which the names rest.
PLATFORMS = {
    "manylinux_2_28_x86_64": {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 24), "CXXABI": (1, 3, 11), "GCC": (8, 0, 0)},
    "manylinux_2_34_x86_64": {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (8, 0, 0)},
}
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
    """Build: 0, or 1 where a module asks for more than any platform has, with the reason in its line.

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
        smallest = build_for_its_platform(args.out, GEOTDM_CUDA="0")
        if not args.no_cuda and build_for_its_platform(args.out, GEOTDM_CUDA="1") == smallest:
            print(f"wheels: both modules are of {smallest}, so one wheel is enough")
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


def build_for_its_platform(folder: Path, **variables: str) -> str:
    """A wheel with compiled modules into `folder`, in the place of one of the same platform; the platform.

    Raises ValueError where its modules ask for more than any platform has.
    """
    with tempfile.TemporaryDirectory() as aside:
        build(Path(aside), "wheel", GEOTDM_BUILD="1", **variables)
        (wheel,) = Path(aside).glob("*.whl")
        needed = needs_of_modules(wheel)
    platform = next((name for name in PLATFORMS if not beyond(needed, name)), None)
    if platform is None:
        newest = list(PLATFORMS)[-1]
        raise ValueError(f"{wheel.name} must be of {newest}, and needs {', '.join(beyond(needed, newest))}")
    build(folder, "wheel", "--plat-name", platform, GEOTDM_BUILD="1", **variables)  # nothing is compiled again
    return platform


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


def beyond(needed: Iterable[str], platform: str) -> list[str]:
    """Those of `needs` that a platform of `PLATFORMS` does not promise."""
    newest = PLATFORMS[platform]

    def is_promised(what: str) -> bool:
        kind, _, version = what.partition("_")
        if kind in newest and version:
            return tuple(map(int, version.split("."))) <= newest[kind]
        return LIBRARIES.fullmatch(what) is not None

    return [what for what in needed if not is_promised(what)]


if __name__ == "__main__":
    sys.exit(main())
