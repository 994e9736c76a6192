"""Layers under names of one's own, as the recipe of CONTRIBUTING.md makes them: all that a network does with them."""

import warnings
from typing import NamedTuple

import pytest
import torch
from cases import DOMAINS, MASKS, NUM_FRAMES, case, diffusion
from tape import TapeRecorder
from test_equivariance import motion
from tolerances import assert_same
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from geotdm_fast import EGTN, ESLayer, ETLayer, ModelMeanType
from geotdm_fast.checkpoint import load_checkpoint, save_checkpoint
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.graphs import Graph, GraphSpec
from geotdm_fast.graphs.graph import RowLayout, as_graph
from geotdm_fast.nn.layers import SpatialLayer, TemporalLayer
from geotdm_fast.nn.plain import warn_called_by_modules, why_not_plain
from geotdm_fast.nn.spatial_layers import SPATIAL, SpatialOptions
from geotdm_fast.nn.temporal_layers import TEMPORAL, TemporalOptions
from geotdm_fast.runtime.cuda_graphs import CaptureCache

WIDTH = 12  # of the networks of `cases`
OURS = [{"spatial": "push"}, {"temporal": "pull"}, {"spatial": "push", "temporal": "pull"}]


class PushOnGraph(NamedTuple):
    """`PushLayer` on a graph."""

    params: tuple[Tensor, ...]
    edge_index: Tensor
    edge_attr: Tensor | None
    layout: RowLayout

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        w, b, gate, w_norm, b_norm = self.params
        row, col = self.edge_index
        x_rows, h_rows = self.layout.rows(x), self.layout.rows(h)
        r = x_rows[row] - x_rows[col]
        inputs = [h_rows[row], h_rows[col], r.square().sum(-1, keepdim=True)]
        if self.edge_attr is not None:
            a = self.edge_attr
            inputs.append(a if a.dim() == 3 else a[:, None].expand(-1, r.shape[1], -1))
        m = silu(torch.cat(inputs, dim=-1) @ w.T + b)
        u = torch.zeros_like(x_rows).index_add(0, row, (m @ gate)[..., None] * r)
        k = torch.zeros_like(h_rows).index_add(0, row, m)
        u, k = self.layout.back(u, *x.shape[:2]), self.layout.back(k, *x.shape[:2])
        u = u - u.mean(1, keepdim=True)
        return x + u / (u.square().sum((1, 2), keepdim=True) + 1).sqrt(), layer_norm(k, k.shape[-1:], w_norm, b_norm)


class PushWeights(NamedTuple):
    """`PushLayer` for any graph."""

    params: tuple[Tensor, ...]

    def on(self, x: Tensor, h: Tensor, graph: Tensor | Graph, edge_attr: Tensor | None) -> PushOnGraph:
        graph = as_graph(graph, len(x))
        edge_attr = None if edge_attr is None else graph.of_edges(edge_attr)
        return PushOnGraph(self.params, *graph.tables("reference"), edge_attr, graph.layout("reference"))


class PushLayer(SpatialLayer):
    """h' = LN(sum_j m_ij), without h; x' = x + c / sqrt(|c|^2 + 1) where c = u - mean_t u, and |c| is over all frames.

    m_ij = silu(W [h_i, h_j, |r|^2, a_ij] + b), u_i = sum_j (g . m_ij) r_ij
    """

    reads = (nn.LayerNorm,)

    def __init__(self, node_dim: int, edge_dim: int):
        super().__init__(node_dim, edge_dim)
        self.message = nn.Linear(2 * node_dim + 1 + edge_dim, node_dim)
        self.gate = nn.Parameter(torch.ones(node_dim))
        self.norm = nn.LayerNorm(node_dim)

    @property
    def weights(self) -> PushWeights:
        return PushWeights((self.message.weight, self.message.bias, self.gate, self.norm.weight, self.norm.bias))


