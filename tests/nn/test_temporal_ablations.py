"""The temporal layers of the ablations: formulas by loops, equivariance, state dicts, and what does not go together."""

import math

import pytest
import torch
from cases import DOMAINS, MASKS, NUM_FRAMES, case
from test_equivariance import motion
from tolerances import assert_same
from torch.nn.functional import elu

from geotdm_fast import EGTN
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.nn.temporal import ETLayer
from geotdm_fast.nn.temporal_layers import ConvolutionLayer, LinearAttentionLayer

ABLATIONS = [
    {"temporal": "convolution"},
    {"temporal": "convolution", "window": 0},
    {"temporal": "linear_attention"},
    {"temporal": "linear_attention", "relative_time": False},
    {"relative_time": False},
    {"relative_time": False, "window": 2},
    {"window": 1},
]
FRAMES = [None, (0, 1, 2, 3, 4, 5), (0, 1, 4, 5, 9, 12)]


def layer(kind: str, **changes):
    torch.manual_seed(3)
    act = torch.nn.SiLU()
    if kind == "convolution":
        made = ConvolutionLayer(8, act, **({"window": 2} | changes))
    elif kind == "linear":
        made = LinearAttentionLayer(8, act, **({"relative_time": True} | changes))
    else:
        made = ETLayer(8, 8, act, 6, **changes)
    return made.double()


def inputs(num_nodes: int = 3, num_frames: int = 6, dim: int = 3):
    generator = torch.Generator().manual_seed(4)
    draw = lambda width: torch.randn(num_nodes, num_frames, width, generator=generator, dtype=torch.float64)
    return draw(dim), draw(8)


def inputs_like(x: torch.Tensor) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("window", [0, 1, 2, 7])
def test_convolution_is_its_formula(frames, window):
    conv, (x, h) = layer("convolution", window=window), inputs()
    x_out, h_out = conv.rows(x, h, frames)
    v = conv.v_mlp(h)
    g = conv.x_mlp(v)
    places = frames or range(6)
    for i in range(3):
        for t, place in enumerate(places):
            x_expected, h_expected = x[i, t].clone(), h[i, t].clone()
            for s, other in enumerate(places):
                lag = place - other + window
                if 0 <= lag <= 2 * window:
                    x_expected += g[i, s, lag] * (x[i, t] - x[i, s]) / (2 * window + 1)
                    h_expected += conv.kernel[lag] @ v[i, s]
            assert_same(x_out[i, t], x_expected)
            assert_same(h_out[i, t], h_expected)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("relative_time", [True, False])
def test_linear_attention_is_its_formula(frames, relative_time):
    attention, (x, h) = layer("linear", relative_time=relative_time), inputs(dim=2)
    x_out, h_out = attention.rows(x, h, frames)
    q, k = elu(attention.q_mlp(h)) + 1.001, elu(attention.k_mlp(h)) + 1.001
    v = attention.v_mlp(h)
    g = attention.x_mlp(v)[..., 0]
    place = torch.tensor(frames or range(6)).double()
    lag = place[:, None] - place[None]
    weight = torch.einsum("nth,nsh->nts", q, k)
    if relative_time:
        weight = weight * torch.cos(math.pi / 2 * lag / (2 * (place[-1] - place[0] + 1)))
    assert (weight > 0).all()
    alpha = weight / weight.sum(2, keepdim=True)
    difference = x[:, :, None] - x[:, None]
    assert_same(x_out, x + torch.einsum("nts,ns,ntsd->ntd", alpha, g, difference))
    assert_same(h_out, h + alpha @ v)


