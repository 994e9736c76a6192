"""The gated feed-forward of a layer: `auto` against the reference, forward and forward + backward.

python -m pytest bench/ops/bench_gv_ff.py --threads 2
"""

import pytest
import torch

from bench.ops.single_op import BACKENDS, DIRECTIONS, SingleOp, check
from geotdm_fast import ays, backend, ops


def make_op(num_rows: int, width: int, device: torch.device) -> SingleOp:
    """Rows of `ays.BasicESLayer`: 44 atoms in 251 frames are 11,044."""
    torch.manual_seed(0)
    params = ays.GV_FF(width, width, width, 1, 4, 1).to(device).params
    k, u = torch.randn(num_rows, width, device=device), torch.randn(num_rows, 3, device=device)
    leaves = [k.requires_grad_(), u.requires_grad_(), *params]
    cotangents = torch.randn_like(u), torch.randn_like(k)

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        q, w = ops.gv_ff(k, u, params)
        return w, q

    return SingleOp("gv_ff", call, leaves, cotangents, 4.0 * num_rows * width * (width + 4), device)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("width", [64, 128])
def test_gv_ff(benchmark, width, direction, name, device):
    op = make_op(11_044, width, device)
    benchmark.group = f"gv_ff, H = {width}, {direction}"
    check(op, direction)
    with backend(name):
        benchmark(op.run, direction)
