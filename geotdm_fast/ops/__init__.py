"""The only bridge between the layers and the implementations of an op."""

from geotdm_fast.ops.backend import backend, status
from geotdm_fast.ops.egcl import egcl
from geotdm_fast.ops.radius_graph import radius_graph
from geotdm_fast.ops.radius_neighbours import radius_neighbours
from geotdm_fast.ops.temporal_attention import temporal_attention

__all__ = ["backend", "egcl", "radius_graph", "radius_neighbours", "status", "temporal_attention"]
