"""Every op in plain PyTorch: the meaning of what the kernels compute, in any dtype, on CPU and CUDA."""

from geotdm_fast.reference.diffusion_step import diffusion_step
from geotdm_fast.reference.egcl import EGCLParams, egcl
from geotdm_fast.reference.linear import PRECISIONS, linear
from geotdm_fast.reference.radius_graph import radius_graph
from geotdm_fast.reference.radius_neighbours import Neighbours, radius_neighbours
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.reference.temporal_attention import TemporalAttentionParams, relative_table, temporal_attention
from geotdm_fast.reference.trajectory_noise import Counters, philox, trajectory_noise

__all__ = [
    "PRECISIONS",
    "Counters",
    "EGCLParams",
    "Neighbours",
    "TemporalAttentionParams",
    "diffusion_step",
    "egcl",
    "linear",
    "philox",
    "radius_graph",
    "radius_neighbours",
    "relative_table",
    "sinusoid",
    "temporal_attention",
    "trajectory_noise",
]
