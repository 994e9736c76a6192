"""The step behind the network: `geotdm_fast.reference.diffusion_step` by the fastest implementation that takes it."""

import torch
from torch import Tensor

from geotdm_fast import reference
from geotdm_fast.ops import kernels, native
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.runtime.checks import check_tensor

_WHERE = "diffusion_step"


def diffusion_step(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    output: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """Equal to `geotdm_fast.reference.diffusion_step`, which documents formula, shapes and dtypes; x, before and
    positions are overwritten.

    Float32 runs one C++ loop on the CPU and one Triton kernel on CUDA, which reads the row `step` of the table on the
    device: a CUDA graph can hold it. Both sum the means of graphs in a fixed order and give the same bits in every run.
    Other dtypes run the reference. No gradient. Raises ValueError/TypeError for wrong shapes and dtypes.
    """
    _check(x, before, positions, output, noise, x_ref, first, coefficients, step)
    arguments = (x, before, positions, output, noise, x_ref, first, coefficients, step)
    implementation = _implementation(x, before, positions, noise, coefficients)
    if implementation == "triton":
        from geotdm_fast.kernels.diffusion_step_launch import diffusion_step as launch

        launch(x, before, positions, output, None if noise is None else noise.contiguous(), *arguments[5:])
    elif implementation == "native":
        torch.ops.geotdm_fast.diffusion_step(*arguments)
    else:
        reference.diffusion_step(*arguments)


def _implementation(x: Tensor, before: Tensor, positions: Tensor | None, *others: Tensor | None) -> str | None:
    """`triton`, `native`, or None for the reference."""
    tensors = [tensor for tensor in (x, before, positions, *others) if tensor is not None]
    written = [tensor for tensor in (x, before, positions) if tensor is not None]
    why_not = None
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        why_not = "x, before, positions, noise and coefficients are not all float32"
    elif not all(tensor.is_contiguous() for tensor in written):
        why_not = "x, before and positions are not all contiguous"
    backend = current_backend()
    if backend == "triton":
        why_not = why_not or kernels.why_not_on(x.device)
        if why_not:
            raise ValueError(f"{_WHERE}: backend triton does not take the input: {why_not}")
        return "triton"
    if backend == "reference" or why_not:
        return None
    if x.device.type == "cpu":
        return "native" if native.missing is None else None
    return "triton" if kernels.why_not_on(x.device) is None else None


def _check(
    x: Tensor,
    before: Tensor,
    positions: Tensor | None,
    output: Tensor,
    noise: Tensor | None,
    x_ref: Tensor | None,
    first: Tensor | None,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    check_tensor(_WHERE, "x", x, ("N", "D", "T"), integer=False)
    shape = tuple(x.shape)
    optional = {"positions": positions, "noise": noise}
    for name, value in {"before": before, "output": output}.items() | optional.items():
        if value is not None or name not in optional:
            check_tensor(_WHERE, name, value, shape, integer=False)
    if (positions is None) != (x_ref is None):
        raise ValueError(f"{_WHERE}: positions and x_ref must both be given, or none of them")
    if x_ref is not None:
        frames = 1 if getattr(x_ref, "ndim", 0) == 3 and x_ref.shape[2] == 1 else shape[2]
        check_tensor(_WHERE, "x_ref", x_ref, (*shape[:2], frames), integer=False)
    if first is not None:
        check_tensor(_WHERE, "first", first, ("B + 1",), integer=True)
    check_tensor(_WHERE, "coefficients", coefficients, ("S", 6), integer=False)
    check_tensor(_WHERE, "step", step, (1,), integer=True)
