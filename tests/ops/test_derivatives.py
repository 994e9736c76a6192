"""Second derivatives through the compiled ops, and the transforms of torch.func: equal to the reference's."""

import pytest
import torch
from cases import case
from native_cases import (
    EDGES,
    EGCL_NAMES,
    FRAMES,
    NODES,
    TEMPORAL_NAMES,
    WIDTH,
    bind,
    draw,
    egcl,
    egcl_inputs,
    native_call,
    needs_native,
    temporal_attention,
    temporal_inputs,
)
from tolerances import ROUNDOFF, ROUNDOFFS, TIMES_PLAIN, assert_same, relative_error
from torch.autograd import forward_ad

from geotdm_fast import backend, ops
from geotdm_fast.reference import EGCLOptions, EGCLParams

NAMES = {"egcl": EGCL_NAMES, "temporal_attention": TEMPORAL_NAMES}
# Float32 beside float64, for sums of products of second derivatives.
BOUND = 2e-5


def second_derivatives(op, inputs, cotangents, dtype=torch.float32):
    """Gradients of |grad . v|^2 in every input and cotangent, where grad are those of all inputs."""
    leaves = [v.detach().to(dtype).requires_grad_() for v in inputs if v is not None]
    gaps = iter(leaves)
    weights = [c.detach().to(dtype).requires_grad_() for c in cotangents]
    outputs = op(*(None if v is None else next(gaps) for v in inputs))
    gradients = torch.autograd.grad(outputs, leaves, weights, create_graph=True)
    total = sum(gradient.square().sum() for gradient in gradients)
    return torch.autograd.grad(total, [*leaves, *weights], allow_unused=True, materialize_grads=True)


def assert_same_second_derivatives(op, inputs, name, implementation):
    cotangents = [torch.randn_like(inputs[0]), torch.randn_like(inputs[1])]
    with backend(implementation):
        ours = second_derivatives(op, inputs, cotangents)
    with backend("reference"):
        plain = second_derivatives(op, inputs, cotangents)
        exact = second_derivatives(op, inputs, cotangents, torch.float64)
    names = [name for name, v in zip(NAMES[name], inputs, strict=True) if v is not None]
    for what, a, b, c in zip([*names, "grad_x_out", "grad_h_out"], ours, plain, exact, strict=True):
        allowed = TIMES_PLAIN * relative_error(b, c) + ROUNDOFFS * ROUNDOFF["fp32"]
        assert_same(a, c, allowed, what=what)


@needs_native
@pytest.mark.parametrize("edge_dim", [0, 2])
@pytest.mark.parametrize(("pre_norm", "cutoff"), [(False, None), (True, None), (False, 2.0)])
def test_second_derivatives_of_the_cpu_egcl(edge_dim, pre_norm, cutoff):
    edges = EDGES[:, EDGES[0] != EDGES[1]]  # at a self-loop |r| has no derivative
    op = bind(egcl, edge_index=edges, pre_norm=pre_norm, cutoff=cutoff)
    inputs = egcl_inputs(NODES, FRAMES, 3, WIDTH, edge_dim, edges)
    assert_same_second_derivatives(op, inputs, "egcl", "auto")


@needs_native
def test_second_derivatives_where_edge_features_change_with_the_frame():
    inputs = egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)
    inputs[2] = draw(EDGES.shape[1], FRAMES, 2)
    assert_same_second_derivatives(bind(egcl, edge_index=EDGES), inputs, "egcl", "auto")


@needs_native
@pytest.mark.parametrize("window", [None, 1])
def test_second_derivatives_of_the_cpu_attention(window):
    inputs = temporal_inputs(NODES, 5, 3, WIDTH)
    assert_same_second_derivatives(bind(temporal_attention, window=window), inputs, "temporal_attention", "auto")


@pytest.mark.parametrize("edge_dim", [0, 2])
def test_second_derivatives_of_the_triton_egcl(device, edge_dim):
    inputs = [None if v is None else v.to(device) for v in egcl_inputs(NODES, FRAMES, 3, WIDTH, edge_dim, EDGES)]
    assert_same_second_derivatives(bind(egcl, edge_index=EDGES.to(device)), inputs, "egcl", "triton")


@needs_native
def test_a_first_gradient_alone_in_x_knows_of_the_second():
    """Where no parameter asks for a gradient, nothing else leads from the gradient back to x."""
    x, *others = egcl_inputs(NODES, FRAMES, 3, 32, 0, EDGES)

    def twice():
        y = x.clone().requires_grad_()
        x_out, _ = egcl(y, *others, edge_index=EDGES)
        first = torch.autograd.grad(x_out.square().sum(), y, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), y)[0]

    ours = twice()
    with backend("reference"):
        assert_same(ours, twice(), BOUND)


