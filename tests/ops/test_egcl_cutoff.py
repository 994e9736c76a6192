"""Edges that count by their length: the spatial op with a cutoff, its envelope, and what is smooth because of it."""

import math

import pytest
import torch
from native_cases import (
    EGCL_NAMES,
    assert_native_as_accurate,
    bind,
    cotangents_of,
    egcl,
    egcl_inputs,
    graph,
    needs_native,
    on_threads,
    results,
)
from test_egcl import EDGES, FLAGS, inputs, params
from tolerances import assert_same
from torch import nn
from transcription import Weights, envelope, spatial_layer

from geotdm_fast import EGTN, ESLayer, ops, reference
from geotdm_fast.reference import EGCLParams, polynomial_envelope

CUTOFF = 2.0
DEGREES = [3, 0, 1, 7, 0, 4, 2]  # two nodes without an edge
NAMED = {
    f"{'normalize' if n else 'plain'}{' pre_norm' if p else ''}": {"normalize": n, "pre_norm": p} for n, p in FLAGS
}


def layer(normalize=True, pre_norm=False, width=4, edge_dim=2, hidden=6, cutoff=CUTOFF) -> ESLayer:
    torch.manual_seed(3)
    return ESLayer(width, edge_dim, hidden, nn.SiLU(), normalize, pre_norm, cutoff=cutoff).double()


# --- the envelope -----------------------------------------------------------------------------------------------------


def test_the_envelope_is_its_polynomial():
    distance = torch.linspace(0, 3, 61, dtype=torch.float64)
    expected = [envelope(float(d), CUTOFF) for d in distance]
    assert_same(polynomial_envelope(distance.square(), CUTOFF), torch.tensor(expected, dtype=torch.float64), 1e-12)
    assert polynomial_envelope(torch.zeros(1), CUTOFF) == 1
    assert polynomial_envelope(torch.tensor([4.0, 4.1, 1e30]), CUTOFF).tolist() == [0, 0, 0]


