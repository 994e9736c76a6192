"""Random trajectories of every kind of data that a network takes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geotdm_fast.ays.network import Network
from geotdm_fast.data.chemistry.atom_graph import AtomGraph
from geotdm_fast.data.chemistry.names import pair_type
from geotdm_fast.data.trajectory import Batch, Trajectory, collate
from geotdm_fast.data.windows import centred
from geotdm_fast.nn import EGTN

KINDS = ("nbody", "molecule", "pedestrian")
_ELEMENTS = torch.tensor([1, 6, 7, 8])
# The edges of a molecule of Align Your Structures join atoms so many bonds apart, as `max_hops` has it by default.
_HOPS = 3
_Draw = Callable[..., Tensor]


def kinds_of(network: nn.Module) -> tuple[str, ...]:
    """The kinds of `KINDS` that a network takes."""
    return ("molecule",) if isinstance(network, Network) else KINDS


def random_batch(
    kind: str, network: EGTN | Network, num_frames: int, num_graphs: int, seed: int = 0, num_told: int = 0
) -> Batch:
    """Random trajectories of a kind of data, float64, with as many features as the network reads.

    num_told: of these features are not the data's, see `Task.num_told`
    Positions are walks of steps N(0, 0.1^2) from N(0, 1). Graphs have 5, 4, ... nodes; pedestrians 3, 1, 2, ... .
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    graphs = []
    for graph in range(num_graphs):
        size, dim = ((3, 1, 2)[graph % 3], 2) if kind == "pedestrian" else (5 - graph % 2, 3)
        x = draw(size, dim, 1) + 0.1 * draw(size, dim, num_frames).cumsum(-1)
        if isinstance(network, Network):
            x, about = centred(x, "frames"), _atoms(network, size, draw)  # as all data of these models are
        else:
            about = _features(kind, network, size, num_frames, num_told, draw)
        graphs.append(Trajectory(x, *about, torch.arange(size)))
    batch = collate(graphs)
    told = None if isinstance(network, Network) else network.conditions
    if told is not None:  # within the trained range
        low, high = torch.tensor(told.low), torch.tensor(told.high)
        batch.conditions = low + (high - low) * torch.rand(num_graphs, len(low), generator=generator)
        batch.condition_names = told.names
    return batch


def _features(
    kind: str, network: EGTN, size: int, num_frames: int, num_told: int, draw: _Draw
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, edges and features of edges of a graph for the network of a GeoTDM."""
    # As large as walkers' speeds are, metres in 0.4 s: larger ones can send a model made for them to infinity.
    h = 0.3 * draw(size, network.node_dim - num_told, *((num_frames,) if kind == "pedestrian" else ()))
    edge_index = _edges(size, {"molecule": 1}.get(kind), loops=kind == "pedestrian")
    # The last feature of a graph of bonds and distances is its own.
    edge_dim = network.edge_dim - (network.graph_spec is not None and network.graph_spec.bonds)
    return h, edge_index, draw(edge_index.shape[1], edge_dim) if edge_dim else None


def _atoms(network: Network, size: int, draw: _Draw) -> AtomGraph:
    """Atoms, their features, edges and their types, for a network of Align Your Structures."""
    z = _ELEMENTS[draw(size, len(_ELEMENTS)).argmax(dim=1)]
    f = (draw(size, network.embedding.ft_dim) > 1).double()  # as most features are: in a class or not
    edge_index = _edges(size, _HOPS)
    hops = (edge_index[0] - edge_index[1]).abs()
    types = torch.tensor([pair_type(1 + k) for k in range(_HOPS)])
    h, edge_index, edge_attr = AtomGraph.of(z, f, edge_index, types[hops - 1])
    return AtomGraph(h.double(), edge_index, edge_attr.double())


def _edges(size: int, hops: int | None, loops: bool = False) -> Tensor:
    """[2, E]: all pairs, or those up to `hops` bonds apart in a chain whose last atom has no bond."""
    place = torch.arange(size)
    apart = (place[:, None] - place[None]).abs()
    allowed = apart >= (0 if loops else 1)
    if hops is not None:
        allowed &= (apart <= hops) & (place[:, None] < size - 1) & (place[None] < size - 1)
    return allowed.nonzero().T.contiguous()
