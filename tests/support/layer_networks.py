"""A small network whose layers are one call, what it is called with, and which ops a call runs."""

from collections.abc import Callable

import torch
from native_cases import draw, graph

from geotdm_fast import EGTN


def network(edge_dim: int = 1, **options) -> EGTN:
    torch.manual_seed(1)
    return EGTN(3, 2, edge_dim, 32, 16, "silu", True, 2, 6, **options)


def inputs_of(num_frames=10, num_given=4) -> dict:
    edge_index = graph(7, [3, 0, 2, 6, 1, 1, 2])
    mask = torch.zeros(1, 1, num_frames)
    mask[..., :num_given] = 1
    return {
        "diffusion_t": torch.full((7,), 3.0),
        "x": draw(7, 3, num_frames - num_given),
        "h": draw(7, 2),
        "edge_index": edge_index,
        "edge_attr": draw(edge_index.shape[1], 1),
        "batch": torch.zeros(7, dtype=torch.int64),
        "cond_mask": mask,
        "x_given": draw(7, 3, num_frames),
    }


def calls_of(function: Callable[[], object]) -> list[str]:
    """The compiled ops of layers that a call runs, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    ops = [name for event in profile.events() if (name := event.name).startswith("geotdm_fast::")]
    names = [name.removeprefix("geotdm_fast::") for name in ops]
    return [name for name in names if name not in ("edge_tables", "reference_frame")]
