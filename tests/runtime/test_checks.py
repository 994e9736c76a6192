"""Every error of the network and the diffusion names the place, the argument, what was expected and what came."""

import re

import numpy as np
import pytest
import torch
from cases import MASKS, NUM_FRAMES, NUM_STEPS, case, diffusion
from torch import nn

from geotdm_fast import EGTN, ESLayer, ETLayer, LossType, ModelMeanType
from geotdm_fast.runtime import checks
from geotdm_fast.runtime.checks import check_finite, check_graph_values, check_shape, check_tensor, trusted
from geotdm_fast.runtime.choices import check_choice, check_keys

N, E, T = 9, 32, NUM_FRAMES  # nodes and edges of the `nbody` case; four of its frames are drawn


@pytest.fixture(scope="module")
def conditional():
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"], learned=True)
    step = torch.full((N,), 3)
    return network, {"diffusion_t": step, "x": x_start} | model_kwargs


def changed(tensor: torch.Tensor, place: tuple, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


# name of the argument, what becomes of it, the error, its message
NETWORK_ERRORS = [
    ("x", lambda x: x[..., :3], ValueError, rf"EGTN: x must be \[{N}, 3, 4\], got \[{N}, 3, 3\]"),
    ("x", lambda x: x[0], ValueError, r"EGTN: x must be \[N, D, T\], got \[3, 4\]"),
    ("x", lambda x: x.numpy(), TypeError, r"EGTN: x must be a tensor \[N, D, T\], got ndarray"),
    ("x", lambda x: x.long(), TypeError, r"EGTN: x must be floating point, got torch\.int64"),
    ("x", lambda x: x.float(), TypeError, r"EGTN: x must be torch\.float64 like the network, got torch\.float32"),
    ("x", lambda x: changed(x, (2, 1, 3), float("nan")), ValueError, r"x must be finite, got nan at index \[2, 1, 3\]"),
    ("x", lambda x: changed(x, (0, 0, 0), -torch.inf), ValueError, r"x must be finite, got -inf at index \[0, 0, 0\]"),
    ("x", lambda x: x.to("meta"), ValueError, r"EGTN: x must be on cpu like the network, got meta"),
    ("diffusion_t", lambda t: t[:2], ValueError, rf"EGTN: diffusion_t must be \[{N}\], got \[2\]"),
    ("diffusion_t", lambda t: 3, TypeError, rf"EGTN: diffusion_t must be a tensor \[{N}\], got int"),
    ("diffusion_t", lambda t: t.to("meta"), ValueError, r"EGTN: diffusion_t must be on cpu like the network, got meta"),
    ("x_given", lambda x: x[..., :5], ValueError, rf"EGTN: x_given must be \[{N}, 3, {T}\], got \[{N}, 3, 5\]"),
    ("x_given", lambda x: x[:, :2], ValueError, rf"EGTN: x_given must be \[{N}, 3, {T}\], got \[{N}, 2, {T}\]"),
    ("x_given", lambda x: None, TypeError, rf"EGTN: x_given must be a tensor \[{N}, 3, {T}\], got NoneType"),
    ("x_given", lambda x: x.to("meta"), ValueError, r"EGTN: x_given must be on cpu like the network, got meta"),
    (
        "x_given",
        lambda x: changed(x, (4, 0, 2), torch.inf),
        ValueError,
        r"EGTN: the given frames of x_given must be finite, got inf at index \[4, 0, 2\]",
    ),
    ("cond_mask", lambda m: m.to("meta"), ValueError, r"EGTN: cond_mask must be on cpu like the network, got meta"),
    ("cond_mask", lambda m: m.expand(2, 1, T), ValueError, r"cond_mask must be \[1, 1, T\], got \[2, 1, 7\]"),
    ("cond_mask", lambda m: m * 0, ValueError, r"cond_mask must give some frames and leave some, got 0 given of 7"),
    ("cond_mask", lambda m: [1, 0], TypeError, r"cond_mask must be a tensor \[1, 1, T\], got list"),
    ("h", lambda h: h[:3], ValueError, rf"EGTN: h must be \[{N}, 1\], got \[3, 1\]"),
    ("h", lambda h: torch.cat([h, h], 1), ValueError, rf"EGTN: h must be \[{N}, 1\], got \[{N}, 2\]"),
    ("h", lambda h: h[..., None].expand(-1, -1, 4), ValueError, rf"h must be \[{N}, 1, {T}\], got \[{N}, 1, 4\]"),
    ("h", lambda h: None, TypeError, rf"EGTN: h must be a tensor \[{N}, 1\], got NoneType"),
    ("h", lambda h: h.to("meta"), ValueError, r"EGTN: h must be on cpu like the network, got meta"),
    ("edge_index", lambda e: e.T, ValueError, rf"EGTN: edge_index must be \[2, E\], got \[{E}, 2\]"),
    ("edge_index", lambda e: e.double(), TypeError, r"EGTN: edge_index must be int64, got torch\.float64"),
    ("edge_index", lambda e: e.to(torch.uint8), TypeError, r"EGTN: edge_index must be int64, got torch\.uint8"),
    ("edge_index", lambda e: e.tolist(), TypeError, r"EGTN: edge_index must be a tensor \[2, E\], got list"),
    ("edge_index", lambda e: changed(e, (1, 5), N), ValueError, rf"EGTN: edge_index must be in 0\.\.{N - 1}, got {N}"),
    ("edge_index", lambda e: changed(e, (0, 0), -1), ValueError, rf"EGTN: edge_index must be in 0\.\.{N - 1}, got -1"),
    ("edge_index", lambda e: e.to("meta"), ValueError, r"EGTN: edge_index must be on cpu like the network, got meta"),
    ("edge_attr", lambda a: a[:3], ValueError, rf"EGTN: edge_attr must be \[{E}, A\], got \[3, 1\]"),
    ("edge_attr", lambda a: a[:, 0], ValueError, rf"EGTN: edge_attr must be \[{E}, A\], got \[{E}\]"),
    ("edge_attr", lambda a: torch.cat([a, a], 1), ValueError, r"EGTN: edge_attr must be \[E, 1\], got \[E, 2\]"),
    ("edge_attr", lambda a: None, ValueError, r"EGTN: edge_attr must be \[E, 1\], got None"),
    ("edge_attr", lambda a: a.numpy(), TypeError, rf"EGTN: edge_attr must be a tensor \[{E}, A\], got ndarray"),
    (
        "edge_attr",
        lambda a: a[..., None].expand(-1, -1, 4),
        ValueError,
        rf"EGTN: edge_attr must be \[{E}, A, {T}\], got \[{E}, 1, 4\]",
    ),
    ("edge_attr", lambda a: a.to("meta"), ValueError, r"EGTN: edge_attr must be on cpu like the network, got meta"),
    ("batch", lambda b: b[:4], ValueError, rf"EGTN: batch must be \[{N}\], got \[4\]"),
    ("batch", lambda b: b.flip(0), ValueError, r"EGTN: batch must ascend from 0, got \[1, 1, 1, 1, 0"),
    ("batch", lambda b: b - 1, ValueError, r"EGTN: batch must ascend from 0, got \[-1, -1"),
    ("batch", lambda b: b.double(), TypeError, r"EGTN: batch must be int64, got torch\.float64"),
    ("batch", lambda b: b.to("meta"), ValueError, r"EGTN: batch must be on cpu like the network, got meta"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), NETWORK_ERRORS)
def test_network(conditional, name, change, error, message):
    network, arguments = conditional
    with pytest.raises(error, match=message):
        network(**arguments | {name: change(arguments[name])})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cond_mask": None}, ValueError, r"EGTN: compute_ref=True needs cond_mask and x_given, got no cond_mask"),
        ({"x_given": None}, TypeError, rf"EGTN: x_given must be a tensor \[N, D, {T}\], got NoneType"),
        (
            {"x_given": torch.zeros(N, 3, T)},
            TypeError,
            r"x_given must be torch\.float64 like the network, got torch\.f",
        ),
        (
            {"x_given": torch.full((N, 3, T), torch.nan).double()},
            ValueError,
            r"the given frames of x_given must be finite, got",
        ),
        (
            {"cond_mask": torch.tensor([1.0] * 5 + [0.0] * 2)},
            ValueError,
            r"num_w must be 1 or the 2 noisy frames, got 4",
        ),
        ({"h": torch.zeros(N, 2)}, ValueError, rf"EGTN: h must be \[{N}, 1\], got \[{N}, 2\]"),
    ],
)
def test_learned_prior(conditional, change, error, message):
    network, arguments = conditional
    with pytest.raises(error, match=message):
        network(**arguments | {"diffusion_t": None, "x": None, "compute_ref": True} | change)


