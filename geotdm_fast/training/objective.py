"""The training objective."""

from collections.abc import Mapping

from torch import Tensor

from geotdm_fast.task import Task
from geotdm_fast.training.batches import Noised


class Objective:
    """The mean over graphs of the mean over a graph's scored nodes of the diffusion loss."""

    def __init__(self, diffusion, task: Task):
        self.diffusion = diffusion
        self.task = task

    def split(self, noised: Noised) -> tuple[Tensor, dict]:
        """x_start [N, D, T_noisy] and model_kwargs, as `Task.split`, with the graph as it is."""
        x_start, model_kwargs = self.task.split(noised.batch)
        return x_start, model_kwargs | {"graph": noised.graph}

    def loss(self, noised: Noised) -> Tensor:
        """[] float - these graphs' part of the global batch's mean loss: all parts add up to it.

        In a `trusted` block nothing waits for the device but at the first call: a CUDA graph may capture it.
        """
        x_start, model_kwargs = self.split(noised)
        terms = self.diffusion.training_losses(
            x_start=x_start, t=noised.steps, model_kwargs=model_kwargs, noise=noised.noise.to(x_start.dtype)
        )
        loss = terms["loss"] if noised.all_scored else terms["loss"][noised.batch.scored]
        # Sums of fixed order (no atomics), so that every run gives the same bits.
        return (loss * noised.weight).sum()


def check_fits(config: Mapping, dataset, where: str) -> int:
    """Raise ValueError unless the network's sizes are those of the data; return the number of noisy frames."""
    item, network = dataset[0], config["denoise_model"]
    task = Task.of_config(config)
    noisy = task.num_noisy(item.num_frames)
    edge_dim = 0 if item.edge_attr is None else item.edge_attr.shape[1]
    for key, came in (("node_dim", item.h.shape[1]), ("edge_dim", edge_dim)):
        if network[key] != came:
            raise ValueError(
                f"denoise_model.{key} must be {came} for data.{where} ({dataset.name}), got {network[key]}"
            )
    learned = network["learn_ref_frame"] and config["diffusion"]["prior"] in (None, "learned")
    if task.is_conditional and learned and network["num_w"] != noisy:
        raise ValueError(f"denoise_model.num_w must be {noisy}, the frames to predict, got {network['num_w']}")
    return noisy
