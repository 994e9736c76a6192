"""What the network's first layers make of the features of nodes and of the diffusion step."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.nn.plain import is_plain
from geotdm_fast.reference.node_embedding import part_of_layer
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.runtime.checks import is_transformed
from geotdm_fast.runtime.tensor_cache import normal_tensors

# What the mixin is mixed into.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class FeatureMixin(_Module):
    """The part of `EGTN` that makes z_it of features and step: the linear layers `input_linear` and, with a learned
    prior, `input_linear_ref`.
    """

    input_linear: nn.Linear
    node_dim: int
    time_emb_dim: int
    precision: str

    def embed_features(self, h: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first layer makes of features [N, F] or [N, F, T], for a network in `dtype`: [N, 1 or T, H].

        Features without a time axis pass the layer once per node, not once per frame.
        """
        rows = _feature_rows(h, dtype)
        rows = rows[:, None] if h.dim() == 2 else rows
        return part_of_layer(rows, self.input_linear.weight[:, : self.node_dim], self.input_linear.bias, self.precision)

    def embed_steps(self, diffusion_t: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first layer makes of diffusion steps [M], for a network in `dtype`: [M, H]."""
        step = _sinusoids(diffusion_t, self.time_emb_dim, dtype)
        return part_of_layer(step, self.input_linear.weight[:, self.node_dim :], None, self.precision)

    def _first_layer(
        self, layer: nn.Linear, h: Tensor, diffusion_t: Tensor | None, num_frames: int, dtype: torch.dtype
    ) -> Tensor:
        """Features [N, F] or [N, F, T] and steps [N] to the first spatial layer's features [N, T, H]."""
        rows = _feature_rows(h, dtype)
        if is_plain(layer):
            return ops.node_embedding(rows, diffusion_t, layer.weight, layer.bias, num_frames, self.precision)
        rows = (rows[:, None] if h.dim() == 2 else rows).expand(-1, num_frames, -1)
        if diffusion_t is not None:
            step = sinusoid(diffusion_t, self.time_emb_dim, dtype)[:, None].expand(-1, num_frames, -1)
            rows = torch.cat([rows, step], dim=-1)
        return layer(rows)


# Of (width, dtype) the last steps on the CPU and their sinusoids: chain after chain has the same steps.
_last_sinusoids: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}


def _sinusoids(steps: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """`sinusoid` of steps [M]; not computed again for those of the last call."""
    is_number = type(steps) is Tensor and not torch.compiler.is_compiling()
    if not is_number or steps.device.type != "cpu" or torch.is_grad_enabled() or is_transformed():
        return sinusoid(steps, dim, dtype)
    last = _last_sinusoids.get((dim, dtype))
    if last is None or last[0].dtype != steps.dtype or not torch.equal(last[0], steps):
        with normal_tensors():
            last = _last_sinusoids[dim, dtype] = (steps.clone(), sinusoid(steps, dim, dtype))
    return last[1]


def _feature_rows(h: Tensor, dtype: torch.dtype) -> Tensor:
    """Features in the engine's layout: [N, F], or [N, T, F] when they change from frame to frame."""
    return h.to(dtype) if h.dim() == 2 else h.to(dtype).transpose(1, 2)
