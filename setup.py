"""Builds the C++ module geotdm_fast._C with ninja; everything else is in pyproject.toml.

Without torch, a compiler or ninja the package installs all the same and runs the reference, with one warning;
GEOTDM_BUILD=1 makes that an error, GEOTDM_BUILD=0 leaves the module out. CXX, CXXFLAGS and LDFLAGS mean what they
always do; MAX_JOBS limits how many compilers run at once.
"""

import importlib.util
import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
IN_SOURCE = ROOT / "geotdm_fast" / f"_C{SUFFIX}"  # where an editable install has the module

FLAGS = "-std=c++20 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -fno-math-errno -fno-trapping-math"
# The loops over threads are in torch's headers. OpenMP itself is not linked: torch has loaded one, and a second would
# have threads of its own.
TORCH_SOURCES = dict.fromkeys(
    ("ops", "cpu/egcl", "cpu/temporal_attention", "cpu/diffusion_step", "cpu/kernels"), "-fopenmp"
)
KERNELS = {"cpu/kernels_baseline": ""}
if platform.machine() in ("x86_64", "AMD64"):
    KERNELS["cpu/kernels_avx2"] = "-mavx2 -mfma"
    AVX512 = "-mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma -mprefer-vector-width=512"
    KERNELS["cpu/kernels_avx512"] = AVX512
    # every compiler that takes -std=c++20 takes this too (GCC 10, Clang 10)
    KERNELS["cpu/kernels_avx512bf16"] = f"{AVX512} -mavx512bf16"


def what_is_missing() -> str | None:
    """What the module cannot be built without and this machine lacks, or None."""
    if torch_folder() is None:
        return "no torch with headers in sight (pip hides the installed one: pip install --no-build-isolation .)"
    if shutil.which(compiler()[0]) is None:
        return f"no C++ compiler {compiler()[0]} (install g++, or name another one in CXX)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no headers of Python (install python3-dev)"
    if ninja() is None:
        return "no ninja (pip install ninja)"
    return None


def torch_folder() -> Path | None:
    spec = importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return folder if (folder / "include/ATen/core/Tensor.h").is_file() else None


def compiler() -> list[str]:
    found = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    return shlex.split(os.environ.get("CXX", "")) or [*found, "g++"][:1]


def ninja() -> str | None:
    folder = None
    if importlib.util.find_spec("ninja"):
        # the package's own program is not on PATH while its environment is not activated
        folder = importlib.import_module("ninja").BIN_DIR
    return (folder and shutil.which("ninja", path=folder)) or shutil.which("ninja")


def compile_module(folder: Path) -> Path:
    """Compile what has changed since the last time in `folder`; raises CalledProcessError where it does not compile."""
    torch = torch_folder()
    include = [f"-I{sysconfig.get_path('include')}"]
    for part in ("", "torch/csrc/api/include"):  # pybind11 is among torch's headers
        include += ["-isystem", str(torch / "include" / part)]
    sources = {name: shlex.join(include) + " " + flags for name, flags in TORCH_SOURCES.items()} | KERNELS
    libraries = shlex.join([f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"])
    lines = [
        f"cxx = {shlex.join(compiler())}",
        f"flags = {FLAGS} {os.environ.get('CXXFLAGS', '')}",
        "rule compile",
        "  command = $cxx $flags $more -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = $cxx -shared $in -o $out {libraries} {os.environ.get('LDFLAGS', '')}",
    ]
    for name, more in sources.items():
        source = os.path.relpath(ROOT / "csrc" / f"{name}.cpp", folder)
        lines += [f"build {objects(name)}: compile {source}", f"  more = {more}"]
    lines += [f"build {IN_SOURCE.name}: link {' '.join(map(objects, sources))}", ""]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines))
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    subprocess.run([ninja(), "-C", str(folder), *jobs], check=True)
    return folder / IN_SOURCE.name


def objects(source: str) -> str:
    return Path(source).name + ".o"


class BuildExt(build_ext):
    """Compiles in a folder that outlives pip's temporary ones, one for each torch and Python: only changes cost."""

    def finalize_options(self):
        given = self.build_temp  # to this very command
        super().finalize_options()
        torch = runpy.run_path(str(torch_folder() / "version.py"))["__version__"]
        self.folder = Path(given or ROOT / "build" / f"torch-{torch}-{SUFFIX.split('.')[1]}").absolute()

    def build_extension(self, ext):
        module = Path(self.get_ext_fullpath(ext.name))
        module.unlink(missing_ok=True)  # one made of other sources is worse than none
        try:
            built = compile_module(self.folder)
        except subprocess.CalledProcessError as error:
            raise CompileError(f"{error}; {consequence()}") from None
        module.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(built), str(module))

    def copy_extensions_to_source(self):
        IN_SOURCE.unlink(missing_ok=True)
        super().copy_extensions_to_source()


class WithoutModule(build_py):
    """Says why there is no module, unless that is what was asked for."""

    def run(self):
        super().run()
        if self.editable_mode:
            IN_SOURCE.unlink(missing_ok=True)
        if wanted() != "0":
            self.warn(f"geotdm_fast._C is not built: {what_is_missing()}; {consequence()}")


def wanted() -> str:
    value = os.environ.get("GEOTDM_BUILD", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"GEOTDM_BUILD must be 0 or 1, got {value}")
    return value


def consequence() -> str:
    return "geotdm_fast runs its reference in PyTorch instead, which is slower"


def main():
    # kernels/ holds Triton alone, beside csrc/; installed it is a part of the package
    places = {
        "packages": [*find_packages(include=["geotdm_fast*"]), "geotdm_fast.kernels"],
        "package_dir": {"geotdm_fast.kernels": "kernels"},
    }
    missing = what_is_missing()
    if wanted() == "1" and missing:
        raise SystemExit(f"geotdm_fast._C cannot be built: {missing}")
    if wanted() == "0" or missing:
        setup(**places, cmdclass={"build_py": WithoutModule})
    else:
        sources = [f"csrc/{name}.cpp" for name in [*TORCH_SOURCES, *KERNELS]]
        # optional: setuptools turns a CompileError into a warning
        module = Extension("geotdm_fast._C", sources, optional=wanted() != "1")
        setup(**places, ext_modules=[module], cmdclass={"build_ext": BuildExt})


if __name__ == "__main__":
    main()
