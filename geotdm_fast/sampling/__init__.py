"""Drawing many trajectories: into memory (`sample`), or into a folder of shards (`sample_to_folder`)."""

from geotdm_fast.sampling.batch_size import default_batch_size
from geotdm_fast.sampling.batches import sample
from geotdm_fast.sampling.folder import Outcome, sample_to_folder
from geotdm_fast.sampling.graphs import GraphPicker, select_graphs

__all__ = ["GraphPicker", "Outcome", "default_batch_size", "sample", "sample_to_folder", "select_graphs"]
