"""The value by which the best weights are chosen."""

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from geotdm_fast.config.ays_files import is_ays
from geotdm_fast.config.diffusion_rules import time_power
from geotdm_fast.diffusion.noise import likelihood_noise
from geotdm_fast.nn.evaluating import evaluating
from geotdm_fast.runtime.bars import progress_bar
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.task import Task
from geotdm_fast.training import random_streams
from geotdm_fast.training.batches import BatchSource, Noised
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.history_windows import HistoryWindows
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.pairs import Pairs


class Validation:
    """Evaluates weights on a data set, always with the same diffusion steps and noise, whatever the batches.

    `loss`: the training objective, steps spread evenly (one network call a batch). `nll`: the bound of
    `calc_bpd_loop`, nats per graph summed over its scored nodes (`num_timesteps` calls a batch).
    max_graphs: only so many graphs, None for all
    pairs: the noise of the data, where they are a teacher's draws, see `BatchSource`
    """

    def __init__(
        self,
        data: DeviceData,
        config: Mapping,
        *,
        num_noisy: int,
        processes: Processes,
        max_graphs: int | None = None,
        windows: HistoryWindows | None = None,
        pairs: Pairs | None = None,
    ):
        train = config["train"]
        self.seed = train["seed"]
        self.task = Task.of_config(config)
        self.num_timesteps = config["diffusion"]["num_timesteps"]
        self.processes = processes
        self.max_graphs = max_graphs
        self.source = BatchSource(
            data,
            seed=train["seed"],
            batch_size=train["eval_batch_size"],
            num_timesteps=self.num_timesteps,
            num_noisy=num_noisy,
            windows=windows,
            time_power=time_power(config),
            by_nodes=is_ays(config),
            pairs=pairs,
            # Whole batches go round the processes.
            rank=processes.rank,
            world_size=processes.world_size,
        )

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, diffusion, kind: str, *, stopped: Callable[[], int] | None = None, show: bool = False
    ) -> float | None:
        """The mean over all graphs of `kind`, loss or nll, the same on every process; None where it was stopped.

        stopped: asked before or after every call of the network; what is not 0 on any process stops all
        show: show a progress bar, of this process's batches
        """
        objective = Objective(diffusion, self.task, self.source.data.boxes)
        total = torch.zeros((), dtype=torch.float64, device=self.processes.device)
        calls = 1 if kind == "loss" else self.num_timesteps
        rounds = -(-self.source.validation_batches(self.max_graphs) // self.processes.world_size)
        bar = progress_bar(total=rounds * calls, desc=f"validate {kind}", unit="call", leave=False, disable=not show)

        def ask() -> None:
            if stopped is not None and self.processes.agree(stopped())[0]:
                raise _Stopped
            bar.update()

        with bar, evaluating(network), contextlib.suppress(_Stopped):
            batches = self.source.validation(self.max_graphs)
            for _ in range(rounds):
                batch = next(batches, None)
                if batch is None:
                    # The last round has none for this process, which asks as often as the others all the same.
                    for _ in range(calls):
                        ask()
                    break
                items, noised = batch
                with trusted():
                    if kind == "loss":
                        ask()
                        total += objective.loss(noised)
                    else:
                        total += self._nll(objective, noised, items, ask)
            return float(self.processes.sum(total))
        return None

    def _nll(self, objective: Objective, noised: Noised, items: Tensor, ask: Callable[[], None]) -> Tensor:
        x_start, model_kwargs = objective.split(noised)
        seed = random_streams.generator(self.seed, random_streams.NLL).initial_seed()
        noise = likelihood_noise(seed, items, model_kwargs["batch"], x_start)
        terms = objective.diffusion.calc_bpd_loop(x_start, model_kwargs=model_kwargs, progress=ask, noise=noise)
        nats = terms["total_bpd"]
        count = min(len(self.source.data), self.max_graphs or len(self.source.data))
        return nats[noised.batch.scored].sum() / count


class _Stopped(Exception):
    """Leaves a validation that was asked to stop."""
