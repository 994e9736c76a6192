"""What a `Batch` shows of itself."""

import numpy as np
import torch

from geotdm_fast.cards.card import Card, counted, sizes
from geotdm_fast.cards.picture import MOST_NUMBERS, picture
from geotdm_fast.data.fields import shown_fields
from geotdm_fast.data.trajectory import Batch

# Characters of the fields: a hundred of them with their shapes.
_LONGEST = 4000


def batch_card(batch: Batch) -> Card:
    """Sizes, boxes, conditions, whether the truth is known, dtype and device, and every field with its shape."""
    card = Card(f"Batch of {counted(batch.num_graphs, 'graph')}")
    per_graph = torch.bincount(batch.batch, minlength=batch.num_graphs).tolist()
    num_nodes, dims, num_frames = batch.x.shape
    card.add("nodes", f"{sizes(per_graph, 'node')}, in {dims} dimensions")
    if len(batch.scored) < num_nodes:
        card.add("scored", f"{counted(len(batch.scored), 'node')} of them")
    card.add("frames", f"{num_frames:,}" + ("" if batch.has_target else ", of which those to be drawn are unknown"))
    features = "" if batch.edge_attr is None else f" with {counted(batch.edge_attr.shape[1], 'feature')} each"
    card.add("edges", f"{counted(batch.edge_index.shape[1], 'edge')}{features}")
    if batch.cell is not None:
        card.add("boxes", "which change from frame to frame" if batch.cell.shape[1] > 1 else "which do not change")
    card.add("conditions", ", ".join(batch.condition_names))
    card.add("numbers", f"{str(batch.x.dtype).removeprefix('torch.')} on {batch.x.device}")
    card.add("fields", shown_fields(batch), _LONGEST)
    return card


def batch_picture(batch: Batch) -> str:
    """The paths of the first graph; the empty text where it has too many numbers."""
    stop = int(batch.ptr[1])
    if batch.x[:stop].numel() > MOST_NUMBERS:
        return ""
    x = batch.x[:stop].detach().float().cpu().numpy()
    first = batch.scored[batch.scored < stop].tolist()
    return picture(x, np.zeros(x.shape[-1], bool), None, None, first)
