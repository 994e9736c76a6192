"""Make the sources importable where they are, nothing installed: `python -m bench.build_in_place`.

Compiles geotdm_fast/_C.*.so by setup.py's own recipe, and links kernels/ to where the package has it, unless it is
installed there.
"""

import argparse
import importlib.util
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "geotdm_fast" / "kernels"


def main(argv: list[str] | None = None) -> int:
    """Build: 0, or 1 with the reason in the last line."""
    parser = argparse.ArgumentParser(prog="python -m bench.build_in_place", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be compiled, and compile nothing")
    args = parser.parse_args(argv)
    print(link_kernels())
    recipe = runpy.run_path(str(ROOT / "setup.py"), run_name="recipe")
    why_not = recipe["what_is_missing"]()
    if why_not:
        print(f"the C++ module cannot be built: {why_not}")
        return 1
    module, folder = recipe["IN_SOURCE"], ROOT / "build" / "in_place" / recipe["SUFFIX"].split(".")[1]
    if args.dry_run:
        print(f"would compile {module.name} in {folder.relative_to(ROOT)}")
        return 0
    try:
        built = recipe["compile_module"](folder)
    except subprocess.CalledProcessError as error:
        module.unlink(missing_ok=True)  # one made of other sources is worse than none
        print(f"the C++ module does not compile: {error}")
        return 1
    aside = module.with_name(module.name + ".new")
    shutil.copy2(built, aside)
    aside.replace(module)
    print(f"compiled {module.relative_to(ROOT)}")
    return 0


def link_kernels() -> str:
    """Give the package its `kernels`; what was done."""
    if KERNELS.exists() or importlib.util.find_spec("geotdm_fast.kernels") is not None:
        return "geotdm_fast.kernels is there"
    os.symlink(os.path.join("..", "kernels"), KERNELS)
    return "geotdm_fast/kernels now leads to kernels/"


if __name__ == "__main__":
    sys.exit(main())
