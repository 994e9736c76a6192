"""The shift alone: `residual=False` of egcl in the reference, the C++ module and the Triton kernels."""

import pytest
import torch
from native_cases import EDGES, NODES, draw, egcl_params, needs_native, poisoned
from tolerances import assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.reference import EGCLParams

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned


def inputs_of(device="cpu", num_frames=5, width=16, far=0.0):
    torch.manual_seed(0)
    drawn = (draw(NODES, num_frames, 3) + far, draw(NODES, num_frames, width), draw(7, 2), *egcl_params(width, 2))
    return [value.to(device) for value in drawn]


def results(inputs, name, dtype=torch.float32, **flags):
    """x', h' and all gradients."""
    leaves = [value.to(dtype).requires_grad_() for value in inputs]
    edges = EDGES.to(leaves[0].device)
    with backend(name):
        outputs = ops.egcl(leaves[0], leaves[1], edges, leaves[2], EGCLParams(*leaves[3:]), **flags)
    total = sum((out * (torch.arange(out.numel(), device=out.device) + 1).cos().view_as(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("cutoff", [None, 2.0])
def test_reference_gives_what_is_added(cutoff):
    x, h, a, *params = (value.double() for value in inputs_of())
    moved, with_residual = reference.egcl(x, h, EDGES, a, EGCLParams(*params), cutoff=cutoff)
    shift, without = reference.egcl(x, h, EDGES, a, EGCLParams(*params), cutoff=cutoff, residual=False)
    assert_same(x + shift, moved, 1e-14)
    assert torch.equal(with_residual, without)


@needs_native
@pytest.mark.parametrize("flags", [{}, {"pre_norm": True}, {"cutoff": 2.0}, {"normalize": False}])
def test_compiled_op(flags):
    ours = results(inputs_of(), "auto", residual=False, **flags)
    expected = results(inputs_of(), "reference", torch.float64, residual=False, **flags)
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_same(a, b, 3e-6, 1e-3, f"result {i}")


@needs_native
def test_far_from_the_origin_no_digit_is_lost():
    """x' - x has the roundings of x, a thousand times those of the shift."""
    shift = results(inputs_of(far=1024.0), "auto", residual=False)[0]
    exact = results(inputs_of(far=1024.0), "reference", torch.float64, residual=False)[0]
    assert_same(shift, exact, 1e-5)


@needs_native
def test_without_it_nothing_changes():
    for a, b in zip(results(inputs_of(), "auto"), results(inputs_of(), "auto", residual=True), strict=True):
        assert torch.equal(a, b)


@needs_native
@pytest.mark.parametrize("residual", [True, False])
def test_frozen_parameters_get_no_gradient_and_change_none(residual):
    x, h, a, *params = inputs_of()
    frozen = [v.clone().requires_grad_() for v in (x, h, a)]
    out = ops.egcl(frozen[0], frozen[1], EDGES, frozen[2], EGCLParams(*params), residual=residual)
    expected = [v.clone().requires_grad_() for v in (x, h, a, *params)]
    other = ops.egcl(expected[0], expected[1], EDGES, expected[2], EGCLParams(*expected[3:]), residual=residual)
    ours = torch.autograd.grad(sum(v.square().sum() for v in out), frozen)
    theirs = torch.autograd.grad(sum(v.square().sum() for v in other), expected[:3])
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("flags", [{}, {"cutoff": 2.0}])
def test_triton(flags, device):
    ours = results(inputs_of(device), "triton", residual=False, **flags)
    expected = results(inputs_of(device), "reference", torch.float64, residual=False, **flags)
    for i, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert_same(a, b, 1e-5, 1e-3, f"result {i}")


def test_second_derivatives():
    def second(name, dtype):
        x, h, a, *params = (value.to(dtype) for value in inputs_of())
        leaves = [x.requires_grad_(), h.requires_grad_()]
        with backend(name):
            out = ops.egcl(*leaves, EDGES, a, EGCLParams(*params), residual=False)
            first = torch.autograd.grad(sum(v.square().sum() for v in out), leaves, create_graph=True)
            return torch.autograd.grad(sum(v.square().sum() for v in first), leaves)

    for a, b in zip(second("auto", torch.float32), second("reference", torch.float64), strict=True):
        assert_same(a, b, 1e-4)
