"""Models and samples small enough to draw from in a blink, for the tests of the command line, sampling and pictures."""

import numpy as np
import torch

from geotdm_fast.checkpoint import build_diffusion, build_network, save_checkpoint
from geotdm_fast.config.files import normalise_config
from geotdm_fast.samples.record import Samples

ETHANOL = np.array([6, 6, 8, 1, 1, 1, 1, 1, 1])
# Bonds of 1.0 to 1.5 angstrom between these positions are those of ethanol.
ETHANOL_POSITIONS = np.array(
    [
        [-1.19, -0.39, 0.0], [0.0, 0.55, 0.0], [1.19, -0.22, 0.0], [1.95, 0.36, 0.0],
        [-2.13, 0.17, 0.0], [-1.17, -1.03, 0.89], [-1.17, -1.03, -0.89], [-0.02, 1.2, 0.88], [-0.02, 1.2, -0.88],
    ]
)  # fmt: skip


def charged_config(**train) -> dict:
    """Four given frames of charged particles, eight to predict, 25 steps."""
    section = lambda split: {"kind": "nbody", "system": "charged", "split": split, "num_systems": 6, "num_frames": 12}
    return _config(
        {split: section(split) for split in ("train", "val", "test")}, 1, 1, train={"cond_mask": [[0, 4]]} | train
    )


def ethanol_config(path, mode: str = "uncond") -> dict:
    """Six windows of `path` (`write_ethanol`); unconditional: 20 frames, else 4 given and 16 to predict."""
    section = lambda split: {"kind": "md17", "path": str(path), "split": split, "down_sample_every": 1, "span": 20}
    train = {"tot_len": 20} if mode == "uncond" else {"cond_mask": [[0, 4]]}
    data = {split: section(split) | {"num_windows": 6} for split in ("train", "val", "test")}
    return _config(data, 30, 4, mode=mode, train=train, num_w=16)


def pedestrian_config(recording) -> dict:
    """Windows of 20 frames of the people in `recording`, drawn without given frames."""
    data = {
        split: {"kind": "pedestrian", "recordings": [str(recording)], "num_slots": 2} for split in ("train", "test")
    }
    return _config(data, 2, 0, mode="uncond", train={"tot_len": 20}, num_w=1)


def _config(data: dict, node_dim: int, edge_dim: int, *, train: dict, mode: str = "cond", num_w: int = 8) -> dict:
    network = {"n_layers": 1, "node_dim": node_dim, "edge_dim": edge_dim, "hidden_dim": 16, "time_emb_dim": 8}
    network |= {"learn_ref_frame": mode == "cond", "n_layers_ref": 1, "num_w": num_w, "pre_norm": True}
    diffusion = {"beta_schedule_name": "linear", "num_timesteps": 25, "mode": mode}
    train = {"exp_name": "tiny", "num_steps": 4, "batch_size": 3} | train
    return normalise_config({"data": data, "denoise_model": network, "diffusion": diffusion, "train": train})


def tame_network(config: dict, seed: int = 0) -> torch.nn.Module:
    """A network of random weights small enough that sampling does not run away."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    return network.eval()


def tiny_diffusion(config: dict):
    return build_diffusion(tame_network(config), config, "cpu")


def write_checkpoint(path, config: dict) -> str:
    save_checkpoint(path, tame_network(config), config)
    return str(path)


def write_ethanol(path, num_frames: int = 240) -> None:
    """An MD17-like `.npz`: ethanol whose atoms jitter by 0.03 angstrom."""
    rng = np.random.default_rng(0)
    jitter = rng.normal(size=(num_frames, 9, 3)) * 0.03
    np.savez(path, R=ETHANOL_POSITIONS + jitter, z=ETHANOL)


def made_samples(
    *,
    graphs: int = 4,
    nodes: int = 5,
    dims: int = 3,
    frames: int = 12,
    given: int = 4,
    num_samples: int = 3,
    mode="cond",
) -> Samples:
    """Smooth random paths and samples that leave the truth after the given frames; molecules if `nodes` is 9."""
    rng = np.random.default_rng(0)
    t = np.arange(frames) * 0.1
    total = graphs * nodes
    draw = lambda *shape: rng.normal(size=(*shape, total, dims, 1))
    x = draw() + draw() * t + 0.4 * draw() * np.sin(3 * t)
    molecule = nodes == 9
    if molecule:
        x = np.tile(ETHANOL_POSITIONS, (graphs, 1))[..., None] + 0.05 * rng.normal(size=(total, 3, frames))
    mask = np.zeros(frames, bool)
    mask[: given if mode == "cond" else 0] = True
    away = np.maximum(t - t[max(given - 1, 0)], 0)
    samples = x + 0.3 * draw(num_samples) * away
    f32 = lambda values: values.astype(np.float32)
    row, col = np.argwhere(~np.eye(nodes, dtype=bool)).T
    edges = np.stack([np.concatenate([index + g * nodes for g in range(graphs)]) for index in (row, col)])
    return Samples(
        samples=f32(samples[..., ~mask]), target=f32(x[..., ~mask]), x_given=f32(x[..., mask]), cond_mask=mask,
        batch=np.repeat(np.arange(graphs), nodes), scored=np.arange(total), h=np.ones((total, 1), np.float32),
        edge_index=edges, atomic_numbers=np.tile(ETHANOL, graphs) if molecule else np.zeros(0, np.int64), scale=1.0,
        unit="angstrom" if molecule else "", name="ethanol" if molecule else "N-body charged", mode=mode, seed=0,
        checkpoint="tiny.safetensors",
    )  # fmt: skip