@needs_native
def test_edge_features_that_were_prepared_without_gradients_still_count():
    x, h, edge_attr, *params = egcl_inputs(NODES, FRAMES, 3, WIDTH, 2, EDGES)
    params = EGCLParams(*params)

    def twice():
        with torch.no_grad():
            prepared = ops.prepare_egcl(x, h, EDGES, edge_attr, params, EGCLOptions())
        y = x.clone().requires_grad_()
        x_out, _ = ops.run_egcl(y, h, prepared)
        first = torch.autograd.grad(x_out.square().sum(), y, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), y)[0]

    ours = twice()
    with backend("reference"):
        assert_same(ours, twice(), BOUND)


@pytest.mark.parametrize("name", ["egcl", "temporal_attention"])
def test_float64_passes_gradgradcheck(name):
    op, inputs = native_call(name)
    if name == "egcl":
        edges = EDGES[:, :4]
        op, inputs = bind(egcl, edge_index=edges), egcl_inputs(3, 2, 2, 2, 1, edges)
        op = bind(egcl, edge_index=edges.clamp(max=2))
    else:
        inputs = temporal_inputs(1, 3, 2, 2)
    leaves = [v.double().requires_grad_() for v in inputs]
    assert torch.autograd.gradgradcheck(op, leaves, fast_mode=True)


@pytest.fixture
def energy():
    """A function of positions [N, D, T] through the whole network in float32, and a point."""
    made = case("nbody")
    network = made.network(hidden_dim=16, dtype=torch.float32)
    batch = made.batch
    x = batch.x[..., :2].float()
    edge_attr, h = batch.edge_attr.float(), batch.h.float()
    step = torch.zeros(x.shape[0])
    parameters = dict(network.named_parameters())

    def value(x, parameters=parameters):
        arguments = (step, x, h, batch.edge_index, edge_attr, batch.batch)
        output, _ = torch.func.functional_call(network, parameters, arguments)
        return output.square().sum()

    return value, x


TRANSFORMS = {
    "hessian": lambda f, x: torch.autograd.functional.hessian(f, x),
    "func.grad": lambda f, x: torch.func.grad(f)(x),
    "func.jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "func.hessian": lambda f, x: torch.func.hessian(f)(x),
    "vmap": lambda f, x: torch.vmap(f)(torch.stack([x, 2 * x])),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_the_network_equal_the_reference(energy, name):
    value, x = energy
    ours = TRANSFORMS[name](value, x)
    with backend("reference"):
        assert_same(ours, TRANSFORMS[name](value, x), BOUND, what=name)


def test_forward_mode_equals_backward_mode(energy):
    value, x = energy
    direction = torch.randn_like(x)
    with forward_ad.dual_level():
        ahead = forward_ad.unpack_dual(value(forward_ad.make_dual(x, direction))).tangent
    leaf = x.clone().requires_grad_()
    back = torch.autograd.grad(value(leaf), leaf)[0]
    assert_same(ahead, (back * direction).sum(), BOUND)


def smaller_op(name, device):
    """An op that is a Triton kernel in float32, as a function of its differentiable inputs; and these."""
    leaf = lambda *shape: torch.randn(*shape, device=device, requires_grad=True)
    if name == "node_embedding":
        h, step = torch.randn(4, 3, device=device), torch.tensor([0, 5, 5, 7], device=device)
        return lambda weight, bias: ops.node_embedding(h, step, weight, bias, 2), [leaf(8, 3 + 6), leaf(8)]
    if name == "reference_frame":
        return ops.reference_frame, [leaf(4, 3, 2), leaf(4, 3, 8), leaf(5)]
    x_start, noise = torch.randn(2, 4, 3, 5, device=device)
    signal, spread = torch.rand(2, 9, device=device)
    t = torch.tensor([0, 3, 3, 8], device=device)
    return lambda x_ref: ops.noised_positions(x_start, x_ref, noise, signal, spread, t), [leaf(4, 3, 5)]


@pytest.mark.parametrize("name", ["node_embedding", "reference_frame", "noised_positions"])
def test_second_derivatives_of_the_smaller_triton_ops(device, name):
    op, leaves = smaller_op(name, device)

    def twice():
        gradients = torch.autograd.grad(op(*leaves).square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    with backend("triton"):
        ours = twice()
    with backend("reference"):
        for a, b in zip(ours, twice(), strict=True):
            assert_same(a, b, BOUND)
