"""How many kernels a captured training step launches on a GPU: at W-nbody's size they cost more than the work."""

import importlib.util

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(), reason="counted in Triton's interpreter"
)


def test_a_training_step_launches_few_kernels():
    from bench.launch_count import of_training

    launches = of_training("nbody", "bf16")
    layers = 6 + 2  # of the network and of the prior
    assert launches["egcl_weight_kernel"] == 5 * layers, "pairs of weights share a launch"
    assert launches["egcl_edge_sum_kernel"] == 2 * layers
    assert launches["aten._foreach_add_.List"] == 1, "gradients are added together"
    assert launches.total() <= 390  # 1000 before gradients and sums were taken together
