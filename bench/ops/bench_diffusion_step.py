"""The step behind the network: the op against the reference, W-nbody's and W-md's positions.

python -m pytest bench/ops/bench_diffusion_step.py --threads 1

A step of a chain takes 50 ms on the same CPU, so what is measured here is a thousandth of it: the op is for the GPU,
where the reference is a dozen launches, and for graphs, whose means it sums in a fixed order.
"""

import pytest
import torch

from bench.common.timing import synchronize
from geotdm_fast import backend, ops

SIZES = {"nbody": (32, 5), "md": (8, 21), "md 128": (128, 21)}


@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("mode", ["cond", "uncond"])
@pytest.mark.parametrize("name", SIZES)
def test_diffusion_step(benchmark, device, name, mode, implementation):
    graphs, nodes = SIZES[name]
    draw = lambda *shape: torch.randn(*shape, device=device)
    x = draw(graphs * nodes, 3, 20)
    first = torch.arange(0, graphs * nodes + 1, nodes, device=device) if mode == "uncond" else None
    positions, x_ref = (draw(*x.shape), draw(*x.shape)) if mode == "cond" else (None, None)
    output, noise = draw(graphs * nodes, 20, 3).transpose(1, 2), draw(*x.shape)
    table, step = draw(100, 6) * 0.1, torch.tensor([3], device=device)
    before = torch.zeros_like(x)

    def call():
        with backend(implementation):
            ops.diffusion_step(x, before, positions, output, noise, x_ref, first, table, step)
        synchronize(torch.device(device))

    benchmark(call)
