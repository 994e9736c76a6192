"""All weights of a network in one tensor, and their gradients in another."""

import itertools
from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from geotdm_fast.runtime.shown import shown

# Numbers between the starts of two weights: kernels load from addresses that 256 divides, as torch's allocator gives.
ALIGNMENT = 64


class FlatWeights:
    """Puts all parameters of `network` into one tensor `flat`, and all gradients into `flat.grad`, as views.

    One all-reduce, one norm, one step of Adam and one moving average then serve all weights, with one launch each.
    Weights and gradients keep their addresses, which a captured CUDA graph needs.

    The layout: vectors and numbers first, then matrices (two axes, both longer than 1), those of one shape next to each
    other, so that they form one batch of matrices. Every weight begins at a multiple of 64 numbers. The numbers between
    two weights, and their gradients, are 0 and stay 0.

    flat: [P] float32 nn.Parameter, on the network's device. `flat.grad` sums what `backward` gives; it is None where no
        parameter requires a gradient
    num_others: how many numbers come before the first matrix
    Raises TypeError unless every parameter is float32; products may have a lower precision, weights may not.
    """

    def __init__(self, network: nn.Module):
        for name, parameter in network.named_parameters():
            if parameter.dtype != torch.float32:
                raise TypeError(f"FlatWeights: {name} must be torch.float32, got {parameter.dtype}")
        parameters = dict(sorted(network.named_parameters(), key=lambda named: _matrix_shape(named[1])))
        self._places: dict[str, tuple[int, torch.Size]] = {}
        total = 0
        for name, parameter in parameters.items():
            self._places[name] = total, parameter.shape
            total += _padded(parameter.numel())
        self.num_others = sum(_padded(p.numel()) for p in parameters.values() if not _matrix_shape(p))
        device = next(iter(parameters.values())).device
        self.flat = nn.Parameter(torch.zeros(total, device=device))
        self._parameters = list(parameters.values())
        # The gradient of a loss: a launch less on a GPU. On a CPU torch makes it, for one that is given imports sympy:
        # half a second of every start.
        self._one = None if device.type == "cpu" else torch.ones((), device=device)
        for name, weight in self.named(self.flat).items():
            weight.copy_(parameters[name].detach())
            parameters[name].data = weight
        if any(parameter.requires_grad for parameter in self._parameters):
            self.flat.grad = torch.zeros_like(self.flat)
            for name, gradient in self.named(self.flat.grad).items():
                parameters[name].grad = gradient

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to `flat.grad`, as `loss.backward()` would, but all parameters at once.

        Raises ValueError where no parameter requires a gradient, and where the loss depends on none of them.
        """
        trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        if not trained:
            raise ValueError("FlatWeights.backward: a parameter of the network must require a gradient, got none")
        found = torch.autograd.grad(loss, trained, self._one, allow_unused=True)
        # In one dimension strides are alike, as the fast path of _foreach_add_ asks for.
        used = [
            (cast(Tensor, p.grad).view(-1), new.reshape(-1))
            for p, new in zip(trained, found, strict=True)
            if new is not None
        ]
        if not used:
            raise ValueError("FlatWeights.backward: loss must depend on a parameter of the network, got one of none")
        gradients, added = zip(*used, strict=True)
        torch._foreach_add_(gradients, added)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """{name: view in its shape} of every parameter in `flat`, any tensor of this layout (a moment, say)."""
        flat = flat.detach()
        return {name: flat[first : first + shape.numel()].view(shape) for name, (first, shape) in self._places.items()}

    @property
    def frozen(self) -> list[str]:
        """The names of the parameters that do not learn."""
        return [name for name, p in zip(self._places, self._parameters, strict=True) if not p.requires_grad]

    def freeze(self, names: Collection[str]) -> None:
        """Let the parameters of these names learn no more. Raises ValueError for a name that there is not."""
        unknown = sorted(set(names) - self._places.keys())
        if unknown:
            raise ValueError(f"FlatWeights.freeze: names must be of parameters of the network, got {shown(unknown[0])}")
        for name, parameter in zip(self._places, self._parameters, strict=True):
            if name in names:
                parameter.requires_grad_(False)

    def matrices(self, flat: Tensor) -> list[Tensor]:
        """All matrices in a tensor `flat` of this layout: for each shape r x c one view [n, r, c]."""
        flat = flat.detach()
        matrices = (place for place in self._places.values() if place[0] >= self.num_others)
        views = []
        for shape, places in itertools.groupby(matrices, key=lambda place: place[1]):
            starts = [first for first, _ in places]
            size, count = _padded(shape.numel()), len(starts)
            rows = flat[starts[0] : starts[0] + count * size].view(count, size)
            views.append(rows[:, : shape.numel()].unflatten(1, shape))
        return views

    def mark_changed(self) -> None:
        """Tell autograd, and caches of things made from weights, that the weights changed.

        A change through `flat`, or by the replay of a CUDA graph, does not raise the version of the parameters by
        itself.
        """
        torch.autograd.graph.increment_version(self._parameters)


def _matrix_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of `parameter` if it is a matrix, with two axes longer than 1; else ()."""
    is_matrix = parameter.dim() == 2 and min(parameter.shape) > 1
    return tuple(parameter.shape) if is_matrix else ()


def _padded(numel: int) -> int:
    return -(-numel // ALIGNMENT) * ALIGNMENT
