"""Who trains: our step, and the peers under a plain PyTorch loop, on the same data from the same weights."""

import contextlib
import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bench.common.workloads import Workload, make_trajectories
from bench.network.contenders import STRUCTURES
from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.data import Batch, TrajectoryDataset, collate
from geotdm_fast.diffusion import get_named_beta_schedule
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.runtime.cuda_graphs import Recorder
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.task import Task
from geotdm_fast.training.batches import BatchSource, Draw
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.step import TrainingStep

# What all do: 1000 steps of noise, Adam, clipping, an average.
NUM_TIMESTEPS, RATE, CLIP, DECAY = 1000, 1e-4, 1.0, 0.999
BATCHES = 4  # of different data
SIZES_KEPT = 16  # captured steps, where graphs differ in size
# Rounding of matrix products, by the names of `set_precision`, and what the gate calls it.
PRECISIONS = {"fp32": "float32", "tf32": "tf32", "bf16": "mixed"}


def dataset_of(workload: Workload) -> TrajectoryDataset:
    """`BATCHES` batches of the workload's graphs."""
    count = BATCHES * workload.batch.num_graphs
    return TrajectoryDataset(make_trajectories(workload.name, count, workload.num_frames), name=workload.name)


class OurTrainer:
    """`geotdm_fast.training` without files: what a step of `geotdm train` does.

    record, say: as of `TrainingStep`; captures: whether steps may be captured
    """

    def __init__(
        self,
        workload: Workload,
        dataset: TrajectoryDataset,
        precision: str,
        device: str,
        record: Recorder | None = None,
        *,
        captures: bool = True,
        say: Callable[[str], None] = print,
    ):
        train = {
            "optimizer": "adam",
            "weight_decay": 0.0,
            "clip": CLIP,
            "accumulate": 1,
            "cuda_graph": captures,
            "cuda_graph_sizes": SIZES_KEPT,
        }
        network = workload.network().to(device).set_precision(precision)
        copied = copy.deepcopy(network)
        self.weights = FlatWeights(network)
        kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
        diffusion = GeoTDM(network, "linear", NUM_TIMESTEPS, *kinds, device)
        self.objective = Objective(diffusion, Task(given=[[0, workload.num_given]]))
        self.source = BatchSource(
            DeviceData(dataset, device),
            seed=0,
            batch_size=workload.batch.num_graphs,
            num_timesteps=NUM_TIMESTEPS,
            num_noisy=workload.num_frames - workload.num_given,
        )
        average = WeightAverage(copied, self.weights, DECAY)
        alone = Processes(0, 1, torch.device(device))
        parts = (self.objective, self.weights, average, self.source, alone)
        self.step = TrainingStep(train, *parts, say=say, record=record)
        self.number = 0

    def train(self) -> None:
        """One step."""
        self.step(self.source.training(self.number), RATE, self.number + 1)
        self.number += 1

    def gradient(self, draw: Draw) -> dict[str, Tensor]:
        """Loss and gradients at the weights as they are."""
        with trusted():
            loss = self.objective.loss(self.source.noised(draw))
        self.weights.backward(loss)
        gradients = self.weights.named(self.weights.flat.grad)
        found = {"loss": loss.detach()} | {f"grad {name}": value.clone() for name, value in gradients.items()}
        self.weights.flat.grad.zero_()
        return found


class PlainTrainer:
    """A peer's structure trained as one would in plain PyTorch: collate, draw, loss, backward, clip, Adam, average."""

    def __init__(
        self,
        workload: Workload,
        dataset: TrajectoryDataset,
        name: str,
        precision: str,
        device: str,
        dtype: torch.dtype = torch.float32,
    ):
        structure, _, compiled = name.partition("_")
        self.plain = STRUCTURES[structure](**workload.arguments)
        self.plain.load_state_dict(workload.network().state_dict())
        self.plain.to(device, dtype)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.plain, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
        )
        self.network: nn.Module = self.plain.compiled() if compiled else self.plain
        self.optimizer = torch.optim.Adam(self.plain.parameters(), lr=RATE)
        self.dataset, self.device, self.dtype, self.precision = dataset, torch.device(device), dtype, precision
        self.batch_size = workload.batch.num_graphs
        self.mask = cond_mask([[0, workload.num_given]], workload.num_frames).to(device)
        kept = np.cumprod(1.0 - get_named_beta_schedule("linear", NUM_TIMESTEPS))
        table = lambda values: torch.from_numpy(values).to(device, dtype)
        self.signal, self.spread = table(np.sqrt(kept)), table(np.sqrt(1 - kept))
        self.order: list[int] = []

    def train(self) -> None:
        """One step."""
        if not self.order:
            self.order = torch.randperm(len(self.dataset)).tolist()
        items, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        batch = self.collated(items)
        steps = torch.randint(0, NUM_TIMESTEPS, (self.batch_size,), device=self.device)
        noise = torch.randn_like(batch.x[..., frames_of(self.mask).noisy_index])
        self.optimizer.zero_grad(set_to_none=True)
        with self._rounded():
            loss = self.loss(batch, steps[batch.batch], noise)
            loss.backward()
        nn.utils.clip_grad_norm_(self.plain.parameters(), CLIP)
        self.optimizer.step()
        self.average.update_parameters(self.plain)

    def collated(self, items: Sequence[int]) -> Batch:
        """The batch on the device."""
        return collate([self.dataset[i] for i in items]).to(self.device, self.dtype)

    def loss(self, batch: Batch, t: Tensor, noise: Tensor) -> Tensor:
        """The mean over graphs of the mean over scored nodes of |noise - prediction|^2 (a mean over D and T)."""
        model_kwargs = batch.model_kwargs() | {"cond_mask": self.mask, "x_given": batch.x}
        x_ref = self.network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
        relative = batch.x[..., frames_of(self.mask).noisy_index] - x_ref
        x_t = self.signal[t, None, None] * relative + self.spread[t, None, None] * noise
        found, _ = self.network(diffusion_t=t, x=x_t + x_ref, **model_kwargs)
        mse = ((noise - found) ** 2).mean(dim=(1, 2))[batch.scored]
        graph = batch.batch[batch.scored]
        zeros = mse.new_zeros(batch.num_graphs)
        return (zeros.index_add(0, graph, mse) / zeros.index_add(0, graph, torch.ones_like(mse))).mean()

    def gradient(self, draw: Draw) -> dict[str, Tensor]:
        """Loss and gradients at the weights as they are."""
        batch = self.collated(draw.items.tolist())
        steps, noise = draw.steps.to(self.device)[batch.batch], draw.noise.to(self.device, self.dtype)
        self.plain.zero_grad(set_to_none=True)
        with self._rounded():
            loss = self.loss(batch, steps, noise)
            loss.backward()
        gradients = {f"grad {name}": p.grad.clone() for name, p in self.plain.named_parameters()}
        return {"loss": loss.detach()} | gradients

    @contextlib.contextmanager
    def _rounded(self):
        if self.precision == "bf16":
            with torch.autocast(self.device.type, torch.bfloat16):
                yield
            return
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
