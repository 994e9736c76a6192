"""Models whose rollouts stay near, systems to roll out, and the plain loop that a rollout is."""

import dataclasses

import torch
from tiny_models import charged_config, tame_network

from geotdm_fast.checkpoint import build_diffusion
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import Batch, TrajectoryDataset, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.diffusion.noise import TrajectoryNoise
from geotdm_fast.model import Model
from geotdm_fast.task import Task


def steady_config(**train) -> dict:
    """As `charged_config`, of a model that predicts positions: what it draws stays near."""
    config = charged_config(**train)
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


CONFIG = steady_config()
TASK = Task.of_config(CONFIG)
WINDOW, GIVEN = 12, 4


def model_of(config: dict) -> Model:
    network = tame_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)  # features matter then
    return Model(network, build_diffusion(network, config, "cpu"), Task.of_config(config), config, "tiny.safetensors")


def systems(count: int = 3, num_frames: int = 32) -> TrajectoryDataset:
    return open_dataset(CONFIG["data"]["test"] | {"num_systems": count, "num_frames": num_frames}, progress=False)


def plain_loop(model: Model, batch: Batch, num_blocks: int, overlap: int, seed: int, *, features=None) -> torch.Tensor:
    """One sample of every graph, all drawn frames: the blocks one by one, as the text says, without moving them."""
    frames, step = batch.x[..., :GIVEN], WINDOW - overlap
    for b in range(num_blocks):
        given = frames[..., b * step : b * step + GIVEN]
        x = torch.cat([given, torch.zeros(*given.shape[:2], WINDOW - GIVEN)], dim=-1)
        part = dataclasses.replace(batch, x=x)
        if batch.h.dim() == 3:
            part.h = batch.h[..., b * step : b * step + WINDOW] if features is None else features(given, WINDOW)
        if batch.edge_attr is not None and batch.edge_attr.dim() == 3:
            part.edge_attr = batch.edge_attr[..., b * step : b * step + WINDOW]
        x_start, model_kwargs = TASK.split(part)
        graph = torch.arange(batch.num_graphs)
        noise = TrajectoryNoise(seed, graph, graph * 0, batch.batch, *x_start.shape[1:], x_start.dtype, b)
        drawn = Sampler(model.diffusion, "ddpm", 6).draw(x_start.shape, model_kwargs, noise)
        frames = torch.cat([frames[..., : b * step + GIVEN], drawn], dim=-1)
    return frames[..., GIVEN:]


def by_distance(of: str) -> dict:
    config = steady_config()
    config["denoise_model"] |= {"graph": {"radius": 2.5, "of": of}, "edge_dim": 0}
    return normalise_config(config)
