"""Trajectories from simulators, molecules, recordings and files: all end as `Trajectory`, batched by `collate`."""

from geotdm_fast.data.arrays import array_dataset, npz_dataset
from geotdm_fast.data.conformers import conformer_dataset
from geotdm_fast.data.given_frames import given_frames_dataset
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.data.md17 import md17_dataset
from geotdm_fast.data.molecule import molecule_graph
from geotdm_fast.data.molecule_files import file_dataset
from geotdm_fast.data.nbody import draw_systems, nbody_dataset, system_features
from geotdm_fast.data.pedestrian import pedestrian_dataset, pedestrian_windows
from geotdm_fast.data.section_forms import normalise_section
from geotdm_fast.data.sections import open_dataset, open_datasets
from geotdm_fast.data.simulate import InitialState, initial_state, simulate
from geotdm_fast.data.trajectory import Batch, Trajectory, TrajectoryDataset, collate

__all__ = [
    "Batch",
    "InitialState",
    "Trajectory",
    "TrajectoryDataset",
    "array_dataset",
    "collate",
    "conformer_dataset",
    "draw_systems",
    "file_dataset",
    "given_frames_dataset",
    "initial_state",
    "join_datasets",
    "md17_dataset",
    "molecule_graph",
    "nbody_dataset",
    "normalise_section",
    "npz_dataset",
    "open_dataset",
    "open_datasets",
    "pedestrian_dataset",
    "pedestrian_windows",
    "simulate",
    "system_features",
]