class PreparedPull(NamedTuple):
    """`PullLayer` as a call reads it."""

    weight: Tensor
    gate: Tensor

    def run(self, x: Tensor, h: Tensor, frames=None) -> tuple[Tensor, Tensor]:
        t = torch.arange(x.shape[1]) if frames is None else torch.tensor(frames)
        near = 1 / (1 + (t[:, None] - t).abs()).to(x)
        near = near / near.sum(1, keepdim=True)  # [T, T]
        return x + torch.tanh(h @ self.gate)[..., None] * (near @ x - x), h + near @ h @ self.weight.T


class PullLayer(TemporalLayer):
    """h_t' = h_t + W (sum_s w_ts h_s), x_t' = x_t + tanh(g . h_t) (sum_s w_ts x_s - x_t), w_ts ~ 1 / (1 + |t - s|)."""

    def __init__(self, hidden_dim: int):
        super().__init__(hidden_dim)
        self.mix = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.gate = nn.Parameter(torch.ones(hidden_dim))

    @property
    def prepared(self) -> PreparedPull:
        return PreparedPull(self.mix.weight, self.gate)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(SPATIAL, "push", lambda o: PushLayer(o.hidden_dim, o.edge_dim))
    monkeypatch.setitem(TEMPORAL, "pull", lambda o: PullLayer(o.hidden_dim))
    warn_called_by_modules.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*called module by module.*")
        yield


def frames_with_gaps(domain: str = "molecule", **changes):
    """A network with a learned prior, noisy positions of its batch, and the arguments of a call."""
    graphs, mask = case(domain), cond_mask(MASKS["holes"], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    network, batch = graphs.network(learned=True, num_w=len(noisy), **changes), graphs.batch
    return network, batch.x[..., noisy].clone(), batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}


def test_the_spatial_layer_is_its_formula():
    torch.manual_seed(0)
    layer, batch = PushLayer(4, 2).double(), case("molecule").batch
    with torch.no_grad():
        layer.norm.weight.normal_()
        layer.norm.bias.normal_()
    h = torch.randn(len(batch.x), 4, NUM_FRAMES, dtype=torch.float64)
    x_out, h_out = layer(batch.x, h, batch.edge_index, batch.edge_attr)
    k, u = torch.zeros_like(h), torch.zeros_like(batch.x)
    for (i, j), a in zip(batch.edge_index.T.tolist(), batch.edge_attr, strict=True):
        for t in range(NUM_FRAMES):
            r = batch.x[i, :, t] - batch.x[j, :, t]
            m = silu(layer.message(torch.cat([h[i, :, t], h[j, :, t], (r @ r)[None], a])))
            k[i, :, t] += m
            u[i, :, t] += (layer.gate @ m) * r
    for i in range(len(h)):
        c = u[i] - u[i].mean(1, keepdim=True)
        assert_same(x_out[i], batch.x[i] + c / (1 + c.square().sum()).sqrt())
        assert_same(h_out[i].T, layer.norm(k[i].T))


