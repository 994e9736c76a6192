"""Derivatives beyond the first: autograd cannot follow a compiled backward, so the reference's takes its place."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def graph_is_wanted() -> bool:
    """Whether the backward that asks runs under `create_graph=True`: autograd then leaves gradients on."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def reference_gradients(
    op: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    cotangents: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of sum_k (op(inputs)_k * cotangent_k).sum(); under `create_graph=True` they can be differentiated again
    in both.

    op: a reference; wanted: which of `inputs` want a gradient; the others get None
    """
    with torch.enable_grad():
        # Each input is seen through a view: what one input owes to another one is not the op's.
        seen = [value if value is None else value.view_as(value) for value in inputs]
        asked = [value for value, wants in zip(seen, wanted, strict=True) if wants and value is not None]
        outputs = op(*seen)
        pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
        if not asked or not pairs:
            return [None] * len(seen)
        # The sum itself: autograd imports sympy for cotangents that are given, half a second of every start.
        total = torch.stack([(output * cotangent).sum() for output, cotangent in pairs]).sum()
    found = iter(torch.autograd.grad(total, asked, create_graph=graph_is_wanted(), allow_unused=True))
    return [next(found) if wants else None for wants in wanted]
