"""The spatial op, one layer: `auto` against the reference, forward and forward + backward.

python -m pytest bench/bench_egcl.py --threads 2
"""

import pytest
import torch

from bench.single_op import BACKENDS, DIRECTIONS, WORKLOADS, SingleOp, measure
from bench.workloads import make_workload
from geotdm_fast.ops import egcl
from geotdm_fast.reference import EGCLParams


def make_op(workload_name: str, device: torch.device) -> SingleOp:
    """One layer of the workload's network on random features."""
    workload = make_workload(workload_name)
    layer = workload.network().s_modules[0].to(device)
    batch = workload.batch.to(device)
    params = EGCLParams(*layer.edge_mlp.tensors, *layer.coord_mlp.tensors, *layer.node_mlp.tensors)
    generator = torch.Generator().manual_seed(0)
    shape = workload.num_nodes, workload.num_frames, workload.arguments["hidden_dim"]
    draw = lambda *size: torch.randn(*size, generator=generator).to(device)
    x = batch.x.transpose(1, 2).contiguous().requires_grad_()  # [N, T, D]
    h = draw(*shape).requires_grad_()  # [N, T, H]
    call = lambda: egcl(x, h, batch.edge_index, batch.edge_attr, params, pre_norm=layer.pre_norm)
    return SingleOp("egcl", call, [x, h, *params], (draw(*x.shape), draw(*shape)), workload.spatial_flop(), device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_egcl(benchmark, workload, direction, backend, device):
    benchmark.group = f"egcl, W-{workload}, {direction}"
    measure(benchmark, make_op(workload, device), backend, direction)
