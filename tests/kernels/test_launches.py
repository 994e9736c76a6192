"""How many kernels a captured step launches on a GPU: at W-nbody's size they cost more than the work."""

import importlib.util

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(), reason="counted in Triton's interpreter"
)


def test_a_training_step_launches_few_kernels():
    from bench.training.launch_count import of_training

    launches = of_training("nbody", "bf16")
    layers = 6 + 2  # of the network and of the prior
    for name in ("egcl_weight_kernel", "egcl_row_weight_kernel", "egcl_finish_kernel"):
        assert launches[name] == layers, "weights share a launch"
    assert launches["egcl_edge_sum_kernel"] == 2 * layers
    assert launches["aten._foreach_add_.List"] == 1, "gradients are added together"
    assert launches["cut_windows_kernel"] == launches["adam_step_kernel"] == 1
    on_cpu_alone = launches["aten.ones_like.default"]  # the gradient of the loss, which is at hand on a GPU
    assert launches.total() - on_cpu_alone <= 215  # 1000 before gradients and sums were taken together


def test_a_sampling_step_launches_few_kernels():
    from bench.training.launch_count import of_sampling

    launches = of_sampling("nbody", "bf16")
    for name in ("egcl_project_kernel", "egcl_edges_kernel", "egcl_update_kernel"):
        assert launches[name] == 6
    assert launches.total() <= 40


def test_the_table(capsys):
    from bench.training.launch_count import main

    assert main(["--step", "sampling"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "launches of a sampling step" in lines[0] and lines[-2].split() == ["all", "40"]
