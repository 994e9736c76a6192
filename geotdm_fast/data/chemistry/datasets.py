"""A data set of molecules with the atoms and edges of Align Your Structures in the place of its features."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from geotdm_fast.data.cache import StoredWindows
from geotdm_fast.data.chemistry.atom_graph import AtomGraph, graph_of_molecule, graph_of_pairs
from geotdm_fast.data.chemistry.names import BY_DEFAULT, OFFICIAL, OWN, check_features
from geotdm_fast.data.chemistry.sdf import one_molecule
from geotdm_fast.data.trajectory import Trajectory, TrajectoryDataset
from geotdm_fast.data.windows import Joined, Windows
from geotdm_fast.runtime.files import PathLike

# The number of a trajectory, its h, edge_index and edge_attr, to the graph.
_Convert = Callable[[int, Tensor, Tensor, "Tensor | None"], AtomGraph]


def with_atoms(
    dataset: TrajectoryDataset,
    features: Sequence[str] | None = None,
    max_hops: int = 3,
    molecule: PathLike | None = None,
    where: str = "with_atoms",
) -> TrajectoryDataset:
    """`dataset`, whose h is z and the features of atoms and whose edge_attr is the type of edges, see `AtomGraph`.

    features: names of `names.COLUMNS`; by default degree and hydrogens, with `molecule` the eight official ones
    max_hops: with `molecule`, pairs up to so many bonds apart are joined; else the edges stay
    molecule: an SDF or MOL file whose first molecule has the atoms of the data in their order, with or without
        hydrogen, which the data are without then: bond orders and features are RDKit's
    Positions are shared. Raises ValueError for data without atomic numbers, and as `graph_of_pairs` and
    `graph_of_molecule` do; ImportError without RDKit where it is needed.
    """
    if dataset.atomic_numbers is None:
        raise ValueError(f"{where}: data must be molecules, with atomic numbers z, got '{dataset.name}' without any")
    has_molecule = molecule is not None
    default = OFFICIAL if has_molecule else BY_DEFAULT
    names = check_features(where, default if features is None else features, has_molecule)
    mol = None if molecule is None else one_molecule(where, molecule)
    known: dict[tuple, AtomGraph] = {}
    kept = []  # tensors whose addresses are keys, so that they stay theirs

    def convert(number: int, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> AtomGraph:
        z = cast(Tensor, dataset.numbers_of(number))
        own = h.data_ptr() if names == [OWN] else 0
        key = (edge_index.data_ptr(), None if edge_attr is None else edge_attr.data_ptr(), own, z.data_ptr())
        if key not in known:
            kept.append((edge_index, edge_attr, h, z))
            if mol is not None:
                known[key] = graph_of_molecule(where, mol, z, names, max_hops)
            else:
                own_h = None if dataset.h_is_made else h
                known[key] = graph_of_pairs(where, z, edge_index, edge_attr, own_h, names)
        return known[key]

    made = copy.copy(dataset)
    made.items = _converted(dataset.items, convert, 0)
    return made


def _converted(items: Sequence[Trajectory], convert: _Convert, first: int) -> Sequence[Trajectory]:
    """`items`, of which the first is trajectory `first` of the data set, with other graphs; windows stay windows."""
    if isinstance(items, Joined):
        parts = []
        for part in items.parts:
            parts.append(_converted(part, convert, first))
            first += len(part)
        return Joined(parts)
    if isinstance(items, (Windows, StoredWindows)):
        number = len(items.h)
        attr_of = lambda i: None if items.edge_attr is None else items.edge_attr[i]
        differs = [v for v in (items.h, items.edge_attr) if v is not None and number > 1 and v.stride(0) != 0]
        graphs = [convert(first, items.h[i], items.edge_index, attr_of(i)) for i in range(number if differs else 1)]
        made = copy.copy(items)
        # Trajectories of one molecule share what is expanded.
        joined = lambda rows: rows[0][None].expand(number, -1, -1) if len(rows) == 1 else torch.stack(rows)
        made.h, made.edge_attr = joined([g.h for g in graphs]), joined([g.edge_attr for g in graphs])
        made.edge_index = graphs[0].edge_index
        return made
    found = []
    for number in range(len(items)):
        item = items[number]
        h, edge_index, edge_attr = convert(first + number, item.h, item.edge_index, item.edge_attr)
        found.append(replace(item, h=h, edge_index=edge_index, edge_attr=edge_attr))
    return found
