"""The interpolator: a frozen structure model, and new layers around it that join its frames to a trajectory."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.ays.given import COUNTS, Given
from geotdm_fast.ays.mixing import mixed, normed_and_mixed
from geotdm_fast.ays.network import (
    Network,
    alphas,
    embeddings,
    last_temporal_layer,
    layer_norms,
    spatial_layers,
    temporal_layer,
)
from geotdm_fast.ays.prepared import (
    Batch,
    CalledNorm,
    Norm,
    Turning,
    displacement,
    embedded,
    norm_of,
    run_block,
    temporal,
    turned,
)
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal


class Update(NamedTuple):
    """A new layer of a block, and how its result is mixed with the structure layer's.

    norm: of its features, or None; x_alpha, h_alpha: shares of positions and features before the sigmoid, None: a half
    keeps_h: the structure layer's features stay as they are
    """

    layer: PreparedSpatial | PreparedTemporal
    norm: Norm | CalledNorm | None
    x_alpha: Tensor | None
    h_alpha: Tensor | None
    keeps_h: bool = False


class Block(NamedTuple):
    """A block of `EGInterpolator`.

    structure: S; told: [T, H] - added to the features behind it, in the first block
    updates: by the new layers; none with `set_zero`
    """

    structure: PreparedSpatial
    told: Tensor | None
    updates: tuple[Update, ...]

    def run(self, y: Tensor, z: Tensor, given: Given, turning: Turning | None) -> tuple[Tensor, Tensor, Tensor]:
        """Positions y [N, T, 3], features z [N, T, H] to the same, and [N, M, H], h_out of the last block."""
        y_s, k = self.structure.run(given.noisy(y), given.noisy(z))
        y, z = turned(given.put(y, y_s), turning), given.put(z, k)
        if not self.updates:
            return y, z, k
        if self.told is not None:
            z = z + self.told
        for update in self.updates:
            moved, z = update.layer.run(y, z)
            moved = turned(given.noisy(moved), turning, y_s)
            y = turned(given.put(y, mixed(y_s, moved, update.x_alpha)), turning)
            if update.keeps_h:
                return y, z, k
            z = normed_and_mixed(z, k, update.norm, update.h_alpha, given)
        return y, z, given.noisy(z)


class PreparedInterpolator(NamedTuple):
    """`EGInterpolator` on a batch. turning: None: frames are not turned within the network."""

    blocks: tuple[Block, ...]
    given: Given
    turning: Turning | None
    scale: float
    num_frames: int
    recompute: bool

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `geotdm_fast.nn.prepared.PreparedNetwork.denoise`."""
        given, turning, start = self.given, self.turning, x.transpose(1, 2)
        y, k = turned(given.start(start), turning), z
        for block in self.blocks:
            y, z, k = run_block(self.recompute, block.run, y, z, given, turning)
        return displacement(given.noisy(y), start, self.scale, turning), k


