"""GeoTDM beside its golden numbers: reference frames, loops, guidance, batches against single graphs, copies."""

import copy
import pickle

import pytest
import torch
from cases import DOMAINS, MASKS, NUM_FRAMES, NUM_STEPS, Tamed, case, conditional, diffusion, other, unconditional
from tolerances import assert_same

from geotdm_fast import Sampler
from geotdm_fast.conditioning import cond_mask
from geotdm_fast.data.trajectory import collate
from geotdm_fast.graphs import Graph


def test_priors_by_name():
    _, _, model_kwargs = conditional()
    x, mask, batch = model_kwargs["x_given"], cond_mask(MASKS["ends"], NUM_FRAMES), model_kwargs["batch"]
    model_kwargs["cond_mask"] = mask  # frames 0, 1 and 6
    per_graph = lambda value: torch.stack([value[batch == graph].mean(dim=0) for graph in batch]).unsqueeze(-1)
    expected = {
        "com": per_graph(x[..., [0, 1, 6]].mean(dim=-1)),
        "com_last": per_graph(x[..., 6]),
        "last_frame": x[..., 6:],
        "none": torch.zeros(len(x), 3, 1, dtype=torch.float64),
    }
    for prior, x_ref in expected.items():
        assert_same(conditional(prior)[0].get_ref_frame(model_kwargs), x_ref, 1e-14, what=prior)
    learned, x_start, model_kwargs = conditional()
    assert learned.get_ref_frame(model_kwargs).shape == x_start.shape
    assert unconditional()[0].get_ref_frame(model_kwargs) is None


def test_default_priors():
    graphs = case("nbody")
    assert diffusion(graphs.network(learned=True)).prior == "learned"
    assert diffusion(graphs.network()).prior == "com"
    assert diffusion(graphs.network(), "uncond").prior == "none"
    assert diffusion(graphs.network(learned=True), prior="com").prior == "com"


@pytest.mark.parametrize("prior", ["learned", "com", "com_last", "last_frame"])
@pytest.mark.parametrize("inference", [False, True])
def test_the_reference_frame_is_never_stale(prior, inference):
    model, _, model_kwargs = conditional(prior)
    with torch.inference_mode(inference):
        first = model.get_ref_frame(model_kwargs)
        moved = model_kwargs | {"x_given": model_kwargs["x_given"] + 1}
        assert_same(model.get_ref_frame(moved), first + 1, 1e-13)
        masked = model_kwargs | {"cond_mask": cond_mask([[1, 4]], NUM_FRAMES)}
        assert (model.get_ref_frame(masked) - first).abs().max() > 1e-3
        # A change in place of what it was computed from.
        changed = model_kwargs | {"x_given": model_kwargs["x_given"].clone()}
        again = model.get_ref_frame(changed).clone()
        changed["x_given"] += 2
        assert_same(model.get_ref_frame(changed), again + 2, 1e-13)
        if prior == "learned":
            for name in ("h", "edge_attr"):
                other = model_kwargs | {name: model_kwargs[name] * 2}
                assert (model.get_ref_frame(other) - first).abs().max() > 1e-6
            model.denoise_network.network.ws.data.mul_(1.5)
            assert (model.get_ref_frame(model_kwargs) - first).abs().max() > 1e-6
    model.clear_ref_frame()


def test_the_bound_computes_the_reference_frame_once():
    model, x_start, model_kwargs = conditional()
    calls = []
    model.denoise_network.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs.get("compute_ref", False)), with_kwargs=True
    )
    model.calc_bpd_loop(x_start, model_kwargs=model_kwargs)
    assert sum(calls) == 1 and len(calls) == 1 + NUM_STEPS
    calls.clear()
    model.get_ref_frame(model_kwargs)
    assert sum(calls) == 1


def test_loss_differentiates_the_learned_prior_and_sampling_keeps_no_graph():
    model, x_start, model_kwargs = conditional()
    model.training_losses(x_start, model_kwargs=model_kwargs)["loss"].mean().backward()
    network = model.denoise_network.network
    assert network.ws.grad.abs().max() > 0 and network.input_linear_ref.weight.grad.abs().max() > 0
    assert not model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs).requires_grad
    assert not model.calc_bpd_loop(x_start, model_kwargs=model_kwargs)["total_bpd"].requires_grad
    assert not model.optimize(x_start, 2, model_kwargs=model_kwargs).requires_grad


