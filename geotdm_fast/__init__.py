"""Diffusion over geometric trajectories (GeoTDM, arXiv 2410.13027), fast."""

from geotdm_fast.diffusion import GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.nn import EGTN, ESLayer, ETLayer
from geotdm_fast.ops import backend

__version__ = "0.1.0"
__all__ = [
    "EGTN",
    "ESLayer",
    "ETLayer",
    "GeoTDM",
    "LossType",
    "ModelMeanType",
    "ModelVarType",
    "backend",
]
