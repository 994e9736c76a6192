"""Small data in the official files' layouts, for the tests of the official names."""

import pathlib

import numpy as np
from tiny_models import ETHANOL, ETHANOL_POSITIONS

SUFFIX = "charged5_initvel1"


def write_nbody(root: pathlib.Path, split: str, num_systems: int, *, frames: int = 12, seed: int = 0) -> dict:
    """loc_, vel_, edges_ and charges_<split>_charged5_initvel1.npy of random walks; the arrays by name."""
    rng = np.random.default_rng(seed)
    vel = rng.normal(size=(num_systems, frames, 3, 5))
    charges = rng.choice([-1.0, 1.0], size=(num_systems, 5, 1))
    arrays = {
        "loc": np.cumsum(0.1 * vel, axis=1) + rng.normal(size=(num_systems, 1, 3, 5)),
        "vel": vel,
        "charges": charges,
        "edges": charges @ charges.transpose(0, 2, 1),
    }
    root.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        np.save(root / f"{name}_{split}_{SUFFIX}.npy", values)
    return arrays


def write_md17(root: pathlib.Path, num_frames: int = 400) -> np.ndarray:
    """md17_ethanol.npz; its R [frames, 9, 3]."""
    jitter = np.random.default_rng(0).normal(size=(num_frames, 9, 3)) * 0.03
    positions = ETHANOL_POSITIONS + jitter
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "md17_ethanol.npz", R=positions, z=ETHANOL)
    return positions


def write_pedestrians(root: pathlib.Path, scene: str = "zara1", num_windows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """<scene>_data_train.npy, <scene>_num_train.npy and the same for the test; data [B, 3, 20, 2] and num [B]."""
    rng = np.random.default_rng(0)
    step = 0.3 * rng.normal(size=(num_windows, 3, 1, 2))
    data = (
        rng.normal(size=(num_windows, 3, 1, 2))
        + step * np.arange(20)[:, None]
        + 0.02 * rng.normal(size=(num_windows, 3, 20, 2))
    )
    num = np.arange(num_windows) % 3 + 1
    data *= (np.arange(3) < num[:, None])[:, :, None, None]
    root.mkdir(parents=True, exist_ok=True)
    for phase in ("train", "test"):
        np.save(root / f"{scene}_data_{phase}.npy", data)
        np.save(root / f"{scene}_num_{phase}.npy", num)
    return data, num