@pytest.mark.parametrize("make", [conditional, unconditional])
def test_progressive_and_keeptraj_are_the_loop_step_by_step(make):
    model, x_start, model_kwargs = make()
    shape = tuple(x_start.shape)

    def seeded(run):
        torch.manual_seed(17)
        return run(shape, model_kwargs=model_kwargs)

    sample = seeded(model.p_sample_loop)
    steps = seeded(lambda *a, **k: list(model.p_sample_loop_progressive(*a, **k)))
    x_ref = model.get_ref_frame(model_kwargs)
    absolute = lambda x: x if x_ref is None else x + x_ref
    assert len(steps) == NUM_STEPS and {*steps[0]} == {"sample", "pred_xstart"}
    assert torch.equal(absolute(steps[-1]["sample"]), sample)
    # The last step adds no noise, and predicts what it returns.
    assert_same(steps[-1]["sample"], steps[-1]["pred_xstart"], 1e-12)
    for keep_every in (1, 10, 100):
        kept = seeded(lambda *a, every=keep_every, **k: model.p_sample_loop_keeptraj(*a, keep_every=every, **k))
        expected = [steps[i]["sample"] for i in range(0, NUM_STEPS, keep_every)] + [steps[-1]["sample"]]
        assert kept.shape == (*shape, len(expected))
        assert torch.equal(kept, torch.stack([absolute(x) for x in expected], dim=-1))


def test_given_noise_is_used_and_left_alone():
    model, x_start, model_kwargs = conditional()
    noise = other(x_start)
    before, shape = noise.clone(), x_start.shape
    samples = []
    for given in (noise, noise, None):
        torch.manual_seed(1)
        samples.append(model.p_sample_loop(shape, noise=given, model_kwargs=model_kwargs))
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    assert torch.equal(noise, before)


@pytest.mark.parametrize("make", [conditional, unconditional])
def test_optimize_noises_and_denoises(make):
    model, x_start, model_kwargs = make()
    batch = model_kwargs["batch"]
    torch.manual_seed(2)
    optimized = model.optimize(x_start, 4, model_kwargs=model_kwargs)
    torch.manual_seed(2)
    noise, x_ref = torch.randn_like(x_start), model.get_ref_frame(model_kwargs)
    project = lambda x: model.project_to_subspace(x, batch)
    x, noise = (project(x_start), project(noise)) if x_ref is None else (x_start - x_ref, noise)
    x = model.q_sample(x, torch.full((len(x),), 3), noise)
    for step in (3, 2, 1, 0):
        x = model.p_sample(x, torch.full((len(x),), step), model_kwargs=model_kwargs)["sample"].detach()
    assert_same(optimized, x if x_ref is None else x + x_ref, 1e-12)
    # A single step changes little, all of them much.
    nearness = lambda steps: (model.optimize(x_start, steps, model_kwargs=model_kwargs) - x_start).norm()
    if x_ref is not None:
        assert nearness(1) < 0.1 * nearness(NUM_STEPS)


def test_guidance_moves_the_sample_up_the_gradient():
    model, x_start, model_kwargs = conditional("com")
    goal = torch.tensor([3.0, -2.0, 1.0]).double()[:, None]
    guide = lambda x, t: (goal - x) * 2
    means = []
    for cond_fn in (None, guide):
        torch.manual_seed(8)
        sample = model.p_sample_loop(x_start.shape, cond_fn=cond_fn, model_kwargs=model_kwargs)
        means.append((sample - model.get_ref_frame(model_kwargs) - goal).norm())
    assert means[1] < 0.5 * means[0]


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("make", [conditional, unconditional])
def test_a_batch_equals_its_graphs_one_by_one(make, domain, monkeypatch):
    """Loss, samples and bound, with the noise cut as the batch is."""
    model, x_start, whole = make(domain=domain)
    graphs = case(domain)
    batch, sizes = whole["batch"], [len(graph.x) for graph in graphs.graphs]
    noises = [other(x_start, seed) for seed in range(NUM_STEPS + 1)]

    def run(x_start, model_kwargs, part):
        feed = iter(noises[1:])
        monkeypatch.setattr(torch, "randn_like", lambda x: next(feed)[part])
        sample = model.p_sample_loop(x_start.shape, noise=noises[0][part], model_kwargs=model_kwargs)
        feed = iter(noises)
        bound = model.calc_bpd_loop(x_start, model_kwargs=model_kwargs)
        t = (4 + 5 * batch)[part]
        loss = model.training_losses(x_start, t=t, model_kwargs=model_kwargs, noise=noises[0][part])["loss"]
        return sample, bound["total_bpd"], bound["vb"], loss.detach()

    together = run(x_start, whole, slice(None))
    start, singles = 0, []
    for graph, size in zip(graphs.graphs, sizes, strict=True):
        single = collate([graph]).to(dtype=torch.float64)
        model_kwargs = single.model_kwargs()
        if "cond_mask" in whole:
            model_kwargs |= {"cond_mask": whole["cond_mask"], "x_given": single.x}
        part = slice(start, start + size)
        singles.append(run(x_start[part], model_kwargs, part))
        start += size
    for name, a, b in zip(("sample", "bound", "terms", "loss"), together, zip(*singles, strict=True), strict=True):
        assert_same(a, torch.cat(b), what=name)


