"""The spatial op, one layer: `auto` against the reference, forward and forward + backward.

python -m pytest bench/ops/bench_egcl.py --threads 2
"""

import pytest
import torch

from bench.common.workloads import make_workload
from bench.ops.layer import make_layer
from bench.ops.single_op import BACKENDS, DIRECTIONS, WORKLOADS, SingleOp, measure


def make_op(workload_name: str, device: torch.device) -> SingleOp:
    """One layer of the workload's network on random features."""
    return make_layer(make_workload(workload_name), "ours", "fp32", device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_egcl(benchmark, workload, direction, backend, device):
    benchmark.group = f"egcl, W-{workload}, {direction}"
    measure(benchmark, make_op(workload, device), backend, direction)
