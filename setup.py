"""Builds geotdm_fast._C and geotdm_fast._C_cuda with ninja; everything else is in pyproject.toml.

The first, for the CPU, needs torch, a compiler and ninja; without them the package installs all the same and runs the
reference, with one warning. GEOTDM_BUILD=1 makes that an error, GEOTDM_BUILD=0 leaves both modules out. The second is
built where the installed torch is a build for CUDA, and needs nvcc; GEOTDM_CUDA=1 asks for it whatever torch is, and
makes it an error if it cannot be built, GEOTDM_CUDA=0 leaves it out. CXX, CXXFLAGS, LDFLAGS, CUDA_HOME and
TORCH_CUDA_ARCH_LIST mean what they always do; MAX_JOBS limits how many compilers run at once.
"""

import os
import platform
import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build front end leaves it out

from tools import cpu_module, cuda_module, ninja_build  # noqa: E402

# The modules: how each is made, and what happens without it.
RECIPES = {"geotdm_fast._C": cpu_module, "geotdm_fast._C_cuda": cuda_module}
WITHOUT = {
    "geotdm_fast._C": "geotdm_fast runs its reference in PyTorch instead, which is slower",
    "geotdm_fast._C_cuda": "on a GPU temporal attention runs in plain PyTorch instead, which is slower",
}
VARIABLES = {"geotdm_fast._C": "GEOTDM_BUILD", "geotdm_fast._C_cuda": "GEOTDM_CUDA"}


def wanted(name: str) -> str:
    """What the module's variable says: 1, 0, or nothing."""
    value = os.environ.get(VARIABLES[name], "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{VARIABLES[name]} must be 0 or 1, got {value}")
    return value


def is_asked_for(name: str) -> bool:
    """Whether the module is to be built if it can be."""
    if wanted("geotdm_fast._C") == "0" or wanted(name) == "0":  # the first one has the schemas of both
        return False
    return name == "geotdm_fast._C" or wanted(name) == "1" or cuda_module.torch_has_cuda()


class BuildExt(build_ext):
    """Compiles in a folder that outlives pip's temporary ones, one for each torch: only changes cost."""

    def finalize_options(self):
        given = self.build_temp  # to this very command
        super().finalize_options()
        torch = runpy.run_path(str(ninja_build.torch_folder() / "version.py"))["__version__"]
        folder = ROOT / "build" / f"torch-{torch}-{platform.machine()}"
        self.folder = Path(given or folder).absolute()
        self.parallel = self.parallel or len(RECIPES)  # both modules at once

    def build_extension(self, ext):
        recipe, module = RECIPES[ext.name], Path(self.get_ext_fullpath(ext.name))
        module.unlink(missing_ok=True)  # one made of other sources is worse than none
        try:
            built = recipe.compile_module(self.folder / "cuda" if recipe is cuda_module else self.folder)
        except (subprocess.CalledProcessError, ValueError) as error:
            raise CompileError(f"{error}; {WITHOUT[ext.name]}") from None
        module.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(built), str(module))

    def get_ext_filename(self, fullname):
        """A module is the same for every Python, so its name says none."""
        return os.path.join(*fullname.split(".")) + ".so"

    def copy_extensions_to_source(self):
        for ext in self.extensions:
            RECIPES[ext.name].IN_SOURCE.unlink(missing_ok=True)
        super().copy_extensions_to_source()


class BdistWheel(bdist_wheel):
    """Neither module knows anything of Python, so a wheel is for every one."""

    def get_tag(self):
        *_, system = super().get_tag()
        return "py3", "none", system


def main():
    missing = {name: RECIPES[name].what_is_missing() for name in RECIPES if is_asked_for(name)}
    for name, why in missing.items():
        if why and wanted(name) == "1":
            raise SystemExit(f"{name} cannot be built: {why}")

    class BuildPy(build_py):
        """Says why a module that was asked for is not built, and leaves no older one of it."""

        def run(self):
            super().run()
            for name, recipe in RECIPES.items():
                if self.editable_mode and missing.get(name, "") is not None:
                    recipe.IN_SOURCE.unlink(missing_ok=True)
                if missing.get(name):
                    self.warn(f"{name} is not built: {missing[name]}; {WITHOUT[name]}")

    # optional: setuptools turns a CompileError into a warning
    modules = [
        Extension(name, [os.path.relpath(path, ROOT) for path in RECIPES[name].sources()], optional=wanted(name) != "1")
        for name, why in missing.items()
        if why is None
    ]
    setup(
        # kernels/ holds Triton alone, beside csrc/; installed it is a part of the package
        packages=[*find_packages(include=["geotdm_fast*"]), "geotdm_fast.kernels"],
        package_dir={"geotdm_fast.kernels": "kernels"},
        ext_modules=modules,
        cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "bdist_wheel": BdistWheel},
    )


if __name__ == "__main__":
    main()
