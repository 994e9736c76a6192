"""Molecules of different size in one request: a few captures serve all its batches, which draw what they did."""

import pytest
import torch
from tape import TapeRecorder
from test_training_device_data import joined, molecule
from test_training_periodic import liquid
from tiny_models import tiny_diffusion

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import collate
from geotdm_fast.data.conditions import with_conditions
from geotdm_fast.diffusion import Sampler
from geotdm_fast.runtime.cuda_graphs import CaptureCache
from geotdm_fast.sampling import sample
from geotdm_fast.sampling.rollout import roll_out
from geotdm_fast.sampling.rollout_blocks import Rollout
from geotdm_fast.task import Task

ATOMS = (5, 6, 7, 9, 12, 15, 19, 24, 31, 40)
GRAPHS = {
    "bonds": None,
    "radius": {"radius": 2.0, "of": "current"},
    "radius, with bonds": {"radius": 1.5, "bonds": True, "of": "current"},
    "of the given frames": {"radius": 2.0},
    "of the given frames, with bonds": {"radius": 2.0, "bonds": True},
    "nearest": {"knn": 3, "of": "current"},
}


def chains(atoms=ATOMS):
    """One window of each of these chains of carbon and oxygen."""
    parts = [molecule([6, 8, 6, 6] * (n // 4) + [6] * (n % 4), 5, seed=n) for n in atoms]
    return joined(*parts)


def tiny(dataset, graph=None, mode="cond", **network) -> dict:
    """A model of two given frames and three to draw, that predicts positions: what it draws stays near."""
    item, parsed = dataset[0], 0 if dataset[0].edge_attr is None else dataset[0].edge_attr.shape[1]
    edge_dim = parsed if graph is None else parsed + 1 if graph.get("bonds") else 0
    sizes = {"n_layers": 2, "node_dim": item.h.shape[1], "edge_dim": edge_dim, "hidden_dim": 16, "time_emb_dim": 8}
    sizes |= {"learn_ref_frame": mode == "cond", "n_layers_ref": 1, "num_w": 3, "pre_norm": True, "graph": graph}
    diffusion = {"beta_schedule_name": "linear", "num_timesteps": 25, "mode": mode, "model_mean_type": "start_x"}
    train = {"cond_mask": [[0, 2]]} if mode == "cond" else {"tot_len": 5}
    section = {"kind": "nbody", "system": "charged", "split": "train"}  # not opened
    return normalise_config(
        {
            "data": {"train": section},
            "denoise_model": sizes | network,
            "diffusion": diffusion,
            "train": {"exp_name": "tiny", "num_steps": 1} | train,
        }
    )


def both_ways(dataset, config, draw):
    """What is drawn with plain steps, and with recorded ones, and the recorder."""
    drawn, record = [], TapeRecorder()
    for recorder in (None, record):
        diffusion = tiny_diffusion(config)
        diffusion.captures = None if recorder is None else CaptureCache(record=recorder)
        drawn.append(draw(Sampler(diffusion, "ddim", 5, eta=0.5), collate(dataset), Task.of_config(config)))
    return *drawn, record


def sampled(sampler, batch, task, **options):
    return sample(sampler, batch, task, **{"num_samples": 1, "seed": 3, "batch_size": 1, "progress": False} | options)


@pytest.mark.parametrize("name", GRAPHS)
def test_positions_are_the_same_bit_for_bit(name):
    """Ten molecules of 5 to 40 atoms, one by one, in no more captures than are kept."""
    dataset = chains()
    plain, padded, record = both_ways(dataset, tiny(dataset, GRAPHS[name]), sampled)
    assert torch.equal(plain, padded) and plain.isfinite().all()
    assert len(record.tapes) <= CaptureCache().capacity < len(ATOMS)
    assert record.replays == 5 * len(ATOMS)


@pytest.mark.parametrize("kind", ["uncond", "conditions", "several samples", "few sizes"])
def test_other_requests(kind):
    dataset, options = chains(), {}
    mode = "uncond" if kind == "uncond" else "cond"
    if kind == "conditions":
        dataset = joined(*(with_conditions(chains((n,)), {"heat": float(n)}) for n in ATOMS))
    elif kind == "several samples":
        options = {"num_samples": 2, "batch_size": 4}
    elif kind == "few sizes":
        dataset = chains((5, 7, 5, 7, 5))
    told = {"conditions": {"heat": [5.0, 40.0]}} if kind == "conditions" else {}
    config = tiny(dataset, mode=mode, **told)
    draw = lambda *request: sampled(*request, **options)
    plain, padded, record = both_ways(dataset, config, draw)
    assert torch.equal(plain, padded)
    assert len(record.tapes) <= 4
    if kind == "few sizes":
        assert len(record.tapes) == 2, "as they are"


def test_molecules_in_boxes_of_their_own():
    """Edges by distance in boxes of different size and filling."""
    parts = [liquid(2, nodes, frames=5, seed=nodes) for nodes in (6, 7, 9, 10, 13, 17)]
    dataset = joined(*parts)
    config = tiny(dataset, {"radius": 2.5, "of": "current"}, cutoff=2.5)
    plain, padded, record = both_ways(dataset, config, sampled)
    assert torch.equal(plain, padded)
    assert len(record.tapes) < len(dataset)


def test_a_rollout_goes_through_the_same_captures():
    dataset = chains()
    config = tiny(dataset)
    rollout = Rollout.of(Task.of_config(config), 5, 7)
    options = {"num_samples": 1, "seed": 3, "batch_size": 1, "progress": False}
    draw = lambda *request: roll_out(*request, rollout, **options)
    plain, padded, record = both_ways(dataset, config, draw)
    assert torch.equal(plain, padded) and plain.shape[-1] == 7
    assert len(record.tapes) <= 4
