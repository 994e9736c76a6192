"""What a training begins with."""

import pathlib
import shutil
import warnings

import pytest
import torch
from tiny_ays import interpolator_config, structure_config
from tiny_training import tiny_config

from geotdm_fast.checkpoint import build_network, load_tensors, save_checkpoint
from geotdm_fast.training import train
from geotdm_fast.training.initial_weights import initial_network, load_initial_weights, load_structure_model


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def started(start_from, config=None, directory=pathlib.Path("elsewhere")) -> torch.nn.Module:
    network = initial_network(config or tiny_config())
    load_initial_weights(network, str(start_from), directory)
    return network


@pytest.fixture
def trained(tmp_path):
    torch.manual_seed(5)
    network = build_network(tiny_config())
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "best.safetensors", network, tiny_config())
    torch.save({"module." + name: value for name, value in network.state_dict().items()}, tmp_path / "official.pt")
    return network


def test_weights_follow_from_the_seed_or_are_those_of_a_file(tmp_path, trained):
    state = torch.get_rng_state()
    drawn = initial_network(tiny_config())
    assert same(drawn, initial_network(tiny_config())) and not same(drawn, initial_network(tiny_config(seed=1)))
    for text in ("run", "run/best.safetensors", "official.pt"):
        assert same(started(tmp_path / text), trained)
    assert torch.equal(torch.get_rng_state(), state)
    assert started("nbody_charged_small", {**_shipped(), "train": {"seed": 0}}).n_layers == 4


def _shipped() -> dict:
    from geotdm_fast.checkpoint import load_checkpoint
    from geotdm_fast.checkpoint_paths import checkpoint_file

    return load_checkpoint(checkpoint_file("nbody_charged_small"))[1]


def test_a_training_goes_on_from_them_and_is_resumed(tmp_path, trained, monkeypatch):
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
    config = lambda steps: tiny_config(start_from=str(tmp_path / "run"), num_steps=steps, lr=1e-6)
    train(config(2), output_dir=tmp_path / "more", device="cpu", progress=False)
    state, _ = load_tensors(tmp_path / "more" / "state.safetensors")
    for name, value in trained.state_dict().items():
        for kind in ("weights", "average"):
            torch.testing.assert_close(state[f"{kind}.{name}"], value, rtol=0, atol=1e-5)
    train(config(4), output_dir=tmp_path / "whole", device="cpu", progress=False)
    shutil.rmtree(tmp_path / "run")  # a resume reads the state alone
    train(config(4), output_dir=tmp_path / "more", device="cpu", progress=False)
    one, other = (load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("more", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_does_not_begin_with_the_weights_that_it_replaces(tmp_path, trained):
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    for text in ("run", "run/best.safetensors", "run/../run"):
        message = r"train\.start_from must lie outside of the folder of the run, .*run, .* got .*best\.safetensors"
        with pytest.raises(ValueError, match=message):
            config = tiny_config(start_from=str(tmp_path / text), num_steps=2)
            train(config, output_dir=tmp_path / "run", device="cpu", progress=False)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


def test_weights_that_do_not_fit_are_named(tmp_path, trained):
    wide = tiny_config()
    wide["denoise_model"]["hidden_dim"] = 24
    with pytest.raises(ValueError, match=r"train\.start_from: .*best\.safetensors: \S+ must be \[24\S*.*, got \[16"):
        started(tmp_path / "run", wide)
    with pytest.raises(FileNotFoundError, match="no such file"):
        started(tmp_path / "none.safetensors")


@pytest.mark.parametrize("ends, is_told", [("sdf", True), ("npz", False)])
def test_bond_orders_that_the_data_do_not_have_are_told(tmp_path, ends, is_told):
    config = structure_config(tmp_path)
    config["data"]["train"]["path"] = f"conformers.{ends}"
    save_checkpoint(tmp_path / "structure.safetensors", initial_network(config), config)
    about = {"pretrain_ckpt": str(tmp_path / "structure.safetensors"), "freeze_spatial": True}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = interpolator_config(tmp_path, network=about)
        load_structure_model(initial_network(config), config)
    message = (
        "was trained with the bond orders of its molecules, and data.train has none: every bond is taken as single"
    )
    assert [message in str(one.message) for one in told] == ([True] if is_told else [])
