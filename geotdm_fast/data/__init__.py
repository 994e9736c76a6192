"""Trajectories from simulators, molecules, recordings and files: all end as `Trajectory`, batched by `collate`."""

from geotdm_fast.data.nbody import nbody_dataset
from geotdm_fast.data.open import normalise_section, open_dataset
from geotdm_fast.data.simulate import InitialState, initial_state, simulate
from geotdm_fast.data.trajectory import Batch, Trajectory, TrajectoryDataset, collate

__all__ = [
    "Batch",
    "InitialState",
    "Trajectory",
    "TrajectoryDataset",
    "collate",
    "initial_state",
    "nbody_dataset",
    "normalise_section",
    "open_dataset",
    "simulate",
]
