"""Graphs that change with the positions: rules that a network asks in every call.

rule = RadiusRule(5.0, capacity=32, batch=batch, bonds=bonds)
while True:
    output, _ = network(step, x, h, None, None, batch, graph=rule)
    if not rule.overflowed():
        break
    rule = rule.enlarged()
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from geotdm_fast.graphs.edges import EdgeTables, sorted_edges
from geotdm_fast.graphs.graph import EdgeImages, Graph
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.search import Found, check_count, nearest_senders, radius_senders
from geotdm_fast.reference import Cell, CellSearch
from geotdm_fast.runtime.checks import check_index, check_same_device, check_tensor


class GraphRule:
    """Makes a `Graph` of positions; `RadiusRule` and `NearestRule` say which edges it has.

    batch: [N] int64 - the graph of each node; edges stay within graphs
    bonds: [2, B] int64 - receivers and senders: edges in every frame, whatever their length, which a search does not
        find a second time; None: none
    bond_attr: [B, A] - their features; default: a 1, which tells them from the edges of the search
    found_attr: [A] - the features of an edge that only the search found; default: 0
    cell: the periodic boxes of the graphs, as `geotdm_fast.radius_graph` takes them, in the unit of the positions; then
        the graphs have `images`. A bond is of image 0, so positions come with whole molecules; other images of the same
        two nodes are found beside it

    edge_dim: A; 0 without bonds
    capacity: the most edges of a receiver that the search has room for; needed: [] int32 - the most that there were in
        all calls so far, on the device
    grows: whether a call that finds no room makes it and searches again, which waits for the device; else edges are
        missing, and `overflowed` tells: so a CUDA graph can hold a call

    An edge of the graph is a bond, or found by the search, not both: a receiver's bonds come first. Values of batch and
    bonds are looked at once, here; a call waits for nothing on the device, and a CUDA graph may capture it. `Captured`
    takes a rule among its inputs, as a tuple of its tensors. The graph brings no gradient to positions; egcl's own goes
    through distances. Where an edge comes or goes, the result jumps, but for a network whose `cutoff` is no larger.
    Raises ValueError/TypeError for wrong shapes, dtypes, devices and numbers.
    """

    def __init__(
        self,
        capacity: int,
        batch: Tensor,
        bonds: Tensor | None = None,
        bond_attr: Tensor | None = None,
        found_attr: Tensor | None = None,
        boxes: CellSearch | None = None,
    ):
        where = type(self).__name__
        check_tensor(where, "batch", batch, ("N",), integer=True)
        self._room = [capacity]  # of all copies
        self.batch, self.grows, self.boxes = batch, False, boxes
        self.groups = Groups.of(batch, len(batch), batch.device)
        self.needed = torch.zeros((), dtype=torch.int32, device=batch.device)
        self.bond_sender = self.bond_number = self.features = None
        if bonds is None:
            if bond_attr is not None or found_attr is not None:
                raise ValueError(f"{where}: bond_attr and found_attr must come with bonds, got no bonds")
            return
        check_tensor(where, "bonds", bonds, (2, "B"), integer=True)
        check_same_device(where, batch=batch, bonds=bonds, bond_attr=bond_attr, found_attr=found_attr)
        check_index(where, "bonds", bonds, len(batch))
        num_bonds = bonds.shape[1]
        if bond_attr is None:
            bond_attr = torch.ones(num_bonds, 1, device=batch.device)
        check_tensor(where, "bond_attr", bond_attr, (num_bonds, "A"))
        bond_attr = bond_attr if bond_attr.is_floating_point() else bond_attr.float()  # one-hot, as data have it
        if found_attr is None:
            found_attr = bond_attr.new_zeros(bond_attr.shape[1])
        check_tensor(where, "found_attr", found_attr, (bond_attr.shape[1],))
        self.bond_sender, self.bond_number = _by_receiver(bonds, len(batch))
        # [B + 1, A]: those of an edge that only the search found are the last.
        self.features = torch.cat([bond_attr, found_attr.to(bond_attr.dtype)[None]])

    def __init_subclass__(cls) -> None:
        register_pytree_node(
            cls,
            lambda rule: (list(vars(rule).values()), tuple(vars(rule))),
            lambda values, names: cls._of(dict(zip(names, values, strict=True))),
        )

    @classmethod
    def _of(cls, fields: dict) -> "GraphRule":
        rule = object.__new__(cls)
        vars(rule).update(fields)
        return rule

    @property
    def capacity(self) -> int:
        return self._room[0]

    @property
    def num_nodes(self) -> int:
        return len(self.batch)

    @property
    def device(self) -> torch.device:
        return self.batch.device

    @property
    def cell(self) -> Cell | None:
        return None if self.boxes is None else self.boxes.cell

    @property
    def edge_dim(self) -> int:
        return 0 if self.features is None else self.features.shape[1]

    def check_fits(self, where: str, num_nodes: int) -> None:
        """Raise ValueError unless this is a rule for so many nodes."""
        if self.num_nodes != num_nodes:
            raise ValueError(f"{where}: the graph rule must be of {num_nodes} nodes, got one of {self.num_nodes}")

    def __call__(self, x: Tensor) -> Graph:
        """The graph of positions x [N, T, D], with its `edge_attr` where there are features."""
        num_nodes, num_frames = x.shape[:2]
        sender, needed, image, cell = self._search(x)
        while self.grows and needed is not None and int(needed) > self.capacity:
            self._room[0] = max(2 * self.capacity, int(needed))
            sender, needed, image, cell = self._search(x)
        is_edge, features = sender >= 0, None
        if needed is not None:
            self.needed.copy_(torch.maximum(self.needed, needed))
        if self.bond_sender is not None:
            frame = torch.arange(num_frames, device=x.device)[:, None]
            bonded = self.bond_sender[:, None]  # [N, 1, K_b]
            bonded = torch.where(bonded >= 0, bonded * num_frames + frame, -1).flatten(0, 1)  # [N T, K_b]
            is_bond = (sender[:, :, None] == bonded[:, None]).any(-1)
            if image is not None:
                is_bond &= (image == 0).all(-1)
                image = torch.cat([image.new_zeros(*bonded.shape, 3), image], dim=1)
            is_edge &= ~is_bond
            sender, is_edge = torch.cat([bonded, sender], dim=1), torch.cat([bonded >= 0, is_edge], dim=1)
            features = (lambda slot: self._features_of(slot, sender.shape[1], num_frames)) if self.edge_dim else None
        return Graph.of_table(
            sender,
            is_edge,
            num_nodes,
            num_frames,
            features=features,
            capacity=self.capacity,
            needed=needed,
            image=image,
            cell=cell,
            batch=self.batch,
        )

    def static(self, x: Tensor, frame: int = 0) -> Graph:
        """The graph of positions x [N, D], for all frames of a batch; without room for more where it `grows`.

        frame: that of x, whose boxes are searched where they change
        """
        graph = self.at_frames([frame])(x[:, None])
        images = None if graph.images is None else graph.images._replace(cell=cast(Cell, self.cell))
        if not self.grows:
            graph.num_frames, graph.images = None, images
            return graph
        number = int(cast(EdgeTables, graph.tables("native")).first[-1])
        edge_attr = None if graph.edge_attr is None else graph.edge_attr[:number]
        images = None if images is None else EdgeImages(images.number[:number], images.cell, images.batch)
        return Graph(graph.edge_index[:, :number], len(x), edge_attr=edge_attr, images=images)

    def at_frames(self, frames: list[int]) -> "GraphRule":
        """The same rule, counting with this one, for positions of these frames alone. Waits for nothing."""
        if self.boxes is None or self.boxes.vectors.shape[1] == 1:
            return self
        other = copy.copy(self)
        other.boxes = self.boxes.at_frames(frames)
        return other

    def for_boxes(self, boxes: Cell) -> "GraphRule":
        """The same rule, counting with this one, good for any of `boxes` by `with_cell`. Waits for the device."""
        if self.boxes is None:
            return self
        other = copy.copy(self)
        fewest = int(self.batch.unique(return_counts=True)[1].min()) if self.num_nodes else 0
        other.boxes = self.boxes.looking_into(type(self).__name__, boxes, fewest)
        return other

    def with_cell(self, cell: Cell | None) -> "GraphRule":
        """The same rule, counting with this one, for a batch in other boxes; of the kind that `for_boxes` was told.

        None where the rule has none. Waits for nothing."""
        if self.boxes is None or cell is None:
            return self
        other = copy.copy(self)
        other.boxes = self.boxes.with_cell(cell)
        return other

    def growing(self, grows: bool) -> "GraphRule":
        """The same rule, counting with this one, that grows or not."""
        other = copy.copy(self)
        other.grows = grows
        return other

    def with_bond_attr(self, bond_attr: Tensor) -> "GraphRule":
        """The same rule, counting with this one, for bonds of other features [B, A]. Waits for nothing."""
        other = copy.copy(self)
        other.features = torch.cat([bond_attr, cast(Tensor, self.features)[-1:].to(bond_attr.dtype)])
        return other

    def enlarge(self) -> None:
        """Make room for twice as many edges of a receiver, or as many as were needed if that is more."""
        self._room[0] = max(2 * self.capacity, int(self.needed))
        self.needed.zero_()

    def _features_of(self, slot: Tensor, width: int, num_frames: int) -> Tensor:
        """[E, A]: of the edges at these places of the table, whose first columns are bonds."""
        bond_number, features = cast(Tensor, self.bond_number), cast(Tensor, self.features)
        num_columns = bond_number.shape[1]
        column, node = slot % width, slot // (width * num_frames)
        found = len(features) - 1
        if num_columns == 0:
            return features[torch.full_like(slot, found)]
        number = bond_number[node, column.clamp(max=num_columns - 1)]
        return features[torch.where(column < num_columns, number, found)]

    def _search(self, x: Tensor) -> Found:
        raise NotImplementedError

    def overflowed(self) -> bool:
        """Whether in a call so far edges were missing for want of room. Waits for the device."""
        return bool(self.needed > self.capacity)

    def enlarged(self) -> "GraphRule":
        """The same rule, counting anew, with room as `enlarge` makes it."""
        other = copy.copy(self)
        other.needed, other._room = self.needed.clone(), [self.capacity]
        other.enlarge()
        return other

    def to(self, device: torch.device | str) -> "GraphRule":
        """The rule on `device`."""

        def there(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor | CellSearch) else value

        fields = {name: there(value) for name, value in vars(self).items()}
        return self._of(fields | {"groups": Groups(*map(there, self.groups))})


class RadiusRule(GraphRule):
    """A rule whose edges join, in both directions, any two nodes of a graph at most `cutoff` apart; bonds beside them.

    cutoff: in the unit of the positions that the network gets
    capacity: for how many neighbours of a node within the cutoff there is room
    Further arguments, attributes and errors: `GraphRule`. The search is that of `Graph.radius`.
    """

    def __init__(
        self,
        cutoff: float,
        capacity: int,
        batch: Tensor,
        *,
        bonds: Tensor | None = None,
        bond_attr: Tensor | None = None,
        found_attr: Tensor | None = None,
        cell: Tensor | Cell | None = None,
    ):
        check_count("RadiusRule", "capacity", capacity)
        boxes = None if cell is None else CellSearch.within("RadiusRule", cell, cutoff, batch=batch)
        super().__init__(capacity, batch, bonds, bond_attr, found_attr, boxes)
        self.cutoff = cutoff

    def _search(self, x: Tensor) -> Found:
        return radius_senders(x, self.cutoff, self.capacity, self.batch, self.groups, self.boxes)


class NearestRule(GraphRule):
    """A rule whose edges lead to each node from the `k` nearest other nodes of its graph; bonds beside them.

    There is always room. Further arguments, attributes and errors: `GraphRule`. The search is that of `Graph.nearest`.
    """

    def __init__(
        self,
        k: int,
        batch: Tensor,
        *,
        bonds: Tensor | None = None,
        bond_attr: Tensor | None = None,
        found_attr: Tensor | None = None,
        cell: Tensor | Cell | None = None,
    ):
        check_count("NearestRule", "k", k)
        boxes = None if cell is None else CellSearch.nearest("NearestRule", cell, k, len(batch), batch=batch)
        super().__init__(k, batch, bonds, bond_attr, found_attr, boxes)

    def _search(self, x: Tensor) -> Found:
        return nearest_senders(x, self.capacity, self.batch, self.groups, self.boxes)


def _by_receiver(bonds: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Of the bonds of every receiver, in a row: senders [N, K_b], and numbers in `bonds` [N, K_b], -1 behind the last.

    Waits for the device.
    """
    order, tables = sorted_edges(bonds, num_nodes)
    order = torch.arange(bonds.shape[1], device=bonds.device) if order is None else order
    degree = tables.first.diff()
    column = torch.arange(int(degree.max()) if num_nodes else 0, device=bonds.device)
    is_bond = column < degree[:, None]
    place = (tables.first[:-1, None] + column).where(is_bond, 0)
    return tables.sender[place].where(is_bond, -1), order[place].where(is_bond, -1)
