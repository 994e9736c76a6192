"""Networks that are prepared once for all steps of a chain: drawn as by calls of them, captured bit for bit."""

import pytest
import torch
from ays_models import FRAMES, GIVEN, NETWORKS, molecules, network
from tape import TapeRecorder
from tolerances import assert_same
from torch.utils._pytree import tree_leaves

from geotdm_fast import Sampler, backend
from geotdm_fast.ays import OurDiffusion
from geotdm_fast.ays.network import Network
from geotdm_fast.ays.prepared import warn_not_prepared
from geotdm_fast.diffusion import ModelMeanType
from geotdm_fast.diffusion.chain import Chain
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.reference import EGCLOptions
from geotdm_fast.runtime.cuda_graphs import CaptureCache, signature

METHODS = (*METHODS, "ays_ddim")
SIZES, STEPS = (5, 1, 4), 25
# Networks with what they may be given, and further arguments.
CASES = [
    *((name, conditioning, {}) for name in NETWORKS if name != "structure" for conditioning in GIVEN),
    ("structure", "none", {}),
    ("interpolator", "forward", {"use_kabsch": True}),
    ("interpolator", "forward", {"set_zero": True}),
    ("interpolator", "forward", {"use_norm": False, "use_double": False}),
    ("stack", "interpolation", {"use_kabsch": True}),
    ("egtn", "forward", {"scale": 2.0}),
]


def request(name, conditioning, seed=1, sizes=SIZES, model=None, **more):
    """A diffusion of a network that predicts positions, the shape of what is drawn, and a batch."""
    given = GIVEN[conditioning]
    model = network(name, conditioning, **more) if model is None else model
    x, about = molecules(sizes, given, seed=seed)
    about.pop("diffusion_t")
    if name == "structure":
        about = {key: value for key, value in about.items() if key not in ("cond_mask", "original_frames")}
    diffusion = OurDiffusion("linear", STEPS, ModelMeanType.START_X).with_network(model.eval())
    return diffusion, x.shape, about


def draw(diffusion, shape, about, method="ddim", steps=4, seed=7):
    """By noise that is a function of the step."""
    normal = lambda k: torch.randn(shape, generator=torch.Generator().manual_seed(seed + k))
    return Sampler(diffusion, method, steps, eta=0.5 if "ddim" in method else 0.0).draw(shape, about, normal)


