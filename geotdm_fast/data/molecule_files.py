"""Trajectories in the formats of molecular simulation, through ASE, MDTraj or MDAnalysis."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from geotdm_fast.data.checks import check_flag
from geotdm_fast.data.molecule import renumbered_bonds, warn_if_apart
from geotdm_fast.data.own import array_dataset
from geotdm_fast.data.splits import SPLIT_RATIO
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.data.xtc_frames import check_xtc
from geotdm_fast.files import PathLike
from geotdm_fast.keys import check_choice

READERS = ("auto", "ase", "mdtraj", "mdanalysis")
_PACKAGES = {"ase": ("ase", "molecules"), "mdtraj": ("mdtraj", "md"), "mdanalysis": ("MDAnalysis", "md")}
# ASE's format is named for it, so that a file's content cannot choose another one.
_ASE_FORMATS = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
    ".pdb": "proteindatabank",
    ".xsf": "xsf",
    ".lammpstrj": "lammps-dump-text",
}
_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts "
    "Og"
)


class _Molecule(NamedTuple):
    """x [frames, N, 3] (angstrom), z [N], bonds [M, 2] or None where the file has none."""

    x: np.ndarray
    z: np.ndarray
    bonds: np.ndarray | None


def file_dataset(
    path: PathLike,
    topology: PathLike | None = None,
    split: str | None = None,
    *,
    reader: str = "auto",
    selection: str | None = None,
    with_h: bool = True,
    span: int | None = None,
    stride: int = 1,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    project: bool = False,
    cutoff: float = 1.6,
    max_hops: int = 3,
    fully_connected: bool = False,
    bonds: ArrayLike | None = None,
    num_types: int = 10,
    atom_types: Sequence[int] | None = None,
    name: str | None = None,
    unit: str = "angstrom",
) -> TrajectoryDataset:
    """Windows of a molecule's trajectory in any format that ASE, MDTraj or MDAnalysis reads.

    Positions are taken as they are stored, in angstrom, without unwrapping periodic boxes.

    path: .xyz, .extxyz, .traj, .pdb, .xsf, .lammpstrj are read by ASE; with a topology, or of another kind, by MDTraj
        or MDAnalysis, whichever is installed
    topology: the file that names the atoms of a trajectory of bare positions (.dcd, .xtc, ...)
    reader: ase, mdtraj or mdanalysis instead of the choice above
    selection: atoms to keep, in the selection language of MDTraj or MDAnalysis
    with_h: keep hydrogen atoms
    bonds: [M, 2] - pairs of atoms as numbered in the file, instead of the topology's or those by distance
    The other arguments are as in `array_dataset`.
    Raises FileNotFoundError, ModuleNotFoundError naming the extra to install, ValueError for a file that cannot be
    read or whose frames differ in their atoms.
    """
    where = f"file_dataset: {path}"
    check_choice(f"{where}: reader", reader, READERS)
    with_h = check_flag(where, "with_h", with_h)
    for file in (path, topology):
        if file is not None and not pathlib.Path(file).exists():
            raise FileNotFoundError(f"file_dataset: {file}: no such file")
    path = pathlib.Path(path)
    if reader == "auto":
        reader = _choose_reader(path, topology)
    _require(reader, path)
    if reader == "ase" and (topology is not None or selection is not None):
        given = "topology" if topology is not None else "selection"
        raise ValueError(f"{where}: {given} must be None for ASE, it is for MDTraj and MDAnalysis")
    molecule, chosen = _LOADERS[reader](path, topology, selection)
    x, z, atom_bonds = molecule if bonds is None else molecule._replace(bonds=np.asarray(bonds))
    atoms = chosen if with_h else chosen[z[chosen] > 1]
    if len(atoms) == 0:
        raise ValueError(f"{where} must have atoms left after selection={selection!r} and {with_h=}, got none")
    if atom_bonds is not None:
        atom_bonds = renumbered_bonds(where, atom_bonds, atoms, len(z))
        if bonds is None:
            warn_if_apart(where, len(atoms), atom_bonds, "of the topology", "a topology may leave bonds out")
    return array_dataset(
        x[:, atoms],
        split,
        z=z[atoms],
        bonds=atom_bonds,
        span=span,
        stride=stride,
        split_ratio=split_ratio,
        project=project,
        cutoff=cutoff,
        max_hops=max_hops,
        fully_connected=fully_connected,
        num_types=num_types,
        atom_types=atom_types,
        name=path.stem if name is None else name,
        unit=unit,
        where=where,
    )


def _choose_reader(path: pathlib.Path, topology: PathLike | None) -> str:
    if topology is None and path.suffix.lower() in _ASE_FORMATS:
        return "ase"
    return next((r for r in ("mdtraj", "mdanalysis") if _installed(r)), "mdtraj")


def _installed(reader: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[reader][0]) is not None


def _require(reader: str, path: pathlib.Path) -> None:
    package, extra = _PACKAGES[reader]
    if not _installed(reader):
        raise ModuleNotFoundError(
            f"file_dataset: {path} needs {package}, which is not installed: pip install 'geotdm-fast[{extra}]'",
            name=package,
        )


@contextlib.contextmanager
def _reading(path: pathlib.Path, reader: str):
    """Turn whatever a reader raises for a broken file into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
        raise ValueError(f"file_dataset: {path} must be readable by {reader}, got {came}") from error


