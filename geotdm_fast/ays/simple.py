"""The interpolator whose new layers run in turn and are mixed once."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from geotdm_fast.ays.given import SIMPLE, Given
from geotdm_fast.ays.mixing import mixed
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
    displacement,
    embedded,
    norm_of,
    normed,
    run_block,
    temporal,
)
from geotdm_fast.nn.layers import PreparedSpatial, PreparedTemporal


class NewLayer(NamedTuple):
    """A new layer of a block, and the norm of its features, or None."""

    layer: PreparedSpatial | PreparedTemporal
    norm: Norm | CalledNorm | None

    def run(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """y [N, T, 3], z [N, T, H] to the same shapes."""
        y, z = self.layer.run(y, z)
        return y, normed(self.norm, z)


class SimpleBlock(NamedTuple):
    """A block of `EGInterpolatorSimple`.

    structure: S; told: [T, H] - added behind it, in the first block
    layers: T2, S' and T1; none with `set_zero`: the block is S alone
    x_alpha, h_alpha: shares of positions and features before the sigmoid; h_alpha None: features stay (the last block)
    """

    structure: PreparedSpatial
    told: Tensor | None
    layers: tuple[NewLayer, ...]
    x_alpha: Tensor
    h_alpha: Tensor | None

    def run(self, y: Tensor, z: Tensor, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        """Positions y [N, T, 3] and features z [N, T, H] to the same, and k [N, M, H]."""
        y_s, k = self.structure.run(given.noisy(y), given.noisy(z))
        y, z = given.put(y, y_s), given.put(z, k)
        if not self.layers:
            return y, z, k
        if self.told is not None:
            z = z + self.told
        first, *others = self.layers
        moved, z_new = first.run(y, z)
        for layer in others:
            moved, z_new = layer.run(given.put(y, given.noisy(moved)), z_new)
        y = given.put(y, mixed(y_s, given.noisy(moved), self.x_alpha))
        if self.h_alpha is not None:
            z = given.put(z, mixed(k, given.noisy(z_new), self.h_alpha))
        return y, z, k


class PreparedSimple(NamedTuple):
    """`EGInterpolatorSimple` on a batch."""

    blocks: tuple[SimpleBlock, ...]
    given: Given
    scale: float
    num_frames: int
    recompute: bool

    def denoise(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `geotdm_fast.nn.prepared.PreparedNetwork.denoise`."""
        start = x.transpose(1, 2)
        y, k = self.given.start(start), z
        for block in self.blocks:
            y, z, k = run_block(self.recompute, block.run, y, z, self.given)
        return displacement(self.given.noisy(y), start, self.scale), k


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

    def prepare(self, call: Batch) -> PreparedSimple:
        blocks = tuple(self._block(i, call) for i in range(self.n_layers))
        return PreparedSimple(blocks, call.given, self.scale, call.given.num_frames, self.recompute)

    def _block(self, i: int, call: Batch) -> SimpleBlock:
        is_last, layers = i == self.n_layers - 1, []
        norm = lambda norms: norm_of(norms[i]) if self.use_norm else None
        if not self.set_zero:
            layers = [
                NewLayer(temporal(self.t_modules_2[i]), norm(self.norm1)),
                NewLayer(call.spatial(self.s_modules_new[i], of_all=True), norm(self.norm2)),
                NewLayer(temporal(self.t_modules[i]), None if is_last else norm(self.norm3)),
            ]
        return SimpleBlock(
            call.spatial(self.s_modules[i], of_all=False),
            embedded(self.cond_embedding, call.given, call.x.device) if i == 0 and not self.set_zero else None,
            tuple(layers),
            self.alpha_x_t[i],
            None if is_last else self.alpha_h_t[i],
        )
