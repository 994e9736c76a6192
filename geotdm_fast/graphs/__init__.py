"""The graph of a batch, prepared once, and rules for graphs that change with the positions."""

from geotdm_fast.graphs.graph import KINDS, Graph
from geotdm_fast.graphs.groups import Groups
from geotdm_fast.graphs.images import EdgeImages
from geotdm_fast.graphs.rules import GraphRule, NearestRule, RadiusRule
from geotdm_fast.graphs.spec import GraphSpec

__all__ = ["KINDS", "EdgeImages", "Graph", "GraphRule", "GraphSpec", "Groups", "NearestRule", "RadiusRule"]
