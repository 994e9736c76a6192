"""What ends an update of the interpolator: features are normalised, and those of noisy frames mixed with the structure
model's."""

from typing import Any

import torch
from torch import Tensor

from geotdm_fast.ays.given import Given
from geotdm_fast.ays.prepared import CalledNorm, Norm, normed
from geotdm_fast.ops.derivatives import graph_is_wanted, reference_gradients
from geotdm_fast.runtime.checks import is_transformed


def mixed(own: Tensor, other: Tensor, alpha: Tensor | None) -> Tensor:
    """s own + (1 - s) other with s = sigmoid(alpha); a half each where alpha is None.

    In the wider of both dtypes: autocast may have left one of them as it was.
    """
    wide = torch.promote_types(own.dtype, other.dtype)
    share = 0.5 if alpha is None else torch.sigmoid(alpha).to(wide)
    return torch.lerp(other.to(wide), own.to(wide), share)


def normed_and_mixed(
    z: Tensor, k: Tensor, norm: Norm | CalledNorm | None, alpha: Tensor | None, given: Given
) -> Tensor:
    """norm(z) [N, T, H] whose noisy frames are `mixed(k, norm(z), alpha)`, k [N, M, H].

    norm: over H, or None. Where the noisy frames follow one another, the mix is done in place of the
    norm's result, and the backward keeps z and k alone: a third of the memory and of the passes over it.
    """
    where = given.noisy_range
    fuses = where is not None and not is_transformed() and not torch.is_autocast_enabled(z.device.type)
    if not fuses or not isinstance(norm, Norm):
        z = normed(norm, z)
        return given.put(z, mixed(k, given.noisy(z), alpha))
    # Filled on the device: a copy from the host would end a capture.
    share = z.new_full((), 0.5) if alpha is None else torch.sigmoid(alpha).to(z.dtype)
    return _NormedAndMixed.apply(z.contiguous(), k, norm.weight, norm.bias, share, where, norm.eps)


class _NormedAndMixed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, k: Tensor, weight: Tensor, bias: Tensor, share: Tensor, where: tuple[int, int], eps: float
    ) -> Tensor:
        out, mean, rstd = torch.native_layer_norm(z, z.shape[-1:], weight, bias, eps)
        out.narrow(1, *where).lerp_(k, share)
        ctx.save_for_backward(z, k, mean, rstd, weight, bias, share)
        ctx.where, ctx.eps = where, eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, k, mean, rstd, weight, bias, share = ctx.saved_tensors
        where, eps = ctx.where, ctx.eps
        wanted = ctx.needs_input_grad[:5]
        if graph_is_wanted():
            op = lambda z, k, weight, bias, share: (_plain(z, k, weight, bias, share, where, eps),)
            return *reference_gradients(op, (z, k, weight, bias, share), (grad,), wanted), None, None
        noisy = grad.narrow(1, *where)
        grad_share = None
        if wanted[4]:
            # sum grad (k - norm(z)) over the noisy frames, norm(z) = weight zhat + bias.
            wide = torch.promote_types(z.dtype, torch.float32)
            zhat = (z.narrow(1, *where).to(wide) - mean.narrow(1, *where)) * rstd.narrow(1, *where)
            of_norm = (noisy * zhat).sum((0, 1)) @ weight.to(wide) + noisy.sum((0, 1), dtype=wide) @ bias.to(wide)
            grad_share = (torch.sum(noisy * k, dtype=wide) - of_norm).to(share.dtype)
            del zhat
        grad_k = noisy * share if wanted[1] else None
        of_norm = grad.clone(memory_format=torch.contiguous_format)
        of_norm.narrow(1, *where).mul_(1 - share)
        asked = [wanted[0], wanted[2], wanted[3]]
        grads = torch.ops.aten.native_layer_norm_backward(of_norm, z, z.shape[-1:], mean, rstd, weight, bias, asked)
        return grads[0], grad_k, grads[1], grads[2], grad_share, None, None


def _plain(
    z: Tensor, k: Tensor, weight: Tensor, bias: Tensor, share: Tensor, where: tuple[int, int], eps: float
) -> Tensor:
    z = torch.nn.functional.layer_norm(z, z.shape[-1:], weight, bias, eps)
    first, count = where
    noisy = torch.lerp(z.narrow(1, first, count), k, share)
    behind = first + count
    return torch.cat([z[:, :first], noisy, z[:, behind:]], dim=1)
