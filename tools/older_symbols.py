"""What is linked statically, asking for no newer version of a symbol of the C library than older systems have.

A linker takes the newest version of a symbol that its own C library has: `pthread_create@GLIBC_2.34` on Debian 12,
though the code was compiled for one of 2005. Here the objects of an archive are copied with the older version written
out, as the C library still has it for programs of that time.
"""

import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

# The oldest systems that wheels are for.
NEWEST = (2, 28)
_DEFINED = re.compile(r"\s\(?GLIBC_([\d.]+)\)?\s+(?:0x\w+\s+)?(\S+)$")


def with_older_symbols(archive: Path, folder: Path, cxx: list[str]) -> Path:
    """A copy of `archive` in `folder` whose objects ask for older versions; `archive` itself where none is needed.

    cxx: the compiler, which says where its C library is. Without nm, objdump and objcopy of binutils or LLVM it is
    `archive` itself, with a warning. Raises CalledProcessError where they fail.
    """
    missing = [name for name in ("nm", "objdump", "objcopy") if _program(name) is None]
    if missing:
        warnings.warn(
            f"no {' and no '.join(missing)}: what {archive.name} is linked into may run on no older system than this "
            "one (install binutils)",
            stacklevel=2,
        )
        return archive
    library = Path(_said([*cxx, "-print-file-name=libc.so.6"]).strip())
    older = older_versions(asked_for(archive), versions(library)) if library.is_file() else {}
    if not older:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    table, copy = folder / f"{archive.stem}.symbols", folder / archive.name
    # Which archive it is of is a comment in the table: the date of a vendor's file says nothing.
    about = archive.stat()
    lines = f"# {archive} {about.st_size} {about.st_mtime_ns}\n"
    lines += "".join(f"{name} {name}@GLIBC_{version}\n" for name, version in sorted(older.items()))
    if copy.is_file() and table.is_file() and table.read_text() == lines:
        return copy
    # The table comes last, so that what an interruption leaves is made anew.
    table.unlink(missing_ok=True)
    new_table, new_copy = table.with_suffix(".symbols.new"), copy.with_suffix(".new")
    new_table.write_text(lines)
    subprocess.run([_program("objcopy"), f"--redefine-syms={new_table}", str(archive), str(new_copy)], check=True)
    os.replace(new_copy, copy)
    os.replace(new_table, table)
    return copy


def older_versions(names: set[str], known: dict[str, list[tuple[int, ...]]]) -> dict[str, str]:
    """Of the names whose newest version is newer than `NEWEST`, the newest one that is not: `2.2.5`."""
    chosen = {}
    for name in names & known.keys():
        older = [version for version in known[name] if version <= NEWEST]
        if older and max(known[name]) > NEWEST:
            chosen[name] = ".".join(map(str, max(older)))
    return chosen


def versions(library: Path) -> dict[str, list[tuple[int, ...]]]:
    """The versions of every symbol that a C library defines."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for line in _said([_program("objdump"), "-T", str(library)]).splitlines():
        match = _DEFINED.search(line)
        if match and "*UND*" not in line:
            found.setdefault(match[2], []).append(tuple(map(int, match[1].split("."))))
    return found


def asked_for(archive: Path) -> set[str]:
    """The symbols that the objects of an archive do not define."""
    return set(re.findall(r"^\s+U (\S+)$", _said([_program("nm"), "-u", str(archive)]), re.MULTILINE))


def _program(name: str) -> str | None:
    """A program of binutils, or the one of LLVM that takes its place; None without both."""
    return shutil.which(name) or shutil.which(f"llvm-{name}")


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
