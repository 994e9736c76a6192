"""The network: against loops for every mask, batches against single graphs, inputs as they come, copies."""

import copy
import io
import pickle

import pytest
import torch
import transcription
from cases import DOMAINS, MASKS, NUM_FRAMES, Tamed, case, diffusion
from tolerances import assert_same

from geotdm_fast import EGTN
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.data.trajectory import collate

STEP = 17


def conditional(domain: str, mask: str, **network):
    """Network, noisy input, keyword arguments, given frames; two different diffusion steps in the batch."""
    graphs, batch = case(domain), case(domain).batch
    frames = frames_of(cond_mask(MASKS[mask], NUM_FRAMES))
    model_kwargs = batch.model_kwargs() | {"cond_mask": cond_mask(MASKS[mask], NUM_FRAMES), "x_given": batch.x}
    module = graphs.network(learned=True, num_w=len(frames.noisy), **network)
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(*batch.x.shape[:2], len(frames.noisy), generator=generator, dtype=torch.float64)
    return module, x, STEP + 3 * batch.batch, model_kwargs, list(frames.given)


def arrays(model_kwargs: dict) -> list:
    values = [model_kwargs[name] for name in ("h", "edge_index", "edge_attr")]
    return [None if value is None else value.numpy() for value in values]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_equals_loops_with_frames_in_their_true_places(domain, mask):
    module, x, step, model_kwargs, given = conditional(domain, mask)
    x_out, h_out = module(diffusion_t=step, x=x, **model_kwargs)
    x_given = model_kwargs["x_given"].numpy()
    x_loops, h_loops = transcription.network(module, step.numpy(), x.numpy(), x_given, given, *arrays(model_kwargs))
    assert_same(x_out, x_loops, 1e-12)
    assert_same(h_out, h_loops, 1e-12)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_learned_prior_equals_loops_with_true_distances_in_time(domain, mask):
    module, _, _, model_kwargs, given = conditional(domain, mask)
    x_ref = module(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
    x_given = model_kwargs["x_given"].numpy()
    assert_same(x_ref, transcription.learned_prior(module, x_given, given, *arrays(model_kwargs)), 1e-12)


def test_unconditional_and_scaled_equal_loops():
    graphs = case("molecule")
    batch, module = graphs.batch, graphs.network(scale=2.5)
    step = STEP + batch.batch
    x_out, _ = module(diffusion_t=step, x=batch.x, **batch.model_kwargs())
    no_frames = batch.x.numpy()[:, :, :0]
    x_given = torch.zeros(*batch.x.shape).numpy()
    expected, _ = transcription.network(
        module, step.numpy(), batch.x.numpy(), x_given, [], *arrays(batch.model_kwargs())
    )
    assert no_frames.shape[2] == 0
    assert_same(x_out, expected, 1e-12)


def test_the_place_of_a_given_frame_matters():
    """The same given values at other times are another condition."""
    module, x, step, model_kwargs, _ = conditional("nbody", "prefix")
    here, _ = module(diffusion_t=step, x=x, **model_kwargs)
    mask = cond_mask([[4, 7]], NUM_FRAMES)
    x_given = model_kwargs["x_given"].roll(4, dims=2)
    there, _ = module(diffusion_t=step, x=x, **model_kwargs | {"cond_mask": mask, "x_given": x_given})
    assert (here - there).abs().max() > 1e-3


def test_unknown_frames_of_x_given_are_never_read():
    module, x, step, model_kwargs, given = conditional("pedestrian", "holes")
    broken = torch.full_like(model_kwargs["x_given"], float("nan"))
    broken[..., given] = model_kwargs["x_given"][..., given]
    changed = model_kwargs | {"x_given": broken}
    assert torch.equal(module(diffusion_t=step, x=x, **model_kwargs)[0], module(diffusion_t=step, x=x, **changed)[0])
    reference = lambda kwargs: module(diffusion_t=None, x=None, compute_ref=True, **kwargs)
    assert torch.equal(reference(model_kwargs), reference(changed))


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_batch_equals_its_graphs_one_by_one(domain):
    graphs = case(domain)
    ranges = MASKS["holes"]
    mask = cond_mask(ranges, NUM_FRAMES)
    noisy = frames_of(mask).noisy
    module = graphs.network(learned=True, num_w=len(noisy))
    whole = graphs.batch
    kwargs_of = lambda batch: batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}
    run = lambda batch: module(diffusion_t=torch.full((len(batch.x),), STEP), x=batch.x[..., noisy], **kwargs_of(batch))
    prior = lambda batch: module(diffusion_t=None, x=None, compute_ref=True, **kwargs_of(batch))
    singles = [collate([graph]).to(dtype=torch.float64) for graph in graphs.graphs]
    assert len(singles) >= 2
    for k in (0, 1):
        assert_same(run(whole)[k], torch.cat([run(single)[k] for single in singles]), 1e-13)
    assert_same(prior(whole), torch.cat([prior(single) for single in singles]), 1e-13)


