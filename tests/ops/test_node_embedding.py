"""The first layer of the network: the reference is its formula, and the Triton kernels are as accurate as it."""

import pytest
import torch
from native_cases import draw, poisoned
from tolerances import SAME, assert_as_accurate, assert_same

from geotdm_fast import backend, ops, reference
from geotdm_fast.reference import sinusoid

pytestmark = pytest.mark.usefixtures("poisoned")
assert poisoned


def inputs_of(num_nodes, num_features, time_emb_dim, width, device):
    """h, step, weight, bias."""
    step = torch.randint(0, 1000, (num_nodes,)) if time_emb_dim else None
    drawn = (draw(num_nodes, num_features), step, draw(width, num_features + time_emb_dim, scale=0.2), draw(width))
    return [value if value is None else value.to(device) for value in drawn]


def results(inputs, num_frames, precision, name="reference", dtype=torch.float32):
    """z, and the gradients of weight and bias."""
    h, step, weight, bias = (
        value.to(dtype) if value is not None and value.is_floating_point() else value for value in inputs
    )
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    with backend(name):
        z = ops.node_embedding(h, step, weight, bias, num_frames, precision)
    cotangent = torch.linspace(-1, 1, z.numel(), dtype=dtype, device=z.device).cos().view(z.shape)
    return [z, *torch.autograd.grad(z, [weight, bias], cotangent)]


def test_the_reference_is_the_formula():
    h, step, weight, bias = (v.double() for v in inputs_of(5, 3, 8, 16, "cpu"))
    expected = torch.cat([h, sinusoid(step, 8, torch.float64)], dim=1) @ weight.T + bias
    assert_same(reference.node_embedding(h, step, weight, bias, 4), expected[:, None].expand(-1, 4, -1), SAME)
    expected = h @ weight[:, :3].T + bias
    assert_same(reference.node_embedding(h, None, weight[:, :3], bias, 1), expected[:, None], SAME)
    of_frames = torch.stack([h, 2 * h], dim=1)
    found = reference.node_embedding(of_frames, step, weight, bias, 2)
    assert_same(found[:, 0], reference.node_embedding(h, step, weight, bias, 2)[:, 0], SAME)
    assert_same(found[:, 1], reference.node_embedding(2 * h, step, weight, bias, 2)[:, 1], SAME)


@pytest.mark.recorded("interpreted", always=r"cpu-(1|37)-")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    ("num_nodes", "num_frames", "num_features", "time_emb_dim", "width"),
    [(7, 3, 2, 8, 16), (37, 9, 1, 32, 48), (1, 1, 40, 13, 32), (20, 2, 5, 0, 16), (1100, 2, 1, 4, 16)],
)
def test_the_kernels_are_as_accurate_as_the_reference(
    num_nodes, num_frames, num_features, time_emb_dim, width, precision, device
):
    """Odd widths of the sinusoid, features for two tiles of inputs, nodes for more than one turn of a slot."""
    inputs = inputs_of(num_nodes, num_features, time_emb_dim, width, device)
    exact = results(inputs, num_frames, "fp32", dtype=torch.float64)
    plain = results(inputs, num_frames, precision)
    ours = results(inputs, num_frames, precision, "triton")
    for name, a, b, c in zip(("z", "grad weight", "grad bias"), ours, plain, exact, strict=True):
        assert_as_accurate(a, b, c, precision, what=name)
    for a, b in zip(ours, results(inputs, num_frames, precision, "triton"), strict=True):
        assert torch.equal(a, b)


def test_no_node(device):
    z, grad_weight, grad_bias = results(inputs_of(0, 2, 8, 16, device), 5, "fp32", "triton")
    assert z.shape == (0, 5, 16) and not grad_weight.any() and not grad_bias.any()


def test_other_inputs_run_the_reference(device):
    """Features of every frame, features that ask for a gradient, float64."""
    h, step, weight, bias = inputs_of(4, 2, 8, 16, device)
    of_frames, wanted = torch.stack([h, -h], dim=1), h.clone().requires_grad_()
    with backend("triton"):
        for rows in (of_frames, wanted):
            found = ops.node_embedding(rows, step, weight, bias, 2)
            assert torch.equal(found, reference.node_embedding(rows, step, weight, bias, 2))
        assert found.requires_grad
        doubled = [v.double() for v in (h, step, weight, bias)]
        assert ops.node_embedding(*doubled, 2).dtype == torch.float64
