"""Atoms and edges of a molecule as the networks of Align Your Structures take them, within a `Trajectory`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from geotdm_fast.data.chemistry.names import (
    MOST_HOPS,
    NUM_ATOMS,
    NUM_BOND_TYPES,
    NUM_EDGE_TYPES,
    OFFICIAL,
    OWN,
    pair_type,
)
from geotdm_fast.data.chemistry.rdkit_graph import molecule_graph
from geotdm_fast.runtime.shown import shown

if TYPE_CHECKING:
    from rdkit.Chem import Mol


class AtomGraph(NamedTuple):
    """h: [N, 1 + F] float32 - the atomic number, then the features of the atom
    edge_index: [2, E] int64; edge_attr: [E, 1] float32 - the type of every edge, a whole number

    Whole numbers below 256 are the same in every dtype that positions have, so that h and edge_attr are laid side by
    side, kept and moved as those of any `Trajectory`; `parts` takes them apart again.
    """

    h: Tensor
    edge_index: Tensor
    edge_attr: Tensor

    @classmethod
    def of(cls, z: Tensor, f: Tensor, edge_index: Tensor, c: Tensor) -> "AtomGraph":
        """z [N], f [N, F], edge_index [2, E] and c [E], as `molecule_graph` gives them."""
        h = torch.cat([z[:, None].float(), f.float()], dim=1)
        return cls(h, edge_index.long(), c[:, None].float())


def parts(h: Tensor, edge_attr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z [N] int64, f [N, F] and c [E] int64 of h and edge_attr of an `AtomGraph`."""
    return h[:, 0].long(), h[:, 1:], edge_attr[:, 0].long()


def is_atom_graph(h: Tensor, edge_attr: Tensor | None, z: Tensor | None, num_features: int) -> bool:
    """Whether h and edge_attr are those of an `AtomGraph` of atoms z [N] with so many features."""
    if edge_attr is None or edge_attr.dim() != 2 or edge_attr.shape[1] != 1 or h.dim() != 2:
        return False
    return h.shape[1] == 1 + num_features and (z is None or torch.equal(h[:, 0].cpu().long(), z.cpu().long()))


def graph_of_pairs(
    where: str,
    z: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    h: Tensor | None,
    features: Sequence[str],
) -> AtomGraph:
    """The graph of atoms whose bond orders are not known: a bond has type 2 (single), a pair k > 1 bonds apart 21 + k.

    z: [N] - atomic numbers
    edge_index: [2, E]; edge_attr: [E, hops] - one-hot of how many bonds lie between, as `data.molecule_graph` makes it;
        [E] or [E, 1] - types of edges of your own, 1 ... 49; None: all edges are bonds
    features: names of `OF_GRAPH`: degree, 8 columns (0 ... 6 bonds, other); hydrogens, 5 columns (0 ... 3 bonded
        hydrogen atoms that are there, other); degree_scalar; or [own]: h [N, F] as it is
    Raises ValueError naming the argument; of pairs more than `MOST_HOPS` bonds apart, max_hops.
    """
    z = z.long().cpu()
    wrong = z[(z < 0) | (z >= NUM_ATOMS)]
    if len(wrong):
        raise ValueError(f"{where}: z must be atomic numbers from 0 to {NUM_ATOMS - 1}, got {int(wrong[0])}")
    c = _types(where, edge_attr, edge_index.shape[1])
    if list(features) == [OWN]:
        if h is None or h.dim() != 2:
            came = "none" if h is None else list(h.shape)
            raise ValueError(f"{where}: features: [own] needs h [N, F] beside the positions, got {came}")
        return AtomGraph.of(z, h, edge_index, c)
    bonds = edge_index[:, c <= NUM_BOND_TYPES]
    columns = [_COLUMNS[name](z, bonds) for name in features]
    return AtomGraph.of(z, torch.cat(columns, dim=1), edge_index, c)


def graph_of_molecule(
    where: str, mol: "Mol", z: Tensor | None = None, features: Sequence[str] = OFFICIAL, max_hops: int = 3
) -> AtomGraph:
    """The graph of RDKit's molecule, with its bond orders; without hydrogen where z [N] has none of it.

    z: the atoms that are there, in the order of the molecule; None: all of it
    Raises ValueError where they are other atoms, naming the first, and for pairs more than `MOST_HOPS` bonds apart.
    """
    from rdkit.Chem import RemoveHs

    if z is not None and mol.GetNumAtoms() != len(z):
        mol = RemoveHs(mol)
    own, f, edge_index, c = molecule_graph(mol, features, max_hops)
    _check_hops(where, c)
    if z is not None:
        if len(own) != len(z):
            raise ValueError(f"{where}: the molecule must have the {len(z)} atoms of the data, got {len(own)}")
        other = (own != z.cpu().long()).nonzero().flatten().tolist()
        if other:
            at = other[0]
            raise ValueError(
                f"{where}: the molecule must have the atoms of the data in their order, got {int(own[at])} at place "
                f"{at}, where the data have {int(z[at])}"
            )
    return AtomGraph.of(own, f, edge_index, c)


def _types(where: str, edge_attr: Tensor | None, num_edges: int) -> Tensor:
    """The type of every edge: [E] int64."""
    if edge_attr is None:
        return torch.full((num_edges,), pair_type(1))
    given = edge_attr.cpu().reshape(num_edges, -1) if num_edges else edge_attr.cpu().reshape(0, 1)
    if given.shape[1] == 1:
        c = given[:, 0].long()
        if not torch.equal(c.to(given.dtype), given[:, 0]) or (len(c) and not 1 <= int(c.min()) <= int(c.max()) < 50):
            raise ValueError(
                f"{where}: edge_attr [E] must be types of edges, whole numbers from 1 to {NUM_EDGE_TYPES - 1}, got "
                f"{shown(given.flatten()[:4].tolist())}"
            )
        return c
    if not bool(((given == 1).sum(dim=1) == 1).all()) or not bool(((given == 0) | (given == 1)).all()):
        raise ValueError(
            f"{where}: edge_attr must be types of edges [E], or one-hot of the bonds between [E, hops], got "
            f"{list(given.shape)} of other numbers"
        )
    types = torch.tensor([pair_type(hops + 1) for hops in range(given.shape[1])])
    c = types[given.argmax(dim=1)]
    _check_hops(where, c)
    return c


def _check_hops(where: str, c: Tensor) -> None:
    """ValueError for types of edges [E] that the networks' tables have no row for."""
    most = int(c.max()) if len(c) else 0
    if most >= NUM_EDGE_TYPES:
        hops = most - NUM_BOND_TYPES + 1
        raise ValueError(f"{where}: max_hops must be at most {MOST_HOPS}, got a pair {hops} bonds apart")


def _one_hot(count: Tensor, most: int) -> Tensor:
    """[N, most + 1]: a column for each of 0 ... most - 1, and one for more."""
    return torch.nn.functional.one_hot(count.clamp(max=most), most + 1).float()


def _degree(z: Tensor, bonds: Tensor) -> Tensor:
    return torch.bincount(bonds[0].cpu(), minlength=len(z))


def _hydrogens(z: Tensor, bonds: Tensor) -> Tensor:
    row, col = bonds.cpu()
    return torch.bincount(row[z[col] == 1], minlength=len(z))


_COLUMNS = {
    "degree": lambda z, bonds: _one_hot(_degree(z, bonds), 7),
    "degree_scalar": lambda z, bonds: _degree(z, bonds)[:, None].float(),
    "hydrogens": lambda z, bonds: _one_hot(_hydrogens(z, bonds), 4),
}
