"""The first layer of every network: atoms, their features and the diffusion step to features of every row."""

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.data.chemistry.names import NUM_ATOMS, NUM_EDGE_TYPES
from geotdm_fast.nn.plain import is_plain
from geotdm_fast.reference.node_embedding import part_of_layer
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.runtime.checks import check_index, check_tensor, reads_values


class Embedding(nn.Module):
    """a = W [table of atoms(z), f] + b and e = table of edges(c); node_dim, ft_dim, edge_dim: widths of a, f and e."""

    def __init__(self, node_dim: int, ft_dim: int, edge_dim: int):
        super().__init__()
        self.atom_embedding = nn.Embedding(NUM_ATOMS, node_dim)
        self.input_linear = nn.Linear(node_dim + ft_dim, node_dim)
        self.edge_embedding = nn.Embedding(NUM_EDGE_TYPES, edge_dim)

    @property
    def ft_dim(self) -> int:
        """The width of f."""
        return self.input_linear.in_features - self.atom_embedding.embedding_dim

    def forward(self, z: Tensor, f: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """a [N, node_dim] and e [E, edge_dim] of atomic numbers z [N], features f [N, ft_dim] and edge types c [E]."""
        atoms = self.input_linear(torch.cat([self.atom_embedding(z), f.to(self.input_linear.weight.dtype)], dim=-1))
        return atoms, self.edge_embedding(c)

    def check(self, where: str, z: Tensor, f: Tensor, edge_index: object, c: Tensor) -> None:
        """Raise TypeError / ValueError unless z, f and c are atoms, features and types of these edges."""
        check_tensor(where, "h", z, ("N",), integer=True)
        check_tensor(where, "f", f, (len(z), self.ft_dim))
        num_edges = edge_index.shape[1] if isinstance(edge_index, Tensor) and edge_index.dim() == 2 else "E"
        check_tensor(where, "edge_attr", c, (num_edges,), integer=True)
        for name, index, size in (("h", z, NUM_ATOMS), ("edge_attr", c, NUM_EDGE_TYPES)):
            if reads_values(index):
                check_index(where, name, index, size)


def first_features(
    layer: nn.Linear, atoms: Tensor, step: Tensor, time_emb_dim: int, num_frames: int, precision: str
) -> Tensor:
    """h [N, T, H] of atoms [N, node_dim] at diffusion steps [N]: a view, alike in every frame."""
    if is_plain(layer):
        return ops.node_embedding(atoms, step, layer.weight, layer.bias, num_frames, precision)
    rows = layer(torch.cat([atoms, sinusoid(step, time_emb_dim, atoms.dtype)], dim=-1))
    return rows[:, None].expand(-1, num_frames, -1)


def parts_of_first(
    layer: nn.Linear, atoms: Tensor, steps: Tensor, time_emb_dim: int, precision: str
) -> tuple[Tensor, Tensor]:
    """[N, 1, H] of the atoms [N, node_dim] and [R, H] of diffusion steps [R], whose sum is `first_features`."""
    width = atoms.shape[-1]
    features = part_of_layer(atoms[:, None], layer.weight[:, :width], layer.bias, precision)
    psi = sinusoid(steps, time_emb_dim, atoms.dtype)
    return features, part_of_layer(psi, layer.weight[:, width:], None, precision)
