"""Models of Align Your Structures, their data and configurations, small enough to train and draw from in a blink."""

import numpy as np
import torch
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.config.files import normalise_config
from geotdm_fast.families import build_network

SIZES = {"n_layers": 1, "node_dim": 6, "ft_dim": 13, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8}
INTERPOLATOR = {"type": "interpolator", "use_mha": False, "use_extra": True, "use_double": True, "use_norm": True}
WATER = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
SPAN = 5
# A file SDF of two carbon atoms and their double bond, x angstrom apart.
ETHENE = """ethene
  hand

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    {x:.4f}    0.0000    0.0000 C   0  0
  1  2  2  0
M  END
$$$$
"""


def write_runs(folder, num_frames: int = 40) -> None:
    """`ethanol.npz` and `water.npz`, whose atoms jitter and drift, and `conformers.npz` of both."""
    rng = np.random.default_rng(0)
    for name, z, start in (("ethanol", ETHANOL, ETHANOL_POSITIONS), ("water", np.array([8, 1, 1]), WATER)):
        jitter = 0.03 * rng.normal(size=(num_frames, len(z), 3)) + 0.01 * np.arange(num_frames)[:, None, None]
        np.savez(folder / f"{name}.npz", R=start + jitter, z=z)
    x = np.concatenate([v + 0.03 * rng.normal(size=v.shape) for v in [ETHANOL_POSITIONS, WATER] * 6])
    z = np.concatenate([ETHANOL, [8, 1, 1]] * 6)
    np.savez(folder / "conformers.npz", x=x, z=z, batch=np.repeat(np.arange(12), [9, 3] * 6))


def structure_config(folder, **train) -> dict:
    """A structure model of the conformers."""
    section = lambda split: {"kind": "conformers", "path": str(folder / "conformers.npz"), "split": split}
    return _config(section, {"type": "basic_es", **SIZES}, train)


def interpolator_config(folder, conditioning: str = "forward", network: dict | None = None, **train) -> dict:
    """An interpolator of windows of both molecules."""
    paths = [str(folder / f"{name}.npz") for name in ("ethanol", "water")]
    section = lambda split: {"kind": "npz", "path": paths, "split": split, "span": SPAN, "stride": 4}
    return _config(section, INTERPOLATOR | SIZES | {"conditioning": conditioning} | (network or {}), train)


def raw_config(folder) -> dict:
    """A configuration as a user writes it."""
    path = str(folder / "ethanol.npz")
    section = lambda split: {"kind": "npz", "path": path, "split": split, "span": SPAN}
    return {
        "data": {split: section(split) for split in ("train", "val")},
        "denoise_model": INTERPOLATOR | SIZES | {"conditioning": "forward"},
        "diffusion": {"num_timesteps": 25},
        "train": {"exp_name": "tiny", "num_steps": 2, "batch_size": 4},
    }


def _config(section, network: dict, train: dict) -> dict:
    train = {
        "exp_name": "tiny",
        "num_steps": 6,
        "batch_size": 4,
        "lr": 1e-3,
        "ema_decay": 0.9,
        "log_every_step": 3,
    } | train
    train |= {"checkpoint_every_steps": 4, "checkpoint_every_minutes": None}
    return normalise_config(
        {
            "data": {split: section(split) for split in ("train", "val", "test")},
            "denoise_model": network,
            "diffusion": {"num_timesteps": 25, "use_kabsch_alignment": True},
            "train": train,
        }
    )


def tame_network(config: dict, seed: int = 0) -> torch.nn.Module:
    """A network of random weights small enough that sampling does not run away."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "alpha" not in name:
                parameter.mul_(0.3)
    return network.eval()
