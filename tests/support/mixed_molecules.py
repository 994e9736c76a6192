"""Molecules of different size, and models small enough to train on them and to draw from in a blink."""

import torch
from test_training_device_data import joined, molecule
from test_training_step import steps_config

from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Batch, TrajectoryDataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.sampling import sample
from geotdm_fast.task import Task


def molecules(atoms, frames=7, **more) -> TrajectoryDataset:
    """Windows of 5 frames of each of these chains of carbon and oxygen: three of 7 frames. Edges are in no order."""
    chains = (molecule([6, 8, 6, 6] * (n // 4) + [6] * (n % 4), frames, seed=n, **more) for n in atoms)
    return joined(*(with_edges_shuffled(chain) for chain in chains))


def with_edges_shuffled(dataset) -> TrajectoryDataset:
    """The windows of one molecule with its edges, and their features, in another order."""
    windows = dataset.items
    order = torch.randperm(windows.edge_index.shape[1], generator=torch.Generator().manual_seed(len(windows)))
    windows.edge_index = windows.edge_index[:, order].contiguous()
    assert bool((windows.edge_index[0].diff() < 0).any()), "not sorted by receiver"
    if windows.edge_attr is not None:
        windows.edge_attr = windows.edge_attr[:, order]
    return dataset


def small(dataset, graph=None, **train) -> dict:
    """A configuration of a few numbers: in `ExactSums` every product is made number by number."""
    config = steps_config(dataset, **{"batch_size": 3, "rotate": True} | train)
    config["denoise_model"] |= {"hidden_dim": 8, "time_emb_dim": 4}
    if graph is not None:
        config["denoise_model"] |= {"graph": graph, "edge_dim": config["denoise_model"]["edge_dim"] + 1}
        if not graph.get("bonds"):
            config["denoise_model"]["edge_dim"] = 0
        config = normalise_config(config)
    return config


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


def sampled(sampler: Sampler, batch: Batch, task: Task, **options):
    """A sample of every graph, one after the other."""
    return sample(sampler, batch, task, **{"num_samples": 1, "seed": 3, "batch_size": 1, "progress": False} | options)
