"""The key `graph`: from a configuration to networks, batches, chains and training steps."""

import math

import numpy as np
import pytest
import torch
from mixed_molecules import molecules, tiny
from tape import TapeRecorder
from tiny_models import charged_config, tiny_diffusion
from tiny_training import log_of, tiny_config
from tolerances import assert_same

from geotdm_fast import EGTN, Sampler, backend, radius_graph
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import array_dataset, collate, open_dataset
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.graphs import Graph, GraphSpec, RadiusRule, spec
from geotdm_fast.model import Model
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.task import Task
from geotdm_fast.training import train

RADIUS = 1.5
SPECS = [
    {"radius": RADIUS},
    {"radius": RADIUS, "of": "current"},
    {"radius": RADIUS, "bonds": True},
    {"radius": RADIUS, "bonds": True, "of": "current"},
    {"knn": 2},
    {"knn": 2, "of": "current"},
]
TASK = Task(given=[[0, 4]])


@pytest.fixture(scope="module")
def batch():
    """Molecules of a chain of bonds with features: three and five atoms."""
    rng = np.random.default_rng(0)
    items = []
    for size in (3, 5):
        row = np.arange(size - 1)
        edges = np.concatenate([np.stack([row, row + 1]), np.stack([row + 1, row])], axis=1)
        x = rng.normal(size=(12, size, 3)) + np.linspace(0, 1, 12)[:, None, None] * rng.normal(size=(1, size, 3))
        attr = rng.normal(size=(edges.shape[1], 2))
        items.append(array_dataset(x, h=rng.normal(size=(size, 1)), edge_index=edges, edge_attr=attr, span=12)[0])
    return collate(items)


def network(graph, *, edge_dim=2, **more) -> EGTN:
    edge_dim = GraphSpec.parse(graph).edge_dim(edge_dim) if graph else edge_dim
    sizes = {"n_layers": 2, "node_dim": 1, "edge_dim": edge_dim, "hidden_dim": 16, "time_emb_dim": 8, "act_fn": "silu"}
    torch.manual_seed(0)
    return EGTN(**sizes, learn_ref_frame=True, n_layers_ref=1, num_w=8, graph=graph, **more)


def edges_at(batch, x, graph: dict) -> set[tuple[int, int]]:
    """Receiver and sender of every edge at positions x [N, D], by all pairs."""
    found = set()
    distance = torch.cdist(x.double(), x.double())
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and batch.batch[i] == batch.batch[j]]
        if "radius" in graph:
            found |= {(i, j) for j in others if distance[i, j] <= graph["radius"]}
        else:
            found |= {(i, j) for j in sorted(others, key=lambda j: float(distance[i, j]))[: graph["knn"]]}
    return found | ({*map(tuple, batch.edge_index.T.tolist())} if graph.get("bonds") else set())


@pytest.mark.parametrize("graph", SPECS, ids=str)
def test_the_network_has_the_edges_of_all_pairs(batch, graph):
    """Its own graph gives what edges and features listed by hand give, frame by frame where these are current."""
    x_start, model_kwargs = TASK.split(batch)
    x, t = x_start + 0.1, torch.full((len(batch.batch),), 3)
    ours = network(graph).double()
    by_hand = network(None, edge_dim=3 if graph.get("bonds") else 0).double()
    by_hand.load_state_dict(ours.state_dict())
    whole = torch.cat([batch.x[..., :4], x], dim=-1).double()
    known = dict(zip(map(tuple, batch.edge_index.T.tolist()), batch.edge_attr, strict=True))
    num_nodes, num_frames = whole.shape[0], whole.shape[2]

    def listed(position):
        edges = sorted(edges_at(batch, position, graph))
        rows = [torch.cat([known[e], torch.ones(1)]) if e in known else torch.zeros(3) for e in edges]
        return edges, rows

    if graph.get("of") == "current":
        edges, rows = [], []
        for frame in range(num_frames):
            found, features = listed(whole[..., frame])
            edges += [(i * num_frames + frame, j * num_frames + frame) for i, j in found]
            rows += features
        given = Graph.per_frame(torch.tensor(edges).T, num_nodes, num_frames)
    else:
        edges, rows = listed(batch.x[..., 3])
        given = Graph.static(torch.tensor(edges).T, num_nodes)
    attr = torch.stack(rows).double() if graph.get("bonds") else None
    conditioning = {name: model_kwargs[name] for name in ("cond_mask", "x_given")}
    conditioning["x_given"] = conditioning["x_given"].double()
    h = batch.h.double()
    with backend("reference"):
        expected = by_hand(t.double(), x.double(), h, given, attr, batch.batch, **conditioning)
    found = ours(t.double(), x.double(), h, batch.edge_index, batch.edge_attr.double(), batch.batch, **conditioning)
    for name, mine, other in zip(("x", "h"), found, expected, strict=True):
        assert_same(mine, other, 1e-11, what=name)
    ours, by_hand = ours.float(), by_hand.float()
    given_frames = {name: model_kwargs[name] for name in ("cond_mask", "x_given")}

    def loss(net: EGTN, edges, attr) -> torch.Tensor:
        found = net(t, x, batch.h, edges, attr, batch.batch, **given_frames)
        return sum(part.square().sum() for part in found)

    weights = lambda net: [*net.s_modules.parameters()]
    mine = torch.autograd.grad(loss(ours, batch.edge_index, batch.edge_attr), weights(ours))
    with backend("reference"):
        theirs = torch.autograd.grad(loss(by_hand, given, None if attr is None else attr.float()), weights(by_hand))
    for a, b in zip(mine, theirs, strict=True):
        assert_same(a, b, 2e-4)


