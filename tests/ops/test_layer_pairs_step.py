"""A diffusion step as one op: the bits of its operations one by one, when it is taken, and what it refuses."""

import pytest
import torch
from layer_networks import calls_of, inputs_of, network
from native_cases import draw, needs_native

from geotdm_fast import EGTN, Flow, GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler, backend
from geotdm_fast.diffusion import chain

pytestmark = needs_native


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def diffusion_of(net: EGTN, mode: str = "cond") -> GeoTDM:
    kinds = (ModelMeanType.START_X, ModelVarType.FIXED_LARGE, LossType.MSE)
    return GeoTDM(net, "linear", 25, *kinds, "cpu", mode=mode)


def model_kwargs_of(given: list[int], num_frames=10, h_frames=False) -> dict:
    inputs = inputs_of(num_frames)
    mask = torch.zeros(1, 1, num_frames)
    mask[..., given] = 1
    names = ("edge_index", "edge_attr", "batch", "x_given")
    about = {name: inputs[name] for name in names} | {"cond_mask": mask}
    return about | {"h": draw(7, 2, num_frames) if h_frames else draw(7, 2)}


def both_ways(diffusion, model_kwargs, method, monkeypatch, **options) -> list[torch.Tensor]:
    """Every x_t and prediction of a chain, as one op and by operations one by one."""
    found = []
    num_frames = int((model_kwargs["cond_mask"] == 0).sum()) if "cond_mask" in model_kwargs else 10
    shape = (7, 3, num_frames)
    for one_op in (True, False):
        if not one_op:
            monkeypatch.setattr(chain, "_step_as_one_op", lambda inputs: None)
        torch.manual_seed(3)
        sampler = Sampler(diffusion, method, 4, **options)
        steps = []
        with torch.no_grad():
            about = diffusion.with_graph(model_kwargs)
            x_ref = diffusion.get_ref_frame(about)
            going = chain.Chain(diffusion, sampler.plan, torch.randn(shape), x_ref, about)
            assert not one_op or chain._step_as_one_op(going.inputs) is not None
            for _ in going.steps():
                steps += [going.x.clone(), going.x_0.clone()]
        found.append(torch.stack(steps))
    return found


