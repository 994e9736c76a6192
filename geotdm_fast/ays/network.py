"""What all networks of Align Your Structures share: arguments, checks, the first layer, and calls of layers."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from geotdm_fast.ays.attention import ETAttention
from geotdm_fast.ays.embedding import Embedding, first_features, parts_of_first
from geotdm_fast.ays.given import Given, given_frames
from geotdm_fast.ays.prepared import Batch, warn_not_prepared
from geotdm_fast.ays.spatial import BasicESLayer
from geotdm_fast.graphs import Graph
from geotdm_fast.nn.layers import TemporalLayer
from geotdm_fast.nn.plain import is_plain, like, why_not_plain
from geotdm_fast.nn.precision import PrecisionMixin
from geotdm_fast.nn.prepared import PreparedNetwork, PreparedSteps
from geotdm_fast.nn.temporal import ETLayer
from geotdm_fast.runtime.checks import (
    check_graph,
    check_graph_values,
    check_same_device,
    check_same_dtype,
    check_tensor,
    reads_values,
)
from geotdm_fast.runtime.choices import nearest

# Keys of the section `denoiser` of an official YAML file: each network uses some and passes over the others.
DENOISER_KEYS = (
    "type",
    "n_layers",
    "node_dim",
    "ft_dim",
    "edge_dim",
    "hidden_dim",
    "time_emb_dim",
    "act_fn",
    "scale",
    "pre_norm",
    "conditioning",
    "set_zero",
    "use_mha",
    "num_heads",
    "use_kabsch",
    "use_extra",
    "use_double",
    "use_norm",
    "sigmoid_init",
    "residual",
    "pretrain_ckpt",
    "freeze_spatial",
)
KEYWORDS = ("cond_mask", "original_frames", "uncond", "graph")
# Types of torch's whose weights a prepared network has.
READ = (nn.LayerNorm, nn.Embedding)
UNUSED_KEYWORDS = ("num_nodes", "num_graphs", "ptr", "num")


class Network(PrecisionMixin, nn.Module):
    """A denoising network: `forward(diffusion_t, x, h, f, edge_index, edge_attr, batch, **model_kwargs)`.

    n_layers: blocks; node_dim: width of an atom's embedding; ft_dim: F, its features; edge_dim: A, width of an edge's
    embedding; hidden_dim: H; time_emb_dim: width of the sinusoids of the diffusion step and of t - s
    act_fn: `silu`; scale: of positions, see each network; pre_norm: feed |r| instead of |r|^2 to the edge MLPs
    conditioning: which frames may be given, by name (`geotdm_fast.ays.given`)
    Other keys of an official file's section `denoiser` are accepted and unused; any other is a TypeError.
    """

    # What `geotdm_fast.GeoTDM` asks of a network: these have no learned prior.
    learn_ref_frame = False
    # Their edges are the molecule's; no graph follows the positions.
    graph_spec = None
    # How many frames each conditioning may give; None: the network takes no given frames.
    conditionings: ClassVar[dict[str, tuple[int, ...]] | None] = None

    def __init__(self, n_layers: int, time_emb_dim: int, act_fn: str, scale: float, conditioning: str, unused: dict):
        super().__init__()
        where = type(self).__name__
        for name in unused:
            if name not in DENOISER_KEYS:
                raise TypeError(f"{where}: unexpected keyword '{name}'{nearest(name, DENOISER_KEYS)}")
        if act_fn != "silu":
            raise ValueError(f"{where}: act_fn must be 'silu', got {act_fn!r}")
        if n_layers < 1:
            raise ValueError(f"{where}: n_layers must be at least 1, got {n_layers}")
        if scale == 0:
            raise ValueError(f"{where}: scale must not be 0")
        if self.conditionings is not None and conditioning not in self.conditionings:
            known = self.conditionings
            raise ValueError(f"{where}: conditioning must be one of {', '.join(known)}; got {conditioning!r}")
        self.n_layers = n_layers
        self.time_emb_dim = time_emb_dim
        self.scale = scale
        self.conditioning = conditioning

    # True keeps of every block its input alone, and computes the block again in the backward: memory of one block for
    # the time of one more forward.
    recompute = False
    input_linear: nn.Linear
    embedding: Embedding

    def forward(
        self,
        diffusion_t: Tensor,
        x: Tensor,
        h: Tensor,
        f: Tensor,
        edge_index: Tensor | Graph | None,
        edge_attr: Tensor,
        batch: Tensor,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Displacements x_out [N, 3, M] and features h_out [N, H, M] of the noisy frames.

        diffusion_t: [N] - diffusion step of each node's graph; x: [N, 3, M] (angstrom) - noisy positions
        h: [N] int64 - atomic numbers z; f: [N, ft_dim] - features of atoms
        edge_index: [2, E] int64 (receivers, senders); edge_attr: [E] int64 - edge types c; batch: [N] int64
        cond_mask: [T] bool - the given frames of original_frames [N, 3, T]; absent: nothing is given
        uncond: True leaves out frame 0 of both, with conditioning `unconditional_forward`
        graph: a `geotdm_fast.graphs.Graph` in place of edge_index, sorted once for all calls that get it
        Raises TypeError / ValueError for arguments of other shapes, dtypes and devices, indices out of range (on the
        CPU), and a number of given frames that is not that of the conditioning.
        """
        where = f"{type(self).__name__}.forward"
        check_tensor(where, "x", x, ("N", 3, "M"), integer=False)
        check_tensor(where, "diffusion_t", diffusion_t, (len(x),))
        check_same_device(where, **{"the network": like(self)}, diffusion_t=diffusion_t)
        atoms, call = self._call_of(where, x, h, f, edge_index, edge_attr, batch, model_kwargs)
        num_frames = call.given.num_frames
        z = first_features(self.input_linear, atoms, diffusion_t, self.time_emb_dim, num_frames, self.precision)
        x_out, h_out = self.prepare(call).denoise(x, z)
        return x_out.transpose(1, 2), h_out.transpose(1, 2)

    def prepare_steps(
        self,
        x: Tensor,
        t: Tensor,
        h: Tensor,
        f: Tensor,
        edge_index: Tensor | Graph | None,
        edge_attr: Tensor,
        batch: Tensor,
        **model_kwargs: Any,
    ) -> PreparedSteps | None:
        """What all steps of a chain have in common, as `EGTN.prepare_steps`; arguments and errors as for `forward`.

        None, and a warning once for each reason, where calls of modules do more than their weights tell.
        """
        name = type(self).__name__
        why_not = self.why_not_read() if is_plain(self) else "it has hooks or a forward of its own"
        if why_not is not None:
            warn_not_prepared(name, why_not)
            return None
        where = f"{name}.forward"  # whose arguments these are for those who call a sampler
        check_tensor(where, "x", x, ("N", 3, "M"), integer=False)
        atoms, call = self._call_of(where, x, h, f, edge_index, edge_attr, batch, model_kwargs)
        features, rows = parts_of_first(self.input_linear, atoms, t, self.time_emb_dim, self.precision)
        return PreparedSteps(self.prepare(call), features, rows)

    def why_not_read(self) -> str | None:
        """The reason why a prepared network may not stand for calls of its modules; None where it may."""
        return why_not_plain(self, READ)

    def prepare(self, call: Batch) -> PreparedNetwork:
        """All that calls on a batch with other positions of the same shape, or other steps, have in common.

        The result is differentiable where it was prepared with gradients on. Change no parameter in place between
        `prepare` and the last call.
        """
        raise NotImplementedError

    def _call_of(
        self,
        where: str,
        x: Tensor,
        h: Tensor,
        f: Tensor,
        edge_index: Tensor | Graph | None,
        edge_attr: Tensor,
        batch: Tensor,
        model_kwargs: dict,
    ) -> tuple[Tensor, Batch]:
        """a [N, node_dim] of the atoms, and the batch; arguments as for `forward`, which are checked."""
        self._check(where, x, h, f, edge_index, edge_attr, batch, model_kwargs)
        graph = _graph_of(edge_index, model_kwargs)
        if not isinstance(graph, Graph):
            graph = Graph.static(graph, len(x))
        atoms, edges = self.embedding(h, f, edge_attr)
        given = self._given(where, x, model_kwargs)
        return atoms, Batch(graph, edges, batch, given, x.transpose(1, 2), self.input_linear.out_features)

    def _given(self, where: str, x: Tensor, model_kwargs: dict) -> Given:
        if self.conditionings is None:
            return Given(None, None, x.shape[2])
        about = {name: model_kwargs.get(name) for name in ("cond_mask", "original_frames")}
        uncond = bool(model_kwargs.get("uncond", False))
        return given_frames(where, self.conditioning, self.conditionings, x, uncond=uncond, **about)

    def _check(
        self,
        where: str,
        x: Tensor,
        h: Tensor,
        f: Tensor,
        edge_index: Tensor | Graph | None,
        edge_attr: Tensor,
        batch: Tensor,
        model_kwargs: dict,
    ) -> None:
        for name in model_kwargs:
            if name not in (*KEYWORDS, *UNUSED_KEYWORDS):
                raise TypeError(f"{where}: unexpected keyword '{name}'{nearest(name, (*KEYWORDS, *UNUSED_KEYWORDS))}")
        check_tensor(where, "h", h, (len(x),), integer=True)
        graph = _graph_of(edge_index, model_kwargs)
        if isinstance(graph, Graph):
            graph.check_fits(where, len(x), x.shape[2])
            check_tensor(where, "edge_attr", edge_attr, (graph.num_edges,), integer=True)
        else:
            check_graph(where, len(x), graph, None, batch)
        check_tensor(where, "batch", batch, (len(x),), integer=True)
        weight = like(self)
        about = {"x": x, "h": h, "f": f, "edge_attr": edge_attr, "batch": batch}
        check_same_device(where, **{"the network": weight}, edge_index=graph, **about)
        check_same_dtype(where, "x", x, weight)
        self.embedding.check(where, h, f, graph, edge_attr)
        if reads_values(batch):
            check_graph_values(where, len(x), None if isinstance(graph, Graph) else graph, batch)


