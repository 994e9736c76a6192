"""The graph of a user's own trajectories: as it was given, or a molecule's, or complete."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from geotdm_fast.data.bonds import complete_bonds
from geotdm_fast.data.checks import check_array, check_indices, check_number, check_positions, check_shape
from geotdm_fast.data.molecule import molecule_graph
from geotdm_fast.data.windows import complete_edges


@dataclass(frozen=True)
class GivenGraph:
    """What a user said of nodes and edges; the fields are the arguments of `array_dataset`."""

    z: ArrayLike | Tensor | None
    h: ArrayLike | Tensor | None
    edge_index: ArrayLike | Tensor | None
    edge_attr: ArrayLike | Tensor | None
    bonds: ArrayLike | Tensor | None
    cutoff: float | None = None
    max_hops: int = 3
    fully_connected: bool = False
    num_types: int = 10
    atom_types: Sequence[int] | None = None

    def checked(self, where: str, num_nodes: int) -> "CheckedGraph":
        """The same with arrays of the right shapes; ValueError/TypeError for what cannot be."""
        if self.edge_index is None and self.edge_attr is not None:
            raise ValueError(f"{where}: edge_attr must come with edge_index, got edge_attr alone")
        if self.z is None and self.bonds is not None:
            raise ValueError(f"{where}: bonds must come with z, the atomic numbers, got bonds alone")
        z, h, edge_index, edge_attr, bonds = self.z, self.h, self.edge_index, self.edge_attr, self.bonds
        if z is not None:
            z = check_array(where, "z", z, "N")
            check_shape(where, "z", z, (num_nodes,))
        if h is not None:
            h = check_positions(where, "h", h, "N, F or B, N, F", dtype=np.float32)
            check_shape(where, "h", h, (*h.shape[:-2], num_nodes, h.shape[-1]))
        if edge_index is not None:
            edge_index = check_indices(where, "edge_index", edge_index, "2, E", num_nodes)
        if edge_attr is not None:
            edge_attr = check_positions(where, "edge_attr", edge_attr, "E, A or B, E, A", dtype=np.float32)
            num_edges = cast(np.ndarray, edge_index).shape[1]
            check_shape(where, "edge_attr", edge_attr, (*edge_attr.shape[:-2], num_edges, edge_attr.shape[-1]))
        if bonds is not None:
            bonds = check_indices(where, "bonds", bonds, "M, 2", num_nodes)
        return CheckedGraph(
            z,
            h,
            edge_index,
            edge_attr,
            bonds,
            self.cutoff,
            self.max_hops,
            self.fully_connected,
            self.num_types,
            self.atom_types,
        )


@dataclass(frozen=True)
class CheckedGraph(GivenGraph):
    """The same with arrays of the right shapes."""

    z: np.ndarray | None
    h: np.ndarray | None
    edge_index: np.ndarray | None
    edge_attr: np.ndarray | None
    bonds: np.ndarray | None

    def part(self, nodes: np.ndarray, num_nodes: int) -> "CheckedGraph":
        """Of a graph of `num_nodes`: what concerns these nodes alone, numbered by their place in `nodes`."""
        place = np.full(num_nodes, -1)
        place[nodes] = np.arange(len(nodes))
        edge_index, edge_attr, bonds = self.edge_index, self.edge_attr, self.bonds
        if edge_index is not None:
            kept = (place[edge_index] >= 0).all(axis=0)
            edge_index = place[edge_index[:, kept]]
            edge_attr = None if edge_attr is None else edge_attr[..., kept, :]
        if bonds is not None:
            bonds = place[bonds]
            bonds = bonds[(bonds >= 0).all(axis=1)]
        z = None if self.z is None else self.z[nodes]
        h = None if self.h is None else self.h[..., nodes, :]
        return replace(self, z=z, h=h, edge_index=edge_index, edge_attr=edge_attr, bonds=bonds)

    def tensors(
        self, where: str, first_frame: np.ndarray, *, one_molecule: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """h [N, F] or [B, N, F], edge_index [2, E], edge_attr [E, A] or [B, E, A] or None.

        first_frame: [N, D] - positions (angstrom for molecules), by which bonds are found
        one_molecule: as for `molecule_graph`
        """
        num_nodes, dim = first_frame.shape
        molecule = None
        if self.z is not None and (self.edge_index is None or self.h is None):
            if dim != 3:
                raise ValueError(f"{where}: x must be three-dimensional when z is given, got {dim} dimensions")
            molecule = self._molecule(where, first_frame, one_molecule)
        if self.h is not None:
            h = torch.from_numpy(self.h)
        else:
            h = torch.ones(num_nodes, 1, device="cpu") if molecule is None else molecule[0]
        if self.edge_index is None:
            return (h, *((complete_edges(num_nodes), None) if molecule is None else molecule[1:]))
        edge_attr = None if self.edge_attr is None else torch.from_numpy(self.edge_attr)
        return h, torch.from_numpy(self.edge_index), edge_attr

    def _molecule(self, where: str, first_frame: np.ndarray, one_molecule: bool) -> tuple[Tensor, Tensor, Tensor]:
        bonds, z = self.bonds, cast(np.ndarray, self.z)
        if bonds is not None:
            cutoff = None if self.cutoff is None else check_number(where, "cutoff", self.cutoff)
            bonds = complete_bonds(where, first_frame, z, bonds, cutoff)
        return molecule_graph(
            first_frame,
            z,
            self.cutoff,
            self.max_hops,
            self.fully_connected,
            bonds,
            num_types=self.num_types,
            atom_types=self.atom_types,
            one_molecule=one_molecule,
        )
