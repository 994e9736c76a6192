"""The variational bound on the negative log likelihood, in nats, summed over the dimensions of a node."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from geotdm_fast.reference.row_sums import count_by_graph

if TYPE_CHECKING:
    from geotdm_fast.diffusion.geotdm import GeoTDM


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor | float, logvar2: Tensor | float) -> Tensor:
    """KL(N(mean1, exp(logvar1)) || N(mean2, exp(logvar2))) for every element."""
    logvar2 = torch.as_tensor(logvar2, dtype=mean1.dtype, device=mean1.device)
    # Summed from left to right as in Ho et al.'s code: near 0 the rounding is as large as the value.
    return 0.5 * (logvar2 - 1.0 - logvar1 + (logvar1 - logvar2).exp() + (mean1 - mean2) ** 2 * (-logvar2).exp())


def prior_kl(diffusion: "GeoTDM", x_start: Tensor) -> Tensor:
    """[N] KL(q(x_S | x_0) || N(0, I))."""
    t = torch.full((x_start.shape[0],), diffusion.num_timesteps - 1, device=x_start.device)
    mean, _, log_variance = diffusion.q_mean_variance(x_start, t)
    return normal_kl(mean, log_variance, 0.0, 0.0).sum(dim=(1, 2))


def decoder_nll(x_start: Tensor, mean: Tensor, log_variance: Tensor, batch: Tensor, missing: int) -> Tensor:
    """[N] -log N(x_0; mean, exp(log_variance)) of each graph, its constant shared evenly among its nodes.

    missing: dimensions that a graph lacks of [nodes, D, T] (D of them in the zero-mean subspace)
    """
    nodes = count_by_graph(batch)[batch]  # [N], nodes of the own graph
    dimensions = nodes * mean.shape[1] * mean.shape[2] - missing
    constant = dimensions * 0.5 * (log_variance[:, 0, 0] + math.log(2 * math.pi)) / nodes
    return constant + (0.5 * (x_start - mean) ** 2 / log_variance.exp()).sum(dim=(1, 2))


def bound_term(
    diffusion: "GeoTDM", x_start: Tensor, x_t: Tensor, t: Tensor, model_kwargs: dict
) -> tuple[Tensor, Tensor]:
    """One term of the bound and the prediction of x_0: [N], [N, D, T].

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the decoder's negative log likelihood
    (Ho et al. 2020, Eq. 5).
    """
    true_mean, _, true_log_variance = diffusion.q_posterior_mean_variance(x_start, x_t, t)
    out = diffusion.p_mean_variance(x_t, t, model_kwargs=model_kwargs)
    kl = normal_kl(true_mean, true_log_variance, out["mean"], out["log_variance"]).sum(dim=(1, 2))
    missing = x_t.shape[1] if diffusion.mode == "uncond" else 0
    nll = decoder_nll(x_start, out["mean"], out["log_variance"], model_kwargs["batch"], missing)
    return torch.where(t == 0, nll, kl), out["pred_xstart"]


def bound(
    diffusion: "GeoTDM",
    x_start: Tensor,
    model_kwargs: dict,
    steps: Iterable[int],
    draw: Callable[[int], Tensor] | None = None,
) -> dict[str, Tensor]:
    """All terms of the bound for x_0 in the frame of reference of the diffusion; keys as in `GeoTDM.calc_bpd_loop`.

    steps: S-1, ..., 0; draw: k = 0, 1, ... to the noise of the k-th of them; default: `randn_like`
    """
    terms, xstart_mse, mse = [], [], []
    for k, step in enumerate(steps):
        t = torch.full((x_start.shape[0],), step, device=x_start.device)
        noise = torch.randn_like(x_start) if draw is None else draw(k)
        if diffusion.mode == "uncond":
            noise = diffusion.project_to_subspace(noise, model_kwargs["batch"])
        x_t = diffusion.q_sample(x_start, t, noise=noise)
        term, pred_xstart = diffusion._vb_terms_bpd(x_start, x_t, t, model_kwargs).values()
        eps = diffusion.predict_eps_from_xstart(x_t, t, pred_xstart)
        terms.append(term)
        xstart_mse.append(functional.mse_loss(pred_xstart, x_start, reduction="none").mean(dim=(1, 2)))
        mse.append(functional.mse_loss(eps, noise, reduction="none").mean(dim=(1, 2)))
    vb = torch.stack(terms, dim=1)
    prior = diffusion._prior_bpd(x_start)
    return {
        "total_bpd": vb.sum(dim=1) + prior,
        "prior_bpd": prior,
        "vb": vb,
        "xstart_mse": torch.stack(xstart_mse, dim=1),
        "mse": torch.stack(mse, dim=1),
    }
