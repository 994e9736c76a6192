"""Align Your Structures (arXiv 2604.03911): a diffusion model of structures, and an interpolator around it.

Networks, diffusion and features with the constructors, arguments and state-dict keys of the official code.
"""

from geotdm_fast.ays.alignment import align_frames, align_jointly, align_to_first_frame
from geotdm_fast.ays.alphas import scale_alphas
from geotdm_fast.ays.attention import ETAttention
from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.ays.egtn import EGTN
from geotdm_fast.ays.interpolator import EGInterpolator
from geotdm_fast.ays.simple import EGInterpolatorSimple
from geotdm_fast.ays.spatial import BasicESLayer, ESLayer
from geotdm_fast.ays.stack import EGStack
from geotdm_fast.ays.structure import BasicES
from geotdm_fast.ays.vectors import GV_FF
from geotdm_fast.data.chemistry.rdkit_graph import molecule_graph
from geotdm_fast.diffusion.ays_ddim import ddim_timesteps
from geotdm_fast.nn.temporal import ETLayer

__all__ = [
    "EGTN",
    "GV_FF",
    "BasicES",
    "BasicESLayer",
    "EGInterpolator",
    "EGInterpolatorSimple",
    "EGStack",
    "ESLayer",
    "ETAttention",
    "ETLayer",
    "OurDiffusion",
    "align_frames",
    "align_jointly",
    "align_to_first_frame",
    "ddim_timesteps",
    "molecule_graph",
    "scale_alphas",
]
