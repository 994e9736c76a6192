"""The graph of a batch, prepared once, and rules for graphs that change with the positions."""

from geotdm_fast.graphs.graph import KINDS, Graph

__all__ = ["KINDS", "Graph"]
