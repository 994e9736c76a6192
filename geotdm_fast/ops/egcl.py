"""The spatial op: `geotdm_fast.reference.egcl` by the implementation that the backend chooses."""

from torch import Tensor

from geotdm_fast.ops.backend import implementation
from geotdm_fast.reference import EGCLParams


def egcl(
    x: Tensor,
    h: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None,
    params: EGCLParams,
    *,
    normalize: bool = True,
    pre_norm: bool = False,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """Equal to `geotdm_fast.reference.egcl`, which documents formula, shapes and dtypes."""
    run = implementation("egcl")
    return run(x, h, edge_index, edge_attr, params, normalize=normalize, pre_norm=pre_norm, precision=precision)