def test_prior_of_a_network_without_one():
    network, _, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    with pytest.raises(ValueError, match="EGTN: compute_ref=True needs a network built with learn_ref_frame=True"):
        network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)


# --- layers ----------------------------------------------------------------------------------------------------------

X, H = torch.zeros(4, 3, 5), torch.zeros(4, 6, 5)
INDEX, ATTR = torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], H, INDEX, ATTR), ValueError, r"ESLayer: x must be \[N, D, T\], got \[3, 5\]"),
        ((X, H[:, :2], INDEX, ATTR), ValueError, r"ESLayer: h must be \[4, 6, 5\], got \[4, 2, 5\]"),
        ((X, H, INDEX, None), ValueError, r"ESLayer: edge_attr must be \[E, 1\], got None"),
        ((X, H, INDEX, ATTR[:1]), ValueError, r"ESLayer: edge_attr must be \[2, A\], got \[1, 1\]"),
        ((X, H, INDEX, torch.zeros(2, 1, 4)), ValueError, r"ESLayer: edge_attr must be \[2, A, 5\], got \[2, 1, 4\]"),
        ((X, H, INDEX + 3, ATTR), ValueError, r"ESLayer: edge_index must be in 0\.\.3, got 4"),
        ((X, H, INDEX, ATTR, torch.zeros(3).long()), ValueError, r"ESLayer: batch must be \[4\], got \[3\]"),
        (
            (X.double(), H, INDEX, ATTR),
            TypeError,
            r"ESLayer: x must be torch\.float32 like the network, got torch\.flo",
        ),
        ((X.to("meta"), H, INDEX, ATTR), ValueError, r"ESLayer: x must be on cpu like the layer, got meta"),
        ((X, H, INDEX.to("meta"), ATTR), ValueError, r"ESLayer: edge_index must be on cpu like the layer, got meta"),
    ],
)
def test_spatial_layer(arguments, error, message):
    with pytest.raises(error, match=message):
        ESLayer(6, 1, 6, nn.SiLU())(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[0], H), ValueError, r"ETLayer: x must be \[N, D, T\], got \[3, 5\]"),
        ((X, H[..., :4]), ValueError, r"ETLayer: h must be \[4, 6, 5\], got \[4, 6, 4\]"),
        ((X.half(), H), TypeError, r"ETLayer: x must be torch\.float32 like the network, got torch\.float16"),
        ((X, H.to("meta")), ValueError, r"ETLayer: h must be on cpu like the layer, got meta"),
    ],
)
def test_temporal_layer(arguments, error, message):
    with pytest.raises(error, match=message):
        ETLayer(6, 6, nn.SiLU(), 4)(*arguments)


