"""The report of rollouts: its energies, its tables, and what its arms train."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import made_samples

from bench.sampling.rollout import main
from bench.sampling.rollout_scores import scores, table
from bench.sampling.rollout_systems import ARMS, config_of, systems, widened
from geotdm_fast.checkpoint import load_checkpoint
from geotdm_fast.checkpoint_paths import checkpoint_file


def test_potential_energy_is_that_of_loops_over_pairs():
    made = made_samples()
    charges = np.where(np.arange(20) % 3, 1.0, -1.0).astype(np.float32)[:, None]
    made = dataclasses.replace(made, h=charges)
    result = scores(made, 4)
    for name, x in (("energy", made.forecasts(False)), ("energy_true", made.truth(False)[None])):
        for number, block in enumerate(result["blocks"]):
            found = [
                _potential(x[k, made.nodes(graph), :, t], charges[made.nodes(graph), 0])
                for k in range(len(x))
                for graph in range(4)
                for t in range(4 + 4 * number, 8 + 4 * number)
            ]
            assert block[name] == pytest.approx(np.median(found), rel=1e-5)


def _potential(x: np.ndarray, charges: np.ndarray) -> float:
    """Of positions [N, D] of one frame."""
    total = 0.0
    for i in range(len(x)):
        for j in range(i):
            total += float(charges[i] * charges[j]) / float(np.sqrt(((x[i].astype(np.float64) - x[j]) ** 2).sum()))
    return total


def test_energy_of_bonds_is_that_of_springs():
    """Ethanol that grows by 2 % after it was given."""
    made = made_samples(nodes=9, num_samples=2, graphs=2)
    given = made.x_given[..., :1].repeat(4, axis=-1)
    grown = (1.02 * given[None, ..., :1]).repeat(8, axis=-1).repeat(2, axis=0).astype(np.float32)
    made = dataclasses.replace(made, x_given=given, samples=grown, target=given.repeat(2, axis=-1))
    (first, second) = scores(made, 4)["blocks"]
    bonds = [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (0, 6), (1, 7), (1, 8)]
    length = lambda i, j, g: np.linalg.norm(given[9 * g + i, :, 0] - given[9 * g + j, :, 0])
    expected = np.mean([(0.02 * length(i, j, g)) ** 2 for i, j in bonds for g in range(2)])
    assert first["energy"] == pytest.approx(expected, rel=1e-4) and second["energy"] == pytest.approx(
        expected, rel=1e-4
    )
    assert first["energy_true"] == pytest.approx(0, abs=1e-10)


def test_the_table_has_a_row_for_each_arm_and_the_data():
    result = scores(made_samples(), 4)
    lines = table({"charged": {"without": result, "noise": result}}).splitlines()
    assert lines[0] == "### charged" and lines[2].startswith("| blocks | arm | ADE")
    assert [line.split(" | ")[1] for line in lines[4:7]] == ["without", "noise", "the data"]
    assert lines[4].split(" | ")[2] == f"{result['blocks'][0]['ade']:.3g}"
    assert lines[6].split(" | ")[2] == f"{result['blocks'][0]['standing_still']:.3g}"


@pytest.mark.parametrize("arm", ARMS)
def test_arms_differ_in_their_keys_alone(arm, tmp_path):
    files = {"ethanol": tmp_path / "e.npz", "alanine": tmp_path / "a.npz", "pedestrians": tmp_path}
    files["alanine_start"] = checkpoint_file("md_ethanol_small")
    found = systems(files)
    assert list(found) == ["charged", "ethanol", "alanine", "pedestrians"]
    for system in found.values():
        if arm in ("history", "near") and system.longer is None:
            continue
        start = checkpoint_file(system.start)
        plain, config = config_of(system, "without", start), config_of(system, arm, start)
        assert plain["train"]["num_steps"] == config["train"]["num_steps"] == system.steps
        changed = {key for key in config["train"] if config["train"][key] != plain["train"][key]} - {"exp_name"}
        told, near = {"context_noise", "context_noise_told"}, {"block_history", "block_history_level"}
        expected = {"noise": {"context_noise"}, "told": told, "history": {"block_history"}, "near": near}
        assert changed == expected.get(arm, set())


def test_a_told_network_begins_as_the_one_that_it_is_made_of(tmp_path):
    path = checkpoint_file("nbody_charged_small")
    before, _ = load_checkpoint(path)
    after, _ = load_checkpoint(widened(path, tmp_path / "wide.safetensors"))
    assert after.node_dim == before.node_dim + 1
    torch.manual_seed(0)
    x, h = torch.randn(5, 3, 20), torch.ones(5, 1)
    edges = torch.tensor([[i, j] for i in range(5) for j in range(5) if i != j]).T
    mask = torch.zeros(1, 1, 30)
    mask[..., :10] = 1
    about = {"edge_index": edges, "edge_attr": torch.ones(20, 1), "batch": torch.zeros(5, dtype=torch.long)}
    about |= {"cond_mask": mask, "x_given": torch.randn(5, 3, 30)}
    call = lambda network, h: network(torch.zeros(5, dtype=torch.long), x, h, **about)[0]
    with torch.no_grad():
        expected = call(before, h)
        for level in (0.0, 2.0):
            found = call(after, torch.cat([h, torch.full((5, 1), level)], dim=1))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_system_without_its_data_is_refused(capsys):
    assert main(["--systems", "ethanol"]) == 2
    assert "bench.sampling.rollout: error: --systems ethanol needs its data: --ethanol" in capsys.readouterr().err
    assert main(["--alanine", "a.npz"]) == 2
    assert "--alanine and --alanine-start must be given together" in capsys.readouterr().err


def test_one_block_of_an_arm_is_trained_scored_and_reported(tmp_path, capsys, monkeypatch):
    tiny = systems({})["charged"]
    train = tiny.train | {"num_systems": 4}
    tiny = dataclasses.replace(tiny, steps=1, train=train, test=tiny.test | {"num_systems": 2, "num_frames": 30})
    monkeypatch.setattr("bench.sampling.rollout.systems", lambda files: {"charged": tiny})
    words = ["--out", str(tmp_path), "--blocks", "1", "--arms", "without", "near"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| 1 | without |" in said and "| 1 | near |" in said and "| 1 | the data |" in said
    assert (tmp_path / "rollout_charged.png").stat().st_size > 10_000
