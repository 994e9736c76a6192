"""Graphs that change with the positions: bonds and what a search finds, and networks that ask for them every time."""

import pytest
import torch
from cases import MASKS, NUM_FRAMES, case, diffusion
from tape import TapeRecorder
from test_graphs_search import BATCH, CUTOFF, T, number_of, pairs_of, positions
from tolerances import assert_same

from geotdm_fast import ModelMeanType, Sampler, backend, radius_graph
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.graphs import Graph, NearestRule, RadiusRule
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.cuda_graphs import Captured

# Within graphs; one comes twice, one is of a node with itself, and 8 has none.
BONDS = torch.tensor([[0, 2, 3, 5, 0, 2, 7, 7], [2, 0, 5, 3, 2, 4, 7, 3]])
ATTR = torch.arange(1.0, 17).view(8, 2)


# --- a rule by itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["radius", "nearest"])
def test_a_union_is_brute_force(kind):
    """Each edge once for each bond, else once; with the features of the bond, or of what was found."""
    x, found_attr = positions(), torch.tensor([-1.0, -2.0])
    about = {"bonds": BONDS, "bond_attr": ATTR, "found_attr": found_attr}
    rule = RadiusRule(CUTOFF, 8, BATCH, **about) if kind == "radius" else NearestRule(2, BATCH, **about)
    searched = pairs_of(Graph.radius(x, CUTOFF, 8, BATCH) if kind == "radius" else Graph.nearest(x, 2, BATCH))
    bonds = [(i * T + t, j * T + t) for i, j in BONDS.T.tolist() for t in range(T)]
    expected = sorted(
        [(*bond, *ATTR[k // T].tolist()) for k, bond in enumerate(bonds)]
        + [(*pair, *found_attr.tolist()) for pair in searched - set(bonds)]
    )
    made = rule(x)
    count = number_of(made)
    rows = zip(*made.edge_index[:, :count].tolist(), *made.edge_attr[:count].T.tolist(), strict=True)
    assert sorted(rows) == expected and set(bonds) & searched, "some are both"
    assert (made.edge_attr[count:] == 0).all() and made.edge_attr.shape == (made.num_edges, 2)
    assert rule.edge_dim == 2 and not rule.overflowed()


def test_features_may_be_whole_numbers():
    made = RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS, bond_attr=ATTR.long(), found_attr=torch.tensor([0.5, 0.25]))
    assert made(positions()).edge_attr.unique().tolist() == [0, 0.25, 0.5, *range(1, 17)]


def test_without_features_bonds_are_told_from_what_was_found():
    made = RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS)(positions())
    assert int(made.edge_attr.sum()) == BONDS.shape[1] * T
    for bonds in (None, BONDS[:, :0]):
        rule = RadiusRule(CUTOFF, 8, BATCH, bonds=bonds)
        alone = rule(positions())
        assert pairs_of(alone) == pairs_of(Graph.radius(positions(), CUTOFF, 8, BATCH))
        assert alone.edge_attr is None if bonds is None else bool((alone.edge_attr == 0).all())
    none = RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS, bond_attr=torch.zeros(8, 0))
    assert none.edge_dim == 0 and none(positions()).edge_attr is None


