"""The names that the official trainers and samplers import: with their imports swapped for this module, they run.

Models, diffusion and metrics are those of the rest of the package; the data sets take the official sections and give
the official fields, and what the scripts take from torch_geometric and from the official `utils.misc` is here too.
"""

from geotdm_fast.diffusion import GeoTDM, LossType, ModelMeanType, ModelVarType, get_named_beta_schedule
from geotdm_fast.metrics import EqMotion
from geotdm_fast.nn import EGTN, ESLayer, ETLayer
from geotdm_fast.official.datasets import ETHNew, MD17Traj, NBody, TrajData
from geotdm_fast.official.loader import DataLoader
from geotdm_fast.official.pooling import global_add_pool, global_max_pool, global_mean_pool
from geotdm_fast.official.processes import gather_across_gpus, set_seed

__all__ = [
    "EGTN",
    "DataLoader",
    "ESLayer",
    "ETHNew",
    "ETLayer",
    "EqMotion",
    "GeoTDM",
    "LossType",
    "MD17Traj",
    "ModelMeanType",
    "ModelVarType",
    "NBody",
    "TrajData",
    "gather_across_gpus",
    "get_named_beta_schedule",
    "global_add_pool",
    "global_max_pool",
    "global_mean_pool",
    "set_seed",
]