def _read_ase(path: pathlib.Path, topology: None, selection: None) -> tuple[_Molecule, np.ndarray]:
    import ase.io

    suffix = path.suffix.lower()
    if suffix not in _ASE_FORMATS:
        raise ValueError(f"file_dataset: {path} must end in {', '.join(_ASE_FORMATS)} for ASE, got '{suffix}'")
    with _reading(path, "ASE"):
        frames = ase.io.read(path, index=":", format=_ASE_FORMATS[suffix])
    frames = [frame for frame in frames if len(frame)]  # a PDB's closing END reads as an empty frame
    if not frames:
        raise ValueError(f"file_dataset: {path} must have a frame, got none")
    z = frames[0].numbers
    for i, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, z):
            raise ValueError(f"file_dataset: {path} must have the same atoms in every frame, got others in frame {i}")
    return _Molecule(np.stack([frame.positions for frame in frames]), z, None), np.arange(len(z))


def _read_mdtraj(path: pathlib.Path, topology: PathLike | None, selection: str | None) -> tuple[_Molecule, np.ndarray]:
    import mdtraj

    if path.suffix.lower() == ".xtc":
        check_xtc(path)
    with _reading(path, "MDTraj"):
        trajectory = mdtraj.load(str(path)) if topology is None else mdtraj.load(str(path), top=str(topology))
    top = trajectory.topology
    z = np.array([0 if atom.element is None else atom.element.atomic_number for atom in top.atoms])
    bonds = np.array([(bond[0].index, bond[1].index) for bond in top.bonds], dtype=np.int64).reshape(-1, 2)
    with _reading(path, f"MDTraj with selection={selection!r}"):
        chosen = np.arange(len(z)) if selection is None else top.select(selection)
    return _Molecule(trajectory.xyz * 10.0, z, bonds if len(bonds) else None), chosen  # nm -> angstrom


def _read_mdanalysis(
    path: pathlib.Path, topology: PathLike | None, selection: str | None
) -> tuple[_Molecule, np.ndarray]:
    import MDAnalysis

    files = [str(file) for file in (topology, path) if file is not None]
    with _reading(path, "MDAnalysis"):
        universe = MDAnalysis.Universe(*files)
        atoms = universe.atoms
        x = np.stack([atoms.positions.copy() for _ in universe.trajectory])
    if not hasattr(atoms, "elements"):
        raise ValueError(f"file_dataset: {topology or path} must name the elements of its atoms, got none")
    z = np.array([_atomic_number(path, symbol) for symbol in atoms.elements])
    bonds = np.asarray(universe.bonds.indices) if hasattr(universe, "bonds") else None
    with _reading(path, f"MDAnalysis with selection={selection!r}"):
        chosen = np.arange(len(z)) if selection is None else universe.select_atoms(selection).indices
    return _Molecule(x, z, bonds), chosen


def _atomic_number(path: pathlib.Path, symbol: str) -> int:
    symbols = _SYMBOLS.split()
    if symbol.capitalize() not in symbols:
        raise ValueError(f"file_dataset: {path} must name the element of every atom, got '{symbol}'")
    return symbols.index(symbol.capitalize()) + 1


_LOADERS = {"ase": _read_ase, "mdtraj": _read_mdtraj, "mdanalysis": _read_mdanalysis}