def test_layers_that_the_ops_cannot_compute():
    with pytest.raises(ValueError, match=r"ESLayer: act_fn must be nn\.SiLU\(\), got ReLU\(\)"):
        ESLayer(6, 1, 6, nn.ReLU())
    with pytest.raises(ValueError, match=r"ETLayer: act_fn must be nn\.SiLU\(\), got GELU"):
        ETLayer(6, 6, nn.GELU(), 4)
    with pytest.raises(ValueError, match="ETLayer: hidden_dim must equal node_dim 6, got 8"):
        ETLayer(6, 8, nn.SiLU(), 4)


# --- diffusion -------------------------------------------------------------------------------------------------------

METHODS = {
    "training_losses": lambda model, x, kwargs: model.training_losses(x, model_kwargs=kwargs),
    "calc_bpd_loop": lambda model, x, kwargs: model.calc_bpd_loop(x, model_kwargs=kwargs),
    "optimize": lambda model, x, kwargs: model.optimize(x, 2, model_kwargs=kwargs),
    "p_sample_loop": lambda model, x, kwargs: model.p_sample_loop(x.shape, model_kwargs=kwargs),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cond_mask": None}, ValueError, r"must hold h, .*, cond_mask, x_given in mode 'cond', got no cond_mask"),
        ({"x_given": None}, ValueError, r"must hold h, .* in mode 'cond', got no x_given"),
        ({"h": None, "batch": None}, ValueError, r"must hold h, .*, got no h, batch"),
        ({"edge_index": torch.zeros(2, 1)}, TypeError, r"edge_index must be int64, got torch\.float32"),
        ({"edge_index": torch.tensor([[0], [N]])}, ValueError, rf"edge_index must be in 0\.\.{N - 1}, got {N}"),
        ({"batch": torch.tensor([1] * 4 + [0] * 5)}, ValueError, r"batch must ascend from 0, got \[1, 1, 1, 1, 0"),
        (
            {"x_given": torch.zeros(N, 3, T - 1)},
            ValueError,
            rf"x_given must be \[{N}, D, {T}\], got \[{N}, 3, {T - 1}\]",
        ),
        ({"x_given": torch.full((N, 3, T), torch.inf)}, ValueError, r"given frames of x_given must be finite, got inf"),
        ({"x_given": torch.zeros(N, 3, T, device="meta")}, ValueError, r"x_given must be on cpu like batch, got meta"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_checks_its_model_kwargs(method, change, error, message):
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    with pytest.raises(error, match=rf"{method}: .*{message}"):
        METHODS[method](diffusion(network), x_start, model_kwargs | change)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_checks_the_shape_of_what_is_drawn(method):
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    name = "shape" if method == "p_sample_loop" else "x_start"
    for wrong in (x_start[..., :3], x_start[:5], x_start[:, :2]):
        with pytest.raises(ValueError, match=rf"{method}: {name} must be \[{N}, 3, 4\], got"):
            METHODS[method](diffusion(network), wrong, model_kwargs)
    with pytest.raises(ValueError, match=rf"{method}: model_kwargs must hold"):
        METHODS[method](diffusion(network), x_start, None)


def test_a_trusted_caller_of_the_losses_is_not_checked_for_values():
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    given = {"model_kwargs": model_kwargs, "t": torch.zeros(N, dtype=torch.int64)}
    wrong = changed(x_start, (1, 2, 3), torch.nan)
    with trusted():
        loss = diffusion(network).training_losses(wrong, **given)["loss"]
        with pytest.raises(ValueError, match="training_losses: x_start must be"):
            diffusion(network).training_losses(x_start[:5], **given)  # shapes cost nothing to look at
    assert loss.isnan().any()
    with pytest.raises(ValueError, match="training_losses: x_start must be finite"):
        diffusion(network).training_losses(wrong, **given)


@pytest.mark.parametrize("method", ["training_losses", "calc_bpd_loop", "optimize"])
@pytest.mark.parametrize("mode", ["cond", "uncond"])
def test_positions_that_are_not_finite(method, mode):
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    if mode == "uncond":
        x_start, model_kwargs = case("nbody").batch.x, case("nbody").batch.model_kwargs()
    with pytest.raises(ValueError, match=rf"{method}: x_start must be finite, got nan at index \[1, 2, 3\]"):
        METHODS[method](diffusion(network, mode), changed(x_start, (1, 2, 3), torch.nan), model_kwargs)
    with pytest.raises(TypeError, match=rf"{method}: x_start must be a tensor \[N, D, T_noisy\], got ndarray"):
        METHODS[method](diffusion(network, mode), x_start.numpy(), model_kwargs)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda m, x, k: m.training_losses(x, torch.zeros(2).long(), k), ValueError, rf"t must be \[{N}\], got \[2\]"),
        (lambda m, x, k: m.training_losses(x, torch.zeros(N), k), TypeError, r"t must be int64, got torch\.float32"),
        (lambda m, x, k: m.training_losses(x, torch.full((N,), -1), k), ValueError, r"t must be in 0\.\.24, got -1"),
        (lambda m, x, k: m.training_losses(x, noise=x[..., :1], model_kwargs=k), ValueError, r"noise must be .*, got"),
        (
            lambda m, x, k: m.p_mean_variance(x, torch.full((N,), NUM_STEPS), k),
            ValueError,
            r"t must be in 0\.\.24, got 25",
        ),
        (lambda m, x, k: m.p_mean_variance(x, torch.zeros(3).long(), k), ValueError, rf"t must be \[{N}\], got \[3\]"),
        (
            lambda m, x, k: m.p_mean_variance(x, torch.zeros(N).long()),
            ValueError,
            r"model_kwargs must hold h, edge_index",
        ),
        (lambda m, x, k: m.get_ref_frame({}), ValueError, r"get_ref_frame: model_kwargs must hold h, edge_index"),
        (lambda m, x, k: m.q_sample(x, torch.zeros(N).long(), x[:, :1]), ValueError, r"q_sample: noise must be \["),
        (lambda m, x, k: m.p_sample_loop(x.shape, noise=x[..., :1], model_kwargs=k), ValueError, r"noise must be \["),
        (
            lambda m, x, k: m.p_sample_loop(x.shape, noise=x.long(), model_kwargs=k),
            TypeError,
            r"noise must be floating",
        ),
        (
            lambda m, x, k: m.p_sample_loop_keeptraj(x.shape, 0, model_kwargs=k),
            ValueError,
            r"keep_every must be at least",
        ),
        (lambda m, x, k: m.optimize(x, 0, model_kwargs=k), ValueError, r"optimize_step must be in 1\.\.25, got 0"),
        (lambda m, x, k: m.optimize(x, 26, model_kwargs=k), ValueError, r"optimize_step must be in 1\.\.25, got 26"),
        (lambda m, x, k: m.optimize(x, 2, model_kwargs=k, noise=x[:2]), ValueError, r"optimize: noise must be \["),
    ],
)
def test_steps_and_noise(run, error, message):
    network, x_start, model_kwargs = case("nbody").conditional(MASKS["prefix"])
    with pytest.raises(error, match=message):
        run(diffusion(network), x_start, model_kwargs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mode": "conditional"}, ValueError, r"GeoTDM: mode must be one of cond, uncond; got 'conditional'"),
        ({"prior": "learned"}, ValueError, r"GeoTDM: prior 'learned' needs a network built with learn_ref_frame=True"),
        ({"prior": "con"}, ValueError, r"GeoTDM: prior must be one of learned, com, .*; got 'con'; did you mean 'com'"),
        ({"mode": "uncond", "prior": "com"}, ValueError, r"GeoTDM: prior must be 'none' in mode 'uncond', got 'com'"),
        ({"model_mean_type": "epsilon"}, TypeError, r"model_mean_type must be a ModelMeanType, got 'epsilon'"),
        ({"model_var_type": LossType.MSE}, TypeError, r"model_var_type must be a ModelVarType, got <LossType\.MSE"),
        ({"loss_type": ModelMeanType.EPSILON}, TypeError, r"loss_type must be a LossType, got <ModelMeanType"),
        ({"beta_schedule_name": "cosin"}, ValueError, r"name must be one of .* got 'cosin'; did you mean 'cosine'"),
        ({"num_timesteps": 20}, ValueError, r"num_steps must be at least 21 for 'linear', got 20"),
    ],
)
def test_constructor_of_the_diffusion(changes, error, message):
    with pytest.raises(error, match=message):
        diffusion(case("nbody").network(), **changes)


