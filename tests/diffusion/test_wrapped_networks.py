"""Samplers of wrapped networks: a wrapper that does more than it wraps is called, in every step."""

import ays_models
import pytest
import torch
from cases import case, diffusion

from geotdm_fast import EGTN, ModelMeanType, Sampler
from geotdm_fast.ays import OurDiffusion
from geotdm_fast.ays.as_geotdm import AtomNetwork
from geotdm_fast.nn.egtn import why_no_room
from geotdm_fast.nn.plain import bare, is_compiled, wrappers

STEPS = 4


class Around(torch.nn.Module):
    """Three times what it wraps, counted."""

    def __init__(self, inner):
        super().__init__()
        self.module = inner
        self.calls = 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        x, h = self.module(*args, **kwargs)
        return 3 * x, h


class Delegating(Around):
    """The same, under another name and with every attribute of what it wraps."""

    def __init__(self, inner):
        super().__init__(inner)
        self.inside = self._modules.pop("module")

    def __getattr__(self, name):
        within = self.__dict__["_modules"].get("inside")
        if name == "module":  # what `forward` of the other class calls
            return within
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(within, name)


def geotdm(around):
    batch = case("nbody").batch.to(dtype=torch.float32)
    network = EGTN(2, batch.h.shape[1], batch.edge_attr.shape[1], 16, 8, "silu", False, 0, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.3)
    network = network.eval()
    wrapped = network if around is None else around(network)
    return diffusion(wrapped, mode="uncond", model_mean_type=ModelMeanType.START_X), batch.x.shape, batch.model_kwargs()


def ays(around):
    network = ays_models.network("interpolator", "forward").eval()
    x, about = ays_models.molecules((5, 1, 4), ays_models.GIVEN["forward"], seed=1)
    about.pop("diffusion_t")
    wrapped = network if around is None else around(network)
    return OurDiffusion("linear", 25, ModelMeanType.START_X).with_network(wrapped), x.shape, about


def drawn(subject, shape, about):
    torch.manual_seed(3)
    return Sampler(subject, "ddim", STEPS).draw(shape, about)


@pytest.mark.parametrize("around", [Around, Delegating])
@pytest.mark.parametrize("family", [geotdm, ays])
def test_a_wrapper_is_called(family, around):
    subject, shape, about = family(around)
    wrapper = next(part for part in subject.denoise_network.modules() if isinstance(part, Around))
    samples = drawn(subject, shape, about)
    assert wrapper.calls == STEPS
    assert not torch.allclose(samples, drawn(*family(None)))
    assert why_no_room(subject.denoise_network) is not None


@pytest.mark.parametrize(
    "around",
    [torch.compile, AtomNetwork, lambda network: torch.compile(AtomNetwork(network))],
    ids=["compile", "atoms", "both"],
)
def test_wrappers_that_only_call(around):
    """They are known, and hooks upon one are not passed over."""
    network = ays_models.network("interpolator", "forward")
    wrapped = around(network)
    assert bare(wrapped) is network and len(wrappers(wrapped)) >= 1
    assert is_compiled(wrapped) == (around is not AtomNetwork)
    handle = wrapped.register_forward_hook(lambda *_: None)
    assert wrappers(wrapped) is None
    handle.remove()
    assert wrappers(wrapped) is not None
