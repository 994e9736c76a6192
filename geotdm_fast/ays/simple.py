"""The interpolator whose new layers run in turn and are mixed once."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from geotdm_fast.ays.given import SIMPLE
from geotdm_fast.ays.mixing import mixed
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


class EGInterpolatorSimple(Network):
    """As `EGInterpolator`, but T2, S' and T1 of a block run one behind the other, and one mix ends the block.

    Given frames keep the features that they had before T2. The norms are parameters whatever use_norm says.
    Its name for both, one given frame and none, is conditioning `forward_uncond`.
    Raises ValueError unless use_extra and use_double, and for residual and use_kabsch, which it does not have.
    """

    conditionings = SIMPLE

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
        use_extra: bool = False,
        use_double: bool = False,
        use_norm: bool = False,
        sigmoid_init: bool = False,
        **unused: Any,
    ):
        super().__init__(n_layers, time_emb_dim, act_fn, scale, conditioning, unused)
        if not (use_extra and use_double):
            raise ValueError("EGInterpolatorSimple: use_extra and use_double must be true")
        for name in ("residual", "use_kabsch"):
            if unused.get(name):
                raise ValueError(f"EGInterpolatorSimple: {name} must be false, for it has none")
        self.use_kabsch = False  # what the alignment of the loss asks
        self.set_zero, self.use_norm = set_zero, use_norm
        self.input_linear, self.embedding = embeddings(node_dim, ft_dim, edge_dim, hidden_dim, time_emb_dim)
        self.cond_embedding = nn.Embedding(1 if conditioning == "none" else 2, hidden_dim)
        self.s_modules = spatial_layers(n_layers, hidden_dim, edge_dim, pre_norm)
        share = 0.0 if sigmoid_init else 5.0
        self.alpha_h_t, self.alpha_x_t = alphas(n_layers - 1, share), alphas(n_layers, share)
        self.norm3 = layer_norms(n_layers - 1, hidden_dim)
        self.s_modules_new = nn.ModuleList()
        self.norm2 = layer_norms(n_layers, hidden_dim)
        self.t_modules_2 = nn.ModuleList()
        self.norm1 = layer_norms(n_layers, hidden_dim)
        self.t_modules = nn.ModuleList()
        for _ in range(n_layers):
            self.s_modules_new.extend(spatial_layers(1, hidden_dim, edge_dim, pre_norm))
            self.t_modules_2.append(temporal_layer(hidden_dim, time_emb_dim))
            self.t_modules.append(last_temporal_layer(hidden_dim, time_emb_dim, num_heads if use_mha else None))

    def _denoise(self, x: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        y, k = call.given.start(x), z
        for i in range(self.n_layers):
            y, z, k = self.run_block(partial(self._block, i, call=call), y, z)
        x_out = call.given.noisy(y) - x
        return x_out if self.scale == 1 else x_out / self.scale, k

    def _block(self, i: int, y: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Block i: positions y [N, T, 3] and features z [N, T, H] to the same, and k [N, M, H]."""
        given = call.given
        y_s, k = run_spatial(self.s_modules[i], given.noisy(y), given.noisy(z), call)
        y, z = given.put(y, y_s), given.put(z, k)
        if self.set_zero:
            return y, z, k
        if i == 0:
            z = z + self.cond_embedding(given.flags(z.device))
        moved, z_new = self._new_layers(i, y, z, call)
        y = given.put(y, mixed(y_s, moved, self.alpha_x_t[i]))
        if i < self.n_layers - 1:
            z = given.put(z, mixed(k, given.noisy(z_new), self.alpha_h_t[i]))
        return y, z, k

    def _new_layers(self, i: int, y: Tensor, z: Tensor, call: Batch) -> tuple[Tensor, Tensor]:
        """Positions of noisy frames and features of all behind T2, S' and T1."""
        given, is_last = call.given, i == self.n_layers - 1
        norm1, norm2 = (self.norm1[i], self.norm2[i]) if self.use_norm else (_as_is, _as_is)
        norm3 = self.norm3[i] if self.use_norm and not is_last else _as_is
        moved, z = run_temporal(self.t_modules_2[i], y, z)
        y, z = given.put(y, given.noisy(moved)), norm1(z)
        moved, z = run_spatial(self.s_modules_new[i], y, z, call)
        y, z = given.put(y, given.noisy(moved)), norm2(z)
        moved, z = run_temporal(self.t_modules[i], y, z)
        return given.noisy(moved), norm3(z)


def _as_is(z: Tensor) -> Tensor:
    return z