# --- the checks themselves -------------------------------------------------------------------------------------------


def test_shapes_with_letters():
    check_shape("here", "a", (2, 3), ("N", 3))
    for came in ((2, 4), (2,), (2, 3, 1), ()):
        with pytest.raises(ValueError, match=rf"here: a must be \[N, 3\], got \[{', '.join(map(str, came))}\]"):
            check_shape("here", "a", came, ("N", 3))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers_that_may_be_indices(dtype):
    check_tensor("here", "a", torch.zeros(2, dtype=dtype), ("N",), integer=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.bool, torch.float32, torch.complex64])
def test_dtypes_that_may_not(dtype):
    with pytest.raises(TypeError, match=f"here: a must be int64, got {dtype}"):
        check_tensor("here", "a", torch.zeros(2, dtype=dtype), ("N",), integer=True)


def test_empty_tensors_hold_nothing_wrong():
    check_finite("here", "a", torch.zeros(0, 3))
    check_graph_values("here", 0, torch.zeros(2, 0).long(), torch.zeros(0).long())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_finite_numbers_whose_sum_is_not_are_finite(dtype):
    largest = torch.full((3, 2), torch.finfo(dtype).max, dtype=dtype)
    assert not torch.isfinite(largest.sum())
    check_finite("here", "a", largest)
    largest[1, 0] = -float("inf")
    with pytest.raises(ValueError, match=r"here: a must be finite, got -inf at index \[1, 0\]"):
        check_finite("here", "a", largest)
    with pytest.raises(ValueError, match=r"here: a must be finite, got nan at index \[0, 1\]"):
        check_finite("here", "a", torch.tensor([[1.0, float("nan")]], dtype=dtype))


