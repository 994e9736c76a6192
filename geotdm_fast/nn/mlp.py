"""The two-layer perceptron whose parameter names the official checkpoints use."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn


class MLP(nn.Module):
    """W2 act(W1 x + b1) + b2, followed by act if `last_act`.

    Parameters are called `actions.0.*` and `actions.2.*`, as in the official state dict.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, act_fn: nn.Module, last_act: bool = False):
        super().__init__()
        layers = [nn.Linear(in_dim, hidden_dim), act_fn, nn.Linear(hidden_dim, out_dim)]
        self.actions = nn.Sequential(*layers, *([act_fn] if last_act else []))

    def forward(self, x: Tensor) -> Tensor:
        return self.actions(x)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W1, b1, W2, b2: what the ops take."""
        # A draw of one system asks 42 times: an index into `actions` takes 2 us, and its name .3.
        actions = cast(nn.Sequential, self._modules["actions"])
        first, _, second, *_ = cast("Iterable[nn.Linear]", actions._modules.values())
        return *weight_and_bias(first), *weight_and_bias(second)


def weight_and_bias(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """`linear.weight` and `linear.bias`, without a search through its class for what is a parameter."""
    own = linear._parameters  # lacks a weight that is parametrised
    weight, bias = own.get("weight"), own.get("bias")
    return linear.weight if weight is None else weight, linear.bias if bias is None else bias
