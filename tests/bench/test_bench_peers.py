"""The peers of the benchmarks: they compute what the network computes."""

import sys

import pytest
import torch
from cases import DOMAINS, MASKS, case
from small_bench import small
from tolerances import assert_same

from bench.common import correctness
from bench.network import contenders
from bench.network.contenders import Contender
from bench.peers.baselines import EfficientEGTN, OfficialEGTN

STRUCTURES = (OfficialEGTN, EfficientEGTN)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("name", "compiled"), [("nbody", False), ("md", False), ("ped", False), ("long", False), ("nbody", True)]
)
def test_peers_equal_the_network_forward_and_backward(name, compiled, structure):
    workload = small(name, n_layers=1 if compiled else 2)
    plain = structure(**workload.arguments)
    plain.load_state_dict(workload.network().state_dict())
    if compiled:
        # The graph that torch.compile makes, without a C++ compiler; the gate checks the rest before every run.
        torch.compiler.reset()
        plain.compiled(backend="aot_eager")
    # In float64, where the equations must agree but for nothing: float32 differs by the rounding of each side.
    double = lambda value: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
    inputs = {key: double(value) for key, value in workload.inputs().items()}
    cotangents = tuple(double(value) for value in workload.cotangents())
    found, expected = (
        correctness.results(Contender("", "float64", network.double(), inputs, cotangents), "training")
        for network in (plain, workload.network())
    )
    assert expected.keys() == found.keys() and len(expected) > 30
    assert correctness.worst_error(found, expected)[0] < 1e-10


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_peers_equal_the_reference_for_every_mask(domain, mask, structure):
    network, x, model_kwargs = case(domain).conditional(MASKS[mask])
    network.scale = 0.5
    plain = structure(**sizes_of(domain, x.shape[-1]), learn_ref_frame=False, scale=0.5).double()
    plain.load_state_dict(network.state_dict())
    t = torch.arange(len(x)) * 3
    for ours, expected in zip(plain(t, x, **model_kwargs), network(t, x, **model_kwargs), strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_peers_have_the_learned_prior(domain, structure):
    network, x, model_kwargs = case(domain).conditional(MASKS["prefix"], learned=True)
    plain = structure(**sizes_of(domain, x.shape[-1]), learn_ref_frame=True).double()
    plain.load_state_dict(network.state_dict())
    prior = lambda module: module(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
    assert_same(prior(plain), prior(network))
    _, _, with_gaps = case(domain).conditional(MASKS["ends"], learned=True)
    with pytest.raises(ValueError, match=r"the given frames must have no gaps, got \(0, 1, 6\)"):
        plain(diffusion_t=None, x=None, compute_ref=True, **with_gaps)


def sizes_of(domain: str, num_w: int) -> dict:
    """The arguments of the networks of `cases`."""
    chosen = case(domain)
    own = {"node_dim": chosen.node_dim, "edge_dim": chosen.edge_dim, "pre_norm": chosen.pre_norm, "num_w": num_w}
    return {"n_layers": 2, "hidden_dim": 12, "time_emb_dim": 9, "act_fn": "silu", "n_layers_ref": 1} | own


def test_a_peer_takes_silu_alone():
    with pytest.raises(ValueError, match="OfficialEGTN: act_fn must be 'silu', got 'relu'"):
        OfficialEGTN(**sizes_of("nbody", 1) | {"act_fn": "relu"}, learn_ref_frame=False)


def test_recomputing_changes_memory_and_no_gradient():
    workload = small("md")
    plain, again = (EfficientEGTN(**workload.arguments, recompute=flag) for flag in (False, True))
    again.load_state_dict(plain.state_dict())
    found = [
        correctness.results(Contender("", "float32", network, workload.inputs(), workload.cotangents()), "training")
        for network in (plain, again)
    ]
    assert correctness.worst_error(*found)[0] < 1e-6


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    monkeypatch.delitem(sys.modules, "bench.peers.message_passing", raising=False)
    with pytest.raises(ValueError, match="pyg needs torch_geometric, which is not installed"):
        contenders.structure_of("pyg")
