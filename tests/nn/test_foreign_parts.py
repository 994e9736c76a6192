"""Hooks on parts of a network, and parts of somebody else in it: they are called, and trained."""

import warnings

import pytest
import torch
from cases import NUM_FRAMES, case, diffusion
from tolerances import assert_same
from torch import nn

from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.nn.plain import warn_called_by_modules, why_not_plain


class Adapter(nn.Module):
    """A Linear with a low-rank addition, whose `weight` is the base's."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, v):
        return self.base(v) + self.up(self.down(v))

    def merged(self) -> nn.Linear:
        merged = nn.Linear(self.base.in_features, self.base.out_features, dtype=self.base.weight.dtype)
        merged.load_state_dict({"weight": self.base.weight + self.up.weight @ self.down.weight, "bias": self.base.bias})
        return merged


def linears(network) -> list[tuple[nn.Module, str]]:
    return [(m, name) for m in network.modules() for name, part in m._modules.items() if type(part) is nn.Linear]


def replace_linears(network, make) -> None:
    for module, name in linears(network):
        module._modules[name] = make(module._modules[name])


@pytest.fixture(params=["nbody", "molecule", "pedestrian"])
def model(request):
    """A network with a learned prior over given frames with a gap, frames to draw, and arguments."""
    made = case(request.param)
    batch, mask = made.batch, cond_mask([[0, 2], [4, 5]], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    network = made.network(learned=True, num_w=len(noisy))
    return network, batch.x[..., noisy].clone(), batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}


@pytest.fixture(autouse=True)
def warnings_anew():
    warn_called_by_modules.cache_clear()


def everything(network, x, kwargs):
    """Output, features, reference frame, and the end of a chain of two steps."""
    step = torch.arange(len(x)) % 7
    x_out, h_out = network(step, x, **kwargs)
    x_ref = network(None, None, compute_ref=True, **kwargs)
    torch.manual_seed(3)
    sample = diffusion(network, prior="learned").optimize(x, 2, model_kwargs=kwargs)
    return x_out, h_out, x_ref, sample


def test_a_network_of_adapters_computes_what_merged_weights_do_and_trains_them(model):
    network, x, kwargs = model
    replace_linears(network, Adapter)
    with pytest.warns(RuntimeWarning, match=r"EGTN: .* is Adapter, with hooks or a forward of its own"):
        ours = everything(network, x, kwargs)
    loss = diffusion(network, prior="learned").training_losses(x, model_kwargs=kwargs)["loss"].mean()
    loss.backward()
    adapters = [m for m in network.modules() if isinstance(m, Adapter)]
    assert all(m.up.weight.grad is not None for m in adapters)
    assert sum(bool(m.up.weight.grad.abs().max() > 0) for m in adapters) >= len(adapters) - 4  # last layer's features
    for module in list(network.modules()):
        for name, part in list(module._modules.items()):
            if isinstance(part, Adapter):
                module._modules[name] = part.merged()
    assert why_not_plain(network) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = everything(network, x, kwargs)
    for name, a, b in zip(("x_out", "h_out", "x_ref", "sample"), ours, merged, strict=True):
        assert_same(a, b, 1e-9, what=name)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
def test_hooks_on_parts_run(model, kind):
    network, x, kwargs = model
    before = everything(network, x, kwargs)
    calls = []
    count = lambda *_: calls.append(1)
    register = {"forward": "register_forward_hook", "pre": "register_forward_pre_hook",
                "backward": "register_full_backward_hook"}[kind]  # fmt: skip
    parts = [*network.s_modules, *network.t_modules, network.s_modules[0].edge_mlp.actions[2], network.input_linear]
    handles = [getattr(part, register)(count) for part in parts]
    with pytest.warns(RuntimeWarning, match="called module by module"):
        x_out, _ = network(torch.arange(len(x)) % 7, x, **kwargs)
    x_out.square().sum().backward()
    assert len(calls) >= len(parts)
    assert_same(x_out, before[0], 1e-9)
    calls.clear()
    for handle in handles:
        handle.remove()
    network(torch.zeros(len(x)), x, **kwargs)
    assert calls == []


def test_a_hook_that_changes_a_result_changes_the_networks(model):
    network, x, kwargs = model
    before = everything(network, x, kwargs)
    network.s_modules[0].node_mlp.actions[0].register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.warns(RuntimeWarning):
        after = everything(network, x, kwargs)
    assert all((a - b).abs().max() > 1e-6 for a, b in zip(after[:2] + after[3:], before[:2] + before[3:], strict=True))


def test_another_activation_counts(model):
    network, x, kwargs = model
    before = network(torch.zeros(len(x)), x, **kwargs)[0]
    network.t_modules[0].q_mlp.actions[1] = nn.ReLU()
    with pytest.warns(RuntimeWarning, match="t_modules.0.q_mlp.actions.1 is ReLU"):
        assert (network(torch.zeros(len(x)), x, **kwargs)[0] - before).abs().max() > 1e-9


def test_parametrised_and_normalised_weights_stay_right(model):
    network, x, kwargs = model
    before = network(torch.zeros(len(x)), x, **kwargs)[0]
    nn.utils.parametrizations.weight_norm(network.s_modules[0].edge_mlp.actions[2])
    assert why_not_plain(network) is None
    assert_same(network(torch.zeros(len(x)), x, **kwargs)[0], before, 1e-9)


@pytest.mark.parametrize("temporal", ["convolution", "linear_attention"])
def test_the_ablations_refuse_what_they_would_not_call(temporal):
    made = case("nbody")
    network = made.network(temporal=temporal)
    batch = made.batch
    arguments = (torch.zeros(len(batch.x)), batch.x)
    kwargs = batch.model_kwargs()
    network.s_modules[0].register_forward_hook(lambda *_: None)
    with pytest.warns(RuntimeWarning):
        network(*arguments, **kwargs)
    network.t_modules[1].v_mlp.actions[0] = Adapter(network.t_modules[1].v_mlp.actions[0])
    with pytest.raises(TypeError, match=r"v_mlp.actions.0 is Adapter.*which only temporal='attention' calls"):
        network(*arguments, **kwargs)
