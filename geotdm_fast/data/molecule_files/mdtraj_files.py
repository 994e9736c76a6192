"""Topologies and trajectories through MDTraj."""

import contextlib
import math
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, frames_in_chunk
from geotdm_fast.data.molecule_files.cursor import Cursor
from geotdm_fast.data.molecule_files.pdb import PdbFile
from geotdm_fast.data.molecule_files.xdr import read_headers

_NM = 10.0  # angstrom
# Formats of text and topologies whose elements MDTraj guesses from names or masses.
_WITHOUT_ELEMENTS = ("gro", "psf", "arc", "hoomdxml", "gsd")
_WITH_TIMES = ("nc", "ncdf", "netcdf", "h5", "hdf5", "gro")


def read_topology(path: pathlib.Path, file_format: str) -> Atoms:
    """The atoms of a topology, with a function that selects some in MDTraj's language."""
    import mdtraj

    top = mdtraj.load_topology(str(path))
    stated = file_format not in _WITHOUT_ELEMENTS and not _guesses_prmtop(path, file_format)
    numbers = [atom.element.atomic_number if stated and atom.element is not None else 0 for atom in top.atoms]
    atoms = Atoms([atom.name for atom in top.atoms], np.array(numbers, np.int64), path)
    atoms.residues = [atom.residue.name for atom in top.atoms]
    atoms.residue_of = np.array([atom.residue.index for atom in top.atoms])
    atoms.resids = np.array([atom.residue.resSeq for atom in top.atoms])
    chains = [atom.residue.chain for atom in top.atoms]
    atoms.chains = [str(getattr(chain, "chain_id", None) or chain.index) for chain in chains]
    return _with_bonds(atoms, top)


def name_atoms(file: PdbFile) -> Atoms:
    """The atoms of a PDB file, with the bonds of its residues and a function that selects in MDTraj's language."""
    top = _load_pdb(file)
    if top.n_atoms != file.num_atoms:
        raise ValueError(f"MDTraj takes the {file.num_atoms} atoms of {file.path} for {top.n_atoms}")
    return _with_bonds(file.atoms, top)


def _with_bonds(atoms: Atoms, top: Any) -> Atoms:
    bonds = np.array([(bond[0].index, bond[1].index) for bond in top.bonds], dtype=np.int64).reshape(-1, 2)
    atoms.bonds = bonds if len(bonds) else None
    atoms.orders = np.array([_order(bond) for bond in top.bonds], np.int64) if len(bonds) else None
    atoms.select = lambda text: np.asarray(top.select(text))
    return atoms


def _order(bond: Any) -> int:
    """1, 2, 3, 4 for an aromatic bond; 0 where MDTraj does not know."""
    if str(bond.type) == "Aromatic":
        return 4
    return int(bond.order) if bond.order in (1, 2, 3) else 0


def _load_pdb(file: PdbFile) -> Any:
    """MDTraj's topology of the first model alone: it keeps all models of a file as objects."""
    import mdtraj

    with tempfile.TemporaryDirectory() as folder:
        first = pathlib.Path(folder) / "first.pdb"
        first.write_bytes(file.first_model())
        return mdtraj.load_topology(str(first))


def _guesses_prmtop(path: pathlib.Path, file_format: str) -> bool:
    """Whether this is an Amber topology without atomic numbers."""
    if file_format not in ("prmtop", "parm7", "prm7"):
        return False
    return "%FLAG ATOMIC_NUMBER" not in path.read_text(errors="replace")


