"""The spatial layer by name."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from geotdm_fast.nn.layers import SpatialLayer
from geotdm_fast.nn.spatial import ESLayer
from geotdm_fast.runtime.choices import check_choice


class SpatialOptions(NamedTuple):
    """What `EGTN` says of its spatial layers; the fields are its arguments, cutoff in the layers' unit, scaled."""

    hidden_dim: int
    edge_dim: int
    act_fn: nn.Module
    pre_norm: bool
    cutoff: float | None
    envelope: str


def _egcl(o: SpatialOptions) -> ESLayer:
    width = o.hidden_dim
    return ESLayer(width, o.edge_dim, width, o.act_fn, True, o.pre_norm, cutoff=o.cutoff, envelope=o.envelope)


# By name, as `EGTN(spatial=...)` and the key `spatial` of a configuration have it. A layer that has no use for an
# option raises ValueError where it is not at its default.
SPATIAL: dict[str, Callable[[SpatialOptions], SpatialLayer]] = {"egcl": _egcl}


def spatial_layer(spatial: str, options: SpatialOptions) -> SpatialLayer:
    """The spatial layer called `spatial`. Raises ValueError where name and options do not go together."""
    check_choice("EGTN: spatial", spatial, SPATIAL)
    return SPATIAL[spatial](options)
