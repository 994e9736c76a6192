"""The gated feed-forward: reference by loops and gradcheck, the C++ op beside it, on odd sizes and null vectors."""

import numpy as np
import pytest
import torch
from native_cases import draw, gv_ff_params, needs_native, poisoned
from tolerances import assert_as_accurate, assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.ops.gv_ff import why_not_native
from geotdm_fast.reference import GVFFParams

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned


def by_loops(k, u, p):
    """One row, in numpy, as the formula is written."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))

    def perceptron(features, vectors, vector_w, mix_w, w, b, gate_w, gate_b, act):
        inner = [sum(vector_w[v, i] * vectors[i] for i in range(len(vectors))) for v in range(len(vector_w))]
        lengths = [np.sqrt((v**2).sum()) for v in inner]
        out = act(w @ np.concatenate([features, lengths]) + b)
        gates = sigmoid(gate_w @ out + gate_b)
        mixed = [sum(mix_w[o, v] * inner[v] for v in range(len(inner))) for o in range(len(mix_w))]
        return out, [g * m for g, m in zip(gates, mixed, strict=True)]

    features, vectors = perceptron(k, [u], *p[:6], lambda z: z * sigmoid(z))
    q, w = perceptron(features, vectors, *p[6:], lambda z: z)
    return q, w[0]


@pytest.mark.parametrize("num_vectors", [1, 4])
@pytest.mark.parametrize("dim", [2, 3])
def test_reference_is_the_formula(num_vectors, dim):
    torch.manual_seed(0)
    params = GVFFParams(*(p.double() for p in gv_ff_params(6, num_vectors)))
    k, u = draw(3, 2, 6).double(), draw(3, 2, dim).double()
    q, w = reference.gv_ff(k, u, params)
    for i in range(3):
        for t in range(2):
            q_loops, w_loops = by_loops(k[i, t].numpy(), u[i, t].numpy(), [p.numpy() for p in params])
            assert_same(q[i, t], q_loops, 1e-13)
            assert_same(w[i, t], w_loops, 1e-13)


def test_reference_gradients():
    torch.manual_seed(1)
    leaves = [v.double().requires_grad_() for v in (draw(3, 4), draw(3, 3), *gv_ff_params(4))]
    assert torch.autograd.gradcheck(lambda k, u, *p: reference.gv_ff(k, u, GVFFParams(*p)), leaves)


def test_null_vector_gives_none_and_finite_gradients():
    params = gv_ff_params(16)
    for name in ("reference", "auto"):
        leaves = [v.clone().requires_grad_() for v in (draw(2, 16), torch.zeros(2, 3), *params)]
        with backend(name):
            q, w = ops.gv_ff(leaves[0], leaves[1], GVFFParams(*leaves[2:]))
        assert torch.equal(w, torch.zeros(2, 3))
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(q.sum() + w.sum(), leaves, allow_unused=True))


def both(rows, width, dim, precision="fp32", dtype=torch.float32):
    """Outputs and gradients of the op in float32, and of the reference in float64."""
    torch.manual_seed(width)
    values = (draw(*rows_of(rows), width), draw(*rows_of(rows), dim), *gv_ff_params(width))
    values = [v.to(dtype) for v in values]
    cotangents = draw(*rows_of(rows), width).to(dtype), draw(*rows_of(rows), dim).to(dtype)

    def run(op, values, cotangents):
        leaves = [v.clone().requires_grad_() for v in values]
        out = op(leaves[0], leaves[1], GVFFParams(*leaves[2:]), precision=precision)
        total = sum((o * c).sum() for o, c in zip(out, cotangents, strict=True))
        return [*out, *torch.autograd.grad(total, leaves)]

    assert why_not_native(values[0], values[1], GVFFParams(*values[2:])) is None
    ours = run(ops.gv_ff, values, cotangents)
    wide = lambda tensors: [t.double() for t in tensors]
    return ours, run(reference.gv_ff, wide(values), wide(cotangents))


def rows_of(rows):
    return (rows,) if isinstance(rows, int) else rows


@needs_native
@pytest.mark.parametrize("rows", [1, 59, (7, 19), 241])
@pytest.mark.parametrize("width", [16, 48, 128])
@pytest.mark.parametrize("dim", [2, 3])
def test_op_equals_the_reference(rows, width, dim):
    ours, expected = both(rows, width, dim)
    # Terms of a gradient that cancel leave their rounding: no smaller than that of a hundredth of the largest gradient.
    smallest = 1e-2 * max(gradient.norm().item() for gradient in expected[2:])
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_same(a, b, 2e-6, 1e-3 if i < 2 else smallest, f"result {i}")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(("rows", "width", "dim"), [(1, 16, 3), (37, 48, 2), (70, 32, 3)])
def test_triton_is_as_accurate_as_plain_pytorch(rows, width, dim, precision, device):
    torch.manual_seed(rows)
    values = [v.to(device) for v in (draw(rows, width), draw(rows, dim), *gv_ff_params(width))]
    values[1][0] = 0
    cotangents = draw(rows, width).to(device), draw(rows, dim).to(device)

    def run(name, dtype, precision):
        leaves = [v.to(dtype).requires_grad_() for v in values]
        with backend(name):
            out = ops.gv_ff(leaves[0], leaves[1], GVFFParams(*leaves[2:]), precision=precision)
        total = sum((o * c.to(dtype)).sum() for o, c in zip(out, cotangents, strict=True))
        return [*out, *torch.autograd.grad(total, leaves)]

    ours = run("triton", torch.float32, precision)
    plain, exact = run("reference", torch.float32, precision), run("reference", torch.float64, "fp32")
    for i, (a, b, c) in enumerate(zip(ours, plain, exact, strict=True)):
        assert_as_accurate(a, b, c, precision, f"result {i}")


def test_triton_takes_four_vectors(device):
    with backend("triton"), pytest.raises(ValueError, match="there are 2 vectors between, not 4"):
        ops.gv_ff(
            draw(1, 16).to(device), draw(1, 3).to(device), GVFFParams(*(p.to(device) for p in gv_ff_params(16, 2)))
        )


@needs_native
def test_no_rows():
    ours, expected = both(0, 16, 3)
    assert all(a.shape == b.shape for a, b in zip(ours, expected, strict=True))
    assert all(torch.equal(a, torch.zeros_like(a)) for a in ours[4:])


@needs_native
def test_bfloat16_is_as_near_as_its_digits():
    ours, expected = both(33, 32, 3, dtype=torch.bfloat16)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.bfloat16
        assert_same(a, b, 3e-2)


@needs_native
def test_frozen_parameters_get_no_gradient_and_change_none():
    torch.manual_seed(3)
    params, k, u = gv_ff_params(32), draw(70, 32).requires_grad_(), draw(70, 3).requires_grad_()
    frozen = torch.autograd.grad(sum(v.sum() for v in ops.gv_ff(k, u, params)), (k, u))
    learning = GVFFParams(*(p.clone().requires_grad_() for p in params))
    for a, b in zip(frozen, torch.autograd.grad(sum(v.sum() for v in ops.gv_ff(k, u, learning)), (k, u)), strict=True):
        assert torch.equal(a, b)


@needs_native
def test_any_number_of_threads_gives_the_same_bits():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = both(500, 16, 3)
        torch.set_num_threads(3)
        three, _ = both(500, 16, 3)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_second_derivatives():
    torch.manual_seed(4)
    params, k, u = gv_ff_params(16), draw(2, 16).requires_grad_(), draw(2, 3).requires_grad_()

    def second(name, dtype):
        with backend(name):
            leaves = [v.detach().to(dtype).requires_grad_() for v in (k, u)]
            out = ops.gv_ff(*leaves, GVFFParams(*(p.to(dtype) for p in params)))
            first = torch.autograd.grad(sum(v.square().sum() for v in out), leaves, create_graph=True)
            return torch.autograd.grad(sum(v.square().sum() for v in first), leaves)

    for a, b in zip(second("auto", torch.float32), second("reference", torch.float64), strict=True):
        assert_same(a, b, 1e-5)


def test_a_turned_vector_gives_turned_vectors():
    torch.manual_seed(5)
    params, k, u = gv_ff_params(16), draw(5, 16), draw(5, 3)
    turn = torch.linalg.qr(draw(3, 3))[0]
    q, w = ops.gv_ff(k, u, params)
    q_turned, w_turned = ops.gv_ff(k, u @ turn.T, params)
    assert_same(q_turned, q, 1e-6)
    assert_same(w_turned, w @ turn.T, 1e-5)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="gv_ff: precision must be one of"):
        ops.gv_ff(draw(1, 16), draw(1, 3), gv_ff_params(16), precision="fp8")
