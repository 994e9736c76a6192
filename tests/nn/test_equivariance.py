"""Rotation, reflection, translation and renumbering of nodes: network, loss, likelihood, whole chains; float64.

Noise turns and is renumbered with the positions. The bound is `SAME` on every comparison, chains included.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from cases import DOMAINS, MASKS, NUM_FRAMES, Tamed, case, diffusion
from pairwise import pairwise
from tolerances import assert_same
from torch import Tensor

from geotdm_fast.conditioning import cond_mask, frames_of
from geotdm_fast.data.trajectory import Batch

PRIORS = ("learned", "com", "com_last", "last_frame", "none")
KINDS = ("rotation", "reflection", "translation", "renumbering", "all")


@dataclass(frozen=True)
class Motion:
    """x to x Q^T + shift, nodes in `order` (new place k holds old node order[k]), edges in `edge_order`."""

    q: Tensor
    shift: Tensor
    order: Tensor
    edge_order: Tensor

    def turned(self, x: Tensor) -> Tensor:
        """Vectors [N, D, T], as noise: turned and renumbered, not shifted."""
        return torch.einsum("de,net->ndt", self.q, x)[self.order]

    def moved(self, x: Tensor) -> Tensor:
        return self.turned(x) + self.shift[:, None]

    def renumbered(self, value: Tensor) -> Tensor:
        return value[self.order]

    def batch(self, batch: Batch) -> Batch:
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order))
        return replace(
            batch,
            x=self.moved(batch.x),
            h=batch.h[self.order],
            edge_index=place[batch.edge_index[:, self.edge_order]],
            edge_attr=None if batch.edge_attr is None else batch.edge_attr[self.edge_order],
        )


def motion(kind: str, batch: Batch) -> Motion:
    dim, generator = batch.x.shape[1], torch.Generator().manual_seed(21)
    q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.linalg.det(q))  # still orthogonal; det = 1 in three dimensions
    if torch.linalg.det(q) < 0:
        q = q.roll(1, dims=0)
    reflection = q.clone()
    reflection[0] *= -1
    order, edges = torch.arange(len(batch.x)), torch.arange(batch.edge_index.shape[1])
    mixed = torch.cat([nodes[torch.randperm(len(nodes), generator=generator)] for nodes in _graphs(batch)])
    mixed_edges = torch.randperm(len(edges), generator=generator)
    still, unit, far = (
        torch.zeros(dim).double(),
        torch.eye(dim).double(),
        torch.tensor([30.0, -20.0, 10.0])[:dim].double(),
    )
    return {
        "rotation": Motion(q, still, order, edges),
        "reflection": Motion(reflection, still, order, edges),
        "translation": Motion(unit, far, order, edges),
        "renumbering": Motion(unit, still, mixed, mixed_edges),
        "all": Motion(reflection, far, mixed, mixed_edges),
    }[kind]


def _graphs(batch: Batch) -> list[Tensor]:
    return [(batch.batch == graph).nonzero()[:, 0] for graph in range(batch.num_graphs)]


def draws(seed: int, change: Callable[[Tensor], Tensor] = lambda noise: noise):
    """A stand-in for `torch.randn_like`: the same stream each time, changed as the positions are."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: change(torch.randn(like.shape, generator=generator, dtype=like.dtype))


@dataclass(frozen=True)
class Setting:
    """A diffusion and its arguments, for data as they are or moved."""

    diffusion: object
    x_start: Tensor
    model_kwargs: dict


def setting(domain: str, mode: str, prior: str | None, mask: str | None, moved: Motion | None) -> Setting:
    graphs = case(domain)
    batch = graphs.batch if moved is None else moved.batch(graphs.batch)
    model_kwargs = batch.model_kwargs()
    if mode == "uncond":
        return Setting(diffusion(Tamed(graphs.network()), "uncond"), batch.x, model_kwargs)
    given = cond_mask(MASKS[mask], NUM_FRAMES)
    noisy = frames_of(given).noisy
    network = graphs.network(learned=prior == "learned", num_w=len(noisy))
    model_kwargs |= {"cond_mask": given, "x_given": batch.x}
    return Setting(diffusion(Tamed(network), "cond", prior), batch.x[..., noisy], model_kwargs)


