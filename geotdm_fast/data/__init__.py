"""Trajectories from simulators, molecules, recordings and files: all end as `Trajectory`, batched by `collate`."""

from geotdm_fast.data.trajectory import Batch, Trajectory, TrajectoryDataset, collate

__all__ = ["Batch", "Trajectory", "TrajectoryDataset", "collate"]
