"""Numbers that the official implementation of Align Your Structures computed, float32."""

import json

import numpy as np
import pytest
import torch
from places import GOLDEN as FOLDER
from tolerances import GOLDEN, assert_same
from torch import nn

from geotdm_fast import ays
from geotdm_fast.ays import OurDiffusion

ARCHIVES = sorted(path.stem for path in (FOLDER / "ays").glob("*.npz"))
MODELS = [name for name in ARCHIVES if name.startswith(("structure", "interpolator", "simple", "stack", "egtn"))]


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "ays" / f"{name}.npz", allow_pickle=False) as archive:
        return dict(archive)


def tensor(golden: dict, name: str, grad: bool = False) -> torch.Tensor | None:
    return torch.from_numpy(golden[name].copy()).requires_grad_(grad) if name in golden else None


def with_parameters(module: nn.Module, golden: dict) -> nn.Module:
    """The stored numbers were rounded to half precision before anything was computed."""
    state = {name[6:]: torch.from_numpy(value).float() for name, value in golden.items() if name.startswith("param.")}
    assert list(state) == list(module.state_dict())  # in the official order: optimisers' states fit
    module.load_state_dict(state, strict=True)
    return module


def compare_parameter_gradients(module: nn.Module, golden: dict, prefix: str = "grad") -> None:
    """`{prefix}.NAME` is a gradient G, `{prefix}sketch.NAME` stands for a large one: m^T G n with stored signs m, n.

    A gradient that is zero but for rounding is measured against the largest one.
    """
    full, sketched = f"{prefix}.", f"{prefix}sketch."
    stored = {name: value for name, value in golden.items() if name.startswith((full, sketched))}
    floor, seen = 1e-2 * max(np.linalg.norm(value) for value in stored.values()), 0
    for name, parameter in module.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if full + name in stored:
            assert_same(grad, stored[full + name], GOLDEN["gradient"], floor, f"gradient of {name}")
        elif sketched + name in stored:
            ours = grad.double().numpy() @ golden[f"sketch.{grad.shape[-1]}"]
            ours = golden[f"sketch.{len(ours)}"].T @ ours if grad.dim() == 2 else ours
            assert_same(ours, stored[sketched + name], GOLDEN["gradient"], floor, f"gradient of {name}")
        else:
            continue
        seen += 1
    assert seen == len(stored) > 5


def backward_of(golden: dict, x_out, h_out, tag: str = "") -> None:
    grad_x, grad_h = tensor(golden, tag + "grad_x_out"), tensor(golden, tag + "grad_h_out")
    ((x_out * grad_x).sum() + (h_out * grad_h).sum()).backward()


def compare_outputs(golden: dict, x_out, h_out, tag: str = "") -> None:
    assert_same(x_out, golden[tag + "x_out"], GOLDEN["forward"], what=tag + "x_out")
    assert_same(h_out, golden[tag + "h_out"], GOLDEN["forward"], what=tag + "h_out")


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ARCHIVES if name.startswith("spatial")])
def test_spatial_layer(name):
    golden = read(name)
    width, num_frames = golden["h"].shape[1:]
    edge_dim = golden["edge_attr"].shape[1] if "edge_attr" in golden else 0
    about = {"normalize": bool(golden["normalize"]), "pre_norm": bool(golden["pre_norm"])}
    layer = with_parameters(getattr(ays, str(golden["cls"]))(width, edge_dim, width, nn.SiLU(), **about), golden)
    x, h, edge_attr = (tensor(golden, key, grad=True) for key in ("x", "h", "edge_attr"))
    everywhere = None if edge_attr is None else edge_attr[..., None].expand(-1, -1, num_frames)
    x_out, h_out = layer(x, h, tensor(golden, "edge_index"), everywhere, tensor(golden, "batch"))
    compare_outputs(golden, x_out, h_out)
    backward_of(golden, x_out, h_out)
    for key, leaf in (("grad_x", x), ("grad_h", h), ("grad_edge_attr", edge_attr)):
        if leaf is not None:
            assert_same(leaf.grad, golden[key], GOLDEN["gradient"], what=key)
    compare_parameter_gradients(layer, golden)


