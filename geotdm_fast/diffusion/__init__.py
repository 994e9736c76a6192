"""Diffusion: schedules, the algebra of Gaussian diffusion, priors, `GeoTDM`, and its `Sampler`."""

from geotdm_fast.diffusion.geotdm import GeoTDM
from geotdm_fast.diffusion.model_types import LossType, ModelMeanType, ModelVarType
from geotdm_fast.diffusion.sampler import Sampler
from geotdm_fast.diffusion.schedules import get_named_beta_schedule

__all__ = ["GeoTDM", "LossType", "ModelMeanType", "ModelVarType", "Sampler", "get_named_beta_schedule"]
