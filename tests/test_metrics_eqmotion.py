"""The EqMotion network against the public code's numbers, and its symmetries."""

import pathlib

import pytest
import torch

from geotdm_fast.files import read_npz
from geotdm_fast.metrics import EqMotion

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["classifier", "predictor"])
def test_golden(name):
    golden = {key: torch.from_numpy(value) for key, value in read_npz(GOLDEN / f"eqmotion_{name}.npz").items()}
    network = EqMotion(golden["loc"].shape[2], golden["loc_out"].shape[2])
    parameters = {key[6:]: value for key, value in golden.items() if key.startswith("param.")}
    network.load_state_dict(parameters, strict=True)
    for ours, key in zip(network(golden["nodes"], golden["loc"]), ("loc_out", "h_out"), strict=True):
        assert ours.shape == golden[key].shape
        assert (ours - golden[key]).norm() / golden[key].norm() < 2e-5


@pytest.fixture
def network_and_input():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = EqMotion(6, 4).double()
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    generator = torch.Generator().manual_seed(1)
    nodes = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    loc = torch.randn(2, 5, 6, 3, generator=generator, dtype=torch.float64)
    return network, nodes, loc


def test_equivariance_in_float64(network_and_input):
    network, nodes, loc = network_and_input
    out, h = network(nodes, loc)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    rotation[:, 0] *= -1  # one of rotation and its mirror image is a reflection; both must hold
    for matrix in (rotation, rotation @ torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))):
        moved_out, moved_h = network(nodes, loc @ matrix.T + 5.0)
        torch.testing.assert_close(moved_out, out @ matrix.T + 5.0, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(moved_h, h, rtol=1e-10, atol=1e-10)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted_out, permuted_h = network(nodes[:, order], loc[:, order])
    torch.testing.assert_close(permuted_out, out[:, order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(permuted_h, h[:, order], rtol=1e-10, atol=1e-10)


def test_a_batch_equals_its_graphs_and_the_plane_lies_in_space(network_and_input):
    network, nodes, loc = network_and_input
    out, _ = network(nodes, loc)
    torch.testing.assert_close(network(nodes[1:], loc[1:])[0], out[1:], rtol=1e-12, atol=1e-12)
    flat = loc.clone()
    flat[..., 2] = 0
    in_space, in_plane = network(nodes, flat)[0], network(nodes, flat[..., :2])[0]
    torch.testing.assert_close(in_plane, in_space[..., :2], rtol=1e-12, atol=1e-12)


def test_gradients_are_finite_although_every_node_is_at_no_distance_from_itself(network_and_input):
    network, nodes, loc = network_and_input
    out, h = network(nodes, loc.requires_grad_())
    (out.square().sum() + h.square().sum()).backward()
    assert loc.grad.isfinite().all() and loc.grad.norm() > 0
    without_effect = ("vel_trans.", "gcl_0.coord_vel.", "gcl_0.coord_mlp.", "gcl_0.node_att_mlp.")
    for name, parameter in network.named_parameters():
        if name.startswith(without_effect):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.norm() > 0, name


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="EqMotion: frames_in must be at least 1, got 0"):
        EqMotion(0, 1)
    with pytest.raises(ValueError, match="EqMotion: frames_out must be at least 1, got 0"):
        EqMotion(1, 0)
    network = EqMotion(6, 1)
    with pytest.raises(ValueError, match=r"EqMotion: loc must be \[B, N, 6, D\], got \[2, 5, 3, 6\]"):
        network(torch.zeros(2, 5, 6), torch.zeros(2, 5, 3, 6))
    with pytest.raises(ValueError, match=r"EqMotion: nodes must be \[2, 5, 6\], got \[2, 5, 1\]"):
        network(torch.zeros(2, 5, 1), torch.zeros(2, 5, 6, 3))