def test_model_kwargs_are_left_alone_and_extra_ones_accepted():
    model, x_start, model_kwargs = conditional()
    model_kwargs |= {"num": torch.tensor([1, 2]), "v": None}
    keys, values = [*model_kwargs], [*map(copy.deepcopy, model_kwargs.values())]
    model.training_losses(x_start, model_kwargs=model_kwargs)
    model.calc_bpd_loop(x_start, model_kwargs=model_kwargs)
    model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs)
    model.optimize(x_start, 2, model_kwargs=model_kwargs)
    assert [*model_kwargs] == keys
    for before, after in zip(values, model_kwargs.values(), strict=True):
        assert before is after is None or torch.equal(before, after)


def test_a_chain_that_diverges_comes_back():
    """A random network predicts noise that blows up: the samples say so, and no error hides them."""
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    sample = diffusion(network).p_sample_loop(x_start.shape, model_kwargs=model_kwargs)
    assert sample.shape == x_start.shape and not torch.isfinite(sample).all()


def test_float32_networks_draw_and_return_float32():
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    model_kwargs = {k: v.float() if v.is_floating_point() else v for k, v in model_kwargs.items()}
    model = diffusion(Tamed(network).float())
    torch.manual_seed(3)
    sample = model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs)
    torch.manual_seed(3)
    noise = torch.randn(x_start.shape)
    assert sample.dtype == torch.float32
    assert torch.equal(sample, model.p_sample_loop(x_start.shape, noise=noise, model_kwargs=model_kwargs))


def test_works_in_inference_mode():
    model, x_start, model_kwargs = conditional()
    torch.manual_seed(3)
    expected = model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs)
    with torch.inference_mode():
        born = {name: value.clone() for name, value in model_kwargs.items()}
        torch.manual_seed(3)
        assert torch.equal(model.p_sample_loop(x_start.shape, model_kwargs=born), expected)


def test_empty_batch():
    model, x_start, model_kwargs = conditional("com")
    for name in ("h", "batch", "x_given"):
        model_kwargs[name] = model_kwargs[name][:0]
    model_kwargs |= {"edge_index": model_kwargs["edge_index"][:, :0], "edge_attr": model_kwargs["edge_attr"][:0]}
    model = diffusion(model.denoise_network.network, prior="com")
    assert model.p_sample_loop((0, 3, 4), model_kwargs=model_kwargs).shape == (0, 3, 4)
    assert model.training_losses(x_start[:0], model_kwargs=model_kwargs)["loss"].shape == (0,)
    assert model.calc_bpd_loop(x_start[:0], model_kwargs=model_kwargs)["vb"].shape == (0, NUM_STEPS)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_compute_the_same(copied):
    model, x_start, model_kwargs = conditional()
    run = lambda model: (torch.manual_seed(1), model.p_sample_loop(x_start.shape, model_kwargs=model_kwargs))[1]
    expected = run(model)
    assert torch.equal(run(copied(model)), expected)


def test_a_table_is_not_taken_for_another_with_the_same_id():
    """Copies carry tables under the ids of the originals, which other arrays may have by then."""
    model, x_start, _ = conditional()
    t = torch.full((len(x_start),), 3)
    expected = model.table(model.posterior_mean_coef1, t, x_start).clone()
    model.table(model.posterior_mean_coef2, t, x_start)
    swapped = {}
    pair = [id(model.posterior_mean_coef1), id(model.posterior_mean_coef2)]
    for key, value in model._tables.items():
        number = pair[1 - pair.index(key[0])] if key[0] in pair else key[0]
        swapped[(number, *key[1:])] = value
    model._tables = swapped
    assert torch.equal(model.table(model.posterior_mean_coef1, t, x_start), expected)


def test_a_draw_refuses_a_graph_whose_edges_leave_a_trajectory():
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"], learned=True)
    edges = torch.tensor([[0], [len(x_start) - 1]])
    model_kwargs |= {"graph": Graph.static(edges, len(x_start)), "edge_attr": model_kwargs["edge_attr"][:1]}
    with pytest.raises(ValueError, match=r"edge_index must stay within graphs, got edge 0 from \[0, 8\]"):
        Sampler(diffusion(network)).draw(x_start.shape, model_kwargs)
