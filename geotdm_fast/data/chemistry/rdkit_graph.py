"""Atoms, features and edges of a molecule, by RDKit."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.chemistry.names import OFFICIAL
from geotdm_fast.data.chemistry.sdf import rdkit_chem
from geotdm_fast.runtime.choices import check_choice

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def _one_hot(value: object, choices: Sequence[object]) -> list[float]:
    """One column for each choice, and one for any other value."""
    return [float(value == choice) for choice in choices] + [float(value not in choices)]


def _implicit_valence(atom: Any) -> int:
    from rdkit import Chem

    if hasattr(atom, "GetValence"):
        return atom.GetValence(Chem.ValenceType.IMPLICIT)
    return atom.GetImplicitValence()  # before 2025.03


def _hybridization(atom: Any) -> list[float]:
    return _one_hot(str(atom.GetHybridization()), ("SP", "SP2", "SP3", "SP3D", "SP3D2"))


def _chirality(atom: Any) -> list[float]:
    return _one_hot(str(atom.GetChiralTag()), ("CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW"))


def _ring_size(atom: Any) -> list[float]:
    """In a ring of 3 .. 8 atoms, then in 0, 1, 2 or more rings."""
    rings = atom.GetOwningMol().GetRingInfo()
    sizes = [float(rings.IsAtomInRingOfSize(atom.GetIdx(), size)) for size in range(3, 9)]
    return sizes + _one_hot(rings.NumAtomRings(atom.GetIdx()), (0, 1, 2))


# By name (`names.COLUMNS`): an atom of RDKit to its columns.
FEATURES: dict[str, Callable[[Any], list[float]]] = {
    "aromatic": lambda atom: [float(atom.GetIsAromatic()), float(not atom.GetIsAromatic())],
    "hybridization": _hybridization,
    "partial_charge": lambda atom: [float(atom.GetDoubleProp("_GasteigerCharge"))],
    "implicit_valence": lambda atom: _one_hot(_implicit_valence(atom), range(7)),
    "degree": lambda atom: _one_hot(atom.GetDegree(), range(7)),
    "formal_charge": lambda atom: _one_hot(atom.GetFormalCharge(), (-1, 0, 1)),
    "ring_size": _ring_size,
    "chirality": _chirality,
    "implicit_valence_scalar": lambda atom: [float(_implicit_valence(atom))],
    "degree_scalar": lambda atom: [float(atom.GetDegree())],
    "formal_charge_scalar": lambda atom: [float(atom.GetFormalCharge())],
    "hydrogens": lambda atom: _one_hot(atom.GetTotalNumHs(includeNeighbors=True), range(4)),
}


def molecule_graph(
    mol: "Mol", features: Sequence[str] = OFFICIAL, order: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z [N], f [N, F], edge_index [2, E] and c [E] of a molecule: what the networks take as h, f and edges.

    mol: RDKit's molecule, as the model sees it: `Chem.RemoveHs` of the one with hydrogens, say. It is not changed
    features: names of `FEATURES`, whose columns stand behind one another; the eight official ones have 42
    order: pairs of atoms up to so many bonds apart are joined, in both directions, sorted by receiver, then sender
    c: a bond has 1 + its place in RDKit's BondType.names (single 2, double 3, triple 4, aromatic 13), a pair k > 1
    bonds apart 22 + k - 1
    Needs RDKit (extra `chemistry`). Raises ImportError without it, ValueError for an unknown
    feature, an order below 1, and an atom without a Gasteiger charge. Deterministic. Source: arXiv 2604.03911.
    """
    chem = rdkit_chem("molecule_graph")
    place = {name: number for number, name in enumerate(chem.BondType.names)}
    if order < 1:
        raise ValueError(f"molecule_graph: order must be at least 1, got {order}")
    for name in features:
        check_choice("molecule_graph: features", name, FEATURES)
    mol = chem.Mol(mol)
    if "partial_charge" in features:
        _charge(mol)
    f = [[column for name in features for column in FEATURES[name](atom)] for atom in mol.GetAtoms()]
    z = torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=torch.int64)
    hops = chem.GetDistanceMatrix(mol).astype(np.int64).reshape(len(z), len(z))
    types = np.where((hops > 1) & (hops <= order), len(place) + hops - 1, 0)
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        types[i, j] = types[j, i] = 1 + place[str(bond.GetBondType())]
    edge_index = np.stack(types.nonzero())
    c = types[tuple(edge_index)]
    return z, torch.tensor(f, dtype=torch.float32), torch.from_numpy(edge_index), torch.from_numpy(c)


def _charge(mol: "Mol") -> None:
    """Gasteiger charges of the atoms. Raises ValueError for an atom that the method has no parameters for."""
    from rdkit.Chem import rdPartialCharges

    rdPartialCharges.ComputeGasteigerCharges(mol)
    for atom in mol.GetAtoms():
        if not np.isfinite(atom.GetDoubleProp("_GasteigerCharge")):
            raise ValueError(
                f"molecule_graph: atom {atom.GetIdx()} ({atom.GetSymbol()}) has no Gasteiger charge; "
                "leave out the feature partial_charge"
            )
