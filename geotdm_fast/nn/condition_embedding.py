"""What the conditions of a trajectory, numbers such as its temperature, add to the network's first layers."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from geotdm_fast.conditions import Conditions, check_finite_conditions
from geotdm_fast.nn.plain import is_plain, like
from geotdm_fast.reference.node_embedding import part_of_layer
from geotdm_fast.reference.row_sums import num_graphs, take_rows
from geotdm_fast.reference.sinusoid import sinusoid
from geotdm_fast.runtime.checks import check_same_device, check_tensor, reads_values

# What the mixin is mixed into.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class ConditionMixin(_Module):
    """The part of `EGTN` that is told conditions: V psi(scaled numbers), see `geotdm_fast.conditions.Conditions`.

    conditions: which numbers, None for none; the layers, without bias, are `condition_linear` and, with a learned
        prior, `condition_linear_ref`
    """

    conditions: Conditions | None
    learn_ref_frame: bool
    time_emb_dim: int
    precision: str

    def _draw_condition_layers(self, hidden_dim: int) -> None:
        if self.conditions is None:
            return
        width = len(self.conditions.names) * self.time_emb_dim
        self.condition_linear = nn.Linear(width, hidden_dim, bias=False)
        if self.learn_ref_frame:
            self.condition_linear_ref = nn.Linear(width, hidden_dim, bias=False)

    def embed_conditions(self, conditions: Tensor | None, batch: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What is added to the first layer's result for the conditions [graphs, C], for a network in `dtype`: [N, H].

        None where the network is told none.
        """
        return self._embedded_conditions("condition_linear", conditions, batch, dtype)

    def _embedded_conditions(
        self, layer: str, conditions: Tensor | None, batch: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        conditions = self._check_conditions(conditions, batch)
        if conditions is None or self.conditions is None:
            return None
        wide = torch.promote_types(dtype, torch.float32)
        scaled = self.conditions.scaled(conditions.to(wide))
        psi = sinusoid(scaled.flatten(), self.time_emb_dim, dtype).unflatten(0, scaled.shape).flatten(1)  # [G, C E]
        linear = cast(nn.Linear, getattr(self, layer))
        told = part_of_layer(psi, linear.weight, None, self.precision) if is_plain(linear) else linear(psi)
        return told if batch is None else take_rows(told, batch)

    def _told(self, z: Tensor, layer: str, conditions: Tensor | None, batch: Tensor | None) -> Tensor:
        """z [N, T, H] with what the conditions add."""
        told = self._embedded_conditions(layer, conditions, batch, z.dtype)
        return z if told is None else z + told[:, None].to(z.dtype)

    def _check_conditions(self, conditions: Tensor | None, batch: Tensor | None) -> Tensor | None:
        """The conditions, which are there where the network is told any, and only there."""
        if self.conditions is None:
            if conditions is not None:
                raise ValueError("EGTN: conditions must be None for a network that is told none")
            return None
        names = self.conditions.names
        if conditions is None:
            raise ValueError(f"EGTN: conditions [graphs, {len(names)}] must be given, of {', '.join(names)}; got none")
        conditions = check_tensor("EGTN", "conditions", conditions, ("graphs", len(names)), integer=False)
        check_same_device("EGTN", **{"the network": like(self)}, conditions=conditions)
        if reads_values(conditions):
            check_finite_conditions("EGTN", names, conditions)
            expected = 1 if batch is None else num_graphs(batch)
            check_tensor("EGTN", "conditions", conditions, (expected, len(names)))
        return conditions