def test_nearest_names():
    with pytest.raises(ValueError, match="section x: unknown key 'hiden_dim'; did you mean 'hidden_dim'"):
        check_keys("section x", {"hiden_dim": 1}, ["hidden_dim", "node_dim"])
    with pytest.raises(ValueError, match="section x: unknown key 'zzz'; known: hidden_dim, node_dim"):
        check_keys("section x", {"zzz": 1}, ["hidden_dim", "node_dim"])
    check_keys("section x", {}, [])
    check_choice("x", "b", ("a", "b"))
    for came, told in (("ddims", "must be one of ddpm, ddim; got 'ddims'; did you mean 'ddim'?"), ("", "; got ''")):
        with pytest.raises(ValueError, match=re.escape(told) + "$"):  # the list is there once
            check_choice("x", came, ("ddpm", "ddim"))


def test_good_input_passes(conditional):
    """The table of errors above starts from input that is right."""
    network, arguments = conditional
    assert isinstance(network, EGTN) and arguments["edge_attr"].shape == (E, 1)
    assert network(**arguments)[0].shape == (N, 3, 4)


@pytest.mark.parametrize("of_the_device", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_graph_values_by_numpy_and_on_a_device(monkeypatch, dtype, of_the_device):
    """The same errors by numpy, which computes on the CPU, and by the tensors of a device."""
    if of_the_device:
        monkeypatch.setattr(checks, "_numbers", lambda index: index.long())
    edge_index, batch = torch.tensor([[0, 1, 2], [1, 0, 3]], dtype=dtype), torch.tensor([0, 0, 1, 1], dtype=dtype)
    check_graph_values("here", 4, edge_index, batch)
    with pytest.raises(ValueError, match=r"edge_index must be in 0..2, got 3"):
        check_graph_values("here", 3, edge_index, batch[:3])
    with pytest.raises(ValueError, match=r"must stay within graphs, got edge 2 from \[2, 3\] of graphs \[0, 1\]"):
        check_graph_values("here", 4, edge_index, torch.tensor([0, 0, 0, 1], dtype=dtype))
    with pytest.raises(ValueError, match=r"batch must ascend from 0, got \[1, 0, 1, 1\]"):
        check_graph_values("here", 4, edge_index, torch.tensor([1, 0, 1, 1], dtype=dtype))


def test_whole_numbers_of_all_kinds():
    for value in (3, np.int64(3), np.array(3), torch.tensor(3)):
        found = checks.check_whole("here", "a", value)
        assert found == 3 and type(found) is int
    for value in (3.0, True, np.array(3.0), np.array([3]), torch.tensor(True), "3", None):
        with pytest.raises(TypeError, match="here: a must be a whole number, got"):
            checks.check_whole("here", "a", value)
