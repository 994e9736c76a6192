"""Numbers that the official implementation computed, float32: layers, network, gradients, diffusion, samples, NLL."""

import json

import numpy as np
import pytest
import torch
from places import GOLDEN as FOLDER
from tolerances import GOLDEN, assert_same
from torch import nn

from geotdm_fast import EGTN, ESLayer, ETLayer, GeoTDM, LossType, ModelMeanType, ModelVarType
from geotdm_fast.diffusion import get_named_beta_schedule

names = lambda prefix: sorted(path.stem for path in FOLDER.glob(f"{prefix}_*.npz"))


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as archive:
        return dict(archive)


def tensor(golden: dict, name: str, grad: bool = False) -> torch.Tensor | None:
    return torch.from_numpy(golden[name].copy()).requires_grad_(grad) if name in golden else None


def with_parameters(module: nn.Module, golden: dict) -> nn.Module:
    state = {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("param.")}
    module.load_state_dict(state, strict=True)
    return module


def compare_parameter_gradients(module: nn.Module, golden: dict) -> None:
    """A gradient that is zero but for rounding (of a bias added to every key) is measured against the largest one."""
    stored = {name[5:]: value for name, value in golden.items() if name.startswith("grad.")}
    floor = 1e-3 * max(np.linalg.norm(value) for value in stored.values())
    parameters = dict(module.named_parameters())
    assert stored.keys() <= parameters.keys() and len(stored) > 5
    for name, value in stored.items():
        ours = parameters[name].grad
        ours = torch.zeros_like(parameters[name]) if ours is None else ours
        assert_same(ours, value, GOLDEN["gradient"], floor, f"gradient of {name}")


@pytest.mark.parametrize("name", names("spatial"))
def test_spatial_layer(name):
    golden = read(name)
    width = golden["h"].shape[1]
    edge_dim = golden["edge_attr"].shape[1] if "edge_attr" in golden else 0
    flags = {"normalize": bool(golden["normalize"]), "pre_norm": bool(golden["pre_norm"])}
    layer = with_parameters(ESLayer(width, edge_dim, width, nn.SiLU(), **flags), golden)
    x, h, edge_attr = (tensor(golden, key, grad=True) for key in ("x", "h", "edge_attr"))
    x_out, h_out = layer(x, h, tensor(golden, "edge_index"), edge_attr, tensor(golden, "batch"))
    assert_same(x_out, golden["x_out"], GOLDEN["forward"])
    assert_same(h_out, golden["h_out"], GOLDEN["forward"])
    ((x_out * tensor(golden, "grad_x_out")).sum() + (h_out * tensor(golden, "grad_h_out")).sum()).backward()
    assert_same(x.grad, golden["grad_x"], GOLDEN["gradient"])
    assert_same(h.grad, golden["grad_h"], GOLDEN["gradient"])
    if edge_attr is not None:
        assert_same(edge_attr.grad, golden["grad_edge_attr"], GOLDEN["gradient"])
    compare_parameter_gradients(layer, golden)


@pytest.mark.parametrize("name", names("temporal"))
def test_temporal_layer(name):
    golden = read(name)
    width = golden["h"].shape[1]
    layer = with_parameters(ETLayer(width, width, nn.SiLU(), int(golden["time_emb_dim"])), golden)
    x, h = tensor(golden, "x", grad=True), tensor(golden, "h", grad=True)
    x_out, h_out = layer(x, h)
    assert_same(x_out, golden["x_out"], GOLDEN["forward"])
    assert_same(h_out, golden["h_out"], GOLDEN["forward"])
    ((x_out * tensor(golden, "grad_x_out")).sum() + (h_out * tensor(golden, "grad_h_out")).sum()).backward()
    assert_same(x.grad, golden["grad_x"], GOLDEN["gradient"])
    assert_same(h.grad, golden["grad_h"], GOLDEN["gradient"])
    compare_parameter_gradients(layer, golden)


def network_of(golden: dict) -> EGTN:
    integers = ("n_layers", "node_dim", "edge_dim", "hidden_dim", "time_emb_dim", "n_layers_ref", "num_w")
    sizes = {name: int(golden[name]) for name in integers}
    flags = {name: bool(golden[name]) for name in ("learn_ref_frame", "pre_norm")}
    return with_parameters(EGTN(**sizes, **flags, act_fn="silu", scale=float(golden["scale"])), golden)


def model_kwargs_of(golden: dict) -> dict:
    keys = [key for key in ("h", "edge_index", "batch", "cond_mask", "x_given") if key in golden]
    return {key: tensor(golden, key) for key in keys} | {"edge_attr": tensor(golden, "edge_attr")}


def diffusion_of(golden: dict, var_type: str = "FIXED_LARGE") -> GeoTDM:
    return GeoTDM(
        network_of(golden),
        "linear",
        int(golden["num_timesteps"]),
        ModelMeanType.EPSILON,
        ModelVarType[var_type],
        LossType.MSE,
        "cpu",
        mode=str(golden["mode"]),
    )


