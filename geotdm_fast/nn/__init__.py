"""The layers and the network: parameters and state-dict keys of the official code."""

from geotdm_fast.nn.egtn import EGTN
from geotdm_fast.nn.spatial import ESLayer
from geotdm_fast.nn.temporal import ETLayer

__all__ = ["EGTN", "ESLayer", "ETLayer"]
