"""What a call of the network of GeoTDM must be given: its keywords, shapes, dtypes and devices."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from geotdm_fast.conditioning import Frames
from geotdm_fast.nn.given_graph import GivenGraph, check_graph_given, check_values_given
from geotdm_fast.nn.plain import like
from geotdm_fast.runtime.checks import check_finite, check_same_device, check_same_dtype, check_tensor, reads_values
from geotdm_fast.runtime.choices import nearest

KEYWORDS = ("cond_mask", "x_given", "compute_ref", "graph", "cell", "conditions")
UNUSED_KEYWORDS = ("num", "v", "num_nodes", "system_id", "select_index", "ptr", "scored", "num_graphs")

# What the mixin is mixed into.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class InputMixin(_Module):
    """The part of `EGTN` that refuses inputs which do not fit it, by ValueError or TypeError."""

    node_dim: int
    edge_dim: int
    learn_ref_frame: bool
    num_w: int

    def _check_devices(
        self,
        h: Tensor,
        edge_index: GivenGraph,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        cond_mask: Tensor | None,
        x_given: Tensor | None,
        x: Tensor | None = None,
    ) -> None:
        check_same_device(
            "EGTN",
            **{"the network": like(self)},
            x=x,
            x_given=x_given,
            cond_mask=cond_mask,
            h=h,
            edge_index=edge_index,
            edge_attr=edge_attr,
            batch=batch,
        )

    def _check_reference(self, frames: Frames | None, x_given: Tensor | None) -> tuple[Frames, Tensor]:
        """What the reference frame is computed from."""
        if not self.learn_ref_frame:
            raise ValueError("EGTN: compute_ref=True needs a network built with learn_ref_frame=True")
        if frames is None:
            raise ValueError("EGTN: compute_ref=True needs cond_mask and x_given, got no cond_mask")
        num_frames = len(frames.given) + len(frames.noisy)
        x_given = check_tensor("EGTN", "x_given", x_given, ("N", "D", num_frames), integer=False)
        if self.num_w not in (1, len(frames.noisy)):
            raise ValueError(f"EGTN: num_w must be 1 or the {len(frames.noisy)} noisy frames, got {self.num_w}")
        check_same_dtype("EGTN", "x_given", x_given, like(self))
        check_given(frames, x_given)
        return frames, x_given

    def _check_graph(
        self,
        x: Tensor,
        h: Tensor,
        edge_index: GivenGraph,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        num_frames: int,
    ) -> None:
        num_nodes = x.shape[0]
        time_axis = (num_frames,) if isinstance(h, Tensor) and h.dim() == 3 else ()
        check_tensor("EGTN", "h", h, (num_nodes, self.node_dim, *time_axis))
        check_graph_given("EGTN", edge_index, edge_attr, batch, num_nodes, num_frames, self.edge_dim)
        check_values_given("EGTN", edge_index, batch, num_nodes)


def check_keywords(model_kwargs: dict) -> None:
    """TypeError for a keyword that means nothing: misspelt, it would be passed over without a word."""
    known = (*KEYWORDS, *UNUSED_KEYWORDS)
    for name in model_kwargs:
        if name not in known:
            raise TypeError(f"EGTN.forward: unexpected keyword '{name}'{nearest(name, known)}")


def check_given(frames: Frames, x_given: Tensor) -> None:
    """The given frames must be finite; the others of x_given are never read."""
    if reads_values(x_given):
        check_finite("EGTN", "the given frames of x_given", frames.given_of(x_given, 2))
