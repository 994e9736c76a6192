"""The temporal op: `geotdm_fast.reference.temporal_attention` by the implementation that the backend chooses."""

from collections.abc import Sequence

from torch import Tensor

from geotdm_fast.ops.backend import implementation
from geotdm_fast.reference import TemporalAttentionParams


def temporal_attention(
    x: Tensor,
    h: Tensor,
    params: TemporalAttentionParams,
    *,
    frames: Sequence[int] | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.temporal_attention`, which documents formula, shapes and dtypes."""
    return implementation("temporal_attention")(x, h, params, frames=frames, precision=precision)