@pytest.mark.parametrize(("name", "conditioning", "more"), CASES, ids=str)
def test_a_chain_draws_what_calls_of_the_network_do(name, conditioning, more, monkeypatch):
    """Captured bit for bit as not captured, and both to rounding as the network is called as a module."""
    diffusion, shape, about = request(name, conditioning, **more)
    plain = draw(diffusion, shape, about)
    record = TapeRecorder()
    diffusion.captures = CaptureCache(record=record)
    with backend("reference"):
        captured = [draw(diffusion, shape, about) for _ in range(2)]
        diffusion.captures = None
        assert torch.equal(draw(diffusion, shape, about), captured[0]) and torch.equal(*captured)
    assert len(record.tapes) == 1 and record.replays == 8
    monkeypatch.setattr(Network, "prepare_steps", lambda self, *_, **__: None)
    called = draw(diffusion, shape, about)
    assert called.isfinite().all() and called.std() > 1e-3
    assert_same(plain, called, 1e-5)
    assert_same(captured[0], called, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_capture_serves_other_molecules_frames_and_steps(method):
    """Of the same size: all that differs is among its inputs."""
    record = TapeRecorder()
    diffusion, *_ = request("interpolator", "interpolation")
    diffusion.captures, drawn = CaptureCache(record=record), []
    for seed, steps in ((1, 4), (2, 5), (3, 4)):
        _, shape, about = request("interpolator", "interpolation", seed, model=diffusion.denoise_network)
        with backend("reference"):
            drawn.append(draw(diffusion, shape, about, method, steps))
            captures, diffusion.captures = diffusion.captures, None
            assert torch.equal(drawn[-1], draw(diffusion, shape, about, method, steps))
            diffusion.captures = captures
    assert len(record.tapes) == 1 and record.replays == 13
    assert not torch.equal(drawn[0], drawn[2])


def test_a_replay_reads_nothing_but_its_inputs():
    """Weights as well: those of a network that has moved are those of the next chain."""
    for name, conditioning, more in (CASES[0], CASES[4], CASES[-5], CASES[-2]):
        record = TapeRecorder()
        diffusion, shape, about = request(name, conditioning, **more)
        diffusion.captures = CaptureCache(record=record)
        with backend("reference"):
            draw(diffusion, shape, about)
            (tape,), (captured,) = record.tapes, diffusion.captures._known.values()
            assert not tape.read_from_outside(captured.inputs)
            tape.spoil(captured.inputs)
            with torch.no_grad():
                for parameter in diffusion.denoise_network.parameters():
                    parameter.mul_(0.9)
            found = draw(diffusion, shape, about)
            diffusion.captures = None
            assert torch.equal(found, draw(diffusion, shape, about))
        assert len(record.tapes) == 1


def molecules_turned(sizes, model):
    """As `request` of a network that turns the frames of every graph; of 10 atoms and 22 edges whatever the sizes."""
    diffusion, shape, about = request("interpolator", "forward", sizes=sizes, model=model)
    return diffusion, shape, about | {name: about[name][..., :22] for name in ("edge_index", "edge_attr")}


def test_graphs_of_another_number_are_not_taken_for_the_same():
    """Where the network itself turns the frames of every graph: each number is captured once."""
    record = TapeRecorder()
    captures, model = CaptureCache(record=record), network("interpolator", "forward", use_kabsch=True)
    for sizes in ((5, 1, 4), (5, 5), (5, 1, 4)):
        diffusion, shape, about = molecules_turned(sizes, model)
        drawn = []
        for diffusion.captures in (None, captures):
            with backend("reference"):
                drawn.append(draw(diffusion, shape, about))
        assert torch.equal(*drawn)
    assert len(record.tapes) == 2 and record.replays == 12


def test_the_number_of_graphs_alone_tells_two_batches_apart():
    model, steps = network("interpolator", "forward", use_kabsch=True), []
    for sizes in ((5, 1, 4), (5, 5)):
        _, shape, about = molecules_turned(sizes, model)
        with backend("reference"):
            steps.append(model.prepare_steps(torch.zeros(shape), torch.arange(3), **about))
    one, other = steps
    assert signature(one) != signature(other)
    turning = other.network.turning
    assert (one.network.turning.num_graphs, turning.num_graphs) == (3, 2)
    alike = other.network._replace(turning=turning._replace(num_graphs=3))
    assert signature(one) == signature(other._replace(network=alike))


def test_parts_of_somebody_else_are_called():
    """A hook sees every call, and nothing is captured."""
    diffusion, shape, about = request("interpolator", "forward")
    expected, seen = draw(diffusion, shape, about), []
    for part in (diffusion.denoise_network.norm1[0], diffusion.denoise_network.t_modules[1].q_mlp):
        handle = part.register_forward_hook(lambda *_: seen.append(1))
        record = TapeRecorder()
        diffusion.captures = CaptureCache(record=record)
        assert_same(draw(diffusion, shape, about), expected, 1e-5)
        assert len(seen) == 4 and not record.tapes
        handle.remove(), seen.clear()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("norm1.0", r"EGInterpolator: norm1\.0 is LayerNorm, with hooks.*: steps are neither prepared nor captured"),
        ("", "EGInterpolator: it has hooks or a forward of its own: steps are neither prepared nor captured"),
    ],
)
def test_a_sampler_says_once_that_it_calls_a_network_with_hooks(part, message):
    warn_not_prepared.cache_clear()
    diffusion, shape, about = request("interpolator", "forward")
    module = diffusion.denoise_network.get_submodule(part)
    module.forward = module.forward  # on the instance
    with pytest.warns(RuntimeWarning, match=message) as caught:
        for _ in range(2):
            draw(diffusion, shape, about)
    assert len([each for each in caught if "prepared" in str(each.message)]) == 1


def test_errors_name_the_call_of_the_network():
    diffusion, shape, about = request("interpolator", "forward")
    mask = torch.zeros(FRAMES, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^EGInterpolator\.forward: conditioning 'forward' takes 1 given frames"):
        draw(diffusion, shape, about | {"cond_mask": mask})


def test_what_is_prepared_is_a_tuple_of_tensors_and_numbers():
    for name, conditioning, more in CASES:
        diffusion, shape, about = request(name, conditioning, **more)
        model, x = diffusion.denoise_network, torch.zeros(shape)
        steps = model.prepare_steps(x, torch.arange(3), **about)
        kinds = {type(leaf) for leaf in tree_leaves(steps)}
        assert kinds <= {torch.Tensor, torch.nn.Parameter, EGCLOptions, int, float, bool, str, type(None)}, kinds
        assert steps.network.num_frames == FRAMES
        assert Chain(diffusion, Sampler(diffusion, "ddim", 2).plan, x, None, about).inputs.prepared is not None
