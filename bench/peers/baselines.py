"""The peers: plain PyTorch transcriptions of the network's equations in the structures that others use.

`OfficialEGTN` has the structure of the official implementation: [N, C, T] tensors, concatenated edge inputs, relative
embeddings expanded to [N, H, T, T]. `EfficientEGTN` differs in the temporal layer alone: it has one [2 T - 1, H] table
and nothing of size [N, H, T, T]. Both load the state dict of `geotdm_fast.EGTN`, take its arguments and return its
results.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax
from torch.utils.checkpoint import checkpoint

from geotdm_fast.conditioning import frames_of
from geotdm_fast.reference import sinusoid


def to_rows(z: Tensor) -> Tensor:
    """[M, C, T] to [M T, C]."""
    return z.transpose(1, 2).reshape(-1, z.shape[1])


def to_frames(rows: Tensor, num_frames: int) -> Tensor:
    """[M T, C] to [M, C, T]."""
    return rows.view(-1, num_frames, rows.shape[-1]).transpose(1, 2)


class PlainMLP(nn.Module):
    """W2 silu(W1 z + b1) + b2, followed by SiLU if `last_act`; z [..., I]."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, last_act: bool = False):
        super().__init__()
        layers = [nn.Linear(in_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, out_dim)]
        self.actions = nn.Sequential(*layers, *([nn.SiLU()] if last_act else []))

    def forward(self, z: Tensor) -> Tensor:
        return self.actions(z)


class PlainSpatial(nn.Module):
    """The EGCL of `geotdm_fast.reference.egcl` with [h_i, h_j, d_ij, a_ij] written out for every edge and frame.

    shift: [E, D] - what the images of senders are away from them, in periodic boxes; or None
    """

    shift: Tensor | None = None

    def __init__(self, hidden_dim: int, edge_dim: int, pre_norm: bool):
        super().__init__()
        self.edge_mlp = PlainMLP(2 * hidden_dim + 1 + edge_dim, hidden_dim, hidden_dim, last_act=True)
        self.coord_mlp = PlainMLP(hidden_dim, hidden_dim, 1)
        self.node_mlp = PlainMLP(2 * hidden_dim, hidden_dim, hidden_dim)
        self.pre_norm = pre_norm

    def forward(self, x: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T], edge_attr [E, A, T] or None."""
        row, col = edge_index
        num_nodes, _, num_frames = x.shape
        r = x[row] - x[col]  # [E, D, T]
        r = r if self.shift is None else r - self.shift[..., None]
        square = (r * r).sum(1, keepdim=True)  # [E, 1, T]
        distance = torch.linalg.vector_norm(r, dim=1, keepdim=True) if self.pre_norm else square
        inputs = [h[row], h[col], distance] + ([] if edge_attr is None else [edge_attr])
        m = self.edge_mlp(to_rows(torch.cat(inputs, dim=1)))  # [E T, H]
        g = self.coord_mlp(m)
        if not self.pre_norm:
            g = g / ((to_rows(square) + 1e-8).sqrt() + 1)

        messages = to_frames(m, num_frames)  # [E, H, T]
        m_sum = messages.new_zeros(num_nodes, *messages.shape[1:]).index_add(0, row, messages)
        h_out = to_frames(self.node_mlp(torch.cat([to_rows(h), to_rows(m_sum)], dim=1)), num_frames)

        shift = to_frames(g, num_frames) * r  # [E, D, T]
        degree = shift.new_zeros(num_nodes).index_add(0, row, shift.new_ones(len(row)))
        total = torch.zeros_like(x, dtype=shift.dtype).index_add(0, row, shift)
        return x + total / degree.clamp(min=1)[:, None, None], h_out


class PlainTemporal(nn.Module):
    """What both temporal layers share: parameters, and q, k, v, g of every frame."""

    def __init__(self, hidden_dim: int, time_emb_dim: int):
        super().__init__()
        self.q_mlp = PlainMLP(hidden_dim, hidden_dim, hidden_dim)
        self.k_mlp = PlainMLP(hidden_dim, hidden_dim, hidden_dim)
        self.v_mlp = PlainMLP(hidden_dim, hidden_dim, hidden_dim)
        self.x_mlp = PlainMLP(hidden_dim, hidden_dim, 1)
        self.time_emb = nn.Linear(time_emb_dim, hidden_dim)

    def psi(self, tau: Tensor) -> Tensor:
        """[M] differences of frames to [M, H]."""
        return self.time_emb(sinusoid(tau, self.time_emb.in_features, self.time_emb.weight.dtype))

    def projections(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """h [N, H, T] to q, k, v [N, H, T] and g [N, 1, T]."""
        rows, num_frames = to_rows(h), h.shape[-1]
        q, k, v = self.q_mlp(rows), self.k_mlp(rows), self.v_mlp(rows)
        q, k, v, g = (to_frames(z, num_frames) for z in (q, k, v, self.x_mlp(v)))
        return q, k, v, g

    @staticmethod
    def moved(x: Tensor, alpha: Tensor, g: Tensor) -> Tensor:
        """x_t + sum_s alpha_ts g_s (x_t - x_s), the differences written out as [N, D, T, T]."""
        difference = x[..., :, None] - x[..., None, :]
        return x + (alpha[:, None] * difference * g[:, :, None, :]).sum(-1)


class OfficialTemporal(PlainTemporal):
    """Keys and values plus psi(t - s) for every pair of frames of every node: [N, H, T, T], three times."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T]."""
        num_nodes, _, num_frames = x.shape
        frame = torch.arange(num_frames, device=x.device)
        lag = frame[:, None] - frame[None, :]
        psi = self.psi(lag.reshape(-1)).view(num_frames, num_frames, -1)
        psi = psi.permute(2, 0, 1)[None].repeat(num_nodes, 1, 1, 1)  # [N, H, T, S]
        q, k, v, g = self.projections(h)
        keys = k[:, :, None].repeat(1, 1, num_frames, 1) + psi
        values = v[:, :, None].repeat(1, 1, num_frames, 1) + psi
        alpha = softmax(torch.einsum("nht,nhts->nts", q, keys), dim=-1)
        return self.moved(x, alpha, g), h + torch.einsum("nts,nhts->nht", alpha, values)