@pytest.mark.parametrize("domain", DOMAINS)
def test_gradients_reach_every_parameter(domain):
    """All but the bias added to every key, which softmax removes, and what follows the last layer's x or h."""
    module, x, step, model_kwargs, _ = conditional(domain, "ends")
    x_out, h_out = module(diffusion_t=step, x=x, **model_kwargs)
    x_ref = module(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
    (x_out.sum() + x_out.square().sum() + h_out.square().sum() + x_ref.square().sum()).backward()
    for name, parameter in module.named_parameters():
        if not name.endswith("k_mlp.actions.2.bias"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-12, name


def test_accepts_tensors_as_graph_libraries_give_them():
    """Integer features, transposed edge_index, int32 indices, a bool or flat mask, unknown keywords."""
    module, x, step, model_kwargs, _ = conditional("molecule", "ends")
    assert model_kwargs["h"].dtype == model_kwargs["edge_attr"].dtype == torch.int64
    expected, _ = module(diffusion_t=step, x=x, **model_kwargs)
    mask = model_kwargs["cond_mask"]
    for changed in (
        {"edge_index": model_kwargs["edge_index"].T.contiguous().T},
        {"edge_index": model_kwargs["edge_index"].int(), "batch": model_kwargs["batch"].int()},
        {"h": model_kwargs["h"].double(), "edge_attr": model_kwargs["edge_attr"].float()},
        {"cond_mask": mask.bool()},
        {"cond_mask": mask.reshape(-1).to(torch.int64)},
        {"batch": None},
        {"num": torch.tensor([1]), "v": x, "num_nodes": 3, "compute_ref": False},
        {"edge_attr": model_kwargs["edge_attr"].unsqueeze(-1).expand(-1, -1, NUM_FRAMES)},
        {"h": model_kwargs["h"].unsqueeze(-1).expand(-1, -1, NUM_FRAMES)},
    ):
        assert_same(module(diffusion_t=step, x=x, **model_kwargs | changed)[0], expected, 1e-13, what=str([*changed]))


def test_edge_features_that_change_over_time():
    """Each frame has its own, in the network and in the prior."""
    module, x, step, model_kwargs, given = conditional("nbody", "holes")
    generator = torch.Generator().manual_seed(9)
    shape = (*model_kwargs["edge_attr"].shape, NUM_FRAMES)
    edge_attr = torch.randn(shape, generator=generator, dtype=torch.float64)
    changed = model_kwargs | {"edge_attr": edge_attr}
    h, edge_index, _ = arrays(model_kwargs)
    x_given, last = model_kwargs["x_given"].numpy(), edge_attr.numpy().transpose(0, 2, 1)
    x_out, _ = module(diffusion_t=step, x=x, **changed)
    expected, _ = transcription.network(module, step.numpy(), x.numpy(), x_given, given, h, edge_index, last)
    assert_same(x_out, expected, 1e-12)
    x_ref = module(diffusion_t=None, x=None, compute_ref=True, **changed)
    assert_same(x_ref, transcription.learned_prior(module, x_given, given, h, edge_index, last[:, given]), 1e-12)


def test_inputs_are_left_as_they_were():
    module, x, step, model_kwargs, _ = conditional("nbody", "ends")
    before = copy.deepcopy((x, step, model_kwargs))
    module(diffusion_t=step, x=x, **model_kwargs)
    module(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
    assert torch.equal(before[0], x) and torch.equal(before[1], step) and before[2].keys() == model_kwargs.keys()
    for name, value in before[2].items():
        assert torch.equal(value, model_kwargs[name]), name


@pytest.mark.parametrize("batch_of", ["no nodes", "no edges"])
def test_empty_in_empty_out(batch_of):
    module, x, step, model_kwargs, _ = conditional("nbody", "ends")
    empty = {"edge_index": model_kwargs["edge_index"][:, :0], "edge_attr": model_kwargs["edge_attr"][:0]}
    if batch_of == "no nodes":
        empty |= {name: model_kwargs[name][:0] for name in ("h", "batch", "x_given")}
        x, step = x[:0], step[:0]
    x_out, h_out = module(diffusion_t=step, x=x, **model_kwargs | empty)
    assert x_out.shape == x.shape and h_out.shape == (len(x), 12, x.shape[2]) and torch.isfinite(x_out).all()


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same(way):
    module, x, step, model_kwargs, _ = conditional("nbody", "ends")
    module.set_precision("tf32")
    if way == "deepcopy":
        twin = copy.deepcopy(module)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    else:
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        twin = torch.load(stream, weights_only=False)
    assert twin.precision == "tf32" and twin.s_modules[0].precision == "tf32"
    run = lambda network: network(diffusion_t=step, x=x, **model_kwargs)[0]
    assert torch.equal(run(twin), run(module))
    with torch.no_grad():
        twin.input_linear.weight.add_(1)
    assert not torch.equal(run(twin), run(module))


def test_works_in_inference_mode_and_sees_its_changes():
    module, x, step, model_kwargs, _ = conditional("nbody", "prefix")
    expected = module(diffusion_t=step, x=x, **model_kwargs)[0]
    with torch.inference_mode():
        born = {name: value.clone() for name, value in model_kwargs.items()}
        assert torch.equal(module(diffusion_t=step, x=x, **born)[0], expected)
        born["cond_mask"].copy_(cond_mask(MASKS["holes"], NUM_FRAMES))
        moved = module(diffusion_t=step, x=x, **born)[0]
    assert not torch.equal(moved, expected)


def test_a_mask_changed_in_place_is_read_again():
    mask = cond_mask([[0, 2]], 5)
    assert frames_of(mask) is frames_of(mask) and frames_of(mask).given == (0, 1)
    mask[..., 3] = 1
    assert frames_of(mask).given == (0, 1, 3) and frames_of(mask).noisy == (2, 4)


def test_runs_under_autocast():
    module, x, step, model_kwargs, _ = conditional("nbody", "prefix")
    module, x = module.float(), x.float()
    run = lambda network: network(diffusion_t=step, x=x, **model_kwargs)[0]
    expected = run(module)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(run(module), expected, 0.1)


def test_constructor_is_the_official_one():
    network = EGTN(2, 3, 1, 8, 6, "silu", False, 1, 4)
    assert (network.scale, network.learn_ref_frame, network.num_w) == (1, False, 4)
    assert not any("ref" in name or name == "ws" for name in network.state_dict())
    learned = EGTN(2, 3, 1, 8, 6, "silu", True, 1, 4)
    assert learned.ws.shape == (4,) and torch.equal(learned.ws, torch.ones(4))


@pytest.mark.parametrize("num_frames", [1, 4, 9])
def test_a_window_bounds_what_a_frame_depends_on(num_frames):
    """Each of L temporal layers carries `window` frames further; without one every frame depends on all."""
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    x, h = torch.randn(3, 3, num_frames).double(), torch.randn(3, 2, num_frames).double()

    def reach(**window) -> int:
        network = EGTN(2, 2, 0, 8, 6, "silu", False, 1, 1, **window).double()
        inputs = h.clone().requires_grad_()
        _, h_out = network(torch.zeros(3), x, inputs, edge_index, None, None)
        (grad,) = torch.autograd.grad(h_out[..., 0].sum(), inputs)
        return int(grad.abs().amax(dim=(0, 1)).nonzero().max())

    assert reach() == reach(window=None) == reach(window=8) == num_frames - 1
    assert reach(window=1) == min(2, num_frames - 1) and reach(window=0) == 0


def test_a_window_adds_no_parameter_and_holds_in_both_networks():
    sizes = (2, 3, 1, 8, 6, "silu", True, 1, 4)
    plain, windowed = EGTN(*sizes), EGTN(*sizes, window=2)
    assert [*plain.state_dict()] == [*windowed.state_dict()]
    assert {layer.window for layer in [*windowed.t_modules, *windowed.t_modules_ref]} == {2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": -1}, r"EGTN: window must be at least 0, got -1"),
        ({"act_fn": "relu"}, r"EGTN: act_fn must be 'silu', got 'relu'"),
        ({"n_layers": 0}, r"EGTN: n_layers must be at least 1, got 0"),
        ({"hidden_dim": -1}, r"EGTN: hidden_dim must be at least 1, got -1"),
    ],
)
def test_constructor_refuses(change, message):
    sizes = {"n_layers": 1, "node_dim": 2, "edge_dim": 0, "hidden_dim": 4, "time_emb_dim": 4, "act_fn": "silu"}
    with pytest.raises(ValueError, match=message):
        EGTN(**sizes | change, learn_ref_frame=False, n_layers_ref=1, num_w=1)


def test_diffusion_accepts_wrapped_networks():
    """As DistributedDataParallel wraps: the network sits in `.module`."""
    module, _, _, model_kwargs, _ = conditional("nbody", "prefix")

    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **kwargs):
            return self.module(**kwargs)

    shape = (len(model_kwargs["h"]), 3, 4)
    samples, tamed = [], Tamed(module)
    for network in (tamed, Wrapper(tamed)):
        torch.manual_seed(4)
        samples.append(diffusion(network).p_sample_loop(shape, model_kwargs=model_kwargs))
    assert diffusion(Wrapper(module)).prior == "learned"
    assert torch.equal(*samples) and torch.isfinite(samples[0]).all()
