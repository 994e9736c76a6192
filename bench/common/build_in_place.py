"""Make the sources importable where they are, nothing installed: `python -m bench.common.build_in_place`.

Compiles geotdm_fast/_C.so and, for a torch with CUDA, _C_cuda.so by setup.py's own recipes, or unpacks them where
`bench.gpu_pack` made them for these sources, this machine and this torch; and links kernels/ to where the package has
it, unless it is installed there.
"""

import argparse
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from bench import gpu_pack

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "geotdm_fast" / "kernels"


def main(argv: list[str] | None = None) -> int:
    """Build: 0, or 1 where a module was not built, with the reason in its line."""
    from tools import cpu_module, cuda_module

    parser = argparse.ArgumentParser(prog="python -m bench.common.build_in_place", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be compiled, and compile nothing")
    args = parser.parse_args(argv)
    print(link_kernels())
    if gpu_pack.manifest() and not args.dry_run:
        why_not = gpu_pack.unpack()
        print(why_not or f"unpacked {gpu_pack.PACK.name}/, commit {gpu_pack.manifest()['commit']}")
        if why_not is None:
            return 0
    recipes = {"C++": cpu_module}
    if cuda_module.torch_has_cuda() or os.environ.get("GEOTDM_CUDA") == "1":
        recipes["CUDA"] = cuda_module
    return 0 if build_all(recipes, args.dry_run) else 1


def build_all(recipes: dict[str, ModuleType], dry_run: bool = False) -> bool:
    """Compile the modules side by side; whether that went well."""
    folder = ROOT / "build" / "in_place" / platform.machine()
    with ThreadPoolExecutor() as pool:
        built = [pool.submit(build, name, recipe, folder / name, dry_run) for name, recipe in recipes.items()]
        return all(one.result() for one in built)


def build(name: str, recipe: ModuleType, folder: pathlib.Path, dry_run: bool) -> bool:
    """Compile one module and put it into the package; whether that went well."""
    module = recipe.IN_SOURCE
    why_not = recipe.what_is_missing()
    if why_not:
        print(f"the {name} module cannot be built: {why_not}")
        return False
    if dry_run:
        print(f"would compile {module.name} in {folder.relative_to(ROOT)}")
        return True
    try:
        made = recipe.compile_module(folder)
    except (subprocess.CalledProcessError, ValueError) as error:
        module.unlink(missing_ok=True)  # one made of other sources is worse than none
        print(f"the {name} module does not compile: {error}")
        return False
    aside = module.with_name(module.name + ".new")
    shutil.copy2(made, aside)
    aside.replace(module)
    print(f"compiled {module.relative_to(ROOT)}")
    return True


def link_kernels() -> str:
    """Give the package its `kernels`; what was done."""
    if KERNELS.exists() or importlib.util.find_spec("geotdm_fast.kernels") is not None:
        return "geotdm_fast.kernels is there"
    os.symlink(os.path.join("..", "kernels"), KERNELS)
    return "geotdm_fast/kernels now leads to kernels/"


if __name__ == "__main__":
    sys.exit(main())