def test_keys_that_all_vanish_leave_linear_attention_uniform():
    """Training drives them there, together: their ratios alone count."""
    attention, (x, h) = layer("linear", relative_time=False).float(), [z.float() for z in inputs()]
    with torch.no_grad():
        for bias in (attention.q_mlp.actions[2].bias, attention.k_mlp.actions[2].bias):
            bias.fill_(-50.0)
    x_out, h_out = attention.rows(x, h.requires_grad_())
    torch.testing.assert_close(h_out, h + attention.v_mlp(h).mean(1, keepdim=True))
    (x_out.sum() + h_out.sum()).backward()
    assert all(p.grad.isfinite().all() for p in attention.parameters()) and h.grad.isfinite().all()


def test_attention_without_relative_time_does_not_know_the_order():
    x, h = inputs()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for relative_time in (False, True):
        attention = layer("attention", relative_time=relative_time)
        (x_out, h_out), (x_mixed, h_mixed) = attention.rows(x, h), attention.rows(x[:, order], h[:, order])
        same = torch.allclose(x_mixed, x_out[:, order]) and torch.allclose(h_mixed, h_out[:, order])
        assert same is not relative_time
    assert not any("time" in name for name in layer("attention", relative_time=False).state_dict())


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_one_frame_no_frame_and_no_node(kind):
    for num_nodes, num_frames in ((2, 1), (0, 6), (2, 0)):
        x, h = inputs(num_nodes, num_frames)
        x_out, h_out = layer(kind).rows(x, h)
        assert x_out.shape == x.shape and h_out.shape == h.shape
        assert torch.equal(x_out, x) or num_frames > 1


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
@pytest.mark.parametrize("domain", DOMAINS)
def test_networks_stay_equivariant(domain, changes):
    graphs, change = case(domain), motion("all", case(domain).batch)
    mask = cond_mask(MASKS["ends"], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    network = graphs.network(learned=True, num_w=len(noisy), **changes)
    start = graphs.batch.x[..., noisy] + inputs_like(graphs.batch.x[..., noisy])
    outputs = []
    for batch, x in ((graphs.batch, start), (change.batch(graphs.batch), change.moved(start))):
        given = batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}
        x_out, h_out = network(diffusion_t=3 + batch.batch, x=x, **given)
        outputs.append((x_out, h_out, network(diffusion_t=None, x=None, compute_ref=True, **given)))
    (x_out, h_out, x_ref), (x_moved, h_moved, x_ref_moved) = outputs
    assert_same(x_moved, change.turned(x_out))
    assert_same(h_moved, h_out[change.order])
    assert_same(x_ref_moved, change.moved(x_ref))
    assert x_out.norm() > 0.1


# With one tap no frame pulls another: the gate moves nothing, and has no gradient.
@pytest.mark.parametrize("changes", [c for c in ABLATIONS if c.get("window") != 0], ids=str)
def test_gradients(changes):
    graphs = case("molecule")
    network = graphs.network(**changes)
    x = graphs.batch.x.requires_grad_()
    x_out, h_out = network(diffusion_t=graphs.batch.batch, x=x, **graphs.batch.model_kwargs())
    (x_out.square().sum() + h_out.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    step = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    values = []
    for sign in (1, -1):
        a, b = network(diffusion_t=graphs.batch.batch, x=(x + sign * step).detach(), **graphs.batch.model_kwargs())
        values.append(a.square().sum() + b.sum())
    assert_same((x.grad * step).sum(), (values[0] - values[1]) / 2, 1e-6)


def test_the_default_is_the_official_network():
    names = set(case("nbody").network(learned=True).state_dict())
    assert names == set(case("nbody").network(learned=True, temporal="attention", relative_time=True).state_dict())
    assert "t_modules.0.time_emb.weight" in names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"temporal": "atention"},
            "EGTN: temporal must be one of attention, .*; did you mean 'attention'",
        ),
        ({"window": -1}, "EGTN: window must be at least 0, got -1"),
        ({"temporal": "convolution", "relative_time": False}, "relative_time=False does not go with"),
        ({"temporal": "linear_attention", "window": 3}, "window does not go with temporal='linear_attention', got 3"),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        EGTN(1, 1, 1, 8, 8, "silu", False, 1, 1, **changes)
