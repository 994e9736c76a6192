"""The denoising network of GeoTDM."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from geotdm_fast import ops
from geotdm_fast.conditioning import frames_of
from geotdm_fast.conditions import Conditions
from geotdm_fast.graphs import Graph, GraphRule, GraphSpec
from geotdm_fast.graphs.graph import as_graph
from geotdm_fast.nn.condition_embedding import ConditionMixin
from geotdm_fast.nn.feature_embedding import FeatureMixin
from geotdm_fast.nn.given_graph import (
    GivenGraph,
    as_called,
    given_graph,
    own_graph,
)
from geotdm_fast.nn.inputs import InputMixin, check_given, check_keywords
from geotdm_fast.nn.layers import SpatialLayer, TemporalLayer
from geotdm_fast.nn.plain import (
    bare,
    is_compiled,
    is_plain,
    like,
    warn_called_by_modules,
    why_not_plain,
    wrappers,
)
from geotdm_fast.nn.precision import PrecisionMixin
from geotdm_fast.nn.prepared import (
    CalledLayer,
    Layer,
    Prepared,
    PreparedSteps,
    UnpreparedLayer,
    denoise,
    prepare_layers,
)
from geotdm_fast.nn.spatial_layers import SpatialOptions, spatial_layer
from geotdm_fast.nn.temporal_layers import TemporalOptions, temporal_layer
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference import Cell, check_cutoff
from geotdm_fast.runtime.checks import (
    check_finite,
    check_graph,
    check_not_traced,
    check_same_device,
    check_same_dtype,
    check_tensor,
    check_window,
    reads_values,
)


class EGTN(InputMixin, FeatureMixin, ConditionMixin, PrecisionMixin, nn.Module):
    """Equivariant geometric trajectory network (arXiv 2410.13027, Sec. 4.1): spatial and temporal layers in turn.

    n_layers: pairs of layers; node_dim: F; edge_dim: A, 0 for none; hidden_dim: H
    time_emb_dim: width of the sinusoids of the diffusion step and of t - s; act_fn: `silu`
    learn_ref_frame: has the second, small network that computes the mean of the learned prior (Sec. 4.2)
    n_layers_ref: its pairs of layers; num_w: frames of its output, as many as there are noisy frames
    scale: positions are multiplied by it on entry; pre_norm: feed |r| instead of |r|^2 to the edge MLPs
    window: in every temporal layer, of both networks, a frame sees only those at most so many frames away, by their
        numbers: time grows with T, not T^2; None, as in the paper: all
    spatial: the spatial layer by name (`geotdm_fast.nn.spatial_layers.SPATIAL`): `egcl`, as in the paper
    temporal: `attention`, as in the paper, or for its ablations `convolution` (over 2 window + 1 frames, by default 5)
        or `linear_attention`; relative_time: whether attention knows how far frames are apart
    cutoff: in every spatial layer, of both networks, an edge counts less the longer it is and nothing from this length
        on, in the unit of x; then results do not jump where a graph of all edges within the cutoff gains or loses one.
        None, as in the paper: all edges count the same; envelope: how they count, by name: `polynomial`
        (formula in `geotdm_fast.reference.egcl`)
    graph: which edges there are, see `geotdm_fast.graphs.GraphSpec.parse`: {"radius": 5.0, "of": "current"}, say; None:
        those that a call is given. Where a call is given a `Graph` or a rule, that is taken as it is
    conditions: {name: [low, high]} - numbers of a trajectory that the network is told, such as its temperature, and the
        range of each in the training data, see `geotdm_fast.conditions.Conditions`. z_it, what the first layer makes of
        features and step, becomes z_it + V psi(scaled numbers), psi the sinusoid of the step for each of them side by
        side; the same, with a V of its own, for the learned prior. They are invariant, so nothing else changes

    But for these keywords, constructor, arguments and state-dict keys are the official ones.
    """

    def __init__(
        self,
        n_layers: int,
        node_dim: int,
        edge_dim: int,
        hidden_dim: int,
        time_emb_dim: int,
        act_fn: str,
        learn_ref_frame: bool,
        n_layers_ref: int,
        num_w: int,
        scale: float = 1,
        pre_norm: bool = False,
        *,
        spatial: str = "egcl",
        temporal: str = "attention",
        relative_time: bool = True,
        window: int | None = None,
        cutoff: float | None = None,
        envelope: str = "polynomial",
        graph: Mapping | str | None = None,
        conditions: Mapping | None = None,
    ):
        super().__init__()
        check_window("EGTN", window)
        check_cutoff("EGTN", cutoff, envelope)
        if act_fn != "silu":
            raise ValueError(f"EGTN: act_fn must be 'silu', got {act_fn!r}")
        sizes = {"n_layers": n_layers, "node_dim": node_dim, "hidden_dim": hidden_dim, "time_emb_dim": time_emb_dim}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"EGTN: {name} must be at least 1, got {size}")
        self.n_layers = n_layers
        self.node_dim = node_dim
        self.edge_dim = edge_dim
        self.time_emb_dim = time_emb_dim
        self.learn_ref_frame = learn_ref_frame
        self.n_layers_ref = n_layers_ref
        self.num_w = num_w
        self.scale = scale
        self.graph_spec = GraphSpec.parse(graph, "EGTN: graph")
        self.conditions = Conditions.parse(conditions, "EGTN: conditions")

        act = nn.SiLU()
        cutoff = None if cutoff is None else cutoff * abs(scale)  # the layers see scaled positions
        in_space = SpatialOptions(hidden_dim, edge_dim, act, pre_norm, cutoff, envelope)
        over_time = TemporalOptions(hidden_dim, act, time_emb_dim, relative_time, window)
        # Registered and drawn as the official code does: its seeds draw these weights, and its optimisers' states fit.
        self.s_modules, self.t_modules = nn.ModuleList(), nn.ModuleList()
        self.input_linear = nn.Linear(node_dim + time_emb_dim, hidden_dim)
        for _ in range(n_layers):
            self.s_modules.append(spatial_layer(spatial, in_space))
            self.t_modules.append(temporal_layer(temporal, over_time))
        if learn_ref_frame:
            self.input_linear_ref = nn.Linear(node_dim, hidden_dim)
            self.s_modules_ref, self.t_modules_ref = nn.ModuleList(), nn.ModuleList()
            for _ in range(n_layers_ref):
                self.s_modules_ref.append(spatial_layer(spatial, in_space))
                self.t_modules_ref.append(temporal_layer(temporal, over_time))
            self.ws = nn.Parameter(torch.ones(num_w))
        # Drawn last: the weights of a seed are the same with and without conditions.
        self._draw_condition_layers(hidden_dim)

    def forward(
        self,
        diffusion_t: Tensor | None,
        x: Tensor | None,
        h: Tensor,
        edge_index: GivenGraph = None,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, Tensor] | Tensor:
        """The network's output for noisy frames, or with `compute_ref=True` the mean of the learned prior.

        diffusion_t: [N] - diffusion step of each node's graph
        x: [N, D, T_noisy] - noisy positions, in the order of their frames
        h: [N, F] or [N, F, T] - features, for all T frames (given and noisy) in their places
        edge_index: [2, E] int64 (receivers, senders), or what `graph` may be; batch: [N] int64 or None
        edge_attr: [E, A], or [E, A, T] when it changes from frame to frame and the edges do not, or None
        cond_mask: [1, 1, T], non-zero on the given frames of x_given [N, D, T]; absent: nothing is given
        graph: what stands in the place of edge_index, which then is not read and may be None: a `Graph`, sorted once
            for all calls that get it, where edge_index is sorted in every call; or a `geotdm_fast.graphs.GraphRule`,
            which makes the graph of every call from its positions, those of all T frames (with `compute_ref` those of
            the given ones), and brings the features of its edges. edge_attr None means the features of the graph.
        cell: `geotdm_fast.reference.Cell` - the periodic boxes of the graphs, of all frames or of each, in the unit of
            x; positions need not be in them. Read where the network was made for a graph by distance; a `graph` has
            its own, and the data's edges are between the positions as they are
        conditions: [graphs, C] - the numbers of `self.conditions`, in the order of its names, of each graph of `batch`
        compute_ref: return x_ref [N, D, num_w] instead, from the given frames alone; x and diffusion_t are unused

        Returns x_out [N, D, T_noisy] = (positions after the last layer - x) / scale, h_out [N, H, T_noisy].
        The noisy frames keep their true places among the given ones, whatever the mask (forecast or interpolation).
        Further keywords that official batches carry (`inputs.UNUSED_KEYWORDS`) are accepted; any other is a TypeError.
        Raises ValueError / TypeError naming the argument, what was expected and what came.
        """
        check_not_traced("EGTN", current_backend() == "reference")
        check_keywords(model_kwargs)
        given: dict[str, Any] = {name: model_kwargs.get(name) for name in ("cond_mask", "x_given", "graph", "cell")}
        conditions = model_kwargs.get("conditions")
        if model_kwargs.get("compute_ref", False):
            return self._reference_frame(h, edge_index, edge_attr, batch, conditions, **given)
        prepared = self.prepare(x, h, edge_index, edge_attr, batch, **given)
        x = cast(Tensor, x)  # checked
        check_tensor("EGTN", "diffusion_t", diffusion_t, (x.shape[0],))
        check_same_device("EGTN", **{"the network": like(self)}, diffusion_t=diffusion_t)
        if reads_values(x):
            check_finite("EGTN", "x", x)
        z = self._first_layer(self.input_linear, h, diffusion_t, prepared.num_frames, x.dtype)
        z = self._told(z, "condition_linear", conditions, batch)
        output, z = denoise(prepared, x, z)
        z = z.transpose(1, 2)
        if prepared.frames is not None:
            z = prepared.frames.noisy_of(z, 2)
        return output.transpose(1, 2), z

    def prepare(
        self,
        x: Tensor | None,
        h: Tensor,
        edge_index: GivenGraph,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        cond_mask: Tensor | None = None,
        x_given: Tensor | None = None,
        graph: Graph | GraphRule | None = None,
        cell: Cell | None = None,
    ) -> Prepared:
        """All that calls with other positions of the shape, dtype and device of x, or other steps, have in common.

        Arguments and errors as for `forward`; without cond_mask, x_given is unused. The result is differentiable.
        Change no parameter in place between `prepare` and the last call: some calls would see it and others not.
        """
        x = check_tensor("EGTN", "x", x, ("N", "D", "T"), integer=False)
        graph = self._graph_of(edge_index, edge_attr, batch, cond_mask, x if x_given is None else x_given, graph, cell)
        x_given = None if cond_mask is None else x_given
        edge_index, edge_attr = given_graph(edge_index, self._data_attr(edge_attr), graph)
        self._check_devices(h, edge_index, edge_attr, batch, cond_mask, x_given, x)
        num_frames, given, frames = x.shape[-1], None, None
        if cond_mask is not None:
            frames = frames_of(cond_mask)
            num_frames = len(frames.given) + len(frames.noisy)
            x_given = check_tensor("EGTN", "x_given", x_given, (*x.shape[:2], num_frames), integer=False)
            check_tensor("EGTN", "x", x, (*x.shape[:2], len(frames.noisy)))
            check_given(frames, x_given)
            given = self._scaled(x_given.transpose(1, 2).to(x.dtype))
        check_same_dtype("EGTN", "x", x, like(self))
        self._check_graph(x, h, edge_index, edge_attr, batch, num_frames)
        y = x.transpose(1, 2) if given is None else given
        pairs = _layers(self.s_modules, self.t_modules)
        rule = edge_index if isinstance(edge_index, GraphRule) else None
        edges = None if rule is not None else cast("Tensor | Graph", edge_index)
        # One sort serves all layers, which see scaled positions.
        graph = None if edges is None else as_graph(edges, x.shape[0]).scaled(self.scale)
        layers: Sequence[Layer | UnpreparedLayer | CalledLayer]
        in_one = None
        if not self._is_fused():
            called = None if graph is None else as_called(graph)
            layers = [CalledLayer(*pair, called, edge_attr, batch) for pair in pairs]
        elif graph is None:
            layers = [UnpreparedLayer(spatial.weights, temporal.prepared) for spatial, temporal in pairs]
        else:
            rows = _edge_rows(edge_attr, y)
            z = y.new_empty(1, 1, self.input_linear.out_features).expand(*y.shape[:2], -1)  # only what it looks like
            layers, in_one = prepare_layers(pairs, y, z, graph, rows, self.s_modules)
        return Prepared(given, frames, num_frames, tuple(layers), self.scale, rule, in_one)

    def prepare_steps(self, x: Tensor, t: Tensor, **model_kwargs: Any) -> PreparedSteps | None:
        """What all steps of a chain from x [N, D, T_noisy] have in common, t [R] being the numbers of its steps.

        model_kwargs: as for `forward`; of further keywords nothing is read
        None where a call of this network is more than `EGTN.forward`, so that it cannot be taken apart.
        """
        if type(self).forward is not EGTN.forward or not is_plain(self) or self.why_not_read() is not None:
            return None
        names = ("h", "edge_index", "edge_attr", "batch", "cond_mask", "x_given", "graph", "cell")
        about: dict[str, Any] = {name: model_kwargs.get(name) for name in names}
        network = self.prepare(x, **about)
        if network.frames is not None:
            network = network._replace(frames=network.frames.by_index)  # one graph for all masks of as many frames
        features, rows = self.embed_features(model_kwargs["h"], x.dtype), self.embed_steps(t, x.dtype)
        told = self.embed_conditions(model_kwargs.get("conditions"), model_kwargs["batch"], x.dtype)
        return PreparedSteps(network, features if told is None else features + told[:, None], rows)

    def why_not_read(self) -> str | None:
        """The reason why the ops may not take the weights; None where they may."""
        return why_not_plain(self)

    def _graph_of(
        self,
        edge_index: GivenGraph,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        cond_mask: Tensor | None,
        x: Tensor | None,
        graph: Graph | GraphRule | None,
        cell: Cell | None,
        room: int | None = None,
    ) -> Graph | GraphRule | None:
        """`graph`; without it the graph that the network was made for, if it was made for one."""
        if graph is not None or self.graph_spec is None or not isinstance(edge_index, Tensor):
            return graph
        frames = None if cond_mask is None else frames_of(cond_mask)
        x = check_tensor("EGTN", "x" if frames is None else "x_given", x, ("N", "D", "T"), integer=False)
        check_graph("EGTN", x.shape[0], edge_index, edge_attr, batch, x.shape[-1])
        return own_graph(self.graph_spec, edge_index, edge_attr, batch, x, frames, cell, room)

    def graph_of(self, model_kwargs: Mapping, room: int | None = None) -> Graph | GraphRule | None:
        """The graph that the network was made for, of a batch; None where it needs the positions of a call.

        room: see `own_graph`
        """
        graph, x = model_kwargs.get("graph"), model_kwargs.get("x_given")
        if x is None:
            if graph is None and self.graph_spec is not None and self.graph_spec.of == "given":
                return None
            x = model_kwargs["h"].new_zeros(len(model_kwargs["h"]), 3, 1)  # a rule looks at none
        names = ("edge_index", "edge_attr", "batch", "cond_mask", "cell")
        about: dict[str, Any] = {name: model_kwargs.get(name) for name in names}
        return self._graph_of(**about, x=x, graph=graph, room=room)

    def _data_attr(self, edge_attr: Tensor | None) -> Tensor | None:
        """The features of edges that a call is given; those of a graph of one's own come with it."""
        return edge_attr if self.graph_spec is None else None

    def _is_fused(self) -> bool:
        """Whether the ops may take the weights; else every module is called, and a warning says so, once."""
        why_not = self.why_not_read()
        if why_not is not None:
            warn_called_by_modules("EGTN", why_not)
        return why_not is None

    def _reference_frame(
        self,
        h: Tensor,
        edge_index: GivenGraph,
        edge_attr: Tensor | None,
        batch: Tensor | None,
        conditions: Tensor | None,
        cond_mask: Tensor | None,
        x_given: Tensor | None,
        graph: Graph | GraphRule | None,
        cell: Cell | None,
    ) -> Tensor:
        """x_ref_s = sum_t w_ts x_t over the given frames t; the last one's weight makes the sum over t equal 1."""
        graph = self._graph_of(edge_index, edge_attr, batch, cond_mask, x_given, graph, cell)
        edge_index, edge_attr = given_graph(edge_index, self._data_attr(edge_attr), graph)
        self._check_devices(h, edge_index, edge_attr, batch, cond_mask, x_given)
        frames = None if cond_mask is None else frames_of(cond_mask)
        frames, x_given = self._check_reference(frames, x_given)
        self._check_graph(x_given, h, edge_index, edge_attr, batch, x_given.shape[-1])
        y = self._scaled(frames.given_of(x_given.transpose(1, 2), 1))  # [N, T_given, D]
        if h.dim() == 3:
            h = frames.given_of(h, 2)
        if edge_attr is not None and edge_attr.dim() == 3:
            edge_attr = frames.given_of(edge_attr, 2)
        z = self._first_layer(self.input_linear_ref, h, None, y.shape[1], y.dtype)
        z = self._told(z, "condition_linear_ref", conditions, batch)
        if isinstance(edge_index, GraphRule):
            graph = edge_index.at_frames(list(frames.given))(y if self.scale == 1 else y / self.scale)
            edge_attr = graph.edge_attr
        else:
            graph, kept = as_graph(cast("Tensor | Graph", edge_index), len(y)).at_frames(frames.given)
            if kept is not None and edge_attr is not None:
                edge_attr = edge_attr[kept]
        graph = graph.scaled(self.scale)
        contiguous = frames.given[-1] - frames.given[0] + 1 == len(frames.given)
        numbers = None if contiguous else frames.given
        pairs, rows = _layers(self.s_modules_ref, self.t_modules_ref), _edge_rows(edge_attr, y)
        if self._is_fused():
            layers, in_one = prepare_layers(pairs, y, z, graph, rows, self.s_modules_ref if numbers is None else None)
            if in_one is not None:
                y, z = in_one.run(y, z)
            else:
                for layer in layers:
                    y, z = layer.temporal.run(*layer.spatial.run(y, z), numbers)
        else:
            for spatial, temporal in pairs:
                y, z = CalledLayer(spatial, temporal, as_called(graph), edge_attr, batch, numbers).run(y, z)
        x_ref = ops.reference_frame(y, z, self.ws)  # [N, D, num_w]
        return x_ref if self.scale == 1 else x_ref / self.scale

    def _scaled(self, y: Tensor) -> Tensor:
        return y if self.scale == 1 else y * self.scale