def test_the_temporal_layer_is_its_formula():
    torch.manual_seed(0)
    layer, frames = PullLayer(4).double(), (0, 3, 4)
    x, h = torch.randn(5, 3, 3, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    x_out, h_out = layer(x, h, frames=frames)
    for t, place in enumerate(frames):
        near = [1 / (1 + abs(place - other)) for other in frames]
        x_mean, h_mean = (sum(w * v[..., s] for s, w in enumerate(near)) / sum(near) for v in (x, h))
        gate = torch.tanh(h[..., t] @ layer.gate)[:, None]
        assert_same(x_out[..., t], x[..., t] + gate * (x_mean - x[..., t]))
        assert_same(h_out[..., t], h[..., t] + layer.mix(h_mean))


@pytest.mark.parametrize("changes", OURS, ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
def test_networks_are_equivariant(domain, changes):
    network, x, kwargs = frames_with_gaps(domain, **changes)
    batch = case(domain).batch
    change = motion("all", batch)
    moved_kwargs = change.batch(batch).model_kwargs() | {"cond_mask": kwargs["cond_mask"]}
    moved_kwargs["x_given"] = change.moved(batch.x)
    x_out, h_out = network(batch.batch, x, **kwargs)
    x_moved, h_moved = network(change.batch(batch).batch, change.moved(x), **moved_kwargs)
    assert_same(x_moved, change.turned(x_out))
    assert_same(h_moved, h_out[change.order])
    x_ref = network(None, None, compute_ref=True, **kwargs)
    assert_same(network(None, None, compute_ref=True, **moved_kwargs), change.moved(x_ref))
    assert x_out.norm() > 0.1


@pytest.mark.parametrize("changes", OURS, ids=str)
def test_gradients(changes):
    network, x, kwargs = frames_with_gaps(**changes)
    x.requires_grad_()
    value = lambda x: sum(v.square().sum() for v in network(torch.zeros(len(x)), x, **kwargs))
    value(x).backward()
    grads = {name: p.grad for name, p in network.named_parameters() if "ref" not in name and name != "ws"}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    with torch.no_grad():
        assert_same((x.grad * step).sum(), (value(x + step) - value(x - step)) / 2, 1e-6)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("graph", [None, {"radius": 2.0, "of": "current", "bonds": True}], ids=str)
def test_a_chain_is_the_plain_loop(graph, captured):
    changes = {} if graph is None else {"graph": graph, "edge_dim": GraphSpec.parse(graph).edge_dim(2)}
    network, x, kwargs = frames_with_gaps(**OURS[2], **changes)
    made = diffusion(network, prior="learned", model_mean_type=ModelMeanType.START_X)
    x_ref = made.get_ref_frame(kwargs)
    torch.manual_seed(3)
    plain = torch.randn(x.shape, dtype=made.dtype)
    with torch.no_grad():
        for step in reversed(range(made.num_timesteps)):
            t = torch.full((len(x),), step)
            # The next noise is drawn in this order.
            plain = made.p_sample(plain, t, model_kwargs=kwargs)["sample"].contiguous()
    record = TapeRecorder()
    if captured:
        made.captures = CaptureCache(record=record)
    torch.manual_seed(3)
    sample = made.p_sample_loop(tuple(x.shape), model_kwargs=kwargs)
    assert len(record.tapes) == captured
    assert_same(sample, plain + x_ref, 1e-9)


def test_edges_of_every_frame_and_features_that_change():
    """The same edges once for all frames, with their features in every frame, and as edges of each frame."""
    layer, batch = PushLayer(4, 2).double(), case("molecule").batch
    h = torch.randn(len(batch.x), 4, NUM_FRAMES, dtype=torch.float64)
    expected = layer(batch.x, h, batch.edge_index, batch.edge_attr)
    changing = batch.edge_attr[..., None].expand(-1, -1, NUM_FRAMES)
    per_frame = Graph.static(batch.edge_index, len(h)).of_frames(NUM_FRAMES)
    for found in (
        layer(batch.x, h, batch.edge_index, changing),
        layer(batch.x, h, per_frame, batch.edge_attr.repeat_interleave(NUM_FRAMES, dim=0)),
    ):
        assert_same(found[0], expected[0])
        assert_same(found[1], expected[1])


def test_saved_and_loaded(tmp_path):
    sizes = {"n_layers": 1, "node_dim": 1, "edge_dim": 0, "hidden_dim": 8, "time_emb_dim": 8, "act_fn": "silu"}
    sizes |= {"learn_ref_frame": False, "n_layers_ref": 0, "num_w": 1}
    network = EGTN(**sizes, **OURS[2])
    config = {"denoise_model": sizes | OURS[2], "diffusion": {"beta_schedule_name": "linear", "num_timesteps": 5}}
    save_checkpoint(tmp_path / "mine.safetensors", network, config)
    loaded, _ = load_checkpoint(tmp_path / "mine.safetensors")
    assert isinstance(loaded.s_modules[0], PushLayer) and isinstance(loaded.t_modules[0], PullLayer)
    x, h, edges = torch.randn(3, 3, 5), torch.randn(3, 1), torch.tensor([[0, 1, 2], [1, 2, 0]])
    for found, expected in zip(*(net(torch.zeros(3), x, h, edges) for net in (loaded, network)), strict=True):
        assert torch.equal(found, expected)
    del SPATIAL["push"]
    with pytest.raises(ValueError, match="EGTN: spatial must be one of egcl; got 'push'"):
        load_checkpoint(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("kind", ["s_modules", "t_modules"])
def test_hooks_on_a_layer_run_and_foreign_parts_are_refused(kind):
    network, x, kwargs = frames_with_gaps(**OURS[2])
    expected, seen = network(torch.zeros(len(x)), x, **kwargs), []
    layer = getattr(network, kind)[0]
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    with pytest.warns(RuntimeWarning, match=f"{kind}.0 is {type(layer).__name__}, with hooks"):
        found = network(torch.zeros(len(x)), x, **kwargs)
    handle.remove()
    assert seen == [1]
    assert_same(found[0], expected[0])
    name, part = list(layer.named_children())[-1]
    part.register_forward_hook(lambda *_: None)
    assert f"{name} is {type(part).__name__}" in why_not_plain(layer)
    key = "spatial='egcl'" if kind == "s_modules" else "temporal='attention'"
    warn_called_by_modules.cache_clear()
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(TypeError, match=f"{type(layer).__name__}: {name} is {type(part).__name__}.*only {key} calls"),
    ):
        network(torch.zeros(len(x)), x, **kwargs)


def test_a_layer_norm_counts_where_a_layer_reads_it_alone():
    network, _, _ = frames_with_gaps(spatial="push")
    assert why_not_plain(network) is None
    network.t_modules[0].v_mlp.actions[1] = nn.LayerNorm(WIDTH)
    assert why_not_plain(network).startswith("t_modules.0.v_mlp.actions.1 is LayerNorm")


def test_a_layer_without_its_property_says_so():
    with pytest.raises(NotImplementedError, match="SpatialLayer: a spatial layer must have the property `weights`"):
        SpatialLayer(4, 0).weights  # noqa: B018
    with pytest.raises(NotImplementedError, match="TemporalLayer: a temporal layer must have the property `prepared`"):
        TemporalLayer(4).prepared  # noqa: B018


@pytest.mark.parametrize("name", [*SPATIAL, *TEMPORAL])
def test_what_a_registered_layer_reads_is_a_tuple_that_a_cuda_graph_can_hold(name):
    """Of tensors, numbers, names and options that are equal where their fields are."""
    act, x, h = nn.SiLU(), torch.randn(3, 5, 3), torch.randn(3, 5, 8)
    if name in SPATIAL:
        make = lambda: SPATIAL[name](SpatialOptions(8, 0, act, False, None, "polynomial"))
        read = lambda layer: layer.prepare(x, h, torch.tensor([[0, 1], [1, 0]]), None)
    else:
        make = lambda: TEMPORAL[name](TemporalOptions(8, act, 8, True, None))
        read = lambda layer: layer.prepared
    one, two = (torch.utils._pytree.tree_flatten(read(make())) for _ in range(2))
    assert one[1] == two[1]
    for a, b in zip(one[0], two[0], strict=True):
        assert a.shape == b.shape if isinstance(a, Tensor) else a == b
    assert any(isinstance(leaf, Tensor) for leaf in one[0])


def test_the_default_layers_are_the_papers():
    network = case("nbody").network()
    assert type(network.s_modules[0]) is ESLayer and type(network.t_modules[0]) is ETLayer
    names = case("nbody").network(spatial="egcl", temporal="attention").state_dict().keys()
    assert list(network.state_dict()) == list(names)


def test_names_that_are_not_there():
    with pytest.raises(ValueError, match="EGTN: spatial must be one of egcl, push; got 'psh'; did you mean 'push'"):
        case("nbody").network(spatial="psh")
