"""The baseline without a structure model."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.ays.given import AUTOREGRESSIVE, COUNTS, Given
from geotdm_fast.ays.network import Network, embeddings, layer_norms, spatial_layers, temporal_layer
from geotdm_fast.ays.prepared import Batch, CalledNorm, Norm, displacement, norm_of, normed, temporal
from geotdm_fast.ays.spatial import ESLayer
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal


class PreparedPair(NamedTuple):
    """A spatial and a temporal layer of `EGTN`, with the norms behind them; the last pair has one."""

    spatial: PreparedSpatial
    norm1: Norm | CalledNorm
    temporal: PreparedTemporal
    norm2: Norm | CalledNorm | None

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """y [N, T, 3], z [N, T, H] to the same shapes."""
        y, z = self.spatial.run(y, z)
        y, z = self.temporal.run(y, self.norm1.run(z))
        return y, normed(self.norm2, z)


class PreparedEGTN(NamedTuple):
    """`EGTN` on a batch."""

    pairs: tuple[PreparedPair, ...]
    given: Given
    scale: float
    num_frames: int

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `geotdm_fast.nn.prepared.PreparedNetwork.denoise`."""
        start = x.transpose(1, 2)
        y = self.given.start(start)
        y = y if self.scale == 1 else y * self.scale
        for pair in self.pairs:
            y, z = pair.run(y, z)
        return displacement(self.given.noisy(y), start, self.scale), self.given.noisy(z)


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

    def prepare(self, call: Batch) -> PreparedEGTN:
        pairs = tuple(
            PreparedPair(
                call.spatial(self.s_modules[i], of_all=True),
                norm_of(self.norm1[i]),
                temporal(self.t_modules[i]),
                norm_of(self.norm2[i]) if i < self.n_layers - 1 else None,
            )
            for i in range(self.n_layers)
        )
        return PreparedEGTN(pairs, call.given, self.scale, call.given.num_frames)
