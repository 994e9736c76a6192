"""The interpolator of Align Your Structures in plain PyTorch, in the structure of its official code.

Tensors are [N, C, T], noisy frames are picked, features of edges are repeated for every frame, and the inputs
of the edge MLP are written out. It loads the state dict of `geotdm_fast.ays.EGInterpolator`, takes the same call and
returns the same results.
"""

import torch
from torch import Tensor, nn

from bench.peers.baselines import EfficientTemporal, PlainSpatial, to_frames, to_rows
from geotdm_fast.reference import sinusoid


class PlainVectors(nn.Module):
    """A bias-free map of vectors [R, V, 3], under the official name."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.vector_proj = nn.Linear(inputs, outputs, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.vector_proj(vectors.mT).mT


class PlainGVP(nn.Module):
    """A perceptron of features [R, H] and vectors [R, V, 3]."""

    def __init__(self, inputs: int, outputs: int, width: int, is_active: bool):
        super().__init__()
        inner = max(inputs, outputs)
        self.Wh, self.Wu = PlainVectors(inputs, inner), PlainVectors(inner, outputs)
        act = nn.SiLU() if is_active else nn.Identity()
        self.to_feats_out = nn.Sequential(nn.Linear(width + inner, width), act)
        self.scalar_to_vector_gates = nn.Linear(width, outputs)

    def forward(self, features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.Wh(vectors)
        out = self.to_feats_out(torch.cat([features, inner.norm(dim=-1)], dim=-1))
        return out, self.scalar_to_vector_gates(out).sigmoid()[..., None] * self.Wu(inner)


class PlainStructureLayer(PlainSpatial):
    """EGCL, and the gated feed-forward behind it."""

    def __init__(self, hidden_dim: int, edge_dim: int, pre_norm: bool):
        super().__init__(hidden_dim, edge_dim, pre_norm)
        self.gv_ff = nn.ModuleDict(
            {"gvp1": PlainGVP(1, 4, hidden_dim, True), "gvp2": PlainGVP(4, 1, hidden_dim, False)}
        )

    def forward(self, x: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [N, 3, T], h [N, H, T], edge_attr [E, A, T]."""
        moved, k = super().forward(x, h, edge_index, edge_attr)
        rows, shift = to_rows(k), to_rows(moved - x)[:, None]
        q, w = self.gv_ff["gvp2"](*self.gv_ff["gvp1"](rows, shift))
        return x + to_frames(w[:, 0], x.shape[-1]), to_frames(rows + q, x.shape[-1])


class PlainEmbedding(nn.Module):
    """Tables of atoms and edges, under the official names."""

    def __init__(self, node_dim: int, ft_dim: int, edge_dim: int):
        super().__init__()
        self.atom_embedding, self.edge_embedding = nn.Embedding(100, node_dim), nn.Embedding(50, edge_dim)
        self.input_linear = nn.Linear(node_dim + ft_dim, node_dim)


class PlainInterpolator(nn.Module):
    """`geotdm_fast.ays.EGInterpolator` with use_double, use_extra and use_norm; its temporal layers have one table."""

    def __init__(
        self, n_layers: int, node_dim: int, ft_dim: int, edge_dim: int, hidden_dim: int, time_emb_dim: int, **unused
    ):
        super().__init__()
        self.n_layers, self.time_emb_dim = n_layers, time_emb_dim
        layers = lambda make, count=n_layers: nn.ModuleList([make() for _ in range(count)])
        spatial = lambda: PlainStructureLayer(hidden_dim, edge_dim, False)
        temporal = lambda: EfficientTemporal(hidden_dim, time_emb_dim)
        norm = lambda: nn.LayerNorm(hidden_dim)
        self.input_linear = nn.Linear(node_dim + time_emb_dim, hidden_dim)
        self.embedding = PlainEmbedding(node_dim, ft_dim, edge_dim)
        self.cond_embedding = nn.Embedding(2, hidden_dim)
        self.s_modules, self.s_modules_new = layers(spatial), layers(spatial)
        self.t_modules_2, self.t_modules = layers(temporal), layers(temporal)
        self.norm1, self.norm2, self.norm3 = layers(norm), layers(norm), layers(norm, n_layers - 1)
        for name, count in (("t_2", n_layers), ("s", n_layers), ("t", n_layers)):
            for kind in "xh":
                number = count - 1 if (name, kind) == ("t", "h") else count
                shares = nn.ParameterList([nn.Parameter(torch.zeros(())) for _ in range(number)])
                setattr(self, f"alpha_{kind}_{name}", shares)

    def forward(
        self,
        diffusion_t: Tensor,
        x: Tensor,
        h: Tensor,
        f: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        batch: Tensor,
        cond_mask: Tensor,
        original_frames: Tensor,
        noisy: Tensor | slice,
    ) -> tuple[Tensor, Tensor]:
        """As the network's forward; noisy: the noisy frames, which a compiler cannot read from a mask.

        They are numbers [M] int64, as the official code picks frames, or a slice, which the compiled peer gets: with
        numbers, the backward that torch 2.13 compiles for the CPU ended in a corrupted heap (2 layers, T = 251).
        """
        start, num_frames = x, len(cond_mask)
        atoms = self.embedding.input_linear(torch.cat([self.embedding.atom_embedding(h), f], dim=-1))
        rows = torch.cat([atoms, sinusoid(diffusion_t, self.time_emb_dim, x.dtype)], dim=-1)
        z = self.input_linear(rows[:, None].repeat(1, num_frames, 1)).transpose(1, 2)  # [N, H, T]
        edges = self.embedding.edge_embedding(edge_attr)[..., None].repeat(1, 1, num_frames)
        y = _put(original_frames, noisy, x)
        for i in range(self.n_layers):
            y_s, k = self.s_modules[i](y[:, :, noisy], z[:, :, noisy], edge_index, edges[:, :, noisy])
            y, z = _put(y, noisy, y_s), _put(z, noisy, k)
            if i == 0:
                z = z + self.cond_embedding(cond_mask.long()).T
            for name, layer, norm in (
                ("t_2", self.t_modules_2[i], self.norm1[i]),
                ("s", self.s_modules_new[i], self.norm2[i]),
                ("t", self.t_modules[i], self.norm3[i] if i < self.n_layers - 1 else None),
            ):
                moved, z = layer(y, z, edge_index, edges) if name == "s" else layer(y, z)
                s = torch.sigmoid(getattr(self, f"alpha_x_{name}")[i])
                y = _put(y, noisy, s * y_s + (1 - s) * moved[:, :, noisy])
                if norm is not None:
                    z = norm(z.transpose(1, 2)).transpose(1, 2)
                    r = torch.sigmoid(getattr(self, f"alpha_h_{name}")[i])
                    z = _put(z, noisy, r * k + (1 - r) * z[:, :, noisy])
        return y[:, :, noisy] - start, k


def _put(value: Tensor, noisy: Tensor | slice, part: Tensor) -> Tensor:
    if isinstance(noisy, slice):
        return torch.cat([value[:, :, : noisy.start], part, value[:, :, noisy.stop :]], dim=2)
    return value.index_copy(2, noisy, part)
