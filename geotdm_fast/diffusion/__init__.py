"""Diffusion: schedules, the algebra of Gaussian diffusion, priors, `GeoTDM`; `Flow` beside it; and their `Sampler`."""

from geotdm_fast.diffusion.flow import Flow
from geotdm_fast.diffusion.framed import FramedDiffusion
from geotdm_fast.diffusion.geotdm import GeoTDM
from geotdm_fast.diffusion.model_types import LossType, ModelMeanType, ModelVarType
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.diffusion.schedules import get_named_beta_schedule

__all__ = [
    "Flow",
    "FramedDiffusion",
    "GeoTDM",
    "LossType",
    "ModelMeanType",
    "ModelVarType",
    "Sampler",
    "get_named_beta_schedule",
]