def _graph_of(edge_index: Tensor | Graph | None, model_kwargs: dict) -> Tensor | Graph:
    """The graph, whichever argument brings it; what is neither is refused by the checks."""
    graph = model_kwargs.get("graph")
    return cast("Tensor | Graph", edge_index if graph is None else graph)


def spatial_layers(n_layers: int, hidden_dim: int, edge_dim: int, pre_norm: bool, layer: type = BasicESLayer) -> Any:
    """As many spatial layers."""
    made = [layer(hidden_dim, edge_dim, hidden_dim, nn.SiLU(), True, pre_norm) for _ in range(n_layers)]
    return nn.ModuleList(made)


def temporal_layer(hidden_dim: int, time_emb_dim: int) -> ETLayer:
    """A temporal layer of the usual kind."""
    return ETLayer(hidden_dim, hidden_dim, nn.SiLU(), time_emb_dim)


def last_temporal_layer(hidden_dim: int, time_emb_dim: int, num_heads: int | None) -> TemporalLayer:
    """The temporal layer at the end of a block; num_heads: of `ETAttention`, None: the usual kind."""
    if num_heads is None:
        return temporal_layer(hidden_dim, time_emb_dim)
    width = hidden_dim // num_heads
    return ETAttention(hidden_dim, width, width, num_heads, nn.SiLU())


def layer_norms(count: int, hidden_dim: int) -> nn.ModuleList:
    """As many norms over H."""
    return nn.ModuleList([nn.LayerNorm(hidden_dim) for _ in range(count)])


def alphas(count: int, value: float) -> nn.ParameterList:
    """As many shares before the sigmoid."""
    return nn.ParameterList([nn.Parameter(torch.tensor(value)) for _ in range(count)])


def embeddings(
    node_dim: int, ft_dim: int, edge_dim: int, hidden_dim: int, time_emb_dim: int
) -> tuple[nn.Linear, Embedding]:
    """`input_linear` and `embedding`."""
    return nn.Linear(node_dim + time_emb_dim, hidden_dim), Embedding(node_dim, ft_dim, edge_dim)
