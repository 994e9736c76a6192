"""Scores that train a small network on the samples: can it tell them from real ones, can it learn from them?"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from geotdm_fast.metrics.eqmotion import EqMotion
from geotdm_fast.metrics.graphs import check_finite
from geotdm_fast.runtime.bars import progress_bar

BATCH_SIZE = 128
LEARNING_RATE = 5e-3
TRAIN_SHARE = 0.8


def classification_score(
    real: Tensor,
    fake: Tensor,
    h: Tensor | None = None,
    *,
    num_epochs: int = 100,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> float:
    """Cross-entropy (nat) of a classifier trained to tell samples from real trajectories; higher is better.

    ln 2 = 0.693 when it cannot tell; an overfitted classifier may exceed that a little. The classifier is `EqMotion`,
    its logit the mean of its node features; 80 % of real and fake together train it, the rest is the test.

    real, fake: [B, N, D, T] float - as many samples as real trajectories, T = 20 in the paper
        (`by_graph` lays a batch out so)
    h: [B, N, F] float - node features of both; used when F = 1 (charges, masses) and taken as zero otherwise, as the
        official scores do; None: zero
    seed: of the split, the order and the network
    device: where to train; None: where `real` is

    Random, from its own generators: the global ones are left alone. The same seed gives the same score on the CPU;
    CUDA may differ in the last digits. Raises ValueError for wrong shapes and non-finite numbers.
    Source: arXiv 2410.13027; Zhou et al. 2023 (LS4).
    """
    where = "classification_score"
    real, fake, nodes = _prepare(where, real, fake, h, device, num_epochs)
    num_real, num_frames = len(real), real.shape[-2]
    loc = torch.cat([real, fake])
    nodes = nodes[..., None].expand(-1, -1, num_frames).repeat(2, 1, 1)
    label = torch.cat([real.new_zeros(num_real), real.new_ones(num_real)])
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(loc), generator=generator).to(loc.device)
    num_train = int(TRAIN_SHARE * len(loc))
    train, test = order[:num_train], order[num_train:]
    network = _network(num_frames, 1, seed, loc)

    def cross_entropy(index: Tensor) -> Tensor:
        logit = network(nodes[index], loc[index])[1].mean((1, 2))
        return F.binary_cross_entropy_with_logits(logit, label[index])

    return _fit(network, cross_entropy, train, test, num_epochs, generator, progress, "classification score")


def prediction_score(
    real: Tensor,
    fake: Tensor,
    h: Tensor | None = None,
    *,
    num_given: int = 10,
    num_epochs: int = 100,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> float:
    """Mean squared error on real trajectories of a forecaster trained on samples alone; lower is better.

    The forecaster is `EqMotion`: it continues `num_given` frames to the end.

    num_given: frames given, the rest are predicted (paper: 10 and 10)
    Other arguments, randomness and errors as in `classification_score`. The unit is the positions', squared.
    Source: arXiv 2410.13027; Zhou et al. 2023 (LS4).
    """
    where = "prediction_score"
    real, fake, nodes = _prepare(where, real, fake, h, device, num_epochs)
    num_real, num_frames = len(real), real.shape[-2]
    if not 1 <= num_given < num_frames:
        raise ValueError(f"{where}: num_given must be in 1..{num_frames - 1}, got {num_given}")
    loc = torch.cat([fake, real])
    nodes = nodes[..., None].expand(-1, -1, num_given).repeat(2, 1, 1)
    index = torch.arange(len(loc), device=loc.device)
    network = _network(num_given, num_frames - num_given, seed, loc)

    def squared_error(index: Tensor) -> Tensor:
        trajectory = loc[index]
        forecast = network(nodes[index], trajectory[:, :, :num_given])[0]
        return F.mse_loss(forecast, trajectory[:, :, num_given:])

    generator = torch.Generator().manual_seed(seed)
    train, test = index[:num_real], index[num_real:]
    return _fit(network, squared_error, train, test, num_epochs, generator, progress, "prediction score")


def _prepare(
    where: str, real: Tensor, fake: Tensor, h: Tensor | None, device: torch.device | str | None, num_epochs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Checked trajectories [B, N, T, D] and one feature for each node [B, N]."""
    if real.dim() != 4 or 0 in real.shape:
        raise ValueError(f"{where}: real must be [B, N, D, T], none of them 0, got {list(real.shape)}")
    if fake.shape != real.shape:
        raise ValueError(f"{where}: fake must be {list(real.shape)} like real, got {list(fake.shape)}")
    check_finite(where, "real", real)
    check_finite(where, "fake", fake)
    if num_epochs < 1:
        raise ValueError(f"{where}: num_epochs must be at least 1, got {num_epochs}")
    device = real.device if device is None else torch.device(device)
    nodes = real.new_zeros(real.shape[:2], device=device)
    if h is not None:
        if h.dim() != 3 or h.shape[:2] != real.shape[:2]:
            raise ValueError(f"{where}: h must be [{real.shape[0]}, {real.shape[1]}, F], got {list(h.shape)}")
        if h.shape[2] == 1:
            nodes = h[..., 0].to(nodes)
    return real.to(device).transpose(2, 3), fake.to(nodes).transpose(2, 3), nodes


def _network(frames_in: int, frames_out: int, seed: int, like: Tensor) -> EqMotion:
    # PyTorch's layers draw from the CPU's global generator: lend it to them, then put its state back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = EqMotion(frames_in, frames_out)
    return network.to(like)


def _fit(
    network: EqMotion,
    mean_loss: Callable[[Tensor], Tensor],
    train: Tensor,
    test: Tensor,
    num_epochs: int,
    generator: torch.Generator,
    progress: bool,
    label: str,
) -> float:
    """Train on the graphs `train`, return the mean loss over the graphs `test` after the last epoch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    bar = progress_bar(range(num_epochs), desc=label, unit="epoch", disable=not progress)
    for _ in bar:
        order = torch.randperm(len(train), generator=generator).to(train.device)
        for part in train[order].split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = mean_loss(part)
            loss.backward()
            optimizer.step()
        if progress:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    with torch.no_grad():
        total = sum(float(mean_loss(part)) * len(part) for part in test.split(BATCH_SIZE))
    return total / len(test)
