"""A file of molecules and its topology, opened by whoever can: this package, MDTraj, MDAnalysis or ASE."""

import lzma
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from geotdm_fast.data.molecule_files import formats
from geotdm_fast.data.molecule_files.contents import Atoms, NamedSource, Source
from geotdm_fast.data.molecule_files.elements import SYMBOLS

Read = TypeVar("Read")


class Opened(NamedTuple):
    """per_type: the atoms are named by numbers of types; reduced: lengths have no unit of their own."""

    atoms: Atoms
    source: Source
    per_type: bool
    reduced: bool


def open_molecules(
    where: str, path: pathlib.Path, topology: pathlib.Path | None, reader: str, file_format: str | None, unwrap: bool
) -> Opened:
    """The atoms and the frames of `path`; see `file_dataset` for the arguments.

    Raises ModuleNotFoundError naming the extra to install, ValueError for a format that nobody knows, a file that
    nobody can read, and a topology of other atoms.
    """
    kind = formats.check_format(where, file_format, path)
    own = formats.OWN.get(kind)
    if reader == "ase" and topology is not None:
        raise ValueError(f"{where}: topology must be None for ASE, it is for MDTraj and MDAnalysis")
    if reader != "auto":
        formats.require(where, reader)
        if own is None and not formats.reads_frames(reader, kind):
            raise ValueError(
                f"{where} must be of a format that {formats.NAMES[reader]} knows, {_who_knows(kind, reader)}"
            )
    source: Source
    if topology is not None:
        atoms = named_atoms(where, topology, reader)
        if own:
            source = named = _own(own, path, unwrap)
            _compare(where, topology, atoms, named.atoms)
        else:
            source = _frames(where, path, kind, reader, len(atoms.names))
    elif own:
        source = named = _own(own, path, unwrap)
        atoms = named_atoms(where, path, reader, named) if own == "pdb" else named.atoms
    else:
        atoms, source = _complete(where, path, kind, reader)
    reduced = kind in ("gsd", "hoomdxml") or getattr(source, "units", None) == "lj"
    return Opened(atoms, source, own == "lammps" and topology is None, reduced)


def _own(own: str, path: pathlib.Path, unwrap: bool) -> NamedSource:
    """A file that this package reads by itself."""
    from geotdm_fast.data.molecule_files.lammps import LammpsDump
    from geotdm_fast.data.molecule_files.pdb import PdbFile
    from geotdm_fast.data.molecule_files.xyz import XyzFile

    try:
        if own == "lammps":
            return LammpsDump(path, unwrap)
        return XyzFile(path) if own == "xyz" else PdbFile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} must be readable, got {type(error).__name__}: {error}") from error


def named_atoms(where: str, path: pathlib.Path, reader: str = "auto", file: NamedSource | None = None) -> Atoms:
    """The atoms that a topology names; file: the same as an opened PDB file.

    Raises ValueError for a format that nobody knows and a file that nobody can read, ModuleNotFoundError naming the
    extra to install.
    """
    kind = formats.format_of(path) if file is None else "pdb"
    if kind in formats.OWN and kind != "pdb":
        return _own(formats.OWN[kind], path, False).atoms
    if kind == "pdb":
        file = _own("pdb", path, False) if file is None else file
        found = [name for name in ("mdtraj", "mdanalysis") if reader in ("auto", name) and formats.installed(name)]
        return _attempt(path, found, lambda name: _module(name).name_atoms(file)) if found else file.atoms
    found = formats.readers_of(path, reader, lambda name: formats.reads_topology(name, kind))
    if not found or not formats.reads_topology(found[0], kind):
        known = sorted({*formats.TOPOLOGIES["mdtraj"], *formats.TOPOLOGIES["mdanalysis"]})
        raise ValueError(f"{where}: topology must be one of {', '.join(known)}; got {path}")
    return _attempt(path, found, lambda name: _module(name).read_topology(path, kind))


def _frames(where: str, path: pathlib.Path, kind: str, reader: str, num_atoms: int) -> Source:
    """A trajectory of bare positions."""
    found = formats.readers_of(where, reader, lambda name: name != "ase" and formats.reads_frames(name, kind))
    if not found:
        raise ValueError(f"{where} must be of a format that MDTraj or MDAnalysis knows, {_who_knows(kind, '')}")
    return _attempt(path, found, lambda name: _trajectory(name, path, kind, num_atoms))