@pytest.mark.parametrize("distance", [0.0, CUTOFF])
def test_the_envelope_joins_with_two_derivatives(distance):
    """u, u' and u'' at the cutoff are those beyond, all 0; at 0 those of 1, and every number is finite."""
    x = torch.tensor([distance, 0, 0], dtype=torch.float64, requires_grad=True)
    value = lambda x: polynomial_envelope(x.square().sum(), CUTOFF)
    assert value(x) == (1 if distance == 0 else 0)
    assert torch.autograd.functional.jacobian(value, x).abs().max() == 0
    assert torch.autograd.functional.hessian(value, x).abs().max() == 0
    near = torch.tensor([abs(distance - 1e-4), 0, 0], dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(value, near)
    assert 0 < hessian.abs().max() < 1e-2  # |u''| <= 84 |t - 1| / cutoff^2 near 1
    assert polynomial_envelope(near.square().sum(), CUTOFF) != value(x) or distance == 0


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalize", "pre_norm"), FLAGS)
@pytest.mark.parametrize("dim", [2, 3])
def test_equals_loops_over_nodes_edges_and_frames(normalize, pre_norm, dim):
    x, h, edge_index, edge_attr = inputs(dim=dim)
    module = layer(normalize, pre_norm)
    flags = {"normalize": normalize, "pre_norm": pre_norm, "cutoff": CUTOFF}
    outputs = reference.egcl(x, h, edge_index, edge_attr, params(module), **flags)
    arrays = [v.numpy() for v in (x, h, edge_index, edge_attr)]
    for ours, expected in zip(
        outputs, spatial_layer(Weights(module), *arrays, normalize, pre_norm, CUTOFF), strict=True
    ):
        assert_same(ours, expected, 1e-13)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_gradients_and_second_derivatives(pre_norm):
    edges = EDGES[:, EDGES[0] != EDGES[1]] if pre_norm else EDGES
    x, h, edge_index, edge_attr = inputs(num_frames=2, width=2, edges=edges)
    weights = params(layer(pre_norm=pre_norm, width=2, hidden=3))
    leaves = [v.requires_grad_() for v in (x, h, edge_attr)]
    options = {"pre_norm": pre_norm, "cutoff": CUTOFF}
    op = lambda x, h, a, *values: reference.egcl(x, h, edge_index, a, EGCLParams(*values), **options)
    assert torch.autograd.gradcheck(op, (*leaves, *weights))
    assert torch.autograd.gradgradcheck(op, (*leaves, *weights), fast_mode=True)


def test_a_wide_cutoff_counts_every_edge():
    x, h, edge_index, edge_attr = inputs()
    weights = params(layer())
    plain_x, plain_h = reference.egcl(x, h, edge_index, edge_attr, weights)
    x_out, h_out = reference.egcl(x, h, edge_index, edge_attr, weights, cutoff=1e9)
    assert_same(h_out, plain_h, 1e-14)
    degree = torch.bincount(edge_index[0], minlength=5)[:, None, None].double()
    assert_same((x_out - x) * (1 + degree**2).sqrt(), (plain_x - x) * degree, 1e-13)


def near_pairs(x, cutoff=math.inf):
    """The graph of all pairs of x [N, 1, D] nearer than `cutoff`."""
    distance = torch.cdist(x[:, 0], x[:, 0])
    return (distance < cutoff).fill_diagonal_(False).nonzero().T


def test_nothing_jumps_where_an_edge_appears():
    """A node passes the cutoff of another: outputs, forces and their slopes on the graph of all near pairs go on."""
    torch.manual_seed(0)
    weights = EGCLParams(*(p.detach() for p in params(layer(edge_dim=0))))
    h = torch.randn(3, 1, 4, dtype=torch.float64)

    def at(distance, cutoff):
        x = torch.tensor([[0, 0, 0], [0.3, 0.9, 0], [distance, 0, 0]], dtype=torch.float64)[:, None]
        edge_index = near_pairs(x, CUTOFF)

        def energy(x):
            x_out, h_out = reference.egcl(x, h, edge_index, None, weights, cutoff=cutoff)
            return torch.cat([x_out, h_out], dim=-1).sin().sum()

        derivatives = torch.autograd.functional.jacobian(energy, x), torch.autograd.functional.hessian(energy, x)
        return edge_index.shape[1], [energy(x), *derivatives]

    step = 1e-5
    (edges, inside), (fewer, outside) = at(CUTOFF - step, CUTOFF), at(CUTOFF + step, CUTOFF)
    assert edges == fewer + 2
    apart = [float((a - b).abs().max()) for a, b in zip(inside, outside, strict=True)]
    assert all(gap < 100 * step for gap in apart), apart
    (_, inside), (_, outside) = at(CUTOFF - step, None), at(CUTOFF + step, None)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(inside, outside, strict=True)), (
        "without cutoff all of it jumps"
    )


def test_edges_beyond_the_cutoff_change_nothing():
    torch.manual_seed(1)
    x, h = torch.randn(9, 1, 3, dtype=torch.float64), torch.randn(9, 1, 4, dtype=torch.float64)
    weights = params(layer(edge_dim=0))
    all_pairs, near = near_pairs(x), near_pairs(x, CUTOFF)
    assert 0 < near.shape[1] < all_pairs.shape[1]
    outputs = [reference.egcl(x, h, edges, None, weights, cutoff=CUTOFF) for edges in (all_pairs, near)]
    for a, b in zip(*outputs, strict=True):
        assert_same(a, b, 1e-14)


def test_coincident_points_have_finite_gradients():
    x, h, _, edge_attr = inputs(num_nodes=2, edges=torch.tensor([[0, 1, 0], [1, 0, 0]]))
    x = x[:1].expand(2, -1, -1).clone().requires_grad_()
    weights = params(layer())
    edge_index = torch.tensor([[0, 1, 0], [1, 0, 0]])
    x_out, h_out = reference.egcl(x, h, edge_index, edge_attr, weights, cutoff=CUTOFF)
    assert torch.equal(x_out, x)
    gradients = torch.autograd.grad(x_out.square().sum() + h_out.square().sum(), (x, *weights))
    assert all(torch.isfinite(g).all() for g in gradients)


# --- the kernels ------------------------------------------------------------------------------------------------------


