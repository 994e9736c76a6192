"""Which edges a network's graph has, as a configuration says it: `graph:`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from geotdm_fast.graphs.rules import GraphRule, NearestRule, RadiusRule
from geotdm_fast.reference import Cell
from geotdm_fast.runtime.choices import check_choice, check_keys
from geotdm_fast.runtime.shown import shown

# The data's own edges; what `complete` means is the data's business too.
NAMES = ("bonds", "complete")
# Room for so many edges of a receiver before it is known how many there are.
FIRST_CAPACITY = 32


@dataclass(frozen=True)
class GraphSpec:
    """Edges by distance, anew for every batch or in every call of the network.

    radius: nodes at most so far apart have an edge, in the unit of the stored positions; or
    knn: a node gets edges from its so many nearest
    bonds: the edges of the data are there as well, whatever their length; then edges have features, those of the data
        (0 where only the distance makes an edge) and a last one, 1 for an edge of the data
    of: `given` - the last given frame, or the data's first frame where none is given, for all frames and the whole
        chain; `current` - every frame's own positions, in every call of the network
    """

    radius: float | None = None
    knn: int | None = None
    bonds: bool = False
    of: str = "given"

    @classmethod
    def parse(cls, value: Any, where: str = "graph") -> "GraphSpec | None":
        """What a configuration says; None for the data's own edges: null, `bonds`, `complete`.

        value: a name, a `GraphSpec`, or {radius: number or knn: whole number, bonds: true or a number of bonds (a key
            of the data's graph), of: given or current}
        Raises ValueError naming `where`, the key, what was expected and what came.
        """
        if value is None or isinstance(value, GraphSpec):
            return value
        if isinstance(value, str):
            check_choice(where, value, NAMES)
            return None
        if not isinstance(value, Mapping):
            expected = f"{', '.join(NAMES)}, {{radius: ...}}, {{knn: ...}}"
            raise ValueError(f"{where} must be one of {expected}; got {shown(value)}")
        check_keys(where, value, ("radius", "knn", "bonds", "of"))
        radius, knn, bonds, of = (value.get(key) for key in ("radius", "knn", "bonds", "of"))
        if (radius is None) == (knn is None):
            raise ValueError(f"{where} must have one of radius and knn, got {shown(dict(value))}")
        is_number = lambda v, kinds: isinstance(v, kinds) and not isinstance(v, bool) and 0 < v < float("inf")
        if radius is not None and not is_number(radius, (int, float)):
            raise ValueError(f"{where}: radius must be a positive number, got {shown(radius)}")
        if knn is not None and not is_number(knn, int):
            raise ValueError(f"{where}: knn must be a whole number of at least 1, got {shown(knn)}")
        if bonds is not None and not isinstance(bonds, bool) and not is_number(bonds, int):
            raise ValueError(f"{where}: bonds must be true, false or a number of bonds from 1, got {shown(bonds)}")
        of = "given" if of is None else of
        check_choice(f"{where}: of", of, ("given", "current"))
        return cls(None if radius is None else float(radius), knn, bool(bonds), of)

    def as_config(self) -> dict:
        """The same as plain values, for a configuration."""
        search = {"radius": self.radius} if self.radius is not None else {"knn": self.knn}
        return search | {"bonds": self.bonds, "of": self.of}

    def edge_dim(self, of_data: int) -> int:
        """A of the network for data whose edges have `of_data` features."""
        return of_data + 1 if self.bonds else 0

    def rule(
        self,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        batch: Tensor,
        cell: Cell | None = None,
        capacity: int | None = None,
    ) -> GraphRule:
        """The rule of a batch; edge_index [2, E], edge_attr [E, A] or None: the data's; cell: its periodic boxes.

        capacity: the most edges of a receiver within `radius` that there is room for; None: `FIRST_CAPACITY`
        Waits for the device. Raises ValueError for features that change from frame to frame.
        """
        bonds: dict[str, Tensor] = {}
        if self.bonds:
            bonds = {"bonds": edge_index, "bond_attr": self.bond_attr(edge_attr, edge_index)}
        if self.radius is None:
            return NearestRule(cast(int, self.knn), batch, cell=cell, **bonds)
        return RadiusRule(self.radius, capacity or FIRST_CAPACITY, batch, cell=cell, **bonds)

    def bond_attr(self, edge_attr: Tensor | None, edge_index: Tensor) -> Tensor:
        """[E, A + 1]: the features of the data's edges, and a 1."""
        ones = torch.ones(edge_index.shape[1], 1, device=edge_index.device)
        if edge_attr is None:
            return ones
        if edge_attr.dim() != 2:
            came = list(edge_attr.shape)
            raise ValueError(f"graph: edge_attr of bonds must be [E, A], the same in all frames, got {came}")
        return torch.cat([edge_attr, ones.to(edge_attr.dtype)], dim=1)
