"""Files that a command writes must not be files that it reads."""

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Keys of a data section that name files.
_FILES = ("path", "topology", "molecule", "recordings")


def check_outputs(args: argparse.Namespace, inputs: Iterable[tuple[str, str | None]]) -> None:
    """Raise ValueError where a file that the options name to be written would replace one of `inputs`.

    inputs: what each is called and its path, or None where it was not given. Links are followed
    """
    read = {}
    for name, path in inputs:
        if path is not None and os.path.isfile(path):
            read[_identity(path)] = name
    for option, path in _written(args):
        name = read.get(_identity(path)) if os.path.isfile(path) else None
        if name is not None:
            raise ValueError(f"{option} must not be a file that is read, got {path}, which is {name} and would be lost")


def files_of_section(where: str, section: Mapping) -> Iterator[tuple[str, str]]:
    """Every file that a data section names, and what it is called: its key; patterns as the files that they find.

    What is wrong with a path is left to who opens it.
    """
    from geotdm_fast.data.replicas import expanded_paths

    for key in _FILES:
        try:
            value = expanded_paths(where, section.get(key))
        except FileNotFoundError:
            continue
        for path in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(path, (str, os.PathLike)):
                yield f"{where}.{key}", os.fspath(path)


def _written(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The option and the path of every file that `sample`, `evaluate` and `drift` write; --out may be a folder."""
    for option in ("out", "json", "xyz", "dcd", "xtc"):
        path = getattr(args, option, None)
        if path is not None:
            yield f"--{option}", path
        if path is not None and option in ("dcd", "xtc"):
            yield f"the .pdb beside --{option}", str(Path(path).with_suffix(".pdb"))


def _identity(path: str) -> tuple[int, int]:
    """The same number for every name of one file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino
