"""Which implementation runs, and how the inputs of matrix products are rounded."""

import importlib
import threading

import pytest
import torch
from cases import DOMAINS, MASKS, NUM_FRAMES, case
from tolerances import ROUNDOFF, ROUNDOFFS, assert_as_accurate, assert_same, relative_error
from torch import nn

from geotdm_fast import ESLayer, backend, ops, reference
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.reference import EGCLParams, TemporalAttentionParams
from geotdm_fast.reference.linear import linear, matmul, rounded

# --- backend ---------------------------------------------------------------------------------------------------------


def current() -> str:
    return importlib.import_module("geotdm_fast.ops.backend")._current.get()


def test_backends_nest_and_end_with_their_block():
    assert current() == "auto"
    with backend("reference"):
        assert current() == "reference"
        with backend("auto"):
            assert current() == "auto"
        assert current() == "reference"
    assert current() == "auto"
    with pytest.raises(RuntimeError, match="within"), backend("reference"):
        raise RuntimeError("within")
    assert current() == "auto"


def test_another_thread_keeps_its_own_backend():
    seen = []
    with backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize("name", ["refrence", "cuda", ""])
def test_unknown_backend(name):
    message = f"backend: name must be one of auto, reference, triton; got '{name}'"
    with pytest.raises(ValueError, match=message), backend(name):
        pass


def test_reference_backend_is_the_reference_bit_for_bit():
    batch = case("nbody").batch
    x = batch.x.transpose(1, 2)
    layer = ESLayer(4, 1, 4, nn.SiLU()).double()
    params = EGCLParams(*layer.edge_mlp.tensors, *layer.coord_mlp.tensors, *layer.node_mlp.tensors)
    h = torch.randn(*x.shape[:2], 4, dtype=torch.float64)
    with backend("reference"):
        ours = ops.egcl(x, h, batch.edge_index, batch.edge_attr, params, normalize=False)
    expected = reference.egcl(x, h, batch.edge_index, batch.edge_attr, params, normalize=False)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("domain", DOMAINS)
def test_auto_computes_what_the_reference_computes(domain):
    network, x, model_kwargs = case(domain).conditional(MASKS["ends"], learned=True)
    network, x = network.float(), x.float()
    step = 5 + model_kwargs["batch"]
    exact = network.double()(diffusion_t=step, x=x.double(), **model_kwargs)[0]
    network.float()
    with backend("reference"):
        plain = network(diffusion_t=step, x=x, **model_kwargs)[0]
    with backend("auto"):
        ours = network(diffusion_t=step, x=x, **model_kwargs)[0]
    assert_as_accurate(ours, plain, exact, "fp32")


def test_status_names_every_op_and_a_reason():
    rows = {row.op: row for row in ops.status()}
    assert {*rows} == {"egcl", "temporal_attention", "radius_graph"}
    assert all(row.active and row.reason for row in rows.values())


# --- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("precision", "value", "expected"),
    [
        ("tf32", 1 + 2**-11, 1),  # halfway: to even
        ("tf32", 1 + 3 * 2**-11, 1 + 2**-9),  # halfway: to even, upwards
        ("tf32", 1 + 2**-11 + 2**-20, 1 + 2**-10),
        ("tf32", 1 + 2**-10, 1 + 2**-10),
        ("tf32", 2 - 2**-12, 2),  # into the next exponent
        ("tf32", 3.0e38, 3.0e38),
        ("bf16", 1 + 2**-8, 1),
        ("bf16", 1 + 3 * 2**-8, 1 + 2**-6),
        ("bf16", 1 + 2**-8 + 2**-16, 1 + 2**-7),
        ("bf16", 2 - 2**-9, 2),
        ("bf16", 0.0, 0.0),
        ("tf32", 0.0, 0.0),
        ("fp32", 1 + 2**-20, 1 + 2**-20),
    ],
)
def test_rounding_of_known_numbers(precision, value, expected, sign, dtype):
    ours = rounded(torch.tensor([sign * value], dtype=dtype), precision)
    assert ours.dtype == dtype
    assert_same(ours, [sign * expected], 2.0**-11 if value > 1e38 else 0.0)


def test_fp32_leaves_float64_alone():
    x = torch.randn(100, dtype=torch.float64)
    assert rounded(x, "fp32") is x


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_rounding_is_idempotent_and_within_half_a_unit(precision):
    x = torch.randn(3, 1000)[:, ::2].T * torch.logspace(-20, 20, 500)[:, None]
    low = rounded(x, precision)
    assert torch.equal(rounded(low, precision), low)
    assert ((low - x).abs() <= ROUNDOFF[precision] * x.abs()).all() and not torch.equal(low, x)
    assert torch.isnan(rounded(torch.tensor([float("nan")]), precision)).all()


def test_products_round_their_inputs_and_nothing_else():
    torch.manual_seed(1)
    a, b, bias = torch.randn(4, 64), torch.randn(5, 64), torch.randn(5) * 1e-4
    for precision in ("tf32", "bf16"):
        low = lambda x, precision=precision: rounded(x, precision).double()
        assert_same(linear(a, b, bias, precision), low(a) @ low(b).T + bias.double(), 1e-6)
        assert_same(matmul(a, b.T, precision), low(a) @ low(b).T, 1e-6)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_gradients_pass_through_the_rounding(precision):
    x, weight = torch.randn(6, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    linear(x, weight, None, precision).sum().backward()
    assert_same(x.grad, rounded(weight.detach(), precision).sum(dim=0).expand(6, -1), 1e-6)
    assert_same(weight.grad, rounded(x.detach(), precision).sum(dim=0).expand(3, -1), 1e-6)


# --- precision of a network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reference", "auto"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_precisions_are_ordered_and_as_good_as_their_roundoff(domain, name):
    """The compiled kernels compute every precision in float32: there only the bounds hold, not the order."""
    graphs, mask = case(domain), cond_mask(MASKS["prefix"], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    batch = graphs.batch
    network = graphs.network(learned=True, num_w=len(noisy), hidden_dim=32)
    model_kwargs = batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}
    step = 40 + batch.batch

    def run(dtype):
        network.to(dtype)
        x, kwargs = batch.x[..., noisy].to(dtype), model_kwargs | {"x_given": batch.x.to(dtype)}
        with backend(name):
            x_out, h_out = network(diffusion_t=step, x=x, **kwargs)
        return torch.cat([(x_out + x).flatten(), h_out.flatten()]).detach()

    exact = run(torch.float64)
    errors = {}
    for precision in ("fp32", "tf32", "bf16"):
        assert network.set_precision(precision) is network
        errors[precision] = relative_error(run(torch.float32), exact)
        assert errors[precision] <= ROUNDOFFS * ROUNDOFF[precision], errors
    if name == "reference":
        assert 10 * errors["fp32"] < errors["tf32"] < errors["bf16"] / 2
    network.set_precision("fp32")
    assert torch.equal(run(torch.float64), exact)


def test_every_layer_and_the_prior_take_the_precision():
    network = case("nbody").network(learned=True)
    network.set_precision("bf16")
    layers = [*network.s_modules, *network.t_modules, *network.s_modules_ref, *network.t_modules_ref]
    assert {layer.precision for layer in layers} == {"bf16"} == {network.precision}
    assert all(parameter.dtype == torch.float64 for parameter in network.parameters())
    layers[0].set_precision("tf32")
    assert network.precision == "bf16" and layers[0].precision == "tf32" and layers[1].precision == "bf16"


@pytest.mark.parametrize("name", ["fp16", "tf23", None])
def test_unknown_precision(name):
    network = case("nbody").network()
    with pytest.raises(ValueError, match=f"set_precision: precision must be one of fp32, tf32, bf16; got '{name}'"):
        network.set_precision(name)
    assert network.precision == "fp32"


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_training_gradients_in_low_precision_point_the_same_way(precision):
    graphs = case("nbody")
    batch, network = graphs.batch, graphs.network()
    step = 3 + batch.batch

    def gradients(precision):
        network.set_precision(precision).zero_grad()
        network(diffusion_t=step, x=batch.x, **batch.model_kwargs())[0].square().mean().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).clone()

    exact, ours = gradients("fp32"), gradients(precision)
    assert relative_error(ours, exact) < 10 * ROUNDOFFS * ROUNDOFF[precision]


def test_params_are_named_tuples_in_the_order_of_the_layers():
    """What a kernel's launcher relies on."""
    assert EGCLParams._fields[:4] == ("edge_w1", "edge_b1", "edge_w2", "edge_b2") and len(EGCLParams._fields) == 12
    assert TemporalAttentionParams._fields[-2:] == ("time_w", "time_b") and len(TemporalAttentionParams._fields) == 18
