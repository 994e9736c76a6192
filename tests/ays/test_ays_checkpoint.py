"""Checkpoints of Align Your Structures: ours, state dicts, Lightning files, and those of the other family."""

import pytest
import torch
from ays_models import CONFIG, INTERPOLATOR, molecules, network

from geotdm_fast import EGTN
from geotdm_fast import checkpoint as of_geotdm
from geotdm_fast.ays.checkpoint import load_checkpoint, load_pretrained, load_state_dict, save_checkpoint

DIFFUSION = {"beta_schedule_name": "linear", "num_timesteps": 1000}
CONFIGS = {
    "structure": {"denoiser": {"type": "basic_es", "n_layers": 2, **CONFIG}, "diffusion": DIFFUSION},
    "interpolator": {
        "denoiser": {"type": "interpolator", "n_layers": 2, **INTERPOLATOR, "conditioning": "forward"},
        "diffusion": DIFFUSION,
    },
}


def same_weights(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def geotdm_network() -> EGTN:
    return EGTN(2, 3, 4, 16, 8, "silu", False, 0, 0)


def test_ours_holds_its_configuration(tmp_path):
    model = network("interpolator", "forward")
    save_checkpoint(tmp_path / "model.safetensors", model, CONFIGS["interpolator"])
    loaded, config = load_checkpoint(tmp_path / "model.safetensors")
    assert same_weights(loaded, model) and config == CONFIGS["interpolator"] and not loaded.training
    with pytest.raises(ValueError, match="config must be left out"):
        load_checkpoint(tmp_path / "model.safetensors", config=CONFIGS["interpolator"])


@pytest.mark.parametrize("kind", ["bare", "lightning"])
def test_official_files(kind, tmp_path):
    model, path = network("structure"), tmp_path / "epoch=1-step=2.ckpt"
    state = model.state_dict()
    if kind == "lightning":
        state = {"state_dict": {f"denoiser.{key}": value for key, value in state.items()}, "epoch": 1}
        state |= {"optimizer_states": [{"state": {}, "param_groups": []}], "loops": {}, "callbacks": {}}
    torch.save(state, path)
    loaded, _ = load_checkpoint(path, config=CONFIGS["structure"])
    assert same_weights(loaded, model)
    with pytest.raises(ValueError, match="needs the config that it was trained with"):
        load_checkpoint(path)


def test_a_name_with_and_without_its_prefix_is_refused(tmp_path):
    state = {f"denoiser.{key}": value for key, value in network("structure").state_dict().items()}
    bias = "input_linear.bias"
    torch.save({"state_dict": state | {bias: state[f"denoiser.{bias}"] + 1}}, tmp_path / "both.ckpt")
    with pytest.raises(ValueError, match=rf"both.ckpt must have one tensor.*got both {bias} and denoiser\.{bias}"):
        load_checkpoint(tmp_path / "both.ckpt", config=CONFIGS["structure"])


def test_a_file_that_would_execute_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": network("structure").state_dict(), "more": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="holds more than tensors, which is refused"):
        load_checkpoint(tmp_path / "evil.ckpt", config=CONFIGS["structure"])


def test_tensors_of_other_names_and_shapes_are_refused(tmp_path):
    torch.save(network("interpolator", "forward").state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"unknown: alpha_h_s\.0"):
        load_checkpoint(tmp_path / "model.pt", config=CONFIGS["structure"])
    wide = {"denoiser": CONFIGS["structure"]["denoiser"] | {"hidden_dim": 32}, "diffusion": DIFFUSION}
    torch.save(network("structure").state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(ValueError, match="must be"):
        load_checkpoint(tmp_path / "narrow.pt", config=wide)
    with pytest.raises(ValueError, match="must describe a network of Align Your Structures"):
        load_checkpoint(tmp_path / "narrow.pt", config={"denoiser": {"type": "basic_es"}})
    deep = {"denoiser": CONFIGS["structure"]["denoiser"] | {"n_layers": 900}, "diffusion": DIFFUSION}
    with pytest.raises(ValueError, match="n_layers must be at most"):
        load_checkpoint(tmp_path / "narrow.pt", config=deep)


def test_a_structure_model_within_an_interpolator(tmp_path):
    structure, model = network("structure"), network("interpolator", "forward", n_layers=2)
    with torch.no_grad():
        structure.input_linear.bias.add_(1)
    torch.save({"state_dict": {f"denoiser.{k}": v for k, v in structure.state_dict().items()}}, tmp_path / "a.ckpt")
    names = load_pretrained(model, tmp_path / "a.ckpt", freeze=True)
    assert set(names) == set(structure.state_dict())
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == set(dict(structure.named_parameters()))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in structure.state_dict().items())
    x, about = molecules(given=(0,))
    model(x=x, **about)[0].sum().backward()
    learning = network("interpolator", "forward")
    load_pretrained(learning, tmp_path / "a.ckpt", freeze=False)
    assert all(p.requires_grad for p in learning.parameters())


def test_a_structure_model_that_does_not_fit_is_refused(tmp_path):
    torch.save(network("structure", n_layers=3).state_dict(), tmp_path / "deep.pt")
    with pytest.raises(ValueError, match=r"must hold a structure model of this network; unknown: s_modules\.2"):
        load_pretrained(network("interpolator"), tmp_path / "deep.pt", freeze=True)
    torch.save(network("structure", hidden_dim=32).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(ValueError, match=r"must be .*16.*, got .*32"):
        load_pretrained(network("interpolator"), tmp_path / "wide.pt", freeze=True)


def test_an_interpolator_is_no_structure_model_to_freeze(tmp_path):
    torch.save(network("interpolator", "forward").state_dict(), tmp_path / "whole.pt")
    model = network("interpolator", "forward")
    with pytest.raises(
        ValueError, match=r"must hold a structure model where freeze_spatial is true, .*: nothing would"
    ):
        load_pretrained(model, tmp_path / "whole.pt", freeze=True)
    assert all(p.requires_grad for p in model.parameters())
    load_pretrained(model, tmp_path / "whole.pt", freeze=False)


def test_a_structure_model_of_fewer_layers_says_which_are_random(tmp_path):
    torch.save(network("structure", n_layers=1).state_dict(), tmp_path / "shallow.pt")
    model = network("interpolator", "forward", n_layers=2)
    with pytest.warns(UserWarning, match=r"has 1 spatial layers, the network 2: the others keep their random weights"):
        load_pretrained(model, tmp_path / "shallow.pt", freeze=True)
    assert not any(p.requires_grad for p in model.s_modules[0].parameters())
    assert all(p.requires_grad for p in model.s_modules[1].parameters())


def test_a_geotdm_checkpoint_says_so(tmp_path):
    torch.save(geotdm_network().state_dict(), tmp_path / "geotdm.pt")
    for read in (
        lambda: load_checkpoint(tmp_path / "geotdm.pt", config=CONFIGS["structure"]),
        lambda: load_pretrained(network("interpolator"), tmp_path / "geotdm.pt", freeze=True),
        lambda: load_state_dict(network("egtn"), geotdm_network().state_dict(), "geotdm.pt"),
    ):
        with pytest.raises(ValueError, match=r"geotdm.pt: this is a checkpoint of a GeoTDM model.*geotdm_fast.load"):
            read()
    section = {"n_layers": 2, "node_dim": 3, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8, "act_fn": "silu"}
    section |= {"learn_ref_frame": False, "n_layers_ref": 0, "num_w": 0}
    config = {"denoise_model": section, "diffusion": DIFFUSION}
    of_geotdm.save_checkpoint(tmp_path / "geotdm.safetensors", geotdm_network(), config)
    with pytest.raises(ValueError, match="this is a checkpoint of a GeoTDM model"):
        load_checkpoint(tmp_path / "geotdm.safetensors")


def test_a_checkpoint_of_ours_given_to_geotdm_says_so(tmp_path):
    section = {"n_layers": 2, "node_dim": 3, "edge_dim": 4, "hidden_dim": 16, "time_emb_dim": 8, "act_fn": "silu"}
    section |= {"learn_ref_frame": False, "n_layers_ref": 0, "num_w": 0}
    torch.save(network("egtn").state_dict(), tmp_path / "ays.pt")
    save_checkpoint(tmp_path / "ays.safetensors", network("structure"), CONFIGS["structure"])
    for read in (
        lambda: of_geotdm.load_checkpoint(tmp_path / "ays.pt", config={"denoise_model": section}),
        lambda: of_geotdm.load_checkpoint(tmp_path / "ays.safetensors"),
    ):
        with pytest.raises(ValueError, match=r"ays\.\w+: this is a checkpoint of Align Your Structures"):
            read()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        geotdm_network().load_state_dict(network("egtn").state_dict())