def check(width, num_frames, dim, edge_dim, flags, precision, implementation, device="cpu", cutoff=CUTOFF, draws=1):
    edge_index = graph(7, DEGREES).to(device)
    on_device = lambda values: [None if v is None else v.to(device) for v in values]
    drawn = lambda: on_device(egcl_inputs(7, num_frames, dim, width, edge_dim, edge_index))
    op = bind(egcl, edge_index=edge_index, cutoff=cutoff, **NAMED[flags])
    with_precision = bind(op, precision=precision)
    assert_native_as_accurate(with_precision, drawn, EGCL_NAMES, precision, op, implementation, draws)


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("width", "num_frames", "dim", "edge_dim", "flags"),
    [
        (16, 1, 2, 0, "plain"),
        (32, 7, 3, 2, "normalize"),
        (48, 61, 3, 1, "normalize"),
        (64, 5, 2, 3, "normalize pre_norm"),
        (128, 4, 3, 2, "normalize"),
        (256, 3, 3, 0, "plain pre_norm"),
    ],
)
def test_the_cpu_kernels(width, num_frames, dim, edge_dim, flags, precision):
    check(width, num_frames, dim, edge_dim, flags, precision, "auto", draws=3)


@pytest.mark.recorded("interpreted", always=r"cpu-(16|32)-")
@pytest.mark.parametrize(
    ("width", "precision", "num_frames", "dim", "edge_dim", "flags"),
    [
        (16, "fp32", 5, 2, 2, "normalize pre_norm"),
        (32, "tf32", 3, 3, 2, "normalize"),
        (48, "bf16", 1, 3, 0, "plain"),
        (64, "fp32", 3, 3, 1, "normalize"),
        (64, "bf16", 4, 2, 2, "normalize"),
        (128, "bf16", 4, 3, 2, "normalize"),
        (128, "fp32", 2, 3, 0, "plain pre_norm"),
    ],
)
def test_the_triton_kernels(device, width, precision, num_frames, dim, edge_dim, flags):
    pytest.importorskip("triton")
    check(width, num_frames, dim, edge_dim, flags, precision, "triton", device)


@needs_native
def test_any_number_of_threads_gives_the_same_bits():
    edge_index = graph(20, [5, 0, 9, 3] * 5)
    drawn = egcl_inputs(20, 31, 3, 32, 2, edge_index)
    op, cotangents = bind(egcl, edge_index=edge_index, cutoff=CUTOFF), cotangents_of(drawn)
    one, four = (on_threads(count, lambda: results(op, drawn, cotangents)) for count in (1, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))


@needs_native
def test_gradients_by_finite_differences():
    """Of the CPU kernels, beside differences of the float64 reference."""
    edge_index = graph(7, DEGREES)
    x, h, edge_attr, *weights = egcl_inputs(7, 2, 3, 32, 2, edge_index)
    cotangents = cotangents_of([x, h])
    gradient = results(bind(egcl, edge_index=edge_index, cutoff=CUTOFF), [x, h, edge_attr, *weights], cotangents)[2]
    direction, step = torch.randn_like(x), 1e-6
    doubles = EGCLParams(*(w.double() for w in weights))

    def loss(x):
        outputs = reference.egcl(x, h.double(), edge_index, edge_attr.double(), doubles, cutoff=CUTOFF)
        return sum((a * c).sum() for a, c in zip(outputs, cotangents, strict=True))

    ahead, behind = (loss(x.double() + sign * step * direction) for sign in (1, -1))
    assert_same((gradient * direction).sum(), (ahead - behind) / (2 * step), 1e-4)


# --- the layer, the network and their borders -------------------------------------------------------------------------


def network(cutoff=CUTOFF, scale=1.0, hidden_dim=16, **changes) -> EGTN:
    torch.manual_seed(0)
    return EGTN(2, 2, 1, hidden_dim, 8, "silu", True, 1, 3, scale, cutoff=cutoff, **changes)


def batch_of(num_nodes=6, num_frames=5, dtype=torch.float32):
    torch.manual_seed(2)
    x, h = torch.randn(num_nodes, 3, num_frames, dtype=dtype), torch.randn(num_nodes, 2, dtype=dtype)
    edge_index = near_pairs(x.transpose(1, 2)[:, :1])
    edge_attr = torch.randn(edge_index.shape[1], 1, dtype=dtype)
    return torch.zeros(num_nodes, dtype=torch.int64), x, h, edge_index, edge_attr, None