class MdtrajFile:
    """A `Source`; num_atoms: of the topology."""

    def __init__(self, path: pathlib.Path, file_format: str, num_atoms: int):
        self.path, self._format, self.num_atoms = path, file_format, num_atoms
        self._cursor = Cursor(self._open)
        self.pbc = np.array([True] * 3)
        self.times = self.has_positions = None
        if file_format in ("xtc", "trr"):
            headers = read_headers(path, file_format)
            self.num_frames, self.times = len(headers.times), headers.times
            self.has_positions = headers.has_positions if file_format == "trr" else None
            self._expect(headers.num_atoms)
            return
        # All atoms of a frame: MDTraj compares no numbers where it picks some.
        with contextlib.closing(self._open()) as file:
            for part in self._chunks(file, None, 1):
                self._expect(part.n_atoms)
                break
        with contextlib.closing(self._open()) as file:
            if file_format in _WITH_TIMES or not _knows_length(file):
                self._count(file)
            else:
                self.num_frames = len(file)

    def _expect(self, num_atoms: int) -> None:
        if num_atoms != self.num_atoms:
            raise ValueError(f"{self.path} must have the {self.num_atoms} atoms of its topology, got {num_atoms}")

    def _open(self) -> Any:
        from mdtraj.formats.registry import FormatRegistry

        kind = FormatRegistry.fileobjects[f".{self._format}"]
        extra = {"n_atoms": self.num_atoms} if self._format in ("mdcrd", "crd") else {}
        return kind(str(self.path), **extra)

    def _chunks(self, file: Any, atoms: np.ndarray | None, number: int | None = None) -> Iterator:
        """Pieces of MDTraj trajectories of `number` frames in all, or up to the end of the file."""
        size = frames_in_chunk(self.num_atoms)
        bare = _bare_topology(self.num_atoms, None if atoms is None else len(atoms))
        own = hasattr(file, "topology")
        left = math.inf if number is None else number
        while left > 0:
            more = {"n_frames": min(size, left), "atom_indices": atoms}
            with np.errstate(all="ignore"):  # frames of TRR without positions are whatever is in memory
                part = file.read_as_traj(**more) if own else file.read_as_traj(bare, **more)
            if len(part) == 0:
                return
            left -= len(part)
            yield part

    def _count(self, file: Any) -> None:
        times = []
        for part in self._chunks(file, np.arange(1)):
            times.append(part.time)
        if not times:
            raise ValueError(f"{self.path} must have a frame, got none")
        self.times = np.concatenate(times) if self._format in _WITH_TIMES else None
        self.num_frames = sum(map(len, times))

    def close(self) -> None:
        """See `Source`."""
        self._cursor.close()

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        every = len(atoms) == self.num_atoms
        with self._cursor.before(numbers[0]) as file:
            start = self._cursor.position
            if self._format in ("xtc", "trr", "dcd") and start < numbers[0]:
                start = int(numbers[0])
                file.seek(start)
            for part in self._chunks(file, None if every else atoms, int(numbers[-1]) + 1 - start):
                begin, end = np.searchsorted(numbers, [start, start + len(part)])
                here = numbers[begin:end] - start
                start += len(part)
                self._cursor.position = start
                if len(here):
                    self._expect_chosen(part, len(atoms))
                    cells = part.unitcell_vectors
                    cells = None if cells is None else cells[here] * _NM
                    yield Frames(here + start - len(part), part.xyz[here] * np.float32(_NM), cells)

    def _expect_chosen(self, part: Any, num_atoms: int) -> None:
        if part.n_atoms != num_atoms:
            self._expect(part.n_atoms)


def _bare_topology(num_atoms: int, chosen: int | None) -> Any:
    """Atoms without anything, for a trajectory that is asked for its positions alone.

    chosen: how many atoms are read; MDTraj would make their topology anew for every piece
    """
    import mdtraj

    def bare(number: int) -> Any:
        top = mdtraj.Topology()
        residue = top.add_residue("X", top.add_chain())
        for _ in range(number):
            top.add_atom("X", mdtraj.element.virtual, residue)
        return top

    top = bare(num_atoms)
    if chosen is not None:
        part = bare(chosen)
        top.subset = lambda atom_indices: part
    return top


def _knows_length(file: Any) -> bool:
    try:
        return len(file) >= 0
    except (NotImplementedError, TypeError):
        return False
