"""Conformers: one frame of each of many molecules, of SDF, of any file that ASE reads, or of an `.npz`."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.agents import graph_ends
from geotdm_fast.data.checks import (
    check_array,
    check_count,
    check_flag,
    check_indices,
    check_positions,
    check_project,
    check_shape,
)
from geotdm_fast.data.chemistry.atom_graph import AtomGraph, graph_of_molecule, graph_of_pairs
from geotdm_fast.data.chemistry.names import BY_DEFAULT, MOLECULE_SUFFIXES, NUM_ATOMS, OFFICIAL, OWN, check_features
from geotdm_fast.data.chemistry.sdf import read_molecules
from geotdm_fast.data.distances import check_conformers, unit_factor
from geotdm_fast.data.molecule import heavy_atoms, molecule_graph
from geotdm_fast.data.molecule_files.ase_files import ase_structures
from geotdm_fast.data.molecule_files.formats import format_of
from geotdm_fast.data.molecule_files.structures import WITHOUT_BOX, MadeWhole, Structure
from geotdm_fast.data.molecule_files.xyz_molecules import xyz_molecules
from geotdm_fast.data.periodic import check_boxes
from geotdm_fast.data.positions import LARGEST
from geotdm_fast.data.splits import SPLIT_RATIO, check_ratio, split_range
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import centred
from geotdm_fast.runtime.files import PathLike, read_npz
from geotdm_fast.runtime.shown import shown

_ARRAYS = ("x", "R", "z", "h", "edge_index", "edge_attr", "bonds", "batch", "ptr", "cell", "pbc")


class _Rules(NamedTuple):
    """How graphs are made; the fields are arguments of `conformer_dataset`. factor: from the unit to angstrom."""

    with_h: bool
    max_hops: int
    features: list[str]
    cutoff: float | None
    factor: float


class _Part(NamedTuple):
    """Which molecules of a file are read."""

    split: str | None
    ratio: Sequence[float]

    def of(self, where: str, total: int) -> range:
        """Their numbers, of `total`. ValueError where there is none."""
        chosen = range(total) if self.split is None else split_range(where, total, self.split, self.ratio)
        if len(chosen) == 0:
            about = f"split '{self.split}' must hold a molecule, got none of {total} at split_ratio {self.ratio}"
            raise ValueError(f"{where}: {about}")
        return chosen


class _Conformer(NamedTuple):
    """x: [N, 3] float64 (angstrom); z: [N] int64; graph: its atoms and edges."""

    x: np.ndarray
    z: Tensor
    graph: AtomGraph


def conformer_dataset(
    path: PathLike,
    split: str | None = None,
    *,
    split_ratio: Sequence[float] = SPLIT_RATIO,
    with_h: bool = True,
    max_hops: int = 3,
    features: Sequence[str] | None = None,
    cutoff: float | None = None,
    project: bool | str = "frames",
    name: str | None = None,
    unit: str = "",
) -> TrajectoryDataset:
    """One frame of each of many molecules, with the atoms and edges of `AtomGraph`.

    path: `.sdf` or `.mol`, whose bonds RDKit reads; `.npz` with x (or R) [N, 3] of all atoms side by side, z [N] and
        batch [N] or ptr [G + 1], and if wanted h [N, F], edge_index [2, E] with edge_attr [E] (types of edges), or
        bonds [M, 2], and cell [3, 3] or [G, 3, 3] with pbc [3]; `.npz` with x [frames, N, 3] and z [N] of one molecule;
        `.xyz` and `.extxyz`, compressed too; or any other file of structures that ASE reads (.traj, .db, ...).
        Molecules of any number and size, one conformer an entry
    split: train, val or test, by the order in the file; None for all
    with_h: keep hydrogen atoms
    max_hops: atoms so many bonds apart are joined by an edge
    features: as for `with_atoms`; by default those of SDF are the eight official ones, else degree and hydrogens
    cutoff: the longest bond where bonds are found by distance (angstrom); None: by covalent radii
    project: `frames`, or True, which is the same here: the mean of each molecule is subtracted
    unit: of positions; what is meant where nothing is said is angstrom
    A structure with a periodic box (`Lattice` of extended XYZ, the cell of ASE, or cell and pbc) is made whole by it.
    Warns of molecules that their box cut, of atoms nearer than any bond, and of distances that look like another unit
    than angstrom.
    Raises FileNotFoundError, ImportError naming the extra, ValueError naming the file and the array, also where
    distances look like nm and no unit is given.
    """
    where = f"conformer_dataset: {path}"
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"conformer_dataset: {path}: no such file")
    suffix = path.suffix.lower()
    is_sdf = suffix in MOLECULE_SUFFIXES
    wanted = check_features(where, (OFFICIAL if is_sdf else BY_DEFAULT) if features is None else features, is_sdf)
    hops = check_count(where, "max_hops", max_hops)
    rules = _Rules(check_flag(where, "with_h", with_h), hops, wanted, cutoff, unit_factor(where, unit))
    check_project(where, project)
    part = _Part(split, check_ratio(where, split_ratio))
    reader = _of_sdf if is_sdf else _of_npz if suffix == ".npz" else _of_structures
    if wanted == [OWN] and suffix != ".npz":
        raise ValueError(f"{where}: features: [own] are the array h of an .npz, got a file {suffix}")
    with _bonds_told_once(where):
        found = list(reader(where, path, part, rules))
    check_conformers(where, "positions", [(one.x, one.z.numpy()) for one in found], stated=unit != "")
    items, numbers = [], []
    for conformer in found:
        x = torch.from_numpy(np.ascontiguousarray(conformer.x, dtype=np.float64))
        x = (centred(x[..., None], "frames") if project else x[..., None]).float()  # [N, 3, 1]
        items.append(Trajectory(x, *conformer.graph, torch.arange(len(x))))
        numbers.append(conformer.z)
    about: dict[str, Any] = {"name": path.stem if name is None else name, "unit": "angstrom"}
    return TrajectoryDataset(items, atomic_numbers=numbers, **about)


def _of_sdf(where: str, path: pathlib.Path, part: _Part, rules: _Rules) -> Iterator[_Conformer]:
    from rdkit.Chem import RemoveHs

    mols = read_molecules(where, path)
    for place in part.of(where, len(mols)):
        number, mol = mols[place]
        mol = mol if rules.with_h else RemoveHs(mol)
        graph = graph_of_molecule(f"{where}: molecule {number}", mol, None, rules.features, rules.max_hops)
        x = np.asarray(mol.GetConformer(0).GetPositions(), dtype=np.float64) * rules.factor
        yield _Conformer(_finite(where, number, x), graph.h[:, 0].long(), graph)


def _of_structures(where: str, path: pathlib.Path, part: _Part, rules: _Rules) -> Iterator[_Conformer]:
    frames = list(xyz_molecules(path)) if format_of(path) in ("xyz", "extxyz") else ase_structures(where, path)
    numbers = [number for number, one in enumerate(frames) if len(one.z)]
    made_whole, chosen = MadeWhole(where), part.of(where, len(numbers))
    for place in chosen:
        number = numbers[place]
        one = frames[number].scaled(rules.factor)
        _finite(where, number, one.x)
        z, x = one.z, made_whole(number, one)
        if not rules.with_h:
            kept = heavy_atoms(f"{where}: molecule {number}", z)
            x, z = x[kept], z[kept]
        yield _by_distance(where, number, x, z, None, rules)
    made_whole.report(len(chosen))


def _of_npz(where: str, path: pathlib.Path, part: _Part, rules: _Rules) -> Iterator[_Conformer]:
    arrays = read_npz(path, only=_ARRAYS)
    names = [key for key in ("x", "R") if key in arrays]
    if len(names) != 1 or "z" not in arrays:
        came = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"{where} must hold the positions as one of x and R, and z, got {came}")
    x = check_positions(where, names[0], arrays[names[0]], "N, 3 or frames, N, 3", dtype=np.float64) * rules.factor
    if x.ndim == 3:
        x, arrays = _side_by_side(where, x, arrays)
    z = check_array(where, "z", arrays["z"], "N")
    check_shape(where, "z", z, (len(x),))
    broken = z[~np.isfinite(z) | (z != np.floor(z))]
    if len(broken):
        raise ValueError(f"{where}: z must be atomic numbers, whole ones, got {broken[0]:g}")
    z = z.astype(np.int64)
    wrong = z[(z < 0) | (z >= NUM_ATOMS)]
    if len(wrong):
        raise ValueError(f"{where}: z must be atomic numbers from 0 to {NUM_ATOMS - 1}, got {wrong[0]}")
    ends = graph_ends(where, arrays.get("batch"), arrays.get("ptr"), (1, *x.shape))
    ends = np.array([len(x)]) if ends is None else ends
    begins = np.concatenate([[0], ends[:-1]])
    h, edge_attr, edges = arrays.get("h"), arrays.get("edge_attr"), arrays.get("edge_index")
    if h is not None:
        h = check_positions(where, "h", h, "N, F", dtype=np.float32)
        check_shape(where, "h", h, (len(x), h.shape[1]))
    if edges is not None:
        edges = check_indices(where, "edge_index", edges, "2, E", len(x))
    if edge_attr is not None:
        if edges is None:
            raise ValueError(f"{where}: edge_attr must come with edge_index, got edge_attr alone")
        edge_attr = check_positions(where, "edge_attr", edge_attr, "E or E, A", dtype=np.float32)
        check_shape(where, "edge_attr", edge_attr, (edges.shape[1], *edge_attr.shape[1:]))
    bonds = arrays.get("bonds")
    bonds = None if bonds is None else check_indices(where, "bonds", bonds, "M, 2", len(x))
    graph_of = np.repeat(np.arange(len(ends)), ends - begins)
    pairs, what = (edges, "edge_index") if bonds is None or edges is not None else (bonds.T, "bonds")
    if pairs is not None and (graph_of[pairs[0]] != graph_of[pairs[1]]).any():
        raise ValueError(f"{where}: {what} must join atoms of one molecule, got a pair of two")
    order = None if pairs is None else np.argsort(graph_of[pairs[0]], kind="stable")
    cuts = None if pairs is None else np.searchsorted(graph_of[pairs[0]][order], np.arange(len(ends) + 1))
    boxes = check_boxes(where, arrays.get("cell"), arrays.get("pbc"), (len(ends), 1, 3), hint=f"; {WITHOUT_BOX}")
    made_whole, molecules = MadeWhole(where), part.of(where, len(ends))
    for number in molecules:
        own = np.arange(begins[number], ends[number])
        _finite(where, number, x[own])
        mine = None if order is None or cuts is None else order[cuts[number] : cuts[number + 1]]
        chosen = None if pairs is None or mine is None else pairs[:, mine] - begins[number]
        if boxes is not None:
            cells = boxes[0][0] * rules.factor
            one = Structure(z[own], x[own], cells[number % len(cells)], boxes[1])
            x[own] = made_whole(number, one, chosen.T if chosen is not None and edges is None else None)
        place = np.arange(len(own))  # of the atoms of the molecule among those that are kept
        if not rules.with_h:
            kept = heavy_atoms(f"{where}: molecule {number}", z[own])
            place = np.full(len(own), -1)
            place[kept], own = np.arange(len(kept)), own[kept]
        features = None if h is None else h[own]
        if chosen is not None and mine is not None:
            chosen = place[chosen]
            is_kept = (chosen >= 0).all(axis=0)
            chosen, mine = chosen[:, is_kept], mine[is_kept]
        if edges is None:
            bonded = None if chosen is None else chosen.T
            yield _by_distance(where, number, x[own], z[own], bonded, rules, features)
            continue
        attr = None if edge_attr is None else torch.from_numpy(edge_attr[mine])
        numbers, f = torch.from_numpy(z[own]), None if features is None else torch.from_numpy(features)
        graph = graph_of_pairs(where, numbers, torch.from_numpy(chosen), attr, f, rules.features)
        yield _Conformer(x[own], numbers, graph)
    made_whole.report(len(molecules))


def _side_by_side(where: str, x: np.ndarray, arrays: dict) -> tuple[np.ndarray, dict]:
    """The frames [frames, N, 3] of one molecule as that many molecules: x, and the arrays beside it."""
    frames, num_atoms = x.shape[:2]
    for name in ("batch", "ptr"):
        if name in arrays:
            raise ValueError(f"{where}: {name} goes with x [N, 3] of molecules side by side, got x {list(x.shape)}")
    made = {"ptr": np.arange(frames + 1) * num_atoms} | {key: arrays[key] for key in ("cell", "pbc") if key in arrays}
    for name, expected in (("z", "[N]"), ("h", "[N, F]"), ("edge_attr", "[E] or [E, A]")):
        if name not in arrays:
            continue
        of_one = np.asarray(arrays[name])
        if of_one.ndim == 0:
            raise ValueError(f"{where}: {name} must be {expected}, got {shown(of_one.item())} without a dimension")
        if name != "edge_attr":
            check_shape(where, name, of_one, (num_atoms, *of_one.shape[1:]))
        made[name] = np.concatenate([of_one] * frames)
    offsets = np.arange(frames) * num_atoms
    for name, axis, shape in (("edge_index", 1, "2, E"), ("bonds", 0, "M, 2")):
        if name in arrays:
            of_one = check_indices(where, name, arrays[name], shape, num_atoms)
            made[name] = np.concatenate([of_one + offset for offset in offsets], axis=axis)
    return x.reshape(-1, 3), made


def _by_distance(
    where: str,
    number: int,
    x: np.ndarray,
    z: np.ndarray,
    bonds: np.ndarray | None,
    rules: _Rules,
    h: np.ndarray | None = None,
) -> _Conformer:
    """A molecule whose bonds are given, or found by distance."""
    _, edge_index, hops = molecule_graph(x, z, rules.cutoff, rules.max_hops, bonds=bonds, num_types=NUM_ATOMS)
    own, numbers = None if h is None else torch.from_numpy(h), torch.from_numpy(z)
    at = f"{where}: molecule {number}"
    return _Conformer(x, numbers, graph_of_pairs(at, numbers, edge_index, hops, own, rules.features))


def _finite(where: str, number: int, x: np.ndarray) -> np.ndarray:
    if not (np.abs(x) < LARGEST).all():
        raise ValueError(f"{where}: positions of molecule {number} must be finite and below {LARGEST:g} angstrom")
    return x


@contextlib.contextmanager
def _bonds_told_once(where: str) -> Iterator[None]:
    """What is said of the bonds of molecules is said once, with their number; before an error, if one follows."""
    told: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
    finally:
        apart = [w for w in told if "pieces" in str(w.message)]
        for warning in told:
            if warning not in apart:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        if apart:
            warnings.warn(f"{where}: {len(apart)} molecules, the first: {apart[0].message}", stacklevel=4)
