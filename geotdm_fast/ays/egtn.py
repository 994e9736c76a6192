"""The baseline without a structure model."""

from typing import Any

from torch import Tensor, nn

from geotdm_fast.ays.given import AUTOREGRESSIVE, COUNTS
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
from geotdm_fast.ays.spatial import ESLayer


class EGTN(Network):
    """Pairs of `geotdm_fast.ays.ESLayer` and `ETLayer`, norms between and behind: not the network of GeoTDM.

        x_out = (y - x) / scale with y the positions behind the layers, of scale x; given positions move too within

    conditioning: as for `EGInterpolator`, or `forward_autoreg`, `unconditional_forward_autoreg`
    Other arguments as for `geotdm_fast.ays.network.Network`. Official constructor and state-dict keys.
    """

    conditionings = COUNTS | AUTOREGRESSIVE

    def __init__(
        self,
        n_layers: int,
        node_dim: int,
        ft_dim: int,
        edge_dim: int,
        hidden_dim: int,
        time_emb_dim: int,
        act_fn: str,
        scale: float = 1,
        conditioning: str = "none",
        pre_norm: bool = False,
        **unused: Any,
    ):
        super().__init__(n_layers, time_emb_dim, act_fn, scale, conditioning, unused)
        self.s_modules, self.t_modules = nn.ModuleList(), nn.ModuleList()
        self.norm1, self.norm2 = nn.ModuleList(), nn.ModuleList()
        self.input_linear, self.embedding = embeddings(node_dim, ft_dim, edge_dim, hidden_dim, time_emb_dim)
        for i in range(n_layers):
            self.s_modules.extend(spatial_layers(1, hidden_dim, edge_dim, pre_norm, ESLayer))
            self.t_modules.append(temporal_layer(hidden_dim, time_emb_dim))
            self.norm1.extend(layer_norms(1, hidden_dim))
            if i < n_layers - 1:
                self.norm2.extend(layer_norms(1, hidden_dim))

    def _denoise(self, x: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        y = call.given.start(x)
        y = y if self.scale == 1 else y * self.scale
        for i in range(self.n_layers):
            y, z = run_spatial(self.s_modules[i], y, z, call)
            y, z = run_temporal(self.t_modules[i], y, self.norm1[i](z))
            if i < self.n_layers - 1:
                z = self.norm2[i](z)
        x_out = call.given.noisy(y) - x
        return x_out if self.scale == 1 else x_out / self.scale, call.given.noisy(z)
