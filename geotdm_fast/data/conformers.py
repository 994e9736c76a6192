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
from geotdm_fast.data.chemistry.names import BY_DEFAULT, NUM_ATOMS, OFFICIAL, OWN, check_features
from geotdm_fast.data.chemistry.sdf import SUFFIXES, read_molecules
from geotdm_fast.data.distances import unit_factor
from geotdm_fast.data.molecule import heavy_atoms, molecule_graph
from geotdm_fast.data.molecule_files.formats import require
from geotdm_fast.data.splits import SPLIT_RATIO, check_ratio, split_range
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import centred
from geotdm_fast.runtime.files import PathLike, read_npz

_ARRAYS = ("x", "R", "z", "h", "edge_index", "edge_attr", "bonds", "batch", "ptr")


class _Rules(NamedTuple):
    """How graphs are made; the fields are arguments of `conformer_dataset`."""

    with_h: bool
    max_hops: int
    features: list[str]
    cutoff: float | None


class _Conformer(NamedTuple):
    """x: [N, 3] float64 (angstrom); z: [N] int64; graph: made when it is asked for."""

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
        bonds [M, 2]; `.npz` with x [frames, N, 3] and z [N] of one molecule; or any file of structures that ASE reads
        (.xyz, .extxyz, .traj, .db, ...). Molecules of any number and size, one conformer an entry
    split: train, val or test, by the order in the file; None for all
    with_h: keep hydrogen atoms
    max_hops: atoms so many bonds apart are joined by an edge
    features: as for `with_atoms`; by default those of SDF are the eight official ones, else degree and hydrogens
    cutoff: the longest bond where bonds are found by distance (angstrom); None: by covalent radii
    project: `frames`, or True, which is the same here: the mean of each molecule is subtracted
    unit: of positions; what is meant where nothing is said is angstrom
    Raises FileNotFoundError, ImportError naming the extra, ValueError naming the file and the array.
    """
    where = f"conformer_dataset: {path}"
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"conformer_dataset: {path}: no such file")
    suffix = path.suffix.lower()
    is_sdf = suffix in SUFFIXES
    wanted = check_features(where, (OFFICIAL if is_sdf else BY_DEFAULT) if features is None else features, is_sdf)
    rules = _Rules(check_flag(where, "with_h", with_h), check_count(where, "max_hops", max_hops), wanted, cutoff)
    check_project(where, project)
    ratio, factor = check_ratio(where, split_ratio), unit_factor(where, unit)
    reader = _of_sdf if is_sdf else _of_npz if suffix == ".npz" else _of_ase
    if wanted == [OWN] and suffix != ".npz":
        raise ValueError(f"{where}: features: [own] are the array h of an .npz, got a file {suffix}")
    with _bonds_told_once(where):
        found = list(reader(where, path, split, ratio, rules, factor))
    items, numbers = [], []
    for conformer in found:
        x = torch.from_numpy(np.ascontiguousarray(conformer.x, dtype=np.float64))
        x = (centred(x[..., None], "frames") if project else x[..., None]).float()  # [N, 3, 1]
        items.append(Trajectory(x, *conformer.graph, torch.arange(len(x))))
        numbers.append(conformer.z)
    about: dict[str, Any] = {"name": path.stem if name is None else name, "unit": "angstrom"}
    return TrajectoryDataset(items, atomic_numbers=numbers, **about)


def _chosen(where: str, total: int, split: str | None, ratio: Sequence[float]) -> range:
    chosen = range(total) if split is None else split_range(where, total, split, ratio)
    if len(chosen) == 0:
        raise ValueError(f"{where}: split '{split}' must hold a molecule, got none of {total} at split_ratio {ratio}")
    return chosen


def _of_sdf(where, path, split, ratio, rules: _Rules, factor: float) -> Iterator[_Conformer]:
    from rdkit.Chem import RemoveHs

    mols = read_molecules(where, path)
    for number in _chosen(where, len(mols), split, ratio):
        mol = mols[number] if rules.with_h else RemoveHs(mols[number])
        graph = graph_of_molecule(f"{where}: molecule {number}", mol, None, rules.features, rules.max_hops)
        x = np.asarray(mol.GetConformer(0).GetPositions(), dtype=np.float64) * factor
        yield _Conformer(_finite(where, number, x), graph.h[:, 0].long(), graph)


def _of_ase(where, path, split, ratio, rules: _Rules, factor: float) -> Iterator[_Conformer]:
    require(where, "ase")
    import ase.io
    from ase.io.formats import UnknownFileTypeError, filetype

    try:
        # By the name alone: the content of a file must not choose who reads it.
        ase_format = filetype(str(path), read=False)
        frames = list(ase.io.iread(str(path), index=":", format=ase_format))
    except UnknownFileTypeError as error:
        raise ValueError(f"{where} must be .sdf, .npz or a format of ASE, by its suffix; got {path.suffix}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise ValueError(f"{where} must be a file that ASE reads, got an unreadable one ({why})") from error
    frames = [frame for frame in frames if len(frame)]
    for number in _chosen(where, len(frames), split, ratio):
        z = np.asarray(frames[number].numbers, dtype=np.int64)
        x = _finite(where, number, np.asarray(frames[number].positions, dtype=np.float64) * factor)
        if not rules.with_h:
            kept = heavy_atoms(f"{where}: molecule {number}", z)
            x, z = x[kept], z[kept]
        yield _by_distance(where, number, x, z, None, rules)


def _of_npz(where, path, split, ratio, rules: _Rules, factor: float) -> Iterator[_Conformer]:
    arrays = read_npz(path, only=_ARRAYS)
    names = [key for key in ("x", "R") if key in arrays]
    if len(names) != 1 or "z" not in arrays:
        came = ", ".join(sorted(arrays)) or "nothing"
        raise ValueError(f"{where} must hold the positions as one of x and R, and z, got {came}")
    x = check_positions(where, names[0], arrays[names[0]], "N, 3 or frames, N, 3", dtype=np.float64) * factor
    if x.ndim == 3:
        x, arrays = _side_by_side(where, x, arrays)
    z = check_array(where, "z", arrays["z"], "N")
    check_shape(where, "z", z, (len(x),))
    z = z.astype(np.int64)
    if z.min() < 0 or z.max() >= NUM_ATOMS:
        raise ValueError(f"{where}: z must be atomic numbers from 0 to {NUM_ATOMS - 1}, got {int(z.max())}")
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
    for pairs, what in ((edges, "edge_index"), (None if bonds is None else bonds.T, "bonds")):
        if pairs is not None and (graph_of[pairs[0]] != graph_of[pairs[1]]).any():
            raise ValueError(f"{where}: {what} must join atoms of one molecule, got a pair of two")
    for number in _chosen(where, len(ends), split, ratio):
        own = np.arange(begins[number], ends[number])
        if not rules.with_h:
            own = own[heavy_atoms(f"{where}: molecule {number}", z[own])]
        place = np.full(len(x), -1)
        place[own] = np.arange(len(own))
        if edges is None:
            pairs = None if bonds is None else place[bonds[graph_of[bonds[:, 0]] == number]]
            pairs = None if pairs is None else pairs[(pairs >= 0).all(axis=1)]
            yield _by_distance(where, number, x[own], z[own], pairs, rules, None if h is None else h[own])
            continue
        is_own = (place[edges] >= 0).all(axis=0)
        attr = None if edge_attr is None else torch.from_numpy(edge_attr[is_own])
        about = (torch.from_numpy(place[edges[:, is_own]]), attr, None if h is None else torch.from_numpy(h[own]))
        numbers = torch.from_numpy(z[own])
        yield _Conformer(x[own], numbers, graph_of_pairs(where, numbers, *about, rules.features))


def _side_by_side(where: str, x: np.ndarray, arrays: dict) -> tuple[np.ndarray, dict]:
    """The frames [frames, N, 3] of one molecule as that many molecules: x, and the arrays beside it."""
    frames, num_atoms = x.shape[:2]
    for name in ("batch", "ptr"):
        if name in arrays:
            raise ValueError(f"{where}: {name} goes with x [N, 3] of molecules side by side, got x {list(x.shape)}")
    made = {"ptr": np.arange(frames + 1) * num_atoms}
    for name in ("z", "h", "edge_attr"):
        if name in arrays:
            made[name] = np.concatenate([arrays[name]] * frames)
    offsets = np.arange(frames) * num_atoms
    for name, axis in (("edge_index", 1), ("bonds", 0)):
        if name in arrays:
            made[name] = np.concatenate([arrays[name] + offset for offset in offsets], axis=axis)
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
    if not np.isfinite(x).all():
        raise ValueError(f"{where}: positions of molecule {number} must be finite, got NaN or Inf")
    return x


@contextlib.contextmanager
def _bonds_told_once(where: str) -> Iterator[None]:
    """What is said of the bonds of molecules is said once, with their number."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    apart = [w for w in told if "pieces" in str(w.message)]
    for warning in told:
        if warning not in apart:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if apart:
        warnings.warn(f"{where}: {len(apart)} molecules, the first: {apart[0].message}", stacklevel=4)