class EfficientTemporal(PlainTemporal):
    """The same with one table of psi: q . psi is gathered, sum_s alpha psi uses [T, T, H] shared by all nodes."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, D, T], h [N, H, T]."""
        num_nodes, _, num_frames = x.shape
        frame = torch.arange(num_frames, device=x.device)
        table = self.psi(torch.arange(1 - num_frames, num_frames, device=x.device))  # [2 T - 1, H]
        lag = frame[:, None] - frame[None, :] + num_frames - 1  # the row of the table for (t, s)
        q, k, v, g = self.projections(h)
        q = q.transpose(1, 2)  # [N, T, H]
        logits = q @ k + (q @ table.T).gather(2, lag.expand(num_nodes, -1, -1))  # [N, T, S]
        alpha = softmax(logits, dim=-1)
        # Rounded as the values are: under autocast the softmax returns float32.
        weight = alpha.to(v.dtype)
        sums = torch.einsum("nts,nhs->nht", weight, v) + torch.einsum("nts,tsh->nht", weight, table[lag])
        return self.moved(x, alpha, g), h + sums


class Placement(NamedTuple):
    """Given and noisy frames: their numbers, and where each frame of [given, noisy] belongs."""

    given: Tensor
    noisy: Tensor
    place: Tensor


class PlainEGTN(nn.Module):
    """The network of `geotdm_fast.EGTN` around a spatial and a temporal layer; constructor and arguments are its own.

    recompute: keep nothing of a layer but its inputs and compute it again in backward, for gradients in little memory
    """

    spatial: type[nn.Module] = PlainSpatial
    temporal: type[PlainTemporal]

    def __init__(
        self,
        n_layers: int,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        time_emb_dim: int,
        act_fn: str,
        learn_ref_frame: bool,
        n_layers_ref: int,
        num_w: int,
        scale: float = 1,
        pre_norm: bool = False,
        recompute: bool = False,
    ):
        super().__init__()
        if act_fn != "silu":
            raise ValueError(f"{type(self).__name__}: act_fn must be 'silu', got {act_fn!r}")

        def spatial(count):
            return nn.ModuleList(self.spatial(hidden_dim, edge_dim, pre_norm) for _ in range(count))

        def temporal(count):
            return nn.ModuleList(self.temporal(hidden_dim, time_emb_dim) for _ in range(count))

        self.time_emb_dim = time_emb_dim
        self.learn_ref_frame = learn_ref_frame
        self.scale = scale
        self.recompute = recompute
        self.input_linear = nn.Linear(node_dim + time_emb_dim, hidden_dim)
        self.s_modules, self.t_modules = spatial(n_layers), temporal(n_layers)
        if learn_ref_frame:
            self.input_linear_ref = nn.Linear(node_dim, hidden_dim)
            self.s_modules_ref, self.t_modules_ref = spatial(n_layers_ref), temporal(n_layers_ref)
            self.ws = nn.Parameter(torch.ones(num_w))
        self._denoise = self.denoise
        self._prior_mean = self.prior_mean

    def in_boxes(self, shift: Tensor) -> "PlainEGTN":
        """The same module for edges whose senders are images, away from them by shift [E, D]; for a scale of 1."""
        for module in self.modules():
            if isinstance(module, PlainSpatial):
                module.shift = shift
        return self

    def compiled(self, backend: str = "inductor") -> "PlainEGTN":
        """The same module with all but the reading of the mask under `torch.compile`, one graph for each network."""
        graph = {"fullgraph": True, "dynamic": False, "backend": backend}
        self._denoise = torch.compile(self.denoise, **graph)
        self._prior_mean = torch.compile(self.prior_mean, **graph)
        return self

    def forward(self, diffusion_t, x, h, edge_index, edge_attr, batch, **model_kwargs):
        """As `geotdm_fast.EGTN.forward`; edge_attr is [E, A] or None, and a prior's given frames have no gaps."""
        mask = model_kwargs.get("cond_mask")
        if mask is None:
            return self._denoise(diffusion_t, x, h, edge_index, edge_attr, None, None)
        frames = frames_of(mask)
        x_given = model_kwargs["x_given"].index_select(2, frames.given_index)
        if model_kwargs.get("compute_ref", False):
            if frames.given[-1] - frames.given[0] + 1 != len(frames.given):
                raise ValueError(f"{type(self).__name__}: the given frames must have no gaps, got {frames.given}")
            return self._prior_mean(x_given, h if h.dim() == 2 else h[..., frames.given_index], edge_index, edge_attr)
        place = torch.cat([frames.given_index, frames.noisy_index]).argsort()
        placement = Placement(frames.given_index, frames.noisy_index, place)
        return self._denoise(diffusion_t, x, h, edge_index, edge_attr, x_given, placement)

    def denoise(
        self,
        diffusion_t: Tensor,
        x: Tensor,
        h: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None,
        x_given: Tensor | None,
        placement: Placement | None,
    ) -> tuple[Tensor, Tensor]:
        """x [N, D, T_noisy] and the given frames x_given [N, D, T_given] to x_out and h_out."""
        y = x if placement is None else torch.cat([x_given, x], dim=2)[..., placement.place]
        y = y * self.scale
        num_frames = y.shape[-1]
        step = sinusoid(diffusion_t, self.time_emb_dim, y.dtype)
        h = h[..., None].repeat(1, 1, num_frames) if h.dim() == 2 else h
        z = torch.cat([h, step[..., None].repeat(1, 1, num_frames)], dim=1)
        z = to_frames(self.input_linear(to_rows(z)), num_frames)
        y, z = self.layers(self.s_modules, self.t_modules, y, z, edge_index, edge_attr)
        if placement is not None:
            y, z = y[..., placement.noisy], z[..., placement.noisy]
        return (y - x) / self.scale, z

    def prior_mean(self, x_given: Tensor, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> Tensor:
        """The given frames x_given [N, D, T_given] to x_ref [N, D, num_w]."""
        y = x_given * self.scale
        num_frames = y.shape[-1]
        h = h[..., None].repeat(1, 1, num_frames) if h.dim() == 2 else h
        z = to_frames(self.input_linear_ref(to_rows(h.to(y.dtype))), num_frames)
        y, z = self.layers(self.s_modules_ref, self.t_modules_ref, y, z, edge_index, edge_attr)
        weight = z.mean(1)[:, :-1, None] * self.ws  # [N, T_given - 1, num_w]
        weight = torch.cat([weight, 1 - weight.sum(1, keepdim=True)], dim=1)
        return (y[..., None] * weight[:, None]).sum(2) / self.scale

    def layers(self, spatial, temporal, y: Tensor, z: Tensor, edge_index: Tensor, edge_attr: Tensor | None):
        """y [N, D, T] and z [N, H, T] through all layers."""
        if edge_attr is not None:
            edge_attr = edge_attr[..., None].repeat(1, 1, y.shape[-1])
        for s_layer, t_layer in zip(spatial, temporal, strict=True):
            if self.recompute:
                y, z = checkpoint(s_layer, y, z, edge_index, edge_attr, use_reentrant=False)
                y, z = checkpoint(t_layer, y, z, use_reentrant=False)
            else:
                y, z = t_layer(*s_layer(y, z, edge_index, edge_attr))
        return y, z


class OfficialEGTN(PlainEGTN):
    """The structure of the official implementation."""

    temporal = OfficialTemporal


class EfficientEGTN(PlainEGTN):
    """The memory-efficient structure (public prior art: the layer of `ani11452/Align_Your_Structures`)."""

    temporal = EfficientTemporal