def test_the_layer_called_by_modules_computes_the_same():
    x, h, edge_index, edge_attr = inputs()
    module, last = layer(), lambda v: v.transpose(1, 2)
    expected = module(last(x), last(h), edge_index, edge_attr)
    hook = module.edge_mlp.register_forward_hook(lambda *_: None)
    called = module(last(x), last(h), edge_index, edge_attr)
    hook.remove()
    plain = layer(cutoff=None)(last(x), last(h), edge_index, edge_attr)
    for a, b, c in zip(called, expected, plain, strict=True):
        assert_same(a, b, 1e-13)
        assert not torch.allclose(a, c)


def test_the_network_is_equivariant():
    model, (step, x, h, *edges) = network().double(), batch_of(dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = torch.einsum("ab,nbt->nat", turn, x) + torch.randn(1, 3, 1, dtype=torch.float64)
    x_out, h_out = model(step, x, h, *edges)
    x_moved, h_moved = model(step, moved, h, *edges)
    assert_same(x_moved, torch.einsum("ab,nbt->nat", turn, x_out), 1e-10)
    assert_same(h_moved, h_out, 1e-10)


def test_every_layer_of_both_networks_has_the_cutoff_and_it_is_in_the_unit_of_x():
    model = network(scale=2.0)
    assert {spatial.cutoff for spatial in (*model.s_modules, *model.s_modules_ref)} == {2 * CUTOFF}
    assert {spatial.cutoff for spatial in network(cutoff=None).s_modules} == {None}
    assert network().state_dict().keys() == network(cutoff=None).state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cutoff": 0.0}, ValueError, "EGTN: cutoff must be finite and over 0, got 0.0"),
        ({"cutoff": -1}, ValueError, "EGTN: cutoff must be finite and over 0, got -1"),
        ({"cutoff": math.inf}, ValueError, "EGTN: cutoff must be finite and over 0, got inf"),
        ({"cutoff": math.nan}, ValueError, "EGTN: cutoff must be finite and over 0, got nan"),
        ({"cutoff": "near"}, TypeError, "EGTN: cutoff must be a number or None, got str"),
        ({"cutoff": True}, TypeError, "EGTN: cutoff must be a number or None, got bool"),
        (
            {"envelope": "polynomal"},
            ValueError,
            "EGTN: envelope must be one of polynomial; got 'polynomal'; did you mean",
        ),
    ],
)
def test_what_is_no_cutoff(changes, error, message):
    with pytest.raises(error, match=message):
        network(**changes)


@pytest.mark.parametrize("op", [ops.egcl, reference.egcl])
def test_the_ops_refuse_what_is_no_cutoff(op):
    x, h, edge_index, edge_attr = inputs()
    with pytest.raises(ValueError, match="egcl: cutoff must be finite and over 0, got -2"):
        op(x, h, edge_index, edge_attr, params(layer()), cutoff=-2)
    with pytest.raises(ValueError, match="egcl: envelope must be one of polynomial; got 'cosine'"):
        op(x, h, edge_index, edge_attr, params(layer()), cutoff=2, envelope="cosine")


def test_a_configuration_keeps_it(tmp_path):
    from geotdm_fast.checkpoint import build_network, load_checkpoint, save_checkpoint
    from geotdm_fast.config.settings import DENOISE_MODEL, fill

    section = {"n_layers": 1, "node_dim": 2, "edge_dim": 1, "hidden_dim": 16, "time_emb_dim": 8}
    section |= {"learn_ref_frame": False, "num_w": 3}
    assert fill(section, DENOISE_MODEL, "denoise_model")["cutoff"] is None
    config = {"denoise_model": fill(section | {"cutoff": 3}, DENOISE_MODEL, "denoise_model")}
    made = build_network(config)
    save_checkpoint(tmp_path / "model.safetensors", made, config)
    loaded, _ = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.s_modules[0].cutoff == 3 and loaded.s_modules[0].envelope == "polynomial"
    arguments = batch_of()
    assert all(torch.equal(a, b) for a, b in zip(loaded(*arguments), made(*arguments), strict=True))
