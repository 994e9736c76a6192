"""The structure model first, then blocks of temporal, spatial and temporal layers."""

from typing import Any, cast

from torch import Tensor, nn

from geotdm_fast.ays.alignment import align_frames, align_to_first_frame
from geotdm_fast.ays.given import COUNTS
from geotdm_fast.ays.network import (
    Batch,
    Network,
    embeddings,
    layer_norms,
    run_spatial,
    run_temporal,
    spatial_layers,
    temporal_layer,
)


class EGStack(Network):
    """All structure layers on the noisy frames, then as many blocks of new layers, without mixing.

        (x', r) = T(x, h), h = norm(h + r);  (x', r) = S(x_F, h_F), h_F = h_F + r, h = norm(h);  T again

    r holds h already, so h counts twice. `cond_embedding` is added behind the first structure layer, and the second one
    sees it. use_norm: with norms; the last one of the last block is missing
    use_kabsch: frames are turned onto frame 0 behind every layer, at the end onto x.
    Other arguments as for `geotdm_fast.ays.network.Network`. Official constructor and state-dict keys.
    """

    conditionings = COUNTS

    def __init__(
        self,
        n_layers: int,
        node_dim: int,
        ft_dim: int,
        edge_dim: int,
        hidden_dim: int,
        time_emb_dim: int,
        act_fn: str,
        scale: float = 1.0,
        pre_norm: bool = False,
        conditioning: str = "none",
        use_kabsch: bool = False,
        use_norm: bool = False,
        **unused: Any,
    ):
        super().__init__(n_layers, time_emb_dim, act_fn, scale, conditioning, unused)
        self.use_kabsch, self.use_norm = use_kabsch, use_norm
        self.input_linear, self.embedding = embeddings(node_dim, ft_dim, edge_dim, hidden_dim, time_emb_dim)
        self.cond_embedding = nn.Embedding(1 if conditioning == "none" else 2, hidden_dim)
        self.s_modules = spatial_layers(n_layers, hidden_dim, edge_dim, pre_norm)
        self.tst_blocks = nn.ModuleList()
        if use_norm:
            self.norms = nn.ModuleList()
        for i in range(n_layers):
            block = {
                "temporal_1": temporal_layer(hidden_dim, time_emb_dim),
                "spatial": spatial_layers(1, hidden_dim, edge_dim, pre_norm)[0],
                "temporal_2": temporal_layer(hidden_dim, time_emb_dim),
            }
            self.tst_blocks.append(nn.ModuleDict(block))
            if use_norm:
                names = ("norm_t1", "norm_s", "norm_t2")[: 3 if i < n_layers - 1 else 2]
                norms = layer_norms(len(names), hidden_dim)
                self.norms.append(nn.ModuleDict(dict(zip(names, norms, strict=True))))

    def _denoise(self, x: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        given = call.given
        y = self._turned(given.start(x), call)
        for i, structure in enumerate(self.s_modules):
            moved, k = run_spatial(structure, given.noisy(y), given.noisy(z), call)
            y, z = self._turned(given.put(y, moved), call), given.put(z, k)
            if i == 0:
                z = z + self.cond_embedding(given.flags(z.device))
        for i, block in enumerate(cast("list[nn.ModuleDict]", list(self.tst_blocks))):
            y, z = self._over_time(block["temporal_1"], y, z, call)
            z = self._normed(i, "norm_t1", z)
            moved, r = run_spatial(block["spatial"], given.noisy(y), given.noisy(z), call)
            y, z = self._turned(given.put(y, moved), call), given.put(z, given.noisy(z) + r)
            z = self._normed(i, "norm_s", z)
            y, z = self._over_time(block["temporal_2"], y, z, call)
            z = self._normed(i, "norm_t2", z)
        y = given.noisy(y)
        if self.use_kabsch:
            y = align_frames(y.transpose(1, 2), x.transpose(1, 2), call.batch).transpose(1, 2)
        x_out = y - x
        return x_out if self.scale == 1 else x_out / self.scale, given.noisy(z)

    def _over_time(self, layer: nn.Module, y: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        moved, r = run_temporal(layer, y, z)
        return self._turned(call.given.put(y, call.given.noisy(moved)), call), z + r

    def _normed(self, i: int, name: str, z: Tensor) -> Tensor:
        if not self.use_norm:
            return z
        norms = cast(nn.ModuleDict, self.norms[i])
        return norms[name](z) if name in norms else z

    def _turned(self, y: Tensor, call: Batch) -> Tensor:
        """Every frame turned onto frame 0, where the network does so."""
        if not self.use_kabsch:
            return y
        return align_to_first_frame(y.transpose(1, 2), call.batch).transpose(1, 2)
