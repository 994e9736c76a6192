"""What torch can do with a network beside calling it, and what is said where it cannot."""

import numpy as np
import pytest
import torch

from geotdm_fast import EGTN, backend
from geotdm_fast.data import collate
from geotdm_fast.data.arrays import array_dataset
from geotdm_fast.ops import egcl
from geotdm_fast.reference import EGCLParams

EDGES = torch.tensor([[0, 1, 2], [1, 2, 0]])


class Forecast(torch.nn.Module):
    """A network whose arguments have places, as what records it wants."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = EGTN(1, 1, 0, 16, 8, "silu", False, 1, 2)

    def forward(self, step, x, h, mask, x_given):
        return self.network(step, x, h, EDGES, None, None, cond_mask=mask, x_given=x_given)[0]


def inputs():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([1.0, 1, 0, 0]).view(1, 1, 4)
    x, x_given = torch.randn(3, 3, 2, generator=generator), torch.randn(3, 3, 4, generator=generator)
    return torch.zeros(3), x, torch.ones(3, 1), mask, x_given


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traced_by_the_reference_alone():
    model = Forecast().eval()
    with pytest.raises(TypeError, match=r"EGTN: torch\.jit\.trace and ONNX cannot follow .* backend\(\"reference\"\)"):
        torch.jit.trace(model, inputs(), check_trace=False)
    with backend("reference"), torch.no_grad():
        traced = torch.jit.trace(model, inputs(), check_trace=False)
        torch.testing.assert_close(traced(*inputs()), model(*inputs()))


def test_not_exported():
    with pytest.raises(TypeError, match=r"EGTN: torch\.export cannot follow cond_mask, .*; use torch\.compile"):
        torch.export.export(Forecast().eval(), inputs())


def test_edges_of_truth_values_are_no_edges():
    layer = Forecast().network.s_modules[0]
    params = EGCLParams(*layer.edge_mlp.tensors, *layer.coord_mlp.tensors, *layer.node_mlp.tensors)
    with pytest.raises(TypeError, match=r"egcl: edge_index must be int64, got torch\.bool"):
        egcl(torch.randn(3, 2, 3), torch.randn(3, 2, 16), EDGES.bool(), None, params)


def test_edges_stay_within_graphs():
    model, (step, x, h, _, _) = Forecast().network, inputs()
    with pytest.raises(ValueError, match=r"stay within graphs, got edge 1 from \[1, 2\] of graphs \[0, 1\]"):
        model(step, x, h, EDGES, None, torch.tensor([0, 0, 1]))


def test_data_are_on_the_cpu_whatever_the_default_device():
    torch.set_default_device("meta")
    try:
        dataset = array_dataset(np.random.default_rng(0).normal(size=(4, 10, 3, 3)))
        item = dataset[0]
    finally:
        torch.set_default_device(None)
    assert {value.device.type for value in (item.x, item.h, item.edge_index, item.scored)} == {"cpu"}
    assert collate([item]).edge_index.shape == (2, 6)
