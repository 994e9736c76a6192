"""Trajectories in the formats of molecular simulation."""

from geotdm_fast.data.molecule_files.dataset import file_dataset

__all__ = ["file_dataset"]
