"""The EqMotion network against the public code's numbers, and its symmetries."""

import pytest
import torch
from places import GOLDEN

from geotdm_fast.metrics import EqMotion
from geotdm_fast.runtime.files import read_npz


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


OFFICIAL = {"in_node_nf": 6, "in_edge_nf": 2, "hidden_nf": 16, "in_channel": 6, "hid_channel": 16, "out_channel": 4}


def test_the_official_constructor_makes_the_network_of_the_scores():
    def made(*arguments, **named):
        torch.manual_seed(0)
        return EqMotion(*arguments, **named)

    with torch.random.fork_rng(devices=[]):
        ours = made(6, 4)
        by_name = made(**OFFICIAL, device="cpu", n_layers=1, recurrent=True)
        by_position = made(6, 2, 16, 6, 16, 4, "cpu", torch.nn.SiLU(), 1, 1.0, True)
        loc = torch.randn(2, 5, 6, 3)
    nodes = torch.ones(2, 5, 6)
    expected = ours(nodes, loc)
    for other in (by_name, by_position):
        assert list(other.state_dict()) == list(ours.state_dict())
        for a, b in zip(other(nodes, loc, torch.zeros_like(loc), edge_attr=None), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_other_sizes_and_velocities_are_equivariant():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = EqMotion(**OFFICIAL | {"hidden_nf": 8, "hid_channel": 12}).double()  # four layers, no residual
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        nodes, loc, vel = (torch.randn(2, 5, 6, *more, dtype=torch.float64) for more in ((), (3,), (3,)))
        rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert {"gcl_0.layer_q.weight", "gcl_3.layer_q.weight"} <= set(network.state_dict())
    assert network.gcl_3.factor_mlp[0].weight.shape == (12, 12) and network.embedding.weight.shape == (4, 6)
    out, h = network(nodes, loc, vel)
    assert out.shape == (2, 5, 4, 3) and h.shape == (2, 5, 8)
    moved_out, moved_h = network(nodes, loc @ rotation.T + 5, vel @ rotation.T)
    torch.testing.assert_close(moved_out, out @ rotation.T + 5, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved_h, h, rtol=1e-9, atol=1e-9)
    assert (network(nodes, loc)[0] - out).abs().max() > 1e-3, "velocities have an effect"
    for a, b in zip(network(nodes, loc, torch.zeros_like(loc)), network(nodes, loc), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_errors_say_what_is_wrong():
    with pytest.raises(
        TypeError, match=r"the constructor needs frames_in and frames_out, or .*; frames_out is missing"
    ):
        EqMotion(6)
    with pytest.raises(TypeError, match=r"; hid_channel is missing"):
        EqMotion(in_node_nf=6, in_edge_nf=2, hidden_nf=16, in_channel=6, out_channel=4)
    with pytest.raises(ValueError, match="hidden_nf must be even, got 7"):
        EqMotion(**OFFICIAL | {"hidden_nf": 7})
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        EqMotion(**OFFICIAL, n_layers=0)
    with pytest.raises(ValueError, match=r"vel must be \[2, 5, 6, 3\] like loc, got \[2, 5, 3\]"):
        EqMotion(6, 1)(torch.zeros(2, 5, 6), torch.zeros(2, 5, 6, 3), torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="EqMotion: frames_in must be at least 1, got 0"):
        EqMotion(0, 1)
    with pytest.raises(ValueError, match="EqMotion: frames_out must be at least 1, got 0"):
        EqMotion(1, 0)
    network = EqMotion(6, 1)
    with pytest.raises(ValueError, match=r"EqMotion: loc must be \[B, N, 6, D\], got \[2, 5, 3, 6\]"):
        network(torch.zeros(2, 5, 6), torch.zeros(2, 5, 3, 6))
    with pytest.raises(ValueError, match=r"EqMotion: nodes must be \[2, 5, 6\], got \[2, 5, 1\]"):
        network(torch.zeros(2, 5, 1), torch.zeros(2, 5, 6, 3))
