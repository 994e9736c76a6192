"""The only bridge between the layers and the implementations of an op."""

from geotdm_fast.ops.adam_step import adam_step, has_adam_step
from geotdm_fast.ops.backend import backend, status
from geotdm_fast.ops.cut_windows import cut_windows
from geotdm_fast.ops.diffusion_step import diffusion_step
from geotdm_fast.ops.egcl import PreparedEGCL, egcl, prepare_egcl, run_egcl
from geotdm_fast.ops.gv_ff import gv_ff
from geotdm_fast.ops.layer_pairs import (
    AttentionOptions,
    LayerPairs,
    StepNetwork,
    StepState,
    prepare_layer_pairs,
    takes_step,
)
from geotdm_fast.ops.node_embedding import node_embedding
from geotdm_fast.ops.noised_positions import noised_positions
from geotdm_fast.ops.prepared_layers import PairOptions, prepare_layers
from geotdm_fast.ops.radius_graph import radius_graph
from geotdm_fast.ops.radius_neighbours import radius_neighbors, radius_neighbours
from geotdm_fast.ops.reference_frame import reference_frame
from geotdm_fast.ops.temporal_attention import temporal_attention
from geotdm_fast.ops.trajectory_noise import trajectory_noise

__all__ = [
    "AttentionOptions",
    "LayerPairs",
    "PairOptions",
    "PreparedEGCL",
    "StepNetwork",
    "StepState",
    "adam_step",
    "backend",
    "cut_windows",
    "diffusion_step",
    "egcl",
    "gv_ff",
    "has_adam_step",
    "node_embedding",
    "noised_positions",
    "prepare_egcl",
    "prepare_layer_pairs",
    "prepare_layers",
    "radius_graph",
    "radius_neighbors",
    "radius_neighbours",
    "reference_frame",
    "run_egcl",
    "status",
    "takes_step",
    "temporal_attention",
    "trajectory_noise",
]
