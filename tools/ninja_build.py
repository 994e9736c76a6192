"""What every compilation here shares: the programs that it needs, and a file for ninja, so that only changes cost."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

# Both modules are written against torch's stable ABI as torch 2.10 has it.
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# A file in csrc/ that both link, so that they run on older systems than the compiler's.
OLDER_SYSTEMS = "older_systems"


def compiler() -> list[str]:
    """The C++ compiler and its options: CXX, or the first one on PATH."""
    found = [name for name in ("c++", "g++", "clang++") if shutil.which(name)]
    return shlex.split(os.environ.get("CXX", "")) or [*found, "g++"][:1]


def finds(library: str) -> bool:
    """Whether the linker of the compiler finds a file of this name."""
    command = [*compiler(), f"-print-file-name={library}"]
    return os.sep in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def ninja() -> str | None:
    """The program ninja, or None."""
    folder = None
    if importlib.util.find_spec("ninja"):
        # the package's own program is not on PATH while its environment is not activated
        folder = importlib.import_module("ninja").BIN_DIR
    return (folder and shutil.which("ninja", path=folder)) or shutil.which("ninja")


def torch_folder() -> Path | None:
    """Where the installed torch is, not imported; None where there is none, or none with headers."""
    spec = importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    return folder if folder and (folder / "include").is_dir() else None


def what_is_missing() -> str | None:
    """What no C++ file that includes torch's headers can be compiled without and this machine lacks, or None."""
    if torch_folder() is None:
        return "no torch with headers in sight (pip hides the installed one: pip install --no-build-isolation .)"
    if shutil.which(compiler()[0]) is None:
        return f"no C++ compiler {compiler()[0]} (install g++, or name another one in CXX)"
    if ninja() is None:
        return "no ninja (pip install ninja)"
    return None


def rule(name: str, command: str) -> list[str]:
    """A rule; one that compiles writes what it included to $out.d."""
    reads = ["  depfile = $out.d", "  deps = gcc"] if "$out.d" in command else []
    return [f"rule {name}", f"  command = {command}", *reads]


def edge(output: str, rule_name: str, inputs: Iterable[str], also: Iterable[Path] = (), **variables: str) -> list[str]:
    """`output` made from `inputs` by a rule, which sees the variables.

    also: files that the rule names itself; `output` is made again when they change, too
    """
    first = f"build {output}: {rule_name} {' '.join(inputs)}"
    for path in also:
        # In a path of ninja a dollar quotes itself, blanks and colons.
        first += (" " if " | " in first else " | ") + re.sub(r"[$ :]", r"$\g<0>", str(path))
    return [first, *(f"  {name} = {value}" for name, value in variables.items())]


def objects(folder: Path, sources: Mapping[Path, str], rule_name: str = "compile") -> tuple[list[str], list[str]]:
    """The edges that compile each source with options of its own (`$more`), and the names of what comes out."""
    names = [path.with_suffix(".o").name for path in sources]
    lines = []
    for name, (path, more) in zip(names, sources.items(), strict=True):
        lines += edge(name, rule_name, [os.path.relpath(path, folder)], more=more)
    return lines, names


def build(folder: Path, lines: Iterable[str], *, quiet: bool = False) -> None:
    """Write `folder`/build.ninja and run it, MAX_JOBS commands at once; what fails raises CalledProcessError.

    quiet: print nothing but what failed
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join([*lines, ""]))
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    done = subprocess.run([ninja(), "-C", str(folder), *jobs], capture_output=quiet, text=True)
    if done.returncode:
        print(done.stdout or "", end="")
        raise subprocess.CalledProcessError(done.returncode, done.args)