@pytest.mark.parametrize("graph", SPECS, ids=str)
@pytest.mark.parametrize("captured", [False, True])
def test_a_chain_is_the_plain_loop(graph, captured):
    """Prepared once, replayed from a tape or not: the samples of calls one by one."""
    config = charged_config()
    config["denoise_model"] |= {"graph": graph, "edge_dim": GraphSpec.parse(graph).edge_dim(1)}
    data = open_dataset(config["data"]["test"], progress=False)
    batch, task = collate(data[0:3]), Task.of_config(config)
    diffusion = tiny_diffusion(config)
    x_start, model_kwargs = task.split(batch)
    torch.manual_seed(3)
    plain = torch.randn(x_start.shape)
    x_ref = diffusion.get_ref_frame(model_kwargs)
    for step in reversed(range(diffusion.num_timesteps)):
        t = torch.full((len(plain),), step)
        plain = diffusion.p_sample(plain, t, model_kwargs=model_kwargs)["sample"].detach()
    if captured:
        diffusion.captures = CaptureCache(record=TapeRecorder())
    torch.manual_seed(3)
    sample = diffusion.p_sample_loop(tuple(x_start.shape), model_kwargs=model_kwargs)
    assert_same(sample, plain + x_ref, 1e-4)


def test_a_captured_chain_without_room_is_repeated(monkeypatch):
    monkeypatch.setattr(spec, "FIRST_CAPACITY", 1)
    config = charged_config()
    config["denoise_model"] |= {"graph": {"radius": 1e4, "of": "current"}, "edge_dim": 0}
    config["diffusion"]["prior"] = "last_frame"  # a learned one would make room
    batch = collate(open_dataset(config["data"]["test"], progress=False)[0:2])
    diffusion, task = tiny_diffusion(config), Task.of_config(config)
    draw = lambda made: Sampler(made, "ddim", 4).draw(
        tuple(task.split(batch)[0].shape), task.split(batch)[1], noise=lambda k: torch.ones(10, 3, 8) * 0.3
    )
    expected = draw(diffusion)
    record = TapeRecorder()
    diffusion.captures = CaptureCache(record=record)
    assert_same(draw(diffusion), expected, 1e-4)
    assert len(record.tapes) == 2  # without room, and with it


def test_a_captured_chain_is_repeated_until_there_is_room(monkeypatch):
    def by_one(rule: RadiusRule) -> None:
        rule._room[0] += 1
        rule.needed.zero_()

    monkeypatch.setattr(RadiusRule, "enlarge", by_one)
    monkeypatch.setattr(spec, "FIRST_CAPACITY", 1)
    config = charged_config()
    config["denoise_model"] |= {"graph": {"radius": 1e4, "of": "current"}, "edge_dim": 0}
    config["diffusion"]["prior"] = "last_frame"
    batch = collate(open_dataset(config["data"]["test"], progress=False)[0:2])
    diffusion, record = tiny_diffusion(config), TapeRecorder()
    x_start, model_kwargs = Task.of_config(config).split(batch)
    diffusion.captures = CaptureCache(record=record)
    Sampler(diffusion, "ddim", 2).draw(tuple(x_start.shape), model_kwargs)
    assert len(record.tapes) == 4  # five particles: of 1, 2, 3 and 4 neighbours