def _layers(spatial: nn.ModuleList, temporal: nn.ModuleList) -> list[tuple[SpatialLayer, TemporalLayer]]:
    return cast("list[tuple[SpatialLayer, TemporalLayer]]", list(zip(spatial, temporal, strict=True)))


def takes_graph(network: nn.Module) -> bool:
    """Whether a call of `network`, bare or in DistributedDataParallel, is `EGTN.forward`, which reads `graph`.

    Not where `torch.compile` is between, which would look into the graph for each batch anew.
    """
    inner = bare(network)
    is_ours = type(inner).forward is EGTN.forward and "forward" not in vars(inner)
    return is_ours and wrappers(network) is not None and not is_compiled(network)


def why_no_room(network: nn.Module) -> str | None:
    """Why a call of `network` is not to be given a graph with room for more nodes and edges than there are, or None.

    Code of somebody else, which would be called with it, need not know what places without an edge are.
    """
    inner = bare(network)
    # Of the type: a module that hands on the attributes of another one has them all. geotdm_fast.ays has it as well.
    why_not_read: Callable[[nn.Module], str | None] | None = getattr(type(inner), "why_not_read", None)
    is_called_alone = is_plain(inner) and wrappers(network) is not None and not is_compiled(network)
    if why_not_read is None or not (takes_graph(network) if isinstance(inner, EGTN) else is_called_alone):
        return f"the network is called as {type(network).__name__}"
    return why_not_read(inner)


def _edge_rows(edge_attr: Tensor | None, y: Tensor) -> Tensor | None:
    """Edge features in the engine's layout: [E, A], or [E, T, A] when they change from frame to frame."""
    if edge_attr is None:
        return None
    return (edge_attr.transpose(1, 2) if edge_attr.dim() == 3 else edge_attr).to(y.dtype)
