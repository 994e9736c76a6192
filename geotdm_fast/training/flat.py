"""All weights of a network in one tensor, and their gradients in another."""

import torch
from torch import Tensor, nn

# Numbers between the starts of two weights: kernels load from addresses that 256 divides, as torch's allocator gives.
ALIGNMENT = 64


class FlatWeights:
    """Moves the parameters of `network` into one tensor: they become views of it, their gradients views of `flat.grad`.

    So one all-reduce, one norm, one Adam and one moving average serve all of them, with a launch each instead of a
    launch or a loop over hundreds of tensors, and every one stays where it is, as a captured graph asks for. Numbers
    between two weights are 0, and their gradients too, so that no update moves them.

    flat: [P] float32 nn.Parameter - the weights, on the network's device; `flat.grad` adds up what backward gives, and
        is None for a network that is not trained (no parameter requires a gradient)
    Raises TypeError unless every parameter is float32: master weights are, whatever the precision of products.
    """

    def __init__(self, network: nn.Module):
        parameters = dict(network.named_parameters())
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise TypeError(f"FlatWeights: {name} must be torch.float32, got {parameter.dtype}")
        self._places: dict[str, tuple[int, torch.Size]] = {}
        total = 0
        for name, parameter in parameters.items():
            self._places[name] = total, parameter.shape
            total += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        device = next(iter(parameters.values())).device
        self.flat = nn.Parameter(torch.zeros(total, device=device))
        self._parameters = list(parameters.values())
        for name, weight in self.named(self.flat).items():
            weight.copy_(parameters[name].detach())
            parameters[name].data = weight
        if any(parameter.requires_grad for parameter in self._parameters):
            self.flat.grad = torch.zeros_like(self.flat)
            for name, gradient in self.named(self.flat.grad).items():
                parameters[name].grad = gradient

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """The part of every parameter in a tensor laid out as `flat` (a moment, say): views, in their shapes."""
        flat = flat.detach()
        return {name: flat[first : first + shape.numel()].view(shape) for name, (first, shape) in self._places.items()}

    def mark_changed(self) -> None:
        """Tell those who keep what they made of a weight: a change through `flat`, or by a replay, does not show."""
        torch.autograd.graph.increment_version(self._parameters)
