"""Evaluation in torch.inference_mode, then training with the same tensors: what was kept serves both."""

import copy

import pytest
import torch
from cases import NUM_FRAMES, case, diffusion
from tolerances import assert_same

from geotdm_fast import GeoTDM, Sampler
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.graphs import Graph, graph
from geotdm_fast.runtime.tensor_cache import TensorCache


@pytest.fixture
def model():
    """A conditional model of width 16 in float32, which the compiled kernels take, frames to draw, and arguments."""
    made = case("nbody")
    batch, mask = made.batch.to(dtype=torch.float32), cond_mask([[0, 3]], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    network = made.network(learned=True, num_w=len(noisy), hidden_dim=16, dtype=torch.float32)
    kwargs = batch.model_kwargs() | {"cond_mask": mask.clone(), "x_given": batch.x}
    return diffusion(network), batch.x[..., noisy].clone(), kwargs


@pytest.fixture
def sorts(monkeypatch):
    """Every sort of edges."""
    made = []
    compute = graph.sorted_edges
    monkeypatch.setattr(graph, "sorted_edges", lambda *args: (made.append(1), compute(*args))[1])
    return made


def gradients(model, x_start, kwargs):
    torch.manual_seed(5)
    loss = model.training_losses(x_start, model_kwargs=kwargs)["loss"].mean()
    return torch.autograd.grad(loss, list(model.denoise_network.parameters()), allow_unused=True)


@pytest.mark.parametrize("per_frame", [False, True])
def test_training_with_a_graph_that_was_first_used_in_inference_mode(model, sorts, per_frame):
    model, x_start, kwargs = model
    if per_frame:
        kwargs["edge_attr"] = kwargs["edge_attr"][:, :, None].expand(-1, -1, NUM_FRAMES).contiguous()
    with torch.inference_mode():
        kwargs["graph"] = Graph.static(kwargs["edge_index"].clone(), len(x_start))
        model.training_losses(x_start, model_kwargs=kwargs)
        model.p_sample_loop(x_start.shape, model_kwargs=kwargs)
    sorts.clear()
    ours = gradients(model, x_start, kwargs)
    assert len(sorts) == 0
    fresh = {name: value.clone() if torch.is_tensor(value) else None for name, value in kwargs.items()}
    for a, b in zip(ours, gradients(model, x_start, fresh), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_edges_are_sorted_once_for_all_layers(model, sorts):
    model, x_start, kwargs = model
    network, step = model.denoise_network, torch.zeros(len(x_start))
    expected = network(step, x_start, **kwargs)[0]
    assert len(sorts) == 1
    sorts.clear()
    with torch.inference_mode():
        born = kwargs | {"edge_index": kwargs["edge_index"].clone()}
        assert torch.equal(network(step, x_start, **born)[0], expected)
        assert len(sorts) == 1
        born["edge_index"].copy_(born["edge_index"].flip(0).flip(1))  # a change that no counter shows
        changed = network(step, x_start, **born)[0]
    assert_same(changed, network(step, x_start, **kwargs | {"edge_index": kwargs["edge_index"].flip(0).flip(1)})[0], 0)


def test_whoever_owns_a_batch_sorts_it_once(model, sorts):
    """A loss with its learned prior, a chain, and the bound, of a call of the network for every step."""
    model, x_start, kwargs = model
    sampler = Sampler(model, "ddim", num_steps=3)
    calls = {
        "training_losses": lambda: model.training_losses(x_start, model_kwargs=kwargs),
        "p_sample_loop": lambda: model.p_sample_loop(x_start.shape, model_kwargs=kwargs),
        "optimize": lambda: model.optimize(x_start, 2, model_kwargs=kwargs),
        "calc_bpd_loop": lambda: model.calc_bpd_loop(x_start, model_kwargs=kwargs),
        "p_sample": lambda: model.p_sample(x_start, torch.zeros(len(x_start), dtype=torch.int64), model_kwargs=kwargs),
        "draw": lambda: sampler.draw(x_start.shape, kwargs),
        "refine": lambda: sampler.refine(x_start, 2, kwargs),
    }
    for name, call in calls.items():
        call()
        assert len(sorts) == 1, name
        sorts.clear()
    assert "graph" not in kwargs
    kwargs["graph"] = Graph.static(kwargs["edge_index"], len(x_start))
    for call in calls.values():
        call()
    assert len(sorts) == 1


def test_a_subclass_may_call_its_network_with_other_edges(model):
    model, x_start, kwargs = model
    step = torch.zeros(len(x_start), dtype=torch.int64)

    class Without(GeoTDM):
        def _output_at(self, x, t, model_kwargs):
            none = {"edge_index": model_kwargs["edge_index"][:, :0], "edge_attr": model_kwargs["edge_attr"][:0]}
            return super()._output_at(x, t, model_kwargs | none)

    other = copy.copy(model)
    other.__class__ = Without
    expected = model._output_at(x_start, step, kwargs | {"edge_index": kwargs["edge_index"][:, :0],
                                                         "edge_attr": kwargs["edge_attr"][:0]})  # fmt: skip
    found = other.p_mean_variance(x_start - other.get_ref_frame(kwargs), step, model_kwargs=kwargs)
    assert found["mean"].isfinite().all()
    assert_same(other._output_at(x_start, step, kwargs), expected, 0)


def test_sinusoids_of_fake_steps_are_not_kept(model):
    """What is recorded without numbers leaves nothing for the calls with numbers."""
    network = model[0].denoise_network
    with torch.no_grad():
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
            assert type(network.embed_steps(torch.arange(3), torch.float32)) is not torch.Tensor
        first = network.embed_steps(torch.arange(3), torch.float32)
        assert_same(network.embed_steps(torch.arange(3), torch.float32), first, 0.0)


def test_a_cache_keeps_normal_tensors_by_key_until_the_tensor_changes():
    calls = []
    cache = TensorCache(lambda tensor, factor: (calls.append(factor), tensor * factor)[1])
    tensor = torch.ones(2)
    with torch.inference_mode():
        value = cache(tensor, 2)
    assert not value.is_inference() and cache(tensor, 2) is value and calls == [2]
    assert cache(tensor, 3).tolist() == [3, 3] and calls == [2, 3]
    tensor += 1
    assert cache(tensor, 2).tolist() == [4, 4] and calls == [2, 3, 2]
    cache.remember(tensor, torch.zeros(1), 5)
    assert cache(tensor, 5).tolist() == [0] and cache(tensor, 2).tolist() == [4, 4]


@pytest.mark.parametrize("keeps", [lambda x: x, lambda x: x[1:], lambda x: (x + 1, [x[:0]])])
def test_a_cache_refuses_values_that_would_keep_their_tensor(keeps):
    cache, tensor = TensorCache(keeps), torch.ones(2)
    with pytest.raises(ValueError, match="TensorCache: a value must not share memory with its tensor"):
        cache(tensor)
    with pytest.raises(ValueError, match="clone it"):
        cache.remember(tensor, keeps(tensor), 1)
