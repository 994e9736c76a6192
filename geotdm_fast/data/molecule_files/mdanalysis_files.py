"""Topologies and trajectories through MDAnalysis."""

import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from geotdm_fast.data.molecule_files.contents import Atoms, Frames, frames_in_chunk
from geotdm_fast.data.molecule_files.elements import stated
from geotdm_fast.data.molecule_files.pdb import PdbFile
from geotdm_fast.data.molecule_files.xdr import read_headers

# Formats that hold the time of every frame, GSD its step; of others MDAnalysis makes one up.
_WITH_TIMES = ("nc", "ncdf", "h5md", "tng", "gsd", "trz")


def read_topology(path: pathlib.Path, file_format: str) -> Atoms:
    """The atoms of a topology, with a function that selects some in MDAnalysis' language."""
    universe = _universe(path, file_format)
    group = universe.atoms
    symbols = group.elements if hasattr(group, "elements") else [""] * len(group)
    called = "name" if hasattr(group, "names") else "type"
    names = group.names if called == "name" else group.types if hasattr(group, "types") else ["?"] * len(group)
    atoms = Atoms([str(name) for name in names], np.array([stated(str(s)) for s in symbols]), path, called=called)
    if hasattr(group, "resnames"):
        atoms.residues = [str(name) for name in group.resnames]
    atoms.residue_of = np.asarray(group.resindices)
    atoms.resids = np.asarray(group.resids) if hasattr(group, "resids") else None
    for name in ("chainIDs", "segids"):
        if hasattr(group, name):
            atoms.chains = [str(chain) for chain in getattr(group, name)]
            break
    return _with_bonds(atoms, universe)


def name_atoms(file: PdbFile) -> Atoms:
    """The atoms of a PDB file, with its bonds and a function that selects in MDAnalysis' language."""
    with tempfile.TemporaryDirectory() as folder:
        first = pathlib.Path(folder) / "first.pdb"
        first.write_bytes(file.first_model())
        universe = _universe(first, "pdb")
    if len(universe.atoms) != file.num_atoms:
        raise ValueError(f"MDAnalysis takes the {file.num_atoms} atoms of {file.path} for {len(universe.atoms)}")
    return _with_bonds(file.atoms, universe)


def _with_bonds(atoms: Atoms, universe: Any) -> Atoms:
    has_bonds = hasattr(universe, "bonds") and len(universe.bonds)
    atoms.bonds = np.asarray(universe.bonds.indices, np.int64) if has_bonds else None
    if has_bonds:
        atoms.orders = np.array([_ORDERS.get(str(bond.order), 0) for bond in universe.bonds])
    atoms.select = lambda text: np.asarray(universe.select_atoms(text).indices)
    return atoms


# As MOL2 files write orders.
_ORDERS = {"1": 1, "2": 2, "3": 3, "1.0": 1, "2.0": 2, "3.0": 3, "ar": 4, "1.5": 4}


def _universe(path: pathlib.Path, file_format: str) -> Any:
    """The topology alone: atoms without frames."""
    import MDAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements and masses that it guesses, which are not used
        return MDAnalysis.Universe(str(path), topology_format=file_format.upper(), to_guess=())


class MdanalysisFile:
    """A `Source`; num_atoms: of the topology."""

    def __init__(self, path: pathlib.Path, file_format: str, num_atoms: int):
        import MDAnalysis

        self.path, self.num_atoms = path, num_atoms
        self.pbc = np.array([True] * 3)
        self.times = self.has_positions = None
        if file_format in ("xtc", "trr"):
            headers = read_headers(path, file_format)
            if headers.num_atoms != num_atoms:
                raise ValueError(f"{path} must have the {num_atoms} atoms of its topology, got {headers.num_atoms}")
            self.times = headers.times
            self.has_positions = headers.has_positions if file_format == "trr" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe = MDAnalysis.Universe.empty(num_atoms, trajectory=False)
            universe.load_new(str(path), format=file_format.upper())
        self._trajectory = universe.trajectory
        self.num_frames = len(self._trajectory)
        if file_format in _WITH_TIMES:
            self.times = np.array(
                [step.data["step"] if file_format == "gsd" else step.time for step in self._trajectory]
            )

    def read(self, atoms: np.ndarray, numbers: np.ndarray) -> Iterator[Frames]:
        """See `Source`."""
        size = frames_in_chunk(self.num_atoms)
        for start in range(0, len(numbers), size):
            chunk = numbers[start : start + size]
            xs, cells = [], []
            for number in chunk:
                step = self._trajectory[int(number)]
                xs.append(step.positions[atoms])
                cells.append(np.zeros((3, 3)) if step.dimensions is None else np.array(step.triclinic_dimensions))
            yield Frames(chunk, np.stack(xs), np.stack(cells) if np.any(cells) else None)

    def close(self) -> None:
        """See `Source`."""
        self._trajectory.close()
