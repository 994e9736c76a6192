"""Geometric vector perceptrons: modules with the official names of parameters, for features and vectors together."""

from typing import cast

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.nn.mlp import weight_and_bias
from geotdm_fast.nn.plain import why_not_plain
from geotdm_fast.nn.precision import PrecisionMixin
from geotdm_fast.reference import GVFFParams


class VLinear(nn.Module):
    """A linear map of vectors without bias: [..., V_in, D] to [..., V_out, D]."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        self.vector_proj = nn.Linear(in_dim, out_dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.vector_proj(vectors.transpose(-2, -1)).transpose(-2, -1)


class GVP(nn.Module):
    """A geometric vector perceptron (Jing et al. 2021) whose vectors have gates.

        U = W_h u,    p = act(W [k, |U_1|, ..] + b),    V = sigmoid(G p + d) * (W_u U)

    dim_vectors_in, dim_vectors_out: numbers of vectors; dim_feats_in, dim_feats_out: widths of features
    feats_activation: act; None: none
    """

    def __init__(
        self,
        *,
        dim_vectors_in: int,
        dim_vectors_out: int,
        dim_feats_in: int,
        dim_feats_out: int,
        feats_activation: nn.Module | None = None,
    ):
        super().__init__()
        inner = max(dim_vectors_in, dim_vectors_out)
        self.Wh = VLinear(dim_vectors_in, inner)
        self.Wu = VLinear(inner, dim_vectors_out)
        linear = nn.Linear(dim_feats_in + inner, dim_feats_out)
        self.to_feats_out = nn.Sequential(linear, *([] if feats_activation is None else [feats_activation]))
        self.scalar_to_vector_gates = nn.Linear(dim_feats_out, dim_vectors_out)

    def forward(self, features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Features [..., F] and vectors [..., V, D]."""
        inner = self.Wh(vectors)
        length = torch.linalg.vector_norm(inner, dim=-1)
        out = self.to_feats_out(torch.cat([features, length], dim=-1))
        return out, torch.sigmoid(self.scalar_to_vector_gates(out)).unsqueeze(-1) * self.Wu(inner)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order of one half of `geotdm_fast.reference.GVFFParams`."""
        vectors = (self.Wh.vector_proj.weight, self.Wu.vector_proj.weight)
        features = weight_and_bias(cast(nn.Linear, self.to_feats_out[0]))
        return *vectors, *features, *weight_and_bias(self.scalar_to_vector_gates)


class GV_FF(PrecisionMixin, nn.Module):  # the official name
    """Two geometric vector perceptrons, the first with SiLU; formula in `geotdm_fast.reference.gv_ff`.

    input_dim, hidden_dim, output_dim: widths of features; v_input_dim, v_hidden_dim, v_output_dim: numbers of vectors
    """

    def __init__(
        self, input_dim: int, hidden_dim: int, output_dim: int, v_input_dim: int, v_hidden_dim: int, v_output_dim: int
    ):
        super().__init__()
        self.gvp1 = GVP(
            dim_vectors_in=v_input_dim,
            dim_vectors_out=v_hidden_dim,
            dim_feats_in=input_dim,
            dim_feats_out=hidden_dim,
            feats_activation=nn.SiLU(),
        )
        self.gvp2 = GVP(
            dim_vectors_in=v_hidden_dim,
            dim_vectors_out=v_output_dim,
            dim_feats_in=hidden_dim,
            dim_feats_out=output_dim,
        )
        widths, vectors = {input_dim, hidden_dim, output_dim}, (v_input_dim, v_output_dim)
        self.is_op = len(widths) == 1 and vectors == (1, 1)

    def forward(self, a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features a [..., F] and vectors x [..., V, D] to features and vectors."""
        if self.is_op and why_not_plain(self) is None:
            q, w = ops.gv_ff(a, x.squeeze(-2), self.params, precision=self.precision)
            return q, w.unsqueeze(-2)
        return self.gvp2(*self.gvp1(a, x))

    @property
    def params(self) -> GVFFParams:
        """The parameters as they are now, for `geotdm_fast.ops.gv_ff`: where one vector comes in and one goes out."""
        return GVFFParams(*self.gvp1.tensors, *self.gvp2.tensors)
