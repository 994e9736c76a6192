"""Samples of molecules as objects of other packages: MDTraj, MDAnalysis and ASE."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from geotdm_fast.data.atomic_masses import ATOMIC_MASSES
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.packages import require_package
from geotdm_fast.samples.ase_frames import ase_frames
from geotdm_fast.samples.atoms import AtomTable, NamedAtoms, atom_table, first_frame, read_topology
from geotdm_fast.samples.md_boxes import in_md_boxes
from geotdm_fast.samples.md_topology import md_topology
from geotdm_fast.samples.molecules import Molecule, molecules
from geotdm_fast.samples.record import Samples
from geotdm_fast.samples.wrapping import WRAPS, lengths_and_angles

if TYPE_CHECKING:
    import ase
    import MDAnalysis
    import mdtraj


def mdtraj_trajectory(
    samples: Samples,
    graph: int | None,
    sample: int | None,
    wrap: str,
    topology: PathLike | None,
    selection: str | None,
) -> "mdtraj.Trajectory":
    """See `Samples.to_mdtraj`."""
    where = "Samples.to_mdtraj"
    require_package(where, "mdtraj", "md")
    import mdtraj

    frames = list(in_md_boxes(where, _chosen(where, samples, graph, sample, wrap), "MDTraj"))
    atoms = _atoms_of_all(where, samples, frames, read_topology(where, topology, selection))
    cells = _cells(frames)
    box = {}
    if cells is not None:
        lengths, angles = lengths_and_angles(cells)
        box = {"unitcell_lengths": lengths / 10, "unitcell_angles": angles}
    x = np.concatenate([one.positions for one in frames])
    nm = x.astype(np.float32, copy=False) / np.float32(10)
    return mdtraj.Trajectory(nm, md_topology(atoms), time=np.arange(len(x)) * (samples.frame_time or 1.0), **box)


def mdanalysis_universe(
    samples: Samples,
    graph: int | None,
    sample: int | None,
    wrap: str,
    topology: PathLike | None,
    selection: str | None,
) -> "MDAnalysis.Universe":
    """See `Samples.to_mdanalysis`."""
    where = "Samples.to_mdanalysis"
    require_package(where, "MDAnalysis", "md")
    import MDAnalysis
    from MDAnalysis.coordinates.memory import MemoryReader

    frames = list(in_md_boxes(where, _chosen(where, samples, graph, sample, wrap), "MDAnalysis"))
    atoms = _atoms_of_all(where, samples, frames, read_topology(where, topology, selection))
    count = len(atoms.residues)
    universe = MDAnalysis.Universe.empty(
        len(atoms.numbers), count, 1, atom_resindex=atoms.residue_of, residue_segindex=np.zeros(count, np.int64)
    )
    attributes: dict[str, Any] = {
        "names": atoms.names,
        "elements": atoms.symbols,
        "types": atoms.symbols,
        "masses": ATOMIC_MASSES[atoms.numbers],
        "resnames": atoms.residues,
        "resids": np.arange(1, count + 1),
        "segids": ["SYSTEM"],
        "bonds": [tuple(pair) for pair in atoms.bonds.tolist()],
    }
    for name, values in attributes.items():
        universe.add_TopologyAttr(name, values)
    cells = _cells(frames)
    dimensions = None if cells is None else np.concatenate(lengths_and_angles(cells), axis=1).astype(np.float32)
    x = np.concatenate([one.positions for one in frames]).astype(np.float32, copy=False)
    universe.load_new(x, format=MemoryReader, order="fac", dimensions=dimensions, dt=samples.frame_time or 1.0)
    return universe


def ase_atoms(
    samples: Samples,
    graph: int | None,
    sample: int | None,
    wrap: str,
    topology: PathLike | None,
    selection: str | None,
) -> "list[ase.Atoms]":
    """See `Samples.to_ase`."""
    where = "Samples.to_ase"
    require_package(where, "ase", "molecules")
    named = read_topology(where, topology, selection)
    found: list[ase.Atoms] = []
    table: AtomTable | None = None
    before = -1
    for molecule in _chosen(where, samples, graph, sample, wrap):
        if named is not None and molecule.graph != before:
            table, _ = _atoms(where, samples, molecule, named)
        before = molecule.graph
        frames = ase_frames(molecule, len(found))
        if table is not None:
            for atoms in frames:
                # By the names that ASE's reader of PDB files gives them.
                atoms.set_array("atomtypes", np.array(table.names))
                atoms.set_array("residuenames", np.array(table.residues)[table.residue_of])
                atoms.set_array("residuenumbers", table.residue_of + 1)
        found += frames
    return found


def _chosen(where: str, samples: Samples, graph: int | None, sample: int | None, wrap: str) -> Iterable[Molecule]:
    check_choice(f"{where}: wrap", wrap, WRAPS)
    return molecules(where, samples, wrap, graph, sample)


def _atoms_of_all(where: str, samples: Samples, frames: list[Molecule], named: NamedAtoms | None) -> AtomTable:
    """The atoms of the first trajectory, for all. Raises ValueError for a graph that lacks one of its bonds.

    Only bonds by distance in first frames of the data are compared. Further bonds of a graph are passed over: isomers
    lack bonds of each other, while molecules that come close have more.
    """
    first = frames[0]
    atoms, of_data = _atoms(where, samples, first, named)
    if not of_data or (named is not None and named.atoms.bonds is not None):
        return atoms
    graph = first.graph
    for molecule in frames:
        if molecule.graph == graph:
            continue
        graph = molecule.graph
        other, of_data = _atoms(where, samples, molecule, named)
        lacks = {*map(tuple, atoms.bonds.tolist())} - {*map(tuple, other.bonds.tolist())}
        if of_data and lacks:
            i, j = min(lacks)
            raise ValueError(
                f"{where}: all graphs must be the same molecule, graph {graph} has no bond of atoms {i} and {j} by "
                f"distance, which graph {first.graph} has; graph={graph} gives it alone, a topology names bonds for all"
            )
    return atoms


def _atoms(where: str, samples: Samples, molecule: Molecule, named: NamedAtoms | None) -> tuple[AtomTable, bool]:
    """Of the graph of a trajectory, with the bonds of its first frame, and whether that frame is of the data."""
    first, of_data = first_frame(samples, molecule.graph, molecule.sample)
    return atom_table(where, molecule.atomic_numbers, first, named), of_data


def _cells(frames: list[Molecule]) -> np.ndarray | None:
    """[all frames, 3, 3] (angstrom), or None without boxes."""
    cells = [one.cell for one in frames if one.cell is not None]
    return np.concatenate(cells) if cells else None