UNCONDITIONAL = [(domain, "uncond", None, None) for domain in DOMAINS]
CONDITIONAL = [*DOMAINS], PRIORS, ("prefix", "holes")
SETTINGS, CHAINS = (
    [*UNCONDITIONAL, *((domain, "cond", prior, mask) for domain, prior, mask in rows(*CONDITIONAL))]
    for rows in (itertools.product, pairwise)
)


def motion_for(kind: str, domain: str, prior: str | None) -> Motion:
    """Without a prior, the conditional model is tied to the origin, as its docstring says."""
    change = motion(kind, case(domain).batch)
    return replace(change, shift=torch.zeros_like(change.shift)) if prior == "none" else change


def test_the_motions_are_what_they_say():
    for domain in DOMAINS:
        batch = case(domain).batch
        unit = torch.eye(batch.x.shape[1]).double()
        for kind in KINDS:
            q = motion(kind, batch).q
            assert_same(q @ q.T, unit, 1e-14)
        assert_same(torch.linalg.det(motion("rotation", batch).q), 1.0, 1e-14)
        assert_same(torch.linalg.det(motion("reflection", batch).q), -1.0, 1e-14)
        assert (motion("rotation", batch).q - unit).abs().max() > 0.1
        assert not torch.equal(motion("renumbering", batch).order, torch.arange(len(batch.x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("domain", DOMAINS)
def test_network(domain, kind):
    """The bare network, with gates wide open, conditional on frames at both ends and on none."""
    graphs, change = case(domain), motion(kind, case(domain).batch)
    mask = cond_mask(MASKS["ends"], NUM_FRAMES)
    noisy = frames_of(mask).noisy
    conditional, unconditional = graphs.network(learned=True, num_w=len(noisy)), graphs.network()
    generator = torch.Generator().manual_seed(2)
    start = graphs.batch.x + torch.randn(graphs.batch.x.shape, generator=generator, dtype=torch.float64)
    outputs = []
    for batch, x in ((graphs.batch, start), (change.batch(graphs.batch), change.moved(start))):
        given = batch.model_kwargs() | {"cond_mask": mask, "x_given": batch.x}
        step = 3 + batch.batch
        outputs.append(
            (
                *conditional(diffusion_t=step, x=x[..., noisy], **given),
                conditional(diffusion_t=None, x=None, compute_ref=True, **given),
                *unconditional(diffusion_t=step, x=x, **batch.model_kwargs()),
            )
        )
    (x_out, h_out, x_ref, x_free, h_free), ours = outputs
    expected = (
        change.turned(x_out),
        h_out[change.order],
        change.moved(x_ref),
        change.turned(x_free),
        h_free[change.order],
    )
    names = ("x_out", "h_out", "x_ref", "unconditional x_out", "unconditional h_out")
    for name, a, b in zip(names, ours, expected, strict=True):
        assert_same(a, b, what=name)
    assert (x_out - x_ref).norm() > 0.1 and x_free.norm() > 0.1


@pytest.mark.parametrize(("domain", "mode", "prior", "mask"), SETTINGS)
def test_loss(domain, mode, prior, mask):
    change = motion_for("all", domain, prior)
    losses = []
    for moved in (None, change):
        s = setting(domain, mode, prior, mask, moved)
        noise = draws(31)(setting(domain, mode, prior, mask, None).x_start)
        t = 5 + 3 * s.model_kwargs["batch"]
        noise = noise if moved is None else change.turned(noise)
        losses.append(s.diffusion.training_losses(s.x_start, t=t, model_kwargs=s.model_kwargs, noise=noise)["loss"])
    assert_same(losses[1], change.renumbered(losses[0]))


@pytest.mark.parametrize(("domain", "mode", "prior", "mask"), CHAINS)
def test_whole_chain(domain, mode, prior, mask, monkeypatch):
    """A sample from first noise to last step, under a motion of every kind at once."""
    change = motion_for("all", domain, prior)
    first = draws(41)(setting(domain, mode, prior, mask, None).x_start)
    samples = []
    for moved in (None, change):
        s = setting(domain, mode, prior, mask, moved)
        noise = first if moved is None else change.turned(first)
        monkeypatch.setattr(torch, "randn_like", draws(42) if moved is None else draws(42, change.turned))
        samples.append(s.diffusion.p_sample_loop(tuple(noise.shape), noise=noise, model_kwargs=s.model_kwargs))
    # Unconditional samples have zero mean, wherever the data were.
    expected = change.turned(samples[0]) if mode == "uncond" else change.moved(samples[0])
    assert_same(samples[1], expected)
    assert samples[0].std() > 0.1


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_whole_chain_by_each_motion(kind, monkeypatch, domain="molecule"):
    change = motion(kind, case(domain).batch)
    first = draws(43)(setting(domain, "cond", "learned", "ends", None).x_start)
    samples = []
    for moved in (None, change):
        s = setting(domain, "cond", "learned", "ends", moved)
        noise = first if moved is None else change.turned(first)
        monkeypatch.setattr(torch, "randn_like", draws(44) if moved is None else draws(44, change.turned))
        samples.append(s.diffusion.p_sample_loop(tuple(noise.shape), noise=noise, model_kwargs=s.model_kwargs))
    assert_same(samples[1], change.moved(samples[0]))


@pytest.mark.parametrize(("mode", "prior", "mask"), [("uncond", None, None), ("cond", "learned", "ends")])
@pytest.mark.parametrize("domain", DOMAINS)
def test_likelihood_and_optimize(domain, mode, prior, mask, monkeypatch):
    change = motion_for("all", domain, prior)
    bounds, optimized = [], []
    for moved in (None, change):
        s = setting(domain, mode, prior, mask, moved)
        turn = (lambda noise: noise) if moved is None else change.turned
        monkeypatch.setattr(torch, "randn_like", draws(51, turn))
        bounds.append(s.diffusion.calc_bpd_loop(s.x_start, model_kwargs=s.model_kwargs))
        monkeypatch.setattr(torch, "randn_like", draws(52, turn))
        optimized.append(s.diffusion.optimize(s.x_start, 6, model_kwargs=s.model_kwargs))
    for key, value in bounds[0].items():
        assert_same(bounds[1][key], change.renumbered(value), what=key)
    expected = change.turned(optimized[0]) if mode == "uncond" else change.moved(optimized[0])
    assert_same(optimized[1], expected, what="optimize")


@pytest.mark.parametrize("domain", DOMAINS)
def test_unconditional_samples_have_zero_mean(domain):
    s = setting(domain, "uncond", None, None, None)
    sample = s.diffusion.p_sample_loop(tuple(s.x_start.shape), model_kwargs=s.model_kwargs)
    for nodes in _graphs(case(domain).batch):
        assert sample[nodes].mean(dim=(0, 2)).abs().max() < 1e-13


def test_without_a_prior_the_origin_matters():
    """The test of translations can fail."""
    change = motion("translation", case("nbody").batch)
    losses = []
    for moved in (None, change):
        s = setting("nbody", "cond", "none", "prefix", moved)
        noise = draws(31)(s.x_start)
        t = torch.full((len(noise),), 5)
        losses.append(s.diffusion.training_losses(s.x_start, t=t, model_kwargs=s.model_kwargs, noise=noise)["loss"])
    assert (losses[0] - losses[1]).abs().max() > 1e-3
