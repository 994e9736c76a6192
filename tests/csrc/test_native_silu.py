"""How exact the silu of the kernels on the CPU is: of an EGCL whose node MLP lets h through but for its activation."""

import pytest
import torch
from native_cases import egcl_params, needs_native

from geotdm_fast import ops
from geotdm_fast.reference import EGCLParams

pytestmark = needs_native
WIDTH = 16


def silu(x: torch.Tensor) -> torch.Tensor:
    """h' of nodes without edges: V2 silu(V1 [h, 0]) with V1 = [I, 0], V2 = I and no biases."""
    h = x.reshape(-1, 1, WIDTH)
    one, zero = torch.eye(WIDTH), torch.zeros(WIDTH)
    params = EGCLParams(*egcl_params(WIDTH, 0))._replace(
        node_w1=torch.cat([one, torch.zeros(WIDTH, WIDTH)], dim=1), node_b1=zero, node_w2=one, node_b2=zero
    )
    no_edges = torch.zeros(2, 0, dtype=torch.int64)
    return ops.egcl(torch.zeros(len(h), 1, 3), h, no_edges, None, params)[1].reshape(x.shape)


@pytest.mark.parametrize(("end", "ulps"), [(1.0, 3.0), (16.0, 4.0), (80.0, 4.2)])
def test_silu_is_exact_to_a_few_ulp(end, ulps):
    x = torch.linspace(-end, end, 2**18)
    exact = x.double() / (1 + torch.exp(-x.double()))
    found = silu(x)
    ulp = 2.0 ** (torch.frexp(exact)[1].double() - 24)
    assert ((found.double() - exact).abs() / ulp).max() < ulps


def test_silu_far_from_zero():
    x = torch.tensor([100.0, 3e38, -100.0, 0.0] * 4)
    found = silu(x)
    assert found[:2].tolist() == x[:2].tolist() and -1e-30 < found[2] <= 0 and found[3] == 0
