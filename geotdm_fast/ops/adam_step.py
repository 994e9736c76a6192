"""A step of Adam with all around it: `geotdm_fast.reference.adam_step` by the fastest implementation."""

from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops.backend import prefers_triton
from geotdm_fast.reference.adam_step import AdamSettings, AdamState


def adam_step(state: AdamState, coefficients: Tensor, settings: AdamSettings) -> Tensor:
    """Equal to `geotdm_fast.reference.adam_step`, by two Triton kernels where `has_adam_step` says so."""
    if not has_adam_step(state.weights):
        return reference.adam_step(state, coefficients, settings)
    from geotdm_fast.kernels.adam_step_launch import adam_step as launch

    return launch(state, coefficients, settings)


def has_adam_step(weights: Tensor) -> bool:
    """Whether Triton kernels move these weights: on CUDA, and where `backend("triton")` asks for them."""
    return prefers_triton(weights)
