"""The training objective."""

from collections.abc import Mapping

from torch import Tensor

from geotdm_fast.conditioning import cond_mask, frames_of, split_batch
from geotdm_fast.data import Batch
from geotdm_fast.training.batches import Noised


class Objective:
    """The mean over graphs of the mean over a graph's scored nodes of the diffusion loss."""

    def __init__(self, diffusion, train: Mapping):
        self.diffusion = diffusion
        self.train_config = train
        self._mask: Tensor | None = None

    def split(self, noised: Noised) -> tuple[Tensor, dict]:
        """x_start [N, D, T_noisy] and model_kwargs, as `split_batch`, the graph as it is and the mask made once."""
        x_start, model_kwargs = self._frames(noised.batch)
        return x_start, model_kwargs | {"graph": noised.graph}

    def _frames(self, batch: Batch) -> tuple[Tensor, dict]:
        if self.diffusion.mode == "uncond":
            return split_batch(batch, self.train_config, "uncond")
        num_frames = batch.x.shape[-1]
        if self._mask is None or self._mask.device != batch.x.device or self._mask.shape[-1] != num_frames:
            self._mask = cond_mask(self.train_config["cond_mask"], num_frames).to(batch.x.device)
        model_kwargs = batch.model_kwargs() | {"cond_mask": self._mask, "x_given": batch.x}
        return frames_of(self._mask).noisy_of(batch.x, 2), model_kwargs

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


def num_noisy_frames(config: Mapping, num_frames: int) -> int:
    """How many of the data's `num_frames` frames are diffused. Raises ValueError for ranges that do not fit."""
    train = config["train"]
    if config["diffusion"]["mode"] == "cond":
        return len(frames_of(cond_mask(train["cond_mask"], num_frames)).noisy)
    if train["tot_len"] > num_frames:
        raise ValueError(f"train.tot_len must be at most the {num_frames} frames of the data, got {train['tot_len']}")
    return train["tot_len"]


def check_fits(config: Mapping, dataset, where: str) -> int:
    """Raise ValueError unless the network's sizes are those of the data; return the number of noisy frames."""
    item, network = dataset[0], config["denoise_model"]
    noisy = num_noisy_frames(config, item.num_frames)
    edge_dim = 0 if item.edge_attr is None else item.edge_attr.shape[1]
    for key, came in (("node_dim", item.h.shape[1]), ("edge_dim", edge_dim)):
        if network[key] != came:
            raise ValueError(
                f"denoise_model.{key} must be {came} for data.{where} ({dataset.name}), got {network[key]}"
            )
    learned = network["learn_ref_frame"] and config["diffusion"]["prior"] in (None, "learned")
    if config["diffusion"]["mode"] == "cond" and learned and network["num_w"] != noisy:
        raise ValueError(f"denoise_model.num_w must be {noisy}, the frames to predict, got {network['num_w']}")
    return noisy
