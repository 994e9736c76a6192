"""The structure model first, then blocks of temporal, spatial and temporal layers."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from geotdm_fast.ays.given import COUNTS, Given
from geotdm_fast.ays.network import Network, embeddings, layer_norms, spatial_layers, temporal_layer
from geotdm_fast.ays.prepared import (
    Batch,
    CalledNorm,
    Norm,
    Turning,
    displacement,
    embedded,
    norm_of,
    normed,
    temporal,
    turned,
)
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal


class PreparedTST(NamedTuple):
    """A block of temporal, spatial and temporal layers, and the norms behind them; None: no norm."""

    temporal_1: PreparedTemporal
    spatial: PreparedSpatial
    temporal_2: PreparedTemporal
    norms: tuple[Norm | CalledNorm | None, Norm | CalledNorm | None, Norm | CalledNorm | None]

    def run(self, y: Tensor, z: Tensor, given: Given, turning: Turning | None) -> tuple[Tensor, Tensor]:
        """Positions y [N, T, 3] and features z [N, T, H] to the same shapes."""
        norm_t1, norm_s, norm_t2 = self.norms
        y, z = self._over_time(self.temporal_1, y, z, given, turning)
        z = normed(norm_t1, z)
        moved, r = self.spatial.run(given.noisy(y), given.noisy(z))
        y, z = turned(given.put(y, moved), turning), given.put(z, given.noisy(z) + r)
        z = normed(norm_s, z)
        y, z = self._over_time(self.temporal_2, y, z, given, turning)
        return y, normed(norm_t2, z)

    def _over_time(
        self, layer: PreparedTemporal, y: Tensor, z: Tensor, given: Given, turning: Turning | None
    ) -> tuple[Tensor, Tensor]:
        moved, r = layer.run(y, z)
        return turned(given.put(y, given.noisy(moved)), turning), z + r


class PreparedStack(NamedTuple):
    """`EGStack` on a batch.

    structure: the structure layers; told: [T, H] - added behind the first of them; turning: None: nothing is turned
    """

    structure: tuple[PreparedSpatial, ...]
    told: Tensor
    blocks: tuple[PreparedTST, ...]
    given: Given
    turning: Turning | None
    scale: float
    num_frames: int

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `geotdm_fast.nn.prepared.PreparedNetwork.denoise`."""
        given, turning, start = self.given, self.turning, x.transpose(1, 2)
        y = turned(given.start(start), turning)
        for i, structure in enumerate(self.structure):
            moved, k = structure.run(given.noisy(y), given.noisy(z))
            y, z = turned(given.put(y, moved), turning), given.put(z, k)
            if i == 0:
                z = z + self.told
        for block in self.blocks:
            y, z = block.run(y, z, given, turning)
        return displacement(given.noisy(y), start, self.scale, turning), given.noisy(z)


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

    def prepare(self, call: Batch) -> PreparedStack:
        blocks = tuple(
            PreparedTST(
                temporal(block["temporal_1"]),
                call.spatial(block["spatial"], of_all=False),
                temporal(block["temporal_2"]),
                (self._norm(i, "norm_t1"), self._norm(i, "norm_s"), self._norm(i, "norm_t2")),
            )
            for i, block in enumerate(cast(Iterable[nn.ModuleDict], self.tst_blocks))
        )
        return PreparedStack(
            tuple(call.spatial(layer, of_all=False) for layer in self.s_modules),
            embedded(self.cond_embedding, call.given, call.x.device),
            blocks,
            call.given,
            call.turning if self.use_kabsch else None,
            self.scale,
            call.given.num_frames,
        )

    def _norm(self, i: int, name: str) -> Norm | CalledNorm | None:
        if not self.use_norm:
            return None
        norms = cast(nn.ModuleDict, self.norms[i])
        return norm_of(norms[name]) if name in norms else None