def test_overflow_is_kept_until_it_is_read_and_the_rule_enlarged():
    rule = RadiusRule(CUTOFF, 1, BATCH)
    most = max(int(Graph.radius(positions(seed=seed), CUTOFF, 8, BATCH).needed) for seed in range(3))
    for seed in range(3):
        rule(positions(seed=seed))
    assert rule.overflowed() and int(rule.needed) == most
    rule(positions() * 100)
    assert rule.overflowed(), "by an earlier call"
    larger = rule.enlarged()
    assert larger.capacity == max(2, most) and not larger.overflowed() and rule.overflowed()
    for seed in range(3):
        larger(positions(seed=seed))
    assert not larger.overflowed() and int(larger.needed) == most
    assert larger.enlarged().capacity == 2 * larger.capacity
    assert not NearestRule(1, BATCH)(positions()).overflowed()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RadiusRule(CUTOFF, 0, BATCH), ValueError, r"RadiusRule: capacity must be at least 1, got 0"),
        (lambda: NearestRule(1.5, BATCH), TypeError, r"NearestRule: k must be a whole number, got 1\.5"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH[None]), ValueError, r"RadiusRule: batch must be \[N\], got \[1, 9\]"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS.T), ValueError, r"bonds must be \[2, B\], got \[8, 2\]"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS + 2), ValueError, r"bonds must be in 0\.\.8, got 9"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH, bond_attr=ATTR), ValueError, r"must come with bonds, got no bonds"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS, bond_attr=ATTR[1:]), ValueError, "bond_attr must be"),
        (lambda: RadiusRule(CUTOFF, 8, BATCH, bonds=BONDS, found_attr=ATTR[0]), ValueError, "found_attr must be"),
        (lambda: RadiusRule(-1, 8, BATCH)(positions()), ValueError, r"cutoff must be positive, got -1"),
    ],
)  # fmt: skip
def test_errors_of_rules(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- a network --------------------------------------------------------------------------------------------------------

REACH = 1.6


def rule_of(batch, kind="union", capacity=8):
    """Edges of the batch stay as bonds, with its features; more are found."""
    about = {"bonds": batch.edge_index[:, ::2], "bond_attr": batch.edge_attr[::2], "found_attr": torch.tensor([0.7])}
    return {
        "union": lambda: RadiusRule(REACH, capacity, batch.batch, **about),
        "nearest": lambda: NearestRule(2, batch.batch, **about),
        "radius": lambda: RadiusRule(REACH, capacity, batch.batch),
    }[kind]()


def in_place_of_edges(kwargs, rule):
    """The arguments without edges, and with a rule."""
    return {name: value for name, value in kwargs.items() if name not in ("edge_index", "edge_attr")} | {"graph": rule}


def conditional(kind="union", mask="holes", **changes):
    """A network, frames to draw, and arguments with a rule."""
    made = case("nbody")
    batch, given = made.batch, cond_mask(MASKS[mask], NUM_FRAMES)
    noisy = frames_of(given).noisy
    sizes = {"learned": True, "num_w": len(noisy)} | ({"edge_dim": 0} if kind == "radius" else {})
    kwargs = batch.model_kwargs() | {"cond_mask": given, "x_given": batch.x}
    return made.network(**sizes | changes), batch.x[..., noisy].clone(), in_place_of_edges(kwargs, rule_of(batch, kind))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("scale", [1, 2.0])
@pytest.mark.parametrize("kind", ["union", "nearest", "radius"])
def test_a_network_asks_for_the_graph_of_its_positions(kind, scale, called):
    """All frames of a call, given ones in their places, before they are scaled; of the given frames for the prior."""
    network, x, kwargs = conditional(kind, scale=scale)
    rule, frames = kwargs["graph"], frames_of(kwargs["cond_mask"])
    if called:
        for layer in (*network.s_modules, *network.s_modules_ref):
            layer.edge_mlp.register_forward_hook(lambda *_: None)
    step = torch.arange(len(x)) % 5

    def of(x):
        found = rule(x)
        count = number_of(found)
        return {"edge_index": Graph.per_frame(found.edge_index[:, :count], *x.shape[:2]), "graph": None,
                "edge_attr": None if found.edge_attr is None else found.edge_attr[:count]}  # fmt: skip

    whole = frames.with_noisy(kwargs["x_given"].transpose(1, 2), x.transpose(1, 2), 1)
    expected = network(step, x, **kwargs | of(whole))
    made = kwargs | {"graph": rule(whole)}  # a graph that brings its features
    for found in (network(step, x, **kwargs), network(step, x, **made)):
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, 1e-11)
    x_ref = network(None, None, compute_ref=True, **kwargs)
    # Edges of given frames alone: the graph of all frames has more, which the prior does not look at.
    assert_same(x_ref, network(None, None, compute_ref=True, **kwargs | of(whole)), 1e-11)