@pytest.mark.parametrize("method", ["dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize(
    ("given", "scale", "h_frames"),
    [([0, 1, 2, 3], 1.0, False), ([0, 4, 9], 2.5, False), ([5], 0.1, True)],
    ids=str,
)
def test_bits_of_a_step_where_frames_are_given(given, scale, h_frames, method, monkeypatch):
    learned = len(given) == 4  # num_w is the noisy frames' number
    net = EGTN(3, 2, 1, 32, 16, "silu", learned, 2, 6, scale=scale)
    diffusion = diffusion_of(net)
    ours, expected = both_ways(diffusion, model_kwargs_of(given, h_frames=h_frames), method, monkeypatch)
    assert torch.equal(ours, expected) and torch.isfinite(ours).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_of_a_step_by_any_number_of_threads(threads, monkeypatch):
    """Features that are the same in all frames pass the first products once; a thread begins what another one ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        diffusion = diffusion_of(EGTN(3, 2, 1, 96, 16, "silu", False, 0, 1))
        ours, expected = both_ways(diffusion, model_kwargs_of([0, 1, 2], num_frames=30), "dpmpp_2m", monkeypatch)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, expected) and torch.isfinite(ours).all()


@pytest.mark.parametrize("method", ["ddpm", "dpmpp_2m"])
def test_bits_of_a_step_where_none_is(method, monkeypatch):
    """Positions themselves are seen, and every graph's mean is taken off."""
    net = EGTN(2, 2, 1, 32, 16, "silu", False, 0, 1, scale=2.0)
    diffusion = diffusion_of(net, "uncond")
    about = model_kwargs_of([0])
    del about["cond_mask"], about["x_given"]
    ours, expected = both_ways(diffusion, about, method, monkeypatch)
    assert torch.equal(ours, expected) and torch.isfinite(ours).all()


def test_bits_of_a_step_of_a_flow(monkeypatch):
    diffusion = Flow(network(), 10, "cpu")
    ours, expected = both_ways(diffusion, model_kwargs_of([0, 1, 2, 3]), "heun", monkeypatch)
    assert torch.equal(ours, expected) and torch.isfinite(ours).all()


def test_a_draw_is_an_op_for_each_step():
    diffusion = diffusion_of(network())
    sampler, about = Sampler(diffusion, "dpmpp_2m", 4), model_kwargs_of([0, 1, 2, 3])
    call = lambda: sampler.draw((7, 3, 6), about)
    call()
    within = ["layer_pairs_step"] * 4  # which runs the other ops as functions
    assert calls_of(call) == ["same_numbers", "layer_pairs", "same_numbers", *within]
    with backend("reference"):
        assert calls_of(call) == []


@pytest.mark.filterwarnings("ignore:EGTN. .*called module by module:RuntimeWarning")
def test_a_hook_is_seen_by_the_next_draw():
    net = network()
    sampler, about, called = Sampler(diffusion_of(net), "dpmpp_2m", 4), model_kwargs_of([0, 1, 2, 3]), []
    draw_one = lambda: sampler.draw((7, 3, 6), about)
    assert "layer_pairs_step" in calls_of(draw_one)
    handle = net.s_modules[1].edge_mlp.actions[0].register_forward_hook(lambda *_: called.append("hook"))
    assert "layer_pairs_step" not in calls_of(draw_one) and len(called) == 4
    handle.remove()
    assert "layer_pairs_step" in calls_of(draw_one) and len(called) == 4


def step_arguments() -> dict:
    net = network()
    inputs = inputs_of()
    about = {name: value for name, value in inputs.items() if name != "diffusion_t"}
    with torch.no_grad():
        pairs = net.prepare(**about).pairs
    nodes, dim, noisy = inputs["x"].shape
    return {
        "x": draw(nodes, dim, noisy),
        "before": draw(nodes, dim, noisy),
        "positions": draw(nodes, dim, noisy),
        "step": torch.tensor([1]),
        "noise": draw(nodes, dim, noisy),
        "x_ref": draw(nodes, dim, 1),
        "first_node": None,
        "coefficients": draw(3, 6),
        "given": draw(nodes, dim, 10).transpose(1, 2),
        "noisy": torch.arange(4, 10),
        "scale": 1.0,
        "features": draw(nodes, 1, 32),
        "rows": draw(3, 32),
    } | dict(zip(NETWORK, pairs._arguments, strict=True))


NETWORK = (
    "first_edge", "sender", "edge_terms", "shift", "packed", "phases", "normalize", "pre_norm", "cutoff", "window",
    "low_precision", "precision",
)  # fmt: skip


def test_opcheck():
    torch.library.opcheck(torch.ops.geotdm_fast.layer_pairs_step.default, tuple(step_arguments().values()))


def test_it_counts_the_step_up():
    arguments = step_arguments()
    torch.ops.geotdm_fast.layer_pairs_step(*arguments.values())
    assert arguments["step"].tolist() == [2]


wide = lambda v: torch.cat([v, v], dim=-1)
apart = lambda v: torch.stack([v, v], dim=-1)[..., 0]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda v: v[0], r"x must be \[N, D, T\], got \[3, 6\]"),
        ("x", apart, "x must be contiguous, got strides"),
        ("x", torch.Tensor.double, "x must be Float, got Double"),
        ("positions", lambda v: None, "positions must come with x_ref"),
        ("positions", wide, r"positions must be \[7, 3, 6\], got \[7, 3, 12\]"),
        ("given", lambda v: None, "given must come with noisy"),
        ("given", wide, r"given must be \[7, 10, 3\], got \[7, 10, 6\]"),
        ("noisy", lambda v: v[1:], r"noisy must be \[6\], got \[5\]"),
        ("noisy", lambda v: v + 1, r"noisy must be in 0..9, got 10"),
        ("noisy", torch.Tensor.int, "noisy must be Long, got Int"),
        ("features", wide, r"features must be \[7, 10, 32\]|features must be \[7, 1, 32\], got \[7, 1, 64\]"),
        ("features", lambda v: v.expand(-1, 9, -1), r"features must be \[7, 10, 32\], got \[7, 9, 32\]"),
        ("rows", apart, "rows must be contiguous, got strides"),
        ("step", lambda v: v + 2, "step must be in 0..2, got 3"),
        ("step", lambda v: v - 2, "step must be in 0..2, got -1"),
        ("step", torch.Tensor.int, "step must be Long, got Int"),
        ("packed", lambda v: [], "packed must be one tensor at least, got none"),
        ("coefficients", lambda v: v[:1], "step must be in 0..0, got 1"),
        ("before", wide, r"before must be \[7, 3, 6\], got \[7, 3, 12\]"),
        ("noise", wide, r"noise must be \[7, 3, 6\], got \[7, 3, 12\]"),
        ("x_ref", wide, r"x_ref must be \[7, 3, 6\], got \[7, 3, 2\]"),
        ("first_node", lambda v: torch.tensor([0, 9]), "first_node must "),
    ],
)
def test_errors_name_the_argument(name, change, message):
    arguments = step_arguments()
    arguments[name] = change(arguments[name])
    x, before = (arguments[name].clone() for name in ("x", "before"))
    op = "layer_pairs" if name == "packed" else "layer_pairs_step"
    with pytest.raises(ValueError, match=f"{op}: ({message})"):
        torch.ops.geotdm_fast.layer_pairs_step(*arguments.values())
    assert torch.equal(arguments["x"], x) and torch.equal(arguments["before"], before), "nothing was written"


def test_no_node():
    arguments = step_arguments()
    none = {name: value[:0].clone() for name in ("x", "before", "positions", "noise", "x_ref", "given", "features")
            if (value := arguments[name]) is not None}  # fmt: skip
    edges = {"first_edge": torch.zeros(1, dtype=torch.int64), "sender": torch.zeros(0, dtype=torch.int64)}
    edges["edge_terms"] = [term[:0].clone() for term in arguments["edge_terms"]]
    arguments |= none | edges
    torch.ops.geotdm_fast.layer_pairs_step(*arguments.values())
    assert arguments["step"].tolist() == [2]
