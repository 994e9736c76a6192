"""Requests of Align Your Structures for molecules of different size: a few captures serve all, and draw the same."""

import numpy as np
import pytest
import torch
from exact_sums import ExactSums
from mixed_molecules import sampled
from tape import TapeRecorder
from tiny_ays import SPAN, interpolator_config, structure_config, tame_network, write_runs
from tolerances import assert_same

from geotdm_fast import backend
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.families import build_diffusion
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.sampling.rollout import roll_out
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.task import Task

METHODS = ("ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "ays_ddim")
CHAINS = (4, 5, 6, 7, 9, 12, 15)  # atoms of carbon, more than captures are kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("chains")
    write_runs(made)
    rng = np.random.default_rng(0)
    for atoms in CHAINS:
        place = np.stack([1.3 * np.arange(atoms), 0.7 * (np.arange(atoms) % 2), np.zeros(atoms)], axis=1)
        x = place + 0.03 * rng.normal(size=(40, atoms, 3))
        np.savez(made / f"chain_{atoms}.npz", R=x, z=np.full(atoms, 6))
    return made


def both_ways(folder, conditioning, draw, method="ddim", **network):
    """What is drawn of every chain with plain steps, and with recorded ones, and the recorder.

    In sums that do not depend on the order of their terms: torch's own are made otherwise for other numbers of rows.
    """
    if conditioning is None:
        config = structure_config(folder)
        data = open_dataset(config["data"]["test"])
    else:
        config = interpolator_config(folder, conditioning, network)
        paths = [str(folder / f"chain_{atoms}.npz") for atoms in CHAINS]
        section = config["data"]["test"] | {"path": paths, "split": "test", "stride": 20}
        data = open_dataset(section)
    config["diffusion"]["model_mean_type"] = "start_x"
    config["denoise_model"] |= {"hidden_dim": 8, "time_emb_dim": 4, "node_dim": 3, "edge_dim": 2}
    drawn, record = [], TapeRecorder(warm_up=0)
    for captures in (None, CaptureCache(record=record)):
        with ExactSums(), backend("reference"):
            drawn.append(draw(sampler_of(config, method, captures), collate(data), Task.of_config(config)))
    assert drawn[0].isfinite().all() and drawn[0].std() > 0
    return *drawn, record


def sampler_of(config, method, captures, device="cpu") -> Sampler:
    diffusion = build_diffusion(tame_network(config).to(device), config, device)
    diffusion.captures = captures
    return Sampler(diffusion, method, 4, eta=0.5 if "ddim" in method else 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_positions_are_the_same_bit_for_bit(folder, method):
    """Seven molecules one by one, in no more captures than are kept."""
    plain, padded, record = both_ways(folder, "forward", sampled, method)
    assert torch.equal(plain, padded) and plain.shape[-1] == SPAN - 1
    assert len(record.tapes) <= CaptureCache().capacity < len(CHAINS)
    assert record.replays == 4 * len(CHAINS)


@pytest.mark.parametrize(
    ("conditioning", "network"),
    [
        ("none", {}),
        ("interpolation", {}),
        ("unconditional_forward", {"use_kabsch": True}),
        ("forward", {"use_mha": True, "num_heads": 2}),
        ("forward", {"type": "stack"}),
        ("forward", {"type": "egtn"}),
        ("forward", {"type": "interpolator_simple"}),
    ],
    ids=str,
)
def test_what_is_given_and_other_networks(folder, conditioning, network):
    plain, padded, record = both_ways(folder, conditioning, sampled, **network)
    assert torch.equal(plain, padded)
    assert len(record.tapes) <= CaptureCache().capacity


def test_a_structure_model(folder):
    """Two sizes of conformers need no padding."""
    draw = lambda *request: sampled(*request, num_samples=3, batch_size=2)
    plain, captured, record = both_ways(folder, None, draw)
    assert torch.equal(plain, captured) and plain.shape[-1] == 1
    assert 1 <= len(record.tapes) <= CaptureCache().capacity


def test_on_the_device(folder, device):
    """In ordinary sums, by the kernels of the device."""
    config = interpolator_config(folder)
    config["diffusion"]["model_mean_type"] = "start_x"
    data, task = collate(open_dataset(config["data"]["test"]).spread(4)), Task.of_config(config)
    cache = CaptureCache(record=TapeRecorder() if device == "cpu" else None)
    captured = sampled(sampler_of(config, "dpmpp_2m", cache, device), data, task)
    eager = sampled(sampler_of(config, "dpmpp_2m", None, device), data, task)
    assert len(cache) >= 1
    assert_same(captured, eager, 1e-5)


def test_several_samples_at_once(folder):
    draw = lambda *request: sampled(*request, num_samples=2, batch_size=6)
    plain, padded, record = both_ways(folder, "forward", draw)
    assert torch.equal(plain, padded) and len(record.tapes) <= 4


def test_a_rollout_goes_through_the_same_captures(folder):
    """Every block, centred anew, is the same chain with another given frame."""

    def draw(sampler, batch, task):
        rollout = Rollout.of(task, SPAN, 9)
        return roll_out(sampler, batch, task, rollout, num_samples=1, seed=3, batch_size=1, progress=False)

    plain, padded, record = both_ways(folder, "forward", draw, "dpmpp_2m")
    assert torch.equal(plain, padded) and plain.shape[-1] == 9
    assert len(record.tapes) <= CaptureCache().capacity and record.replays == 3 * 4 * len(CHAINS)