@pytest.mark.parametrize("kind", ["union", "nearest"])
def test_a_network_on_a_rule_is_equivariant(kind):
    network, x, kwargs = conditional(kind, pre_norm=True)
    batch, step = case("nbody").batch, torch.arange(len(x)) % 5
    generator = torch.Generator().manual_seed(5)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    shift = torch.randn(3, 1, generator=generator, dtype=torch.float64)
    x_out, h_out = network(step, x, **kwargs)
    moved = kwargs | {"x_given": turn @ kwargs["x_given"] + shift}
    x_moved, h_moved = network(step, turn @ x + shift, **moved)
    assert_same(x_moved, turn @ x_out, 1e-10)
    assert_same(h_moved, h_out, 1e-10)
    # Nodes in another order, within their graphs.
    order = torch.tensor([3, 0, 4, 1, 2, 8, 6, 5, 7])
    batch.edge_index = order.argsort()[batch.edge_index]
    other = kwargs | {"h": kwargs["h"][order], "x_given": kwargs["x_given"][order], "graph": rule_of(batch, kind)}
    for a, b in zip(network(step[order], x[order], **other), (x_out, h_out), strict=True):
        assert_same(a, b[order], 1e-10)
    # Each graph alone.
    for graph in range(2):
        mine = batch.batch == graph
        alone = case("nbody").graphs[graph]
        alone = type(batch)(alone.x, alone.h, alone.edge_index, alone.edge_attr, alone.scored, batch.batch[mine] * 0, 1)
        assert alone.edge_index.shape[1] % 2 == 0, "else others of its edges would be bonds"
        own = {"h": alone.h, "x_given": alone.x, "graph": rule_of(alone, kind), "batch": alone.batch}
        for a, b in zip(network(step[mine], x[mine], **kwargs | own), (x_out, h_out), strict=True):
            assert_same(a, b[mine], 1e-10)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"graph": RadiusRule(1.0, 4, BATCH[:8])}, ValueError, "EGTN: the graph rule must be of 9 nodes, got one of 8"),
        ({"graph": RadiusRule(1.0, 4, BATCH)}, ValueError, "the graph rule must bring 1 features of an edge, got 0"),
        ({"edge_attr": torch.zeros(3, 1)}, ValueError, "EGTN: edge_attr must be None with a graph rule"),
        ({"graph": RadiusRule(1.0, 4, BATCH).to("meta")}, ValueError, "edge_index must be on cpu like the network"),
        ({"graph": None}, TypeError, r"EGTN: edge_index must be a tensor \[2, E\], got NoneType"),
    ],
)
def test_errors_of_the_network(change, error, message):
    network, x, kwargs = conditional()
    with pytest.raises(error, match=message):
        network(torch.zeros(len(x)), x, **kwargs | change)


# --- the diffusion ----------------------------------------------------------------------------------------------------


def model(kind="union", capacity=8, seed=None, mode="cond"):
    """A diffusion in float32 whose networks the kernels take, a shape, and arguments with a rule."""
    batch = case("nbody").batch.to(dtype=torch.float32)
    if seed is not None:
        batch.x = batch.x + torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(seed))
    given = cond_mask(MASKS["prefix"], NUM_FRAMES)
    num_noisy = len(frames_of(given).noisy) if mode == "cond" else NUM_FRAMES
    kwargs = in_place_of_edges(batch.model_kwargs(), rule_of(batch, kind, capacity))
    if mode == "cond":
        kwargs |= {"cond_mask": given, "x_given": batch.x}
    network = case("nbody").network(learned=mode == "cond", num_w=num_noisy, hidden_dim=16, dtype=torch.float32,
                                    pre_norm=True, edge_dim=rule_of(batch, kind).edge_dim)  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    prior = "learned" if mode == "cond" else None
    made = diffusion(network, mode, prior, model_mean_type=ModelMeanType.START_X)
    return made, (len(batch.x), 3, num_noisy), kwargs


def seeded(run):
    torch.manual_seed(17)
    return run()


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("kind", ["union", "nearest", "radius"])
def test_a_captured_chain_makes_the_graph_in_every_step(kind, implementation):
    """On a tape nothing waits; replays make the edges of their own positions, and of another batch."""
    made, shape, kwargs = model(kind)
    with backend(implementation):
        draw = lambda kwargs: seeded(lambda: made.p_sample_loop(shape, model_kwargs=kwargs))
        batches = [kwargs, model(kind, seed=1)[2]]
        made.captures = None
        expected = [draw(kwargs) for kwargs in batches]
        made.captures = type(diffusion(made.denoise_network).captures)(record=TapeRecorder())
        found = [draw(kwargs) for kwargs in batches]
    assert len(made.captures) == len(made.captures.record.tapes) == 1
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and a.isfinite().all()
    assert not torch.equal(*expected)


