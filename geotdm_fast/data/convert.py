"""From what people have in memory to a data set: trajectories, batches, arrays, ASE atoms, PyTorch Geometric graphs."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.arrays import array_dataset
from geotdm_fast.data.checks import check_array, check_positions
from geotdm_fast.data.md17 import CUTOFF
from geotdm_fast.data.nbody import system_features
from geotdm_fast.data.simulate import InitialState
from geotdm_fast.data.trajectory import Batch, Trajectory, TrajectoryDataset
from geotdm_fast.runtime.shown import listed, shown

# The keys of a data section that say how the graph and the features of a molecule are made.
_MOLECULE_KEYS = (
    *("cutoff", "max_hops", "fully_connected", "num_types", "atom_types", "project"),
    *("unwrap", "box", "remove_drift"),
)
_ARRAYS = ("z", "h", "edge_index", "edge_attr", "bonds", "cell", "pbc", "unit", "charges", "springs")
# How a box is passed over here, where `unwrap` and `box` are no arguments.
_ATOMS_WITHOUT_BOX = "atoms whose pbc is False are taken as they are, without a box"
_POSITIONS_WITHOUT_BOX = "positions without cell are taken as they are"
EXPECTED = (
    "a data set, a Trajectory or a Batch, positions [frames, N, D], a list of ase.Atoms, or Data or Batch of PyTorch "
    "Geometric"
)


def to_dataset(
    data: Any, section: Mapping | None = None, where: str = "to_dataset", **arrays: Any
) -> TrajectoryDataset:
    """`data` as a data set, its features and edges made as a data section says.

    data: `TrajectoryDataset`; `Trajectory` or a list of them; `Batch`; positions [frames, N, D] of one trajectory or
        [B, frames, N, D] of many; a list of `ase.Atoms`, the frames of one trajectory, or a list of such lists; `Data`,
        a list of them, or `Batch` of PyTorch Geometric, see `from_pyg`
    section: a data section of a configuration, normalised; of kind nbody it says the system, of other kinds how bonds
        and features of a molecule are made (cutoff, max_hops, ...)
    arrays: of positions alone - z, h, edge_index, edge_attr, bonds, cell, pbc and unit as for `array_dataset`, whatever
        unit the section's file is in; charges [N] or springs [N, N] (or [B, N], [B, N, N]) of a section of kind nbody
    The boxes of `ase.Atoms` are theirs; atoms are followed through boxes as `array_dataset` says.
    Raises TypeError for anything else, and for arrays beside data that have theirs; ValueError as `array_dataset` does.
    """
    section = dict(section or {})
    unknown = [name for name in arrays if name not in _ARRAYS]
    if unknown:
        raise TypeError(f"{where}: unknown argument '{unknown[0]}'; with positions go {', '.join(_ARRAYS)}")
    arrays = {name: value for name, value in arrays.items() if value is not None}
    if isinstance(data, (np.ndarray, Tensor)):
        return _of_positions(data, section, where, arrays)
    if arrays:
        raise TypeError(f"{where}: {listed(arrays)} must come with positions [frames, N, D], got {_kind(data)}")
    if isinstance(data, TrajectoryDataset):
        return data
    if isinstance(data, Trajectory):
        return TrajectoryDataset([data], name="trajectory")
    if isinstance(data, Batch):
        return TrajectoryDataset(data.to_data_list(), name="batch")
    if _is_pyg(data):
        return TrajectoryDataset(from_pyg(data, where), name="PyG data")
    if isinstance(data, (list, tuple)) and len(data):
        if all(isinstance(item, Trajectory) for item in data):
            return TrajectoryDataset(list(data), name="trajectories")
        if all(_is_pyg(item) for item in data):
            return TrajectoryDataset([part for item in data for part in from_pyg(item, where)], name="PyG data")
        if all(_is_atoms(item) for item in data):
            return _of_atoms([data], section, where)
        if all(isinstance(item, (list, tuple)) and len(item) and all(map(_is_atoms, item)) for item in data):
            return _of_atoms(data, section, where)
    raise TypeError(f"{where}: data must be {EXPECTED}; got {_kind(data)}")


def from_pyg(data: Any, where: str = "from_pyg") -> list[Trajectory]:
    """The graphs of a `Data` or `Batch` of PyTorch Geometric.

    Its edge_index has the sender in row 0 and ours the receiver, so the rows are exchanged, and a warning says so.

    pos: [N, D, T] - positions, or x [N, D, T] where there is no pos
    h: [N, F] or [N, F, T] - features; without h x [N, F], where pos has the positions; without both 1
    edge_index: [2, E], without which the graph is complete; edge_attr: [E, A]; batch: [N], of a `Batch`
    Raises ValueError naming the field that is missing or of another shape.
    """
    fields = {name: data[name] for name in data.keys()}  # noqa: SIM118 - of PyG, a method
    name = "pos" if fields.get("pos") is not None else "x"
    positions = fields.get(name)
    if not isinstance(positions, Tensor) or positions.dim() != 3 or positions.shape[1] not in (2, 3):
        came = list(positions.shape) if isinstance(positions, Tensor) else shown(positions)
        raise ValueError(f"{where}: {name} must be positions [N, 2 or 3, T] in every frame, got {came}")
    num_nodes = positions.shape[0]
    h = fields.get("h") if fields.get("h") is not None else fields.get("x") if name == "pos" else None
    h = torch.ones(num_nodes, 1, device=positions.device) if h is None else h
    batch = fields.get("batch")
    batch = torch.zeros(num_nodes, dtype=torch.int64, device=positions.device) if batch is None else batch
    edge_index, edge_attr = fields.get("edge_index"), fields.get("edge_attr")
    if edge_index is None:
        same = batch[:, None] == batch[None]
        edge_index = same.fill_diagonal_(False).nonzero().T.contiguous()
    else:
        edge_index = edge_index.flip(0)
        warnings.warn(
            f"{where}: the rows of edge_index were exchanged: PyTorch Geometric has the sender first, we the receiver",
            stacklevel=3,
        )
    scored = torch.arange(num_nodes, device=positions.device)
    num_graphs = int(batch.max()) + 1 if num_nodes else 0
    whole = Batch(positions.float(), h.float(), edge_index, edge_attr, scored, batch, num_graphs)
    return whole.to_data_list()


def _of_positions(x: np.ndarray | Tensor, section: dict, where: str, arrays: dict) -> TrajectoryDataset:
    if section.get("kind") == "pedestrian":
        raise TypeError(f"{where}: people must come as a data set (pedestrian_dataset reads recordings), got positions")
    if section.get("kind") == "nbody":
        return _of_system(x, section, where, arrays)
    for name in ("charges", "springs"):
        if name in arrays:
            raise TypeError(f"{where}: {name} must not be given for a model of {section.get('kind', 'other data')}")
    span = x.shape[-3] if x.ndim > 2 else None
    about = _molecule(section) | {"where": where, "without_box": _POSITIONS_WITHOUT_BOX}
    return array_dataset(x, **about, **arrays, span=span)


def _of_system(x: np.ndarray | Tensor, section: dict, where: str, arrays: dict) -> TrajectoryDataset:
    """Particles of a kind that is known: features and edges as `nbody_dataset` makes them."""
    kind = section["system"]
    needed = {"charged": "charges", "springs": "springs"}.get(kind)
    box = {name: arrays.pop(name) for name in ("cell", "pbc") if name in arrays}
    wrong = [name for name in arrays if name not in (needed, "h", "edge_index", "edge_attr")]
    if wrong:
        raise TypeError(f"{where}: {wrong[0]} must not be given for a model of {kind} particles")
    x = check_positions(where, "x", x, "frames, N, 3 or B, frames, N, 3")
    x = x[None] if x.ndim == 3 else x
    options = {"project": section.get("project", False), "span": x.shape[1], "where": where, **box}
    options["without_box"] = _POSITIONS_WITHOUT_BOX
    if "h" in arrays:
        return array_dataset(x, **arrays, **options)
    if needed is not None and needed not in arrays:
        shape = "[N]" if needed == "charges" else "[N, N]"
        raise TypeError(f"{where}: {needed} {shape} must be given with the positions of {kind} particles")
    part = None
    if needed is not None:
        shape = "N or B, N" if needed == "charges" else "N, N or B, N, N"
        part = np.asarray(check_array(where, needed, arrays[needed], shape))
        one = x.shape[2:3] if needed == "charges" else (x.shape[2], x.shape[2])
        if part.shape not in (one, (len(x), *one)):
            raise ValueError(f"{where}: {needed} must be {list(one)} as x has nodes, got {list(part.shape)}")
        part = np.broadcast_to(part, (len(x), *one))
    state = InitialState(x[:, 0], x[:, 0], **{"charges": None, "springs": None} | ({needed: part} if needed else {}))
    h, edge_index, edge_attr = system_features(kind, state)
    return array_dataset(x, h=h, edge_index=edge_index, edge_attr=edge_attr, **options, name=f"{kind} particles")


def _of_atoms(trajectories: Sequence[Sequence], section: dict, where: str) -> TrajectoryDataset:
    numbers = np.asarray(trajectories[0][0].numbers)
    length = len(trajectories[0])
    for i, frames in enumerate(trajectories):
        if len(frames) != length:
            raise ValueError(f"{where}: every trajectory must have {length} frames like the first, got {len(frames)}")
        for j, atoms in enumerate(frames):
            if not np.array_equal(atoms.numbers, numbers):
                raise ValueError(f"{where}: frame {j} of trajectory {i} must have the atoms of the first, got {atoms}")
    x = np.stack([[atoms.positions for atoms in frames] for frames in trajectories])
    name = trajectories[0][0].get_chemical_formula()
    cell, pbc = _boxes_of(trajectories, where)
    about = _molecule(section) | {"name": name, "where": where, "without_box": _ATOMS_WITHOUT_BOX}
    return array_dataset(x, z=numbers, cell=cell, pbc=pbc, **about, span=length)


def _boxes_of(trajectories: Sequence[Sequence], where: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The boxes [B, frames, 3, 3] of `ase.Atoms` and their periodic directions [3]; None where there are none.

    A direction without a vector is open, whatever its flag says.
    """
    cell = np.stack([[np.asarray(atoms.cell) for atoms in frames] for frames in trajectories])
    flags = np.stack([[np.asarray(atoms.pbc, bool) for atoms in frames] for frames in trajectories])
    flags &= (cell != 0).any(axis=-1)
    pbc = flags[0, 0]
    other = np.argwhere((flags != pbc).any(axis=-1))
    if len(other):
        i, j = other[0]
        raise ValueError(
            f"{where}: frame {j} of trajectory {i} must have the periodic directions of the first, {pbc.tolist()}, got "
            f"{flags[i, j].tolist()}"
        )
    return (cell, pbc) if pbc.any() else (None, None)


def _molecule(section: Mapping) -> dict:
    """How the graph of a molecule is made, from a data section; kind md17 has a rule of its own for bonds."""
    default = {"cutoff": CUTOFF} if section.get("kind") == "md17" else {}
    return default | {key: section[key] for key in _MOLECULE_KEYS if section.get(key) is not None}


def _is_pyg(item: Any) -> bool:
    # By the module's name: PyTorch Geometric need not be installed.
    return type(item).__module__.startswith("torch_geometric.")


def _is_atoms(item: Any) -> bool:
    return any(base.__module__ == "ase.atoms" for base in type(item).__mro__)


def _kind(data: Any) -> str:
    inside = f" of {type(data[0]).__name__}" if isinstance(data, (list, tuple)) and len(data) else ""
    return f"{type(data).__name__}{inside}"
