"""The diffusion model of single structures."""

from typing import Any

from torch import Tensor, nn

from geotdm_fast.ays.network import Batch, Network, embeddings, run_spatial, spatial_layers


class BasicES(Network):
    """The structure model: spatial layers alone, each frame for itself (trained with T = 1).

        x_out = (y - x) / scale with y the positions behind the layers, of scale x

    Arguments as for `geotdm_fast.ays.network.Network`; all frames are noisy.
    """

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
        pre_norm: bool = False,
        **unused: Any,
    ):
        super().__init__(n_layers, time_emb_dim, act_fn, scale, "none", unused)
        self.s_modules = nn.ModuleList()
        self.input_linear, self.embedding = embeddings(node_dim, ft_dim, edge_dim, hidden_dim, time_emb_dim)
        self.s_modules.extend(spatial_layers(n_layers, hidden_dim, edge_dim, pre_norm))

    def _denoise(self, x: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        y = x if self.scale == 1 else x * self.scale
        for layer in self.s_modules:
            y, z = run_spatial(layer, y, z, call)
        x_out = y - x
        return x_out if self.scale == 1 else x_out / self.scale, z