@pytest.mark.parametrize("captured", [False, True])
def test_overflow_in_a_chain_is_told_and_repeated_with_room(captured):
    made, shape, kwargs = model("radius", capacity=1)
    made.captures.record = TapeRecorder() if captured else None
    draw = lambda kwargs: seeded(lambda: made.p_sample_loop(shape, model_kwargs=kwargs))
    expected = draw(kwargs | {"graph": rule_of(case("nbody").batch, "radius", capacity=20)})
    rounds = 0
    while True:
        found, rounds = draw(kwargs), rounds + 1
        if not kwargs["graph"].overflowed():
            break
        assert not torch.equal(found, expected)
        kwargs["graph"] = kwargs["graph"].enlarged()
    assert rounds > 1 and torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["cond", "uncond"])
def test_everything_of_a_diffusion_takes_a_rule(mode):
    made, shape, kwargs = model(mode=mode)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    loss = seeded(lambda: made.training_losses(x, model_kwargs=kwargs)["loss"].mean())
    grads = torch.autograd.grad(loss, list(made.denoise_network.s_modules.parameters()), materialize_grads=True)
    assert sum(bool(grad.abs().max() > 0) for grad in grads) > len(grads) // 2
    terms = seeded(lambda: made.calc_bpd_loop(x, model_kwargs=kwargs))
    assert all(value.isfinite().all() for value in terms.values())
    for method in ("ddim", "dpmpp_2m"):
        assert Sampler(made, method, num_steps=3).draw(shape, kwargs).isfinite().all()
    assert made.optimize(x, 2, model_kwargs=kwargs).shape == shape
    assert not kwargs["graph"].overflowed() and int(kwargs["graph"].needed) > 0


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_a_captured_loss_makes_the_graph_of_its_batch(implementation):
    """Loss and gradients of a training step on a tape: of another batch, noise and rule in a replay."""
    made, shape, _ = model()
    mask = cond_mask(MASKS["prefix"], NUM_FRAMES)
    frames = frames_of(mask)

    def inputs(seed):
        generator = torch.Generator().manual_seed(seed)
        _, _, kwargs = model(seed=seed)
        steps = torch.randint(0, made.num_timesteps, (2,), generator=generator)[kwargs["batch"]]
        kwargs.pop("cond_mask")
        return {"kwargs": kwargs, "t": steps, "noise": torch.randn(shape, generator=generator)}

    def step(inputs):
        kwargs = inputs["kwargs"] | {"cond_mask": mask}
        x = frames.noisy_of(kwargs["x_given"], 2)
        with trusted():
            loss = made.training_losses(x, inputs["t"], kwargs, inputs["noise"])["loss"].mean()
        parameters = list(made.denoise_network.parameters())
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True), kwargs["graph"].needed

    with backend(implementation):
        captured = Captured(step, inputs(0), record=TapeRecorder())
        for seed in range(3):
            found, expected = captured.replay(inputs(seed)), step(inputs(seed))
            assert torch.equal(found[0], expected[0]) and torch.equal(found[2], expected[2])
            pairs = [(a, b) for a, b in zip(found[1], expected[1], strict=True) if b is not None]
            assert all(torch.equal(a, b) for a, b in pairs) and len(pairs) > 40


def test_a_chain_that_diverges_comes_to_its_end():
    made, shape, kwargs = model("radius")
    with torch.no_grad():
        made.denoise_network.s_modules[0].coord_mlp.actions[2].weight.fill_(1e30)
    found = seeded(lambda: made.p_sample_loop(shape, model_kwargs=kwargs))
    assert found.shape == shape and not found.isfinite().all()


def test_radius_rules_are_radius_graphs():
    x, batch = case("nbody").batch.x.transpose(1, 2), case("nbody").batch.batch
    made = RadiusRule(REACH, 8, batch)(x)
    assert made.edge_index[:, : number_of(made)].equal(radius_graph(x, REACH, batch))
