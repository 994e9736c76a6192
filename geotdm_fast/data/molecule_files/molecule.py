"""The atoms of a file that are kept, with what a graph is made of."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from geotdm_fast.data.bonds import complete_bonds
from geotdm_fast.data.given_graph import GivenGraph
from geotdm_fast.data.molecule import warn_if_apart
from geotdm_fast.data.molecule_files.beads import bead_graph


class Molecule(NamedTuple):
    """first: [N, 3] float64 - positions in the first frame of the file, molecules whole
    z: [N] - atomic numbers, None of beads; names: [N] - the names of beads, None of atoms
    bonds: [M, 2] - between these atoms, or None where nobody says them
    given: whether the bonds are the user's own, to be taken as they are
    """

    first: np.ndarray
    z: np.ndarray | None
    names: list[str] | None
    bonds: np.ndarray | None
    given: bool

    def graph(self, where: str, types: str | Sequence[str], rules: GivenGraph) -> GivenGraph:
        """What is given of nodes and edges: the molecule's own, made by `rules`.

        types: as in `file_dataset`; rules: how edges are made, without nodes and edges
        Warns and raises as `complete_bonds`, `warn_if_apart` and `bead_graph` do.
        """
        bonds = self.bonds
        if self.z is None:
            h, edge_index, edge_attr = bead_graph(
                where, self.names or [], types, self.first, bonds, rules.cutoff, rules.max_hops, rules.fully_connected
            )
            return replace(rules, h=h, edge_index=edge_index, edge_attr=edge_attr)
        if not self.given and bonds is not None:
            bonds = complete_bonds(where, self.first, self.z, bonds, rules.cutoff, whose="of the topology")
            warn_if_apart(where, len(self.z), bonds, "of the topology", "a topology may leave bonds out")
        return replace(rules, z=self.z, bonds=bonds)
