"""Drawing many trajectories: into memory (`sample`, `roll_out`), or into a folder of shards (`sample_to_folder`)."""

from geotdm_fast.sampling.batch_size import default_batch_size
from geotdm_fast.sampling.batches import sample
from geotdm_fast.sampling.folder import Outcome, sample_to_folder
from geotdm_fast.sampling.graphs import GraphPicker, select_graphs
from geotdm_fast.sampling.rollout import roll_out
from geotdm_fast.sampling.rollout_blocks import Rollout

__all__ = [
    "GraphPicker",
    "Outcome",
    "Rollout",
    "default_batch_size",
    "roll_out",
    "sample",
    "sample_to_folder",
    "select_graphs",
]