def _complete(where: str, path: pathlib.Path, kind: str, reader: str) -> tuple[Atoms, Source]:
    """A trajectory that names its atoms."""

    def knows(name: str) -> bool:
        return formats.reads_frames(name, kind) and formats.is_complete(name, kind)

    found = [name for name in formats.readers_of(where, reader, knows) if knows(name)]
    if not found:
        if any(formats.reads_frames(name, kind) for name in formats.READERS[1:]):
            raise ValueError(f"{where} holds bare positions; topology must be the file that names its atoms, got none")
        raise ValueError(f"{where} must be of a known format, {_who_knows(kind, '')}")

    def read(name: str) -> tuple[Atoms, Source]:
        if name == "ase":
            from geotdm_fast.data.molecule_files.ase_files import AseFile

            source = AseFile(path, formats.ASE[kind])
            return source.atoms, source
        atoms = _module(name).read_topology(path, kind)
        return atoms, _trajectory(name, path, kind, len(atoms.names))

    return _attempt(path, found, read)


def _module(name: str) -> Any:
    from geotdm_fast.data.molecule_files import mdanalysis_files, mdtraj_files

    return {"mdtraj": mdtraj_files, "mdanalysis": mdanalysis_files}[name]


def _trajectory(name: str, path: pathlib.Path, kind: str, num_atoms: int) -> Source:
    module = _module(name)
    return (module.MdtrajFile if name == "mdtraj" else module.MdanalysisFile)(path, kind, num_atoms)


def _attempt(path: pathlib.Path, readers: list[str], read: Callable[[str], Read]) -> Read:
    """What the first of the readers makes of a file; ValueError with what each said when none can."""
    said = []
    for name in readers:
        try:
            return read(name)
        except Exception as error:  # readers raise anything for a broken file
            said.append((f"{formats.NAMES[name]} ({type(error).__name__}: {_short(error)})", error))
    names = " or ".join(formats.NAMES[name] for name in readers)
    raise ValueError(f"{path} must be readable by {names}, got {'; '.join(text for text, _ in said)}") from said[0][1]


def _short(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= length else text[:length] + "..."


def _who_knows(kind: str, but: str) -> str:
    """The end of a message about a format: who reads it, or which formats there are."""
    able = [name for name in formats.READERS[1:] if name != but and formats.reads_frames(name, kind)]
    if kind in formats.OWN or able:
        names = " and ".join(formats.NAMES[name] for name in able) or "this package"
        return f"got {kind}, which {names} {'read' if len(able) > 1 else 'reads'}"
    known = ", ".join(sorted({*formats.OWN, *formats.ASE, *formats.FRAMES["mdtraj"], *formats.FRAMES["mdanalysis"]}))
    return f"got '{kind}'; format: names another than the suffix says, one of {known}"


def _compare(where: str, topology: pathlib.Path, atoms: Atoms, own: Atoms) -> None:
    """Raise where a file that names its atoms has others than its topology."""
    if len(own.names) != len(atoms.names):
        raise ValueError(f"{where} must have the {len(atoms.names)} atoms of {topology}, got {len(own.names)}")
    both = (own.numbers > 0) & (atoms.numbers > 0) & (own.numbers != atoms.numbers)
    if both.any():
        i = int(both.argmax())
        expected, came = SYMBOLS[atoms.numbers[i]], SYMBOLS[own.numbers[i]]
        raise ValueError(f"{where} must have the elements of {topology}, {expected} for atom {i}; got {came}")


def check_atoms(where: str, atoms: Atoms, source: Source) -> None:
    """Raise unless frames and topology have the same number of atoms."""
    if source.num_atoms != len(atoms.names):
        raise ValueError(f"{where} must have the {len(atoms.names)} atoms of its topology, got {source.num_atoms}")


def select(where: str, atoms: Atoms, selection: str | None) -> np.ndarray:
    """The numbers of the atoms that a selection chooses, ascending; all without one."""
    if selection is None:
        return np.arange(len(atoms.names))
    if atoms.select is None:
        raise ValueError(f"{where}: selection must be None without MDTraj or MDAnalysis and a topology that they read")
    try:
        return np.unique(atoms.select(selection)).astype(np.int64)
    except Exception as error:
        raise ValueError(f"{where}: selection={selection!r} must choose atoms, got {_short(error)}") from error
