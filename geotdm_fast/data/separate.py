"""Which graph each row of a batch's fields belongs to, and a batch taken apart into its graphs."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from geotdm_fast.data.fields import axis_of, further_names, names_nodes
from geotdm_fast.data.trajectory import Batch, Trajectory


def owners(batch: Batch, name: str) -> Tensor:
    """[rows] int64: the graph of each row of a field.

    A field that was set after batching is of the nodes if it has N rows, else of the graphs if it has B, else of the
    edges if it has E. Raises ValueError for another number of rows.
    """
    graphs = torch.arange(batch.num_graphs, device=batch.batch.device)
    if name in ("x", "h", "batch"):
        return batch.batch
    if name in ("edge_index", "edge_attr"):
        return batch.batch[batch.edge_index[0]]
    if name == "scored":
        return batch.batch[batch.scored]
    value = batch[name]
    if not isinstance(value, Tensor):
        return graphs
    rows = value.shape[axis_of(name)] if value.dim() else 1
    counts = batch.rows_of(name)
    if counts is not None and sum(counts) == rows:
        return graphs.repeat_interleave(torch.tensor(counts, device=graphs.device))
    sizes = {batch.num_nodes: "x", batch.edge_index.shape[1]: "edge_index"}
    if rows == batch.num_nodes or (rows != batch.num_graphs and rows in sizes):
        return owners(batch, sizes[rows])
    if rows != batch.num_graphs:
        expected = f"{batch.num_nodes} nodes, {batch.num_graphs} graphs or {batch.edge_index.shape[1]} edges"
        raise ValueError(f"Batch: {name} must have a row for each of {expected}, got {rows} rows")
    return graphs


def is_of_graphs(value: Any, batch: Batch) -> bool:
    """Whether the value of a field has entries for the graphs, and is not one for all of them."""
    return value.dim() > 0 if isinstance(value, Tensor) else isinstance(value, list) and len(value) == batch.num_graphs


def pick(name: str, value: Any, rows: Tensor) -> Any:
    """The entries `rows` of a field."""
    return value.index_select(axis_of(name), rows) if isinstance(value, Tensor) else [value[i] for i in rows.tolist()]


def separate(batch: Batch) -> list[Trajectory]:
    """The graphs of a batch, further fields included; tensors are copies. Raises ValueError as `owners` does."""
    nodes = batch.batch.argsort(stable=True)
    sizes = torch.bincount(batch.batch, minlength=batch.num_graphs)
    within = torch.empty_like(nodes)  # the number of each node in its own graph
    within[nodes] = torch.arange(len(nodes), device=nodes.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    own, further = [field.name for field in dataclasses.fields(Trajectory)], further_names(batch)
    parts = {}
    for name in (*own, *further):
        value = batch[name]
        if isinstance(value, Tensor) and (names_nodes(name) or name == "scored"):
            value = within[value]
        parts[name] = _parts(batch, name, value)
    graphs = []
    for g in range(batch.num_graphs):
        graphs.append(Trajectory(**{name: parts[name][g] for name in own}))
        vars(graphs[-1]).update({name: parts[name][g] for name in further})
    return graphs


def _parts(batch: Batch, name: str, value: Any) -> list[Any]:
    """A field's entries of each graph."""
    if not is_of_graphs(value, batch):
        return [value] * batch.num_graphs
    if name == "cell":
        return [cell[0] if len(cell) == 1 else cell for cell in value]
    # One for each graph, without an axis of its own there.
    if isinstance(value, list) or name in ("origin", "pbc", "conditions"):
        return list(value)
    owner = owners(batch, name)
    counts = torch.bincount(owner, minlength=batch.num_graphs).tolist()
    return list(pick(name, value, owner.argsort(stable=True)).split(counts, dim=axis_of(name)))
