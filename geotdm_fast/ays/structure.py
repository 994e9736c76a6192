"""The diffusion model of single structures."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.ays.network import Network, embeddings, spatial_layers
from geotdm_fast.ays.prepared import Batch, displacement
from geotdm_fast.nn.layers import PreparedSpatial


class PreparedStructure(NamedTuple):
    """`BasicES` on a batch."""

    layers: tuple[PreparedSpatial, ...]
    scale: float
    num_frames: int

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `geotdm_fast.nn.prepared.PreparedNetwork.denoise`."""
        start = x.transpose(1, 2)
        y = start if self.scale == 1 else start * self.scale
        for layer in self.layers:
            y, z = layer.run(y, z)
        return displacement(y, start, self.scale), z


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

    def prepare(self, call: Batch) -> PreparedStructure:
        layers = tuple(call.spatial(layer, of_all=True) for layer in self.s_modules)
        return PreparedStructure(layers, self.scale, call.given.num_frames)
