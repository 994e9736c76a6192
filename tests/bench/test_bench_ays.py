"""The benchmark of Align Your Structures: the peer computes the same, and the program says what it measured."""

import json

import pytest
import torch

from bench.network import ays

TINY = ays.Sizes(atoms=9, graphs=2, frames=5, hidden=16, layers=2)


def test_the_peer_equals_ours_in_output_and_gradients():
    errors = ays.agreement(TINY, ["ours", "official"], "cpu")
    assert errors.keys() == {"ours"} and errors["ours"] < 1e-5


def test_the_compiled_peer_is_the_same_program():
    """It gets a slice of frames for their numbers."""
    network, inputs = ays.make(TINY, "official", "cpu")
    numbers = inputs["noisy"]
    outputs, gradients = [], []
    for noisy in (numbers, slice(int(numbers[0]), int(numbers[-1]) + 1)):
        x_out, h_out = network(**(inputs | {"noisy": noisy}))
        outputs.append(x_out.detach())
        learned = [p for p in network.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(x_out.square().sum() + h_out.sum(), learned, allow_unused=True))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert ays.make(TINY, "official_compiled", "cpu")[1]["noisy"] == slice(1, TINY.frames)


def test_a_peer_that_differs_is_an_error(monkeypatch):
    make = ays.make

    def wrong(sizes, name, device):
        network, inputs = make(sizes, name, device)
        if name == "ours":
            with torch.no_grad():
                network.norm1[0].weight.mul_(1.01)
        return network, inputs

    monkeypatch.setattr(ays, "make", wrong)
    with pytest.raises(ValueError, match="ours differs from the peer by"):
        ays.agreement(TINY, ["ours"], "cpu")


def test_molecules_have_the_edges_of_a_drug():
    inputs = ays.chain_inputs(ays.Sizes())
    assert inputs["h"].shape == (88,) and inputs["original_frames"].shape == (88, 3, 251)
    edges = inputs["edge_index"].shape[1] // 2
    assert 330 < edges < 450  # reserpine's 44 heavy atoms have 414
    row, col = inputs["edge_index"]
    assert (inputs["batch"][row] == inputs["batch"][col]).all() and (row != col).all()
    assert set(inputs["edge_attr"].tolist()) == {2, 23, 24}


def test_the_program_writes_its_lines(tmp_path, capsys):
    words = [f"--{name}={size}" for name, size in vars(TINY).items()]
    words += ["--repeats=1", "--no-memory", "--quiet", f"--out={tmp_path / 'ays.jsonl'}"]
    assert ays.main([*words, "--implementations", "ours", "official"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "ays.jsonl").read_text().splitlines()]
    assert [line["implementation"] for line in lines] == ["ours", "official"]
    assert all(line["training_seconds"] > 0 and line["inference_seconds"] > 0 for line in lines)
    assert "times ours" in capsys.readouterr().out