@pytest.mark.parametrize("name", names("egtn"))
def test_network_and_gradients(name):
    golden = read(name)
    network, model_kwargs = network_of(golden), model_kwargs_of(golden)
    x = tensor(golden, "x_in", grad=True)
    x_out, h_out = network(diffusion_t=tensor(golden, "diffusion_t"), x=x, **model_kwargs)
    assert_same(x_out, golden["x_out"], GOLDEN["forward"])
    assert_same(h_out, golden["h_out"], GOLDEN["forward"])
    scalar = (x_out * tensor(golden, "grad_x_out")).sum() + (h_out * tensor(golden, "grad_h_out")).sum()
    if "x_ref" in golden:
        x_ref = network(diffusion_t=None, x=None, compute_ref=True, **model_kwargs)
        assert_same(x_ref, golden["x_ref"], GOLDEN["forward"])
        scalar = scalar + (x_ref * tensor(golden, "grad_x_ref")).sum()
    scalar.backward()
    assert_same(x.grad, golden["grad_x_in"], GOLDEN["gradient"])
    compare_parameter_gradients(network, golden)


@pytest.mark.parametrize("var_type", ["FIXED_LARGE", "FIXED_SMALL"])
@pytest.mark.parametrize("name", names("egtn"))
def test_p_mean_variance(name, var_type):
    golden = read(name)
    diffusion, model_kwargs = diffusion_of(golden, var_type), model_kwargs_of(golden)
    x_t, last = tensor(golden, f"{var_type}.x_t"), int(golden["num_timesteps"]) - 1
    for step in (0, (last + 1) // 2, last):
        with torch.no_grad():
            out = diffusion.p_mean_variance(x_t, torch.full((len(x_t),), step), model_kwargs=model_kwargs)
        for key in ("mean", "log_variance", "pred_xstart"):
            assert_same(out[key], golden[f"{var_type}.t{step}.{key}"], GOLDEN["step"], what=f"{key} at step {step}")


@pytest.mark.parametrize("name", names("egtn"))
def test_loss_sample_likelihood_and_optimize(name):
    golden = read(name)
    diffusion, model_kwargs = diffusion_of(golden), model_kwargs_of(golden)
    x_start, noise, t = (tensor(golden, key) for key in ("x_start", "loss_noise", "loss_t"))
    loss = diffusion.training_losses(x_start, t=t, model_kwargs=model_kwargs, noise=noise)["loss"]
    assert_same(loss, golden["loss"], GOLDEN["forward"], what="loss")
    torch.manual_seed(4321)
    terms = diffusion.calc_bpd_loop(x_start, model_kwargs=model_kwargs)
    for key in ("total_bpd", "prior_bpd", "vb", "xstart_mse", "mse"):
        assert_same(terms[key], golden[f"nll_seed4321.{key}"], GOLDEN["chain"], what=key)
    if "sample_seed1234" in golden:
        torch.manual_seed(1234)
        sample = diffusion.p_sample_loop(tuple(x_start.shape), model_kwargs=model_kwargs)
        assert_same(sample, golden["sample_seed1234"], GOLDEN["chain"], what="sample")
    if "optimize3_seed77" in golden:
        torch.manual_seed(77)
        assert_same(
            diffusion.optimize(x_start, 3, model_kwargs=model_kwargs), golden["optimize3_seed77"], GOLDEN["chain"]
        )


def test_some_files_hold_samples():
    """The conditions above cannot pass by finding nothing."""
    held = [key for name in names("egtn") for key in read(name)]
    assert len(names("egtn")) == 4 and len(names("spatial")) == 4 and len(names("temporal")) == 3
    assert held.count("sample_seed1234") == 3 and held.count("optimize3_seed77") == 3 and held.count("x_ref") == 2


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules(name):
    golden = read("schedule_h32")
    for steps in (100, 1000):
        assert_same(get_named_beta_schedule(name, steps), golden[f"{name}_{steps}"], GOLDEN["exact"])


@pytest.mark.parametrize("name", names("egtn"))
def test_state_dict_keys_and_shapes_are_the_official_ones(name):
    golden = read(name)
    official = {key[6:]: value.shape for key, value in golden.items() if key.startswith("param.")}
    ours = {key: tuple(value.shape) for key, value in network_of(golden).state_dict().items()}
    assert ours == official


@pytest.mark.parametrize("name", ["nbody", "uncond"])
def test_a_seed_draws_the_official_start_weights_in_the_official_order(name):
    golden = json.loads((FOLDER / "start_weights.json").read_text())[name]
    torch.manual_seed(3)
    parameters = dict(EGTN(**golden["kw"]).named_parameters())
    assert list(parameters) == golden["order"]
    sums = {name: parameter.detach().double().sum().item() for name, parameter in parameters.items()}
    assert sums == pytest.approx(golden["sum"], rel=1e-9, abs=1e-9)