class EGInterpolator(Network):
    """Blocks of a structure layer S, each frame for itself, and new layers T2, S' and T1 on all frames.

        (y, k) = S(x_F, h_F) of the noisy frames F; h_t += cond_embedding[is t given] behind the first one
        for each new layer L with its norm:  (x', h) = norm(L(x, h));
        x_F = s y + (1 - s) x'_F,  h_F = r k + (1 - r) h_F

    with s = sigmoid(alpha_x) and r = sigmoid(alpha_h). Given positions never change. x_out = (x_F - x) / scale, and
    h_out is the last k; positions are not multiplied by scale on entry.

    set_zero: s = r = 1, the structure model on every noisy frame: the new layers are not run
    use_mha: T1 is `ETAttention` with num_heads heads; use_kabsch: frames are turned onto frame 0 within the network
    use_extra: with S'; use_double: with T2; use_norm: with norms; residual: s = r = 1/2 everywhere, no shares
    sigmoid_init: shares start at a half, else at sigmoid(5), almost the structure model
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
        set_zero: bool = False,
        use_mha: bool = True,
        num_heads: int = 8,
        conditioning: str = "none",
        use_kabsch: bool = False,
        use_extra: bool = False,
        use_double: bool = False,
        use_norm: bool = False,
        sigmoid_init: bool = False,
        residual: bool = False,
        **unused: Any,
    ):
        super().__init__(n_layers, time_emb_dim, act_fn, scale, conditioning, unused)
        self.set_zero, self.use_kabsch, self.residual = set_zero, use_kabsch, residual
        self.use_extra, self.use_double, self.use_norm = use_extra, use_double, use_norm
        # Registered as the official code does: its optimisers' states fit.
        self.input_linear, self.embedding = embeddings(node_dim, ft_dim, edge_dim, hidden_dim, time_emb_dim)
        self.cond_embedding = nn.Embedding(1 if conditioning == "none" else 2, hidden_dim)
        self.s_modules = spatial_layers(n_layers, hidden_dim, edge_dim, pre_norm)
        if not residual:
            share = 0.0 if sigmoid_init else 5.0
            self.alpha_h_t, self.alpha_x_t = alphas(n_layers - 1, share), alphas(n_layers, share)
            if use_extra:
                self.alpha_h_s, self.alpha_x_s = alphas(n_layers, share), alphas(n_layers, share)
            if use_double:
                self.alpha_h_t_2, self.alpha_x_t_2 = alphas(n_layers, share), alphas(n_layers, share)
        if use_norm:
            self.norm3 = layer_norms(n_layers - 1, hidden_dim)
        if use_extra:
            self.s_modules_new = nn.ModuleList()
            if use_norm:
                self.norm2 = layer_norms(n_layers, hidden_dim)
        if use_double:
            self.t_modules_2 = nn.ModuleList()
            if use_norm:
                self.norm1 = layer_norms(n_layers, hidden_dim)
        self.t_modules = nn.ModuleList()
        for _ in range(n_layers):
            if use_extra:
                self.s_modules_new.extend(spatial_layers(1, hidden_dim, edge_dim, pre_norm))
            if use_double:
                self.t_modules_2.append(temporal_layer(hidden_dim, time_emb_dim))
            self.t_modules.append(last_temporal_layer(hidden_dim, time_emb_dim, num_heads if use_mha else None))

    def prepare(self, call: Batch) -> PreparedInterpolator:
        blocks = tuple(self._block(i, call) for i in range(self.n_layers))
        turning = call.turning if self.use_kabsch else None
        return PreparedInterpolator(blocks, call.given, turning, self.scale, call.given.num_frames, self.recompute)

    def _block(self, i: int, call: Batch) -> Block:
        structure = call.spatial(self.s_modules[i], of_all=False)
        if self.set_zero:
            return Block(structure, None, ())
        told = embedded(self.cond_embedding, call.given, call.x.device) if i == 0 else None
        return Block(structure, told, tuple(self._updates(i, call)))

    def _updates(self, i: int, call: Batch) -> Iterator[Update]:
        """By the new layers of block i."""
        norm = lambda name: norm_of(getattr(self, name)[i]) if self.use_norm else None
        alpha = lambda name: None if self.residual else getattr(self, name)[i]
        if self.use_double:
            layer = temporal(self.t_modules_2[i])
            yield Update(layer, norm("norm1"), alpha("alpha_x_t_2"), alpha("alpha_h_t_2"))
        if self.use_extra:
            extra = call.spatial(self.s_modules_new[i], of_all=True)
            yield Update(extra, norm("norm2"), alpha("alpha_x_s"), alpha("alpha_h_s"))
        last = temporal(self.t_modules[i])
        if i < self.n_layers - 1:
            yield Update(last, norm("norm3"), alpha("alpha_x_t"), alpha("alpha_h_t"))
        else:
            yield Update(last, None, alpha("alpha_x_t"), None, keeps_h=not self.residual)
