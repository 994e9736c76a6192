"""The interpolator: a frozen structure model, and new layers around it that join its frames to a trajectory."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.ays.alignment import align_frames, align_to_first_frame
from geotdm_fast.ays.given import COUNTS
from geotdm_fast.ays.mixing import mixed, normed_and_mixed
from geotdm_fast.ays.network import (
    Batch,
    Network,
    alphas,
    embeddings,
    last_temporal_layer,
    layer_norms,
    run_spatial,
    run_temporal,
    spatial_layers,
    temporal_layer,
)


class Update(NamedTuple):
    """A new layer of a block, and how its result is mixed with the structure layer's.

    layer: spatial or temporal; norm: of its features; x_alpha, h_alpha: shares of positions and features before the
    sigmoid, None: a half
    keeps_h: the structure layer's features stay as they are
    """

    layer: nn.Module
    is_spatial: bool
    norm: nn.Module | None
    x_alpha: Tensor | None
    h_alpha: Tensor | None
    keeps_h: bool = False


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

    def _denoise(self, x: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        given = call.given
        y, k = self._turned(given.start(x), call), z
        for i in range(self.n_layers):
            y, z, k = self.run_block(partial(self._block, i, call=call), y, z)
        y = given.noisy(y)
        if self.use_kabsch:
            y = _aligned(y, x, call)
        x_out = y - x
        return x_out if self.scale == 1 else x_out / self.scale, k

    def _block(self, i: int, y: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Block i: positions y [N, T, 3], features z [N, T, H] to the same, and [N, M, H], h_out of the last block."""
        given = call.given
        y_s, k = run_spatial(self.s_modules[i], given.noisy(y), given.noisy(z), call)
        y, z = self._turned(given.put(y, y_s), call), given.put(z, k)
        if self.set_zero:
            return y, z, k
        if i == 0:
            z = z + self.cond_embedding(given.flags(z.device))
        for update in self._updates(i):
            moved, z = (run_spatial if update.is_spatial else run_temporal)(update.layer, y, z, call)
            moved = given.noisy(moved)
            if self.use_kabsch:
                moved = _aligned(moved, y_s, call)
            y = self._turned(given.put(y, mixed(y_s, moved, update.x_alpha)), call)
            if update.keeps_h:
                return y, z, k
            z = normed_and_mixed(z, k, update.norm, update.h_alpha, given)
        return y, z, given.noisy(z)

    def _updates(self, i: int) -> Iterator[Update]:
        """The new layers of block i."""
        norm = lambda name: getattr(self, name)[i] if self.use_norm else None
        alpha = lambda name: None if self.residual else getattr(self, name)[i]
        if self.use_double:
            yield Update(self.t_modules_2[i], False, norm("norm1"), alpha("alpha_x_t_2"), alpha("alpha_h_t_2"))
        if self.use_extra:
            yield Update(self.s_modules_new[i], True, norm("norm2"), alpha("alpha_x_s"), alpha("alpha_h_s"))
        if i < self.n_layers - 1:
            yield Update(self.t_modules[i], False, norm("norm3"), alpha("alpha_x_t"), alpha("alpha_h_t"))
        else:
            keeps_h = not self.residual
            yield Update(self.t_modules[i], False, None, alpha("alpha_x_t"), None, keeps_h)

    def _turned(self, y: Tensor, call: Batch) -> Tensor:
        """Every frame turned onto frame 0, where the network does so."""
        if not self.use_kabsch:
            return y
        return align_to_first_frame(y.transpose(1, 2), call.batch).transpose(1, 2)


def _aligned(y: Tensor, onto: Tensor, call: Batch) -> Tensor:
    return align_frames(y.transpose(1, 2), onto.transpose(1, 2), call.batch).transpose(1, 2)
