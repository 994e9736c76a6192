"""Draw samples for a batch of graphs: replicate the graphs, run the reverse process in chunks, put the pieces back."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch

# Node-frames per chunk when batch_size is not given: on the CPU 32 systems of 5 x 30, or 7 windows of aspirin
# (measured per graph: 32 systems 6.9 ms, 8 systems 7.8, 128 systems 9.7, on one contended core).
NODE_FRAMES_CPU = 4_800
NODE_FRAMES_CUDA = 524_288


def sample(
    sampler,
    batch: Batch,
    train_config: dict,
    *,
    num_samples: int,
    seed: int,
    batch_size: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Draw `num_samples` trajectories for every graph of `batch`.

    sampler: `Sampler` - the model, the method and its steps
    batch: all graphs; conditional models read the given frames from `batch.x`, unconditional ones only its shape
    train_config: the config's `train` section (`cond_mask`, or `tot_len`)
    seed: 0 ... 2^64 - 1; the same seed gives the same samples, whatever their number and the batch_size
    batch_size: most graphs in one call of the network; None: chosen from the graphs' size
    returns: [K, N, D, T_noisy] on the CPU, in the network's dtype - the frames that were not given, in `batch.x`'s unit

    Random: each (graph, sample) has noise of its own (`TrajectoryNoise`), and torch's generators are left alone. What
    is drawn differs by rounding alone between batch sizes and devices.
    Raises ValueError for counts and seeds out of range; warns when a sample is not finite.
    """
    from geotdm_fast.diffusion.noise import TrajectoryNoise

    for name, value, least in (("num_samples", num_samples, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"sample: {name} must be at least {least}, got {value}")
    from tqdm.auto import tqdm

    diffusion = sampler.diffusion
    device = torch.device(diffusion.device)
    batch_size = batch_size or default_batch_size(batch, device)
    chunks = torch.arange(num_samples * batch.num_graphs).split(batch_size)  # sample by sample
    pieces = []
    bar = tqdm(total=len(chunks) * sampler.num_steps, desc="sampling", unit="step", disable=not progress)
    with bar, _evaluating(diffusion.denoise_network):
        for chunk in chunks:
            sample_of, graph_of = chunk // batch.num_graphs, chunk % batch.num_graphs
            x_start, model_kwargs = _inputs(diffusion, select_graphs(batch, graph_of), train_config)
            shape = tuple(x_start.shape)
            noise = TrajectoryNoise(seed, graph_of, sample_of, model_kwargs["batch"], *shape[1:], x_start.dtype)
            pieces.append(sampler.draw(shape, model_kwargs, noise=noise, progress=bar.update).cpu())
    # The graphs of one sample lie in the batch's own node order, so the pieces only have to be cut into samples.
    samples = torch.cat(pieces).unflatten(0, (num_samples, len(batch.batch)))  # [K, N, D, T_noisy]
    broken = int((~torch.isfinite(samples)).flatten(1).any(1).sum())
    if broken:
        warnings.warn(f"sample: {broken} of {num_samples} samples hold values that are not finite", stacklevel=2)
    return samples


def _inputs(diffusion, batch: Batch, train_config: dict) -> tuple[Tensor, dict]:
    """x_start and model_kwargs on the diffusion's device, in the network's dtype."""
    from geotdm_fast.conditioning import split_batch

    dtype = next(diffusion.denoise_network.parameters()).dtype
    return split_batch(batch.to(torch.device(diffusion.device), dtype), train_config, diffusion.mode)


def default_batch_size(batch: Batch, device: torch.device) -> int:
    """Graphs per chunk such that a chunk holds about 4,800 node-frames (CPU) or 520,000 (CUDA), at least one."""
    node_frames = batch.x.shape[0] * batch.x.shape[-1] / batch.num_graphs
    return max(1, int((NODE_FRAMES_CUDA if device.type == "cuda" else NODE_FRAMES_CPU) // node_frames))


def select_graphs(batch: Batch, graphs: Tensor) -> Batch:
    """The batch made of graphs `graphs` [G] int64 of `batch`, in that order; a graph may come several times."""
    if not bool((batch.batch[1:] >= batch.batch[:-1]).all()):
        raise ValueError("sample: batch.batch must be ascending, so that every graph's nodes lie together")
    edge_graph = batch.batch[batch.edge_index[0]]
    nodes, node_start, node_count = _gather(batch.batch, graphs, batch.num_graphs)
    edges, _, edge_count = _gather(edge_graph, graphs, batch.num_graphs)
    scored, _, scored_count = _gather(batch.batch[batch.scored], graphs, batch.num_graphs)
    offset = node_count.cumsum(0) - node_count - node_start  # new number of a node minus its old one, by new graph
    return replace(
        batch,
        x=batch.x[nodes],
        h=batch.h[nodes],
        edge_index=batch.edge_index[:, edges] + offset.repeat_interleave(edge_count),
        edge_attr=None if batch.edge_attr is None else batch.edge_attr[edges],
        scored=batch.scored[scored] + offset.repeat_interleave(scored_count),
        batch=torch.arange(len(graphs)).repeat_interleave(node_count),
        num_graphs=len(graphs),
    )


def _gather(owner: Tensor, graphs: Tensor, num_graphs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the things that `graphs` own, in order; and each graph's first place and number of things.

    owner: [M] int64 - the graph of every thing, in any order
    """
    order = torch.argsort(owner, stable=True)
    counts = torch.bincount(owner, minlength=num_graphs)
    starts = counts.cumsum(0) - counts
    count, start = counts[graphs], starts[graphs]
    within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
    return order[start.repeat_interleave(count) + within], start, count


@contextlib.contextmanager
def seeded(device: torch.device | str, seed: int) -> Iterator[None]:
    """Within the block torch's CPU generator and that of `device` start from `seed`; afterwards they are as before."""
    device = torch.device(device)
    cuda = []
    if device.type == "cuda":
        cuda = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed: it would reseed every GPU.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextlib.contextmanager
def _evaluating(network: torch.nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)
