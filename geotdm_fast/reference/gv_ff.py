"""The gated feed-forward on a scalar and a vector of Align Your Structures: readable truth in any dtype."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from geotdm_fast.reference.linear import linear


class GVFFParams(NamedTuple):
    """Weights [out, in] and biases [out] of two geometric vector perceptrons (Jing et al. 2021); V vectors between."""

    vector_w1: Tensor  # W_h [V, 1]
    mix_w1: Tensor  # W_u [V, V]
    feature_w1: Tensor  # W [H, H + V]: columns for k and for the lengths
    feature_b1: Tensor
    gate_w1: Tensor  # G [V, H]
    gate_b1: Tensor
    vector_w2: Tensor  # W_h' [V, V]
    mix_w2: Tensor  # W_u' [1, V]
    feature_w2: Tensor  # W' [H, H + V]
    feature_b2: Tensor
    gate_w2: Tensor  # G' [1, H]
    gate_b2: Tensor


def gv_ff(k: Tensor, u: Tensor, params: GVFFParams, *, precision: str = "fp32") -> tuple[Tensor, Tensor]:
    """Features and a vector, which is turned as its input is.

        U = W_h u,    p = silu(W [k, |U_1|, .., |U_V|] + b),     V = sigmoid(G p + d) * (W_u U)
        U' = W_h' V,  q = W' [p, |U'_1|, .., |U'_V|] + b',       w = sigmoid(G' q + d') (W_u' U')

    k: [..., H] floating; u: [..., D] the same dtype
    precision: of the products with k and p, see `geotdm_fast.reference.linear`; those of vectors and gates stay as are
    Returns q [..., H] and w [..., D]. The gradient of a length is 0 where the vector is. Deterministic.
    Source: arXiv 2604.03911 and its public code.
    """
    p, vectors = gated_perceptron(k, u.unsqueeze(-2), params[:6], True, precision)
    q, w = gated_perceptron(p, vectors, params[6:], False, precision)
    return q, w.squeeze(-2)


def gated_perceptron(
    features: Tensor, vectors: Tensor, params: tuple[Tensor, ...], is_active: bool, precision: str
) -> tuple[Tensor, Tensor]:
    """Features [..., H] and vectors [..., V, D] to as many features, and to the vectors of `mix`."""
    vector_w, mix_w, feature_w, feature_b, gate_w, gate_b = params
    inner = torch.einsum("ov,...vd->...od", vector_w, vectors)
    length = torch.linalg.vector_norm(inner, dim=-1)
    width = features.shape[-1]
    out = linear(features, feature_w[:, :width], feature_b, precision) + length @ feature_w[:, width:].T
    out = silu(out) if is_active else out
    gate = torch.sigmoid(linear(out, gate_w, gate_b))
    return out, gate.unsqueeze(-1) * torch.einsum("ov,...vd->...od", mix_w, inner)