@pytest.mark.parametrize("method", ["ddim", "ays_ddim", "dpmpp_2m"])
def test_atoms_close_together_keep_every_edge_where_steps_are_captured(method):
    """Sixty of them, each with more neighbours than a graph by distance has room for at first."""
    dataset = molecules((60,), 5)
    config = tiny(dataset, {"radius": 1e4, "of": "current"}, mode="uncond")
    x_start, model_kwargs = Task.of_config(config).split(collate(dataset[0:1]))
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(5))
    draw = lambda made: Sampler(made, method, 4).draw(tuple(x_start.shape), model_kwargs, noise=lambda k: noise)
    eager, captured, record = tiny_diffusion(config), tiny_diffusion(config), TapeRecorder()
    eager.captures, captured.captures = None, CaptureCache(record=record)
    assert spec.FIRST_CAPACITY < 59
    expected = draw(eager)
    assert torch.equal(draw(captured), expected) and expected.isfinite().all()
    assert len(record.tapes) == 2  # without room for all edges, and with it


def test_steps_that_are_handed_out_keep_every_edge_too():
    dataset = molecules((60,), 5)
    config = tiny(dataset, {"radius": 1e4, "of": "current"}, mode="uncond")
    x_start, model_kwargs = Task.of_config(config).split(collate(dataset[0:1]))
    shape, record = tuple(x_start.shape), TapeRecorder()
    eager, captured = tiny_diffusion(config), tiny_diffusion(config)
    eager.captures, captured.captures = None, CaptureCache(record=record)

    def draw(name: str, made):
        torch.manual_seed(3)
        return getattr(made, name)(shape, model_kwargs=model_kwargs)

    steps = lambda made: torch.stack([out["sample"] for out in draw("p_sample_loop_progressive", made)])
    assert torch.equal(steps(captured), steps(eager))
    kept = draw("p_sample_loop_keeptraj", captured)
    assert torch.equal(kept, draw("p_sample_loop_keeptraj", eager)) and kept.isfinite().all()
    assert not record.tapes and captured.captures is not None


@pytest.mark.parametrize("graph", [{"radius": 2.0, "of": "current"}, {"radius": 2.0}, {"radius": 2.0, "bonds": True}])
def test_captured_steps_without_room_are_undone_and_done_again(tmp_path, monkeypatch, graph):
    """The same weights and the same log as with room from the start, and as without a capture."""
    from geotdm_fast.training import loop

    def run(folder, capacity, record):
        monkeypatch.setattr(spec, "FIRST_CAPACITY", capacity)
        made = loop.TrainingStep
        monkeypatch.setattr(loop, "TrainingStep", lambda *a, **k: made(*a, record=record, **k))
        config = tiny_config(num_steps=9, log_every_step=4, eval_every_step=3, batch_size=2)
        config["denoise_model"] |= {"graph": graph, "edge_dim": GraphSpec.parse(graph).edge_dim(1)}
        train(config, output_dir=tmp_path / folder, progress=False)
        monkeypatch.setattr(loop, "TrainingStep", made)
        losses = [{k: r[k] for k in r if k not in ("seconds", "graphs_per_second")} for r in log_of(tmp_path / folder)]
        return Model.load(tmp_path / folder / "last.safetensors").network.state_dict(), losses

    record = TapeRecorder()
    weights, log = run("small", 1, record)
    assert len(record.tapes) > 1  # captured again, with room
    roomy, roomy_log = run("roomy", 32, TapeRecorder())
    grown, _ = run("grown", 1, None)
    assert log == roomy_log
    for name, value in weights.items():
        assert torch.equal(value, roomy[name]), name
        assert_same(value, grown[name], 1e-4, what=name)


@pytest.mark.parametrize("graph", [{"radius": RADIUS, "of": "current"}, {"knn": 3, "of": "current"}])
def test_symmetry(batch, graph):
    """Turned, mirrored, moved and renumbered positions: turned, mirrored and renumbered results."""
    ours = network(graph, cutoff=RADIUS if "radius" in graph else None).double()
    x_start, model_kwargs = TASK.split(batch.to("cpu", torch.float64))
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    order = torch.cat([torch.randperm(3), 3 + torch.randperm(5)])
    t = torch.full((len(batch.batch),), 2.0, dtype=torch.float64)
    edges, mask = (batch.edge_index, batch.edge_attr.double(), batch.batch), model_kwargs["cond_mask"]
    call = lambda x, given, h: ours(t, x, h, *edges, cond_mask=mask, x_given=given)
    moved = lambda x: torch.einsum("ij,njt->nit", turn, x) + 2.0
    x, h = call(x_start, batch.x.double(), batch.h.double())
    turned, same = call(moved(x_start), moved(batch.x.double()), batch.h.double())
    assert_same(turned, moved(x) - 2.0, 1e-9)
    assert_same(same, h, 1e-9)
    x_2, h_2 = call(x_start[order], batch.x.double()[order], batch.h.double()[order])
    assert_same(x_2, x[order], 1e-9)
    assert_same(h_2, h[order], 1e-9)