def test_gated_feed_forward():
    golden = read("gvff_h32")
    module = with_parameters(ays.GV_FF(32, 32, 32, 1, 4, 1), golden)
    k, u = tensor(golden, "a", grad=True), tensor(golden, "x", grad=True)
    q, w = module(k, u)
    compare_outputs(golden, w, q)
    backward_of(golden, w, q)
    assert_same(k.grad, golden["grad_a"], GOLDEN["gradient"])
    assert_same(u.grad, golden["grad_x"], GOLDEN["gradient"])
    compare_parameter_gradients(module, golden)


def test_attention_of_heads():
    golden = read("mha_h32")
    heads = int(golden["num_heads"])
    layer = with_parameters(ays.ETAttention(32, 32 // heads, 32 // heads, heads, nn.SiLU()), golden)
    x, h = tensor(golden, "x", grad=True), tensor(golden, "h", grad=True)
    x_out, h_out = layer(x, h)
    compare_outputs(golden, x_out, h_out)
    backward_of(golden, x_out, h_out)
    assert_same(x.grad, golden["grad_x"], GOLDEN["gradient"])
    assert_same(h.grad, golden["grad_h"], GOLDEN["gradient"])
    compare_parameter_gradients(layer, golden)


# --- networks and diffusion -------------------------------------------------------------------------------------------


def model_of(golden: dict) -> tuple[nn.Module, dict, torch.Tensor]:
    """Network, model_kwargs, and the noisy frames of the data."""
    model = with_parameters(getattr(ays, str(golden["cls"]))(**json.loads(str(golden["config"]))), golden)
    keys = {"h": "z", "f": "f", "edge_index": "edge_index", "edge_attr": "edge_type", "batch": "batch"}
    model_kwargs = {key: tensor(golden, name) for key, name in keys.items()}
    frames, mask = tensor(golden, "frames"), tensor(golden, "cond_mask")
    if mask is None:
        return model, model_kwargs, frames
    return model, model_kwargs | {"cond_mask": mask, "original_frames": frames}, frames[..., ~mask]


@pytest.mark.parametrize("name", MODELS)
def test_network(name):
    golden = read(name)
    model, model_kwargs, _ = model_of(golden)
    nothing = torch.zeros(golden["frames"].shape[-1], dtype=torch.bool)
    for tag, more in (("", {}), ("nothing.", {"cond_mask": nothing}), ("uncond.", {"uncond": True})):
        if tag + "x" not in golden:
            continue
        has_gradient = tag + "grad_x" in golden
        x, t = tensor(golden, tag + "x", grad=has_gradient), tensor(golden, tag + "diffusion_t")
        x_out, h_out = model(t, x, **model_kwargs, **more) if not tag else model(t, x, **(model_kwargs | more))
        compare_outputs(golden, x_out, h_out, tag)
        if has_gradient:
            backward_of(golden, x_out, h_out, tag)
            assert_same(x.grad, golden[tag + "grad_x"], GOLDEN["gradient"])
            if not tag:
                compare_parameter_gradients(model, golden)


@pytest.mark.parametrize("name", MODELS)
def test_losses(name):
    golden = read(name)
    model, model_kwargs, x_start = model_of(golden)
    noise, t = tensor(golden, "loss_noise"), tensor(golden, "loss_t")
    for key, is_aligned in (("loss_unaligned", False), ("loss", True)):
        diffusion = OurDiffusion("linear", 1000, use_kabsch_alignment=is_aligned)
        loss = diffusion.training_losses(model, x_start, t=t, model_kwargs=model_kwargs, noise=noise)["loss"]
        assert_same(loss, golden[key], GOLDEN["forward"], what=key)
    if any(key.startswith("lossgrad") for key in golden):
        loss.mean().backward()
        compare_parameter_gradients(model, golden, "lossgrad")


@pytest.mark.parametrize("name", [name for name in MODELS if "steps.x_t" in read(name)])
def test_reverse_steps(name):
    golden = read(name)
    model, model_kwargs, x_start = model_of(golden)
    for step in (0, 500, 999):
        t = torch.full((len(x_start),), step)
        with torch.no_grad():
            out = OurDiffusion("linear", 1000).p_mean_variance(model, tensor(golden, "steps.x_t"), t, model_kwargs)
        for key in ("mean", "log_variance", "pred_xstart"):
            assert_same(out[key], golden[f"steps.t{step}.{key}"], GOLDEN["step"], what=f"{key} at {step}")


def chains_of(golden: dict) -> list[str]:
    return [key for key in golden if key.endswith((".sample", ".ddim_sample"))]


@pytest.mark.parametrize(("name", "chain"), [(name, chain) for name in MODELS for chain in chains_of(read(name))])
def test_chains_with_the_official_seed(name, chain):
    golden = read(name)
    model, model_kwargs, x_start = model_of(golden)
    given = {key: value.clone() for key, value in model_kwargs.items()}
    kind, about, shape = chain.split(".")[0], {"model_kwargs": given}, list(x_start.shape)
    diffusion = lambda steps: OurDiffusion("linear", int(steps), rescale_timesteps=int(steps) != 1000)
    torch.manual_seed(1234)
    if kind == "ddim":
        steps, few, eta, factor = golden[chain.replace("sample", "settings")]
        about |= {"noise": tensor(golden, "ddim.noise") * float(factor), "steps": int(few), "eta": float(eta)}
        sample = diffusion(steps).ddim_sample_loop(model, shape, **about)
    elif chain == "blocks.ddim_sample":
        steps, few = golden["blocks.ddim"]
        about |= {"ddim": True, "ddim_steps": int(few), "num_blocks": int(golden["blocks.num_blocks"])}
        sample = diffusion(steps).ar_block_diffusion(model, shape, **about)
    elif kind == "blocks":
        process, blocks = diffusion(golden["blocks.num_timesteps"]), int(golden["blocks.num_blocks"])
        is_free = model.conditioning == "unconditional_forward"
        run = process.uncond_block_diffusion if is_free else process.ar_block_diffusion
        sample = run(model, shape, num_blocks=blocks, **about)
    elif kind == "fill":
        sample = diffusion(golden["fill.num_timesteps"]).interpolation_diffusion(model, shape, **about)
    else:
        sample = diffusion(golden["ddpm.num_timesteps"]).p_sample_loop(model, shape, **about)
    assert_same(sample, golden[chain], GOLDEN["chain"])
    assert given.keys() == model_kwargs.keys()
    assert all(torch.equal(given[key], model_kwargs[key]) for key in given)  # nothing is written into


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_alignment():
    golden = read("kabsch")
    x, y, batch = (tensor(golden, key) for key in ("x", "y", "batch"))
    assert_same(ays.align_to_first_frame(x, batch), golden["first"], GOLDEN["forward"])
    assert_same(ays.align_frames(x, y, batch), golden["frames"], GOLDEN["forward"])
    assert_same(ays.align_jointly(x, y, batch), golden["joint"], GOLDEN["forward"])


def test_ddim_steps_and_shares():
    golden = read("tables")
    for key in golden:
        if key.startswith("ddim_"):
            assert np.array_equal(ays.ddim_timesteps(*map(int, key.split("_")[1:])), golden[key])
    alpha = torch.from_numpy(golden["alpha"]).double()
    for i, share in enumerate(golden["lmbda"]):
        state = {"denoiser.alpha_x_t.0": alpha, "denoiser.input_linear.bias": alpha}
        scaled = ays.scale_alphas(state, float(share))
        assert_same(scaled["denoiser.alpha_x_t.0"].sigmoid(), golden[f"alpha_share_{i}"], GOLDEN["forward"])
        assert torch.equal(scaled["denoiser.input_linear.bias"], alpha)


@pytest.mark.parametrize("name", [name for name in ARCHIVES if name.startswith("features")])
def test_molecules(name):
    chem = pytest.importorskip("rdkit.Chem")
    golden = read(name)
    mol = chem.RemoveHs(chem.AddHs(chem.MolFromSmiles(str(golden["smiles"]))))
    for order, suffix in ((3, ""), (1, "_order1")):
        z, f, edge_index, edge_type = ays.molecule_graph(mol, order=order)
        assert np.array_equal(z, golden["z"])
        assert_same(f, golden["f"], GOLDEN["forward"])
        pairs = lambda edges, types: dict(zip(zip(*edges.tolist(), strict=True), types.tolist(), strict=True))
        assert pairs(edge_index, edge_type) == pairs(golden["edge_index" + suffix], golden["edge_type" + suffix])
        assert edge_index.T.tolist() == sorted(edge_index.T.tolist())
