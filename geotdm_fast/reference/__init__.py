"""Every op in plain PyTorch: the meaning of what the kernels compute, in any dtype, on CPU and CUDA."""

from geotdm_fast.reference.adam_step import AdamSettings, AdamState, adam_step
from geotdm_fast.reference.cell import MOST_IMAGES, Cell
from geotdm_fast.reference.cell_search import CellSearch
from geotdm_fast.reference.cut_windows import BatchLayout, CutBatch, WindowTables, cut_windows
from geotdm_fast.reference.diffusion_step import diffusion_step
from geotdm_fast.reference.egcl import EGCLOptions, EGCLParams, egcl, egcl_with
from geotdm_fast.reference.envelope import ENVELOPES, check_cutoff, polynomial_envelope
from geotdm_fast.reference.gv_ff import GVFFParams, gv_ff
from geotdm_fast.reference.linear import PRECISIONS, linear
from geotdm_fast.reference.linear_temporal_attention import LinearTemporalAttentionParams, linear_temporal_attention
from geotdm_fast.reference.node_embedding import node_embedding
from geotdm_fast.reference.noised_positions import noised_positions
from geotdm_fast.reference.radius_graph import radius_graph
from geotdm_fast.reference.radius_neighbours import Neighbours, radius_neighbours
from geotdm_fast.reference.reference_frame import reference_frame
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.reference.temporal_attention import TemporalAttentionParams, temporal_attention
from geotdm_fast.reference.temporal_convolution import TemporalConvolutionParams, temporal_convolution
from geotdm_fast.reference.trajectory_noise import Counters, philox, trajectory_noise

__all__ = [
    "ENVELOPES",
    "MOST_IMAGES",
    "PRECISIONS",
    "AdamSettings",
    "AdamState",
    "BatchLayout",
    "Cell",
    "CellSearch",
    "Counters",
    "CutBatch",
    "EGCLOptions",
    "EGCLParams",
    "GVFFParams",
    "LinearTemporalAttentionParams",
    "Neighbours",
    "TemporalAttentionParams",
    "TemporalConvolutionParams",
    "WindowTables",
    "adam_step",
    "check_cutoff",
    "cut_windows",
    "diffusion_step",
    "egcl",
    "egcl_with",
    "gv_ff",
    "linear",
    "linear_temporal_attention",
    "node_embedding",
    "noised_positions",
    "philox",
    "polynomial_envelope",
    "radius_graph",
    "radius_neighbours",
    "reference_frame",
    "sinusoid",
    "temporal_attention",
    "temporal_convolution",
    "trajectory_noise",
]
