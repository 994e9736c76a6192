"""The graph of coarse-grained beads, which have names instead of elements."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.checks import check_number
from geotdm_fast.data.molecule import molecule_graph
from geotdm_fast.data.windows import complete_edges
from geotdm_fast.ops import radius_graph


def bead_graph(
    where: str,
    names: Sequence[str],
    types: str | Sequence[str],
    positions: np.ndarray,
    bonds: np.ndarray | None,
    cutoff: float | None,
    max_hops: int,
    fully_connected: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features and edges of beads: h [N, K] one-hot of their names, edge_index [2, E], edge_attr [E, A] or None.

    types: 'name' for the names there are, sorted, or the names in the order of their features
    bonds: [M, 2] - pairs up to `max_hops` bonds apart get an edge, one-hot of hops as in `molecule_graph`; without
        bonds pairs at most `cutoff` (angstrom) apart, without a cutoff all pairs
    Raises ValueError for a name that is not in `types` and a cutoff that leaves no pair.
    """
    kinds = sorted(set(names)) if types == "name" else [str(name) for name in types]
    strange = [name for name in names if name not in kinds]
    if strange:
        raise ValueError(f"{where}: types must hold the names of all beads, {kinds} lacks '{strange[0]}'")
    place = {name: i for i, name in enumerate(kinds)}
    h = torch.nn.functional.one_hot(torch.tensor([place[name] for name in names], device="cpu"), len(kinds)).float()
    if bonds is not None:
        nothing = np.zeros(len(names), np.int64)
        return h, *molecule_graph(
            positions, nothing, max_hops=max_hops, fully_connected=fully_connected, bonds=bonds, num_types=1
        )[1:]
    if cutoff is None or fully_connected:
        return h, complete_edges(len(names)), None
    edges = radius_graph(torch.from_numpy(positions), check_number(where, "cutoff", cutoff))
    if edges.shape[1] == 0:
        raise ValueError(
            f"{where}: cutoff must be longer than the distances of beads, got {cutoff}, which leaves no edge"
        )
    return h, edges, None
