"""The value by which the best weights are chosen."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from geotdm_fast.checks import trusted
from geotdm_fast.diffusion.noise import likelihood_noise
from geotdm_fast.processes import Processes
from geotdm_fast.training import draws
from geotdm_fast.training.batches import BatchSource, Noised
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.objective import Objective


class Validation:
    """Evaluates weights on a data set, always with the same diffusion steps and noise.

    `loss`: the training objective, steps spread evenly (one network call a batch). `nll`: the bound of
    `calc_bpd_loop`, nats per graph summed over its scored nodes (`num_timesteps` calls a batch).
    max_graphs: only so many graphs, None for all
    """

    def __init__(
        self,
        data: DeviceData,
        config: Mapping,
        *,
        num_noisy: int,
        processes: Processes,
        max_graphs: int | None = None,
    ):
        train = config["train"]
        self.seed = train["seed"]
        self.train_config = train
        self.processes = processes
        self.max_graphs = max_graphs
        self.source = BatchSource(
            data,
            seed=train["seed"],
            batch_size=train["eval_batch_size"],
            num_timesteps=config["diffusion"]["num_timesteps"],
            num_noisy=num_noisy,
            # Whole batches go round the processes: what is drawn does not depend on how many there are.
            rank=processes.rank,
            world_size=processes.world_size,
        )

    @torch.no_grad()
    def __call__(self, network: nn.Module, diffusion, kind: str) -> float:
        """The mean over all graphs of `kind`, loss or nll; the same on every process."""
        objective = Objective(diffusion, self.train_config)
        was_training = network.training
        network.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        for _, draw in self.source.validation(self.max_graphs):
            noised = self.source.noised(draw)
            with trusted():
                total += objective.loss(noised) if kind == "loss" else self._nll(objective, noised, draw.items)
        network.train(was_training)
        return float(self.processes.sum(total))

    def _nll(self, objective: Objective, noised: Noised, items: Tensor) -> Tensor:
        x_start, model_kwargs = objective.split(noised.batch)
        seed = draws.generator(self.seed, draws.NLL).initial_seed()
        noise = likelihood_noise(seed, items, model_kwargs["batch"], x_start)
        nats = objective.diffusion.calc_bpd_loop(x_start, model_kwargs=model_kwargs, noise=noise)["total_bpd"]
        count = min(len(self.source.data), self.max_graphs or len(self.source.data))
        return nats[noised.batch.scored].sum() / count
