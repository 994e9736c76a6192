"""The temporal op, one layer: `auto` against the reference, forward and forward + backward.

python -m pytest bench/bench_temporal_attention.py --threads 2
"""

import pytest
import torch

from bench.single_op import BACKENDS, DIRECTIONS, WORKLOADS, SingleOp, measure
from bench.workloads import make_workload
from geotdm_fast.ops import temporal_attention
from geotdm_fast.reference import TemporalAttentionParams


def make_op(workload_name: str, device: torch.device) -> SingleOp:
    """One layer of the workload's network on random features."""
    workload = make_workload(workload_name)
    layer = workload.network().t_modules[0].to(device)
    mlps = (*layer.q_mlp.tensors, *layer.k_mlp.tensors, *layer.v_mlp.tensors, *layer.x_mlp.tensors)
    params = TemporalAttentionParams(*mlps, layer.time_emb.weight, layer.time_emb.bias)
    generator = torch.Generator().manual_seed(0)
    shape = workload.num_nodes, workload.num_frames, workload.arguments["hidden_dim"]
    draw = lambda *size: torch.randn(*size, generator=generator).to(device)
    x = workload.batch.x.to(device).transpose(1, 2).contiguous().requires_grad_()  # [N, T, D]
    h = draw(*shape).requires_grad_()  # [N, T, H]
    call = lambda: temporal_attention(x, h, params)
    cotangents = draw(*x.shape), draw(*shape)
    return SingleOp("temporal_attention", call, [x, h, *params], cotangents, workload.temporal_flop(), device)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_temporal_attention(benchmark, workload, direction, backend, device):
    benchmark.group = f"temporal_attention, W-{workload}, {direction}"
    measure(benchmark, make_op(workload, device), backend, direction)