def test_a_graph_alone_is_a_graph_in_a_batch(batch):
    ours = network({"radius": RADIUS, "of": "current", "bonds": True})
    t = lambda part: torch.full((len(part.batch),), 2.0)
    call = lambda part: ours(t(part), TASK.split(part)[0], **TASK.split(part)[1])
    whole = call(batch)[0]
    for item, nodes in zip(batch.to_data_list(), (slice(0, 3), slice(3, 8)), strict=True):
        assert_same(call(collate([item]))[0], whole[nodes], 1e-5)


def test_an_unconditional_model_takes_the_first_frame_of_the_data(batch):
    ours = network({"radius": RADIUS})
    task = Task()
    _, model_kwargs = task.split(batch)
    graph = ours.graph_of(model_kwargs)
    expected = radius_graph(batch.x[..., 0], RADIUS, batch.batch)
    assert torch.equal(graph.edge_index, expected)


@pytest.mark.parametrize("kind", ["npz", "file", "md17"])
def test_sections_say_what_the_data_have(kind):
    section = {"kind": kind, "path": "a.npz", "split": "train"}
    found = normalise_section(section | {"graph": {"bonds": 2, "radius": 5.0}})
    assert found["max_hops"] == 2 and normalise_section(found) == found
    assert normalise_section(section | {"graph": "complete"})["fully_connected"] is True
    assert "fully_connected" not in normalise_section(section | {"graph": "bonds"})
    with pytest.raises(ValueError, match="max_hops must be 2 as graph says, got 3"):
        normalise_section(section | {"graph": {"bonds": 2, "radius": 5.0}, "max_hops": 3})


def test_a_configuration_trains_and_samples_with_it(tmp_path):
    config = tiny_config(num_steps=2)
    for section in config["data"].values():
        section["graph"] = {"radius": 1.5, "of": "current"}
    config["denoise_model"]["edge_dim"] = 0
    train(config, output_dir=tmp_path, progress=False)
    model = Model.load(tmp_path / "last.safetensors")
    assert model.network.graph_spec == GraphSpec(radius=1.5, of="current")
    data = open_dataset(model.config["data"]["val"], progress=False)
    samples = model.forecast(data[0:2], method="ddim", steps=2)
    assert np.isfinite(samples.samples).all()
    assert math.isfinite(float(model.likelihood(data[0:2])[0]))
    again = normalise_config(model.config)
    assert again["denoise_model"]["graph"] == {"radius": 1.5, "bonds": False, "of": "current"}


def test_sections_must_agree():
    config = tiny_config()
    config["data"]["train"]["graph"] = {"radius": 1.5}
    config["data"]["val"]["graph"] = {"radius": 2.0}
    with pytest.raises(ValueError, match=r"data\.val\.graph must be what data\.train\.graph is, .*1\.5.*got .*2\.0"):
        normalise_config(config)
    config["data"]["val"]["graph"] = {"radius": 1.5}
    config["denoise_model"]["edge_dim"] = 1
    with pytest.raises(ValueError, match=r"denoise_model\.edge_dim must be 0 for data\.train"):
        train(config, output_dir="nowhere", progress=False)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bond", "must be one of bonds, complete; got 'bond'; did you mean 'bonds'"),
        (5.0, "must be one of bonds, complete, {radius: ...}, {knn: ...}; got 5.0"),
        ({"of": "current"}, "must have one of radius and knn"),
        ({"radius": 1, "knn": 2}, "must have one of radius and knn"),
        ({"radius": 0}, "radius must be a positive number, got 0"),
        ({"radius": float("inf")}, "radius must be a positive number"),
        ({"knn": 1.5}, "knn must be a whole number of at least 1, got 1.5"),
        ({"radius": 1, "bonds": "all"}, "bonds must be true, false or a number of bonds"),
        ({"radius": 1, "of": "last"}, "of must be one of given, current"),
        ({"radius": 1, "cutof": 2}, "unknown key 'cutof'"),
    ],
)
def test_what_is_no_graph(value, message):
    with pytest.raises(ValueError, match="data.train: graph.*" + message.replace("{", r"\{").replace("..", r"\.\.")):
        GraphSpec.parse(value, "data.train: graph")
