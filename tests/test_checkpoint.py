"""Checkpoints: round trips, official files, and files that are damaged, foreign, or would execute code."""

import errno
import json
import os
import pickle
import resource
import stat
from collections import OrderedDict

import numpy as np
import pytest
import torch
from full_disk import assert_earlier_file_survives

from geotdm_fast import EGTN, GeoTDM, ModelMeanType, ModelVarType
from geotdm_fast.checkpoint import (
    build_diffusion,
    build_network,
    load_checkpoint,
    load_official_state_dict,
    load_state_dict,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from geotdm_fast.runtime import tensor_files

NETWORK = {
    "n_layers": 1,
    "node_dim": 2,
    "edge_dim": 1,
    "hidden_dim": 8,
    "time_emb_dim": 6,
    "act_fn": "silu",
    "learn_ref_frame": True,
    "n_layers_ref": 1,
    "num_w": 3,
    "scale": 1.0,
    "pre_norm": False,
}
DIFFUSION = {"beta_schedule_name": "linear", "num_timesteps": 50}
CONFIG = {"denoise_model": NETWORK, "diffusion": DIFFUSION, "note": [1, "ü"]}


@pytest.fixture
def network() -> EGTN:
    torch.manual_seed(1)
    return build_network(CONFIG)


@pytest.fixture
def saved(network, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", network, CONFIG)
    return tmp_path / "model.safetensors"


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) and value.dtype == b[name].dtype for name, value in a.items())


def test_round_trip_is_exact_and_carries_the_config(network, saved):
    network.train()
    loaded, config = load_checkpoint(saved)
    assert_equal_states(loaded.state_dict(), network.state_dict())
    assert config == CONFIG and not loaded.training
    diffusion = build_diffusion(loaded, config)
    assert diffusion.num_timesteps == 50 and diffusion.mode == "cond" and diffusion.prior == "learned"


@pytest.mark.parametrize("wrappers", [["module"], ["_orig_mod"], ["_orig_mod", "module"]])
def test_wrapped_networks_are_saved_without_their_wrapper(network, saved, tmp_path, wrappers):
    wrapped = network  # as DistributedDataParallel and torch.compile do
    for name in wrappers:
        inner, wrapped = wrapped, torch.nn.Module()
        setattr(wrapped, name, inner)
    save_checkpoint(tmp_path / "wrapped.safetensors", wrapped, CONFIG)
    assert (tmp_path / "wrapped.safetensors").read_bytes() == saved.read_bytes()


def test_the_file_is_plain_safetensors_that_others_may_read(network, saved):
    from safetensors.torch import load_file

    assert_equal_states(load_file(saved), dict(network.state_dict()))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o666 & ~umask


def test_shared_strided_and_integer_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base[:, 1], "c": base.T, "d": torch.tensor([2**60, 1]), "e": torch.zeros(0, 3)}
    tensors["f"] = torch.tensor(1.5, dtype=torch.bfloat16, requires_grad=True)
    save_tensors(tmp_path / "t.safetensors", tensors, {"step": "7"})
    back, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"step": "7"}
    assert_equal_states(back, {name: value.detach() for name, value in tensors.items()})


def test_full_disk(network, saved):
    read = lambda path: path.read_bytes()
    assert_earlier_file_survives(saved, lambda path: save_checkpoint(path, network, CONFIG), read)


def test_a_failure_while_writing_leaves_nothing_beside(network, saved, monkeypatch):
    before = saved.read_bytes()

    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, network, CONFIG)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


# --- damaged and foreign files ---------------------------------------------------------------------------------------


def test_missing_files(tmp_path):
    for load in (load_checkpoint, load_tensors, load_official_state_dict):
        with pytest.raises(FileNotFoundError, match="none: no such file"):
            load(tmp_path / "none")


def test_files_that_cannot_be_opened_are_not_said_to_be_missing(saved, monkeypatch):
    def too_many(*args, **options):
        raise RuntimeError(f"unable to open file <{saved}> in read-only mode: Too many open files (24)")

    monkeypatch.setattr("safetensors.safe_open", too_many)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be read \(unable to open .* Too many open files"):
        load_tensors(saved)

    def refused(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tensor_files, "open", refused, raising=False)
    with pytest.raises(PermissionError, match=r"model\.safetensors cannot be read \(Permission denied\)"):
        load_tensors(saved)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated(saved, kept):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(
        ValueError, match=r"model\.safetensors must be a safetensors file, got a corrupt or foreign one"
    ):
        load_checkpoint(saved)


def test_a_safetensors_file_of_others(tmp_path):
    save_tensors(tmp_path / "foreign.safetensors", {"weight": torch.zeros(2)}, {"format": "pt"})
    with pytest.raises(ValueError, match=r"foreign\.safetensors must be a geotdm_fast checkpoint, got .* without"):
        load_checkpoint(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "the config inside must describe an EGTN"),
        ("[1]", "the config inside must describe an EGTN"),
        (json.dumps({"diffusion": {}}), "the config inside must describe an EGTN, got KeyError"),
        (json.dumps({"denoise_model": NETWORK | {"hiden": 1}}), "the config inside must describe an EGTN"),
        (json.dumps({"denoise_model": NETWORK | {"act_fn": "relu"}}), "describe an EGTN, got .*act_fn must be 'silu'"),
        (json.dumps({"denoise_model": NETWORK | {"hidden_dim": 9}}), r"must be \[9, .*\], got \[8, "),
        (json.dumps({"denoise_model": NETWORK | {"n_layers": 2}}), r"must hold the .* missing: s_modules\.1"),
        (json.dumps({"denoise_model": NETWORK | {"learn_ref_frame": False}}), "unknown: input_linear_ref"),
    ],
)
def test_a_config_that_does_not_fit(network, tmp_path, config, message):
    save_tensors(tmp_path / "bad.safetensors", dict(network.state_dict()), {"geotdm_fast_config": config})
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_w": 10**10}, r"ws must be \[10000000000\], got \[3\]"),
        ({"hidden_dim": 10**6}, r"must be \[1000000, .*\], got \[8, "),
        ({"hidden_dim": 10**12}, "the config inside must describe an EGTN"),
        ({"hidden_dim": 10**30}, "the config inside must describe an EGTN"),
        ({"time_emb_dim": 10**9}, r"must be \["),
        ({"edge_dim": 10**9}, r"must be \["),
        ({"n_layers": 10**9}, r"n_layers must be at most \d+, the tensors there, got 1000000000"),
        ({"n_layers_ref": 10**9}, r"n_layers_ref must be at most \d+"),
        ({"pre_norm": "no"}, "denoise_model.pre_norm must be true or false, got str 'no'"),
        ({"scale": "big"}, "denoise_model.scale must be a number, got str 'big'"),
        ({"window": -1}, "window must be at least 0, got -1"),
    ],
)
def test_sizes_are_compared_before_they_are_allocated(network, tmp_path, change, message):
    config = json.dumps({"denoise_model": NETWORK | change})
    save_tensors(tmp_path / "sizes.safetensors", dict(network.state_dict()), {"geotdm_fast_config": config})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "sizes.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_the_default_device_is_not_asked(network, saved):
    torch.set_default_device("meta")
    try:
        loaded, _ = load_checkpoint(saved)
    finally:
        torch.set_default_device(None)
    assert_equal_states(loaded.state_dict(), network.state_dict())


@pytest.mark.parametrize("kind", ["ours", "official"])
def test_a_flipped_bit_is_noticed(network, saved, tmp_path, kind):
    if kind == "official":
        saved = tmp_path / "m.pt"
        torch.save(network.state_dict(), saved)
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        try:
            state = load_tensors(saved)[0] if kind == "ours" else load_official_state_dict(saved)
        except ValueError:
            continue
        # A bit that no number depends on: a time in the archive, say.
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


def test_files_without_a_digest_are_read(network, tmp_path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "old.safetensors", metadata={"geotdm_fast_config": json.dumps(CONFIG)})
    loaded, config = load_checkpoint(tmp_path / "old.safetensors")
    assert config == CONFIG
    assert_equal_states(loaded.state_dict(), network.state_dict())


def test_the_metadata_have_an_order_and_belong_to_the_digest(tmp_path):
    texts = {name: name for name in "geotdm"}
    for number in range(5):
        save_tensors(tmp_path / f"{number}", {"a": torch.arange(3.0)}, texts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    data = (tmp_path / "0").read_bytes()
    (tmp_path / "0").write_bytes(data.replace(b'"t":"t"', b'"t":"u"'))
    with pytest.raises(ValueError, match="0 is damaged: its SHA-256 is not that of what was written"):
        load_tensors(tmp_path / "0")


def test_load_state_dict_leaves_the_network_alone_when_it_refuses(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wrong = {name: value + 1 for name, value in before.items()}
    wrong["ws"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"other\.pt: ws must be \[3\], got \[7\]"):
        load_state_dict(network, wrong, "other.pt")
    assert_equal_states(dict(network.state_dict()), before)


# --- official files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_official_files(network, tmp_path, prefix, zipped):
    state = OrderedDict((prefix + name, value) for name, value in network.state_dict().items())
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    loaded = load_official_state_dict(tmp_path / "m.pt")
    assert_equal_states(loaded, dict(network.state_dict()))
    other = build_network(CONFIG)
    load_state_dict(other, loaded, "m.pt")
    assert_equal_states(dict(other.state_dict()), dict(network.state_dict()))


class Trap:
    """Executes when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


LOADERS = {
    "evil.pt": load_official_state_dict,
    "evil.pth": lambda path: load_checkpoint(path, config=CONFIG),
    "evil.safetensors": load_checkpoint,
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("way", ["torch.save", "old torch.save", "pickle"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path, way, name):
    path, sprung = tmp_path / name, tmp_path / "sprung"
    if way == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        state = {"ws": torch.zeros(3), "x": Trap(sprung)}
        torch.save(state, path, _use_new_zipfile_serialization=way == "torch.save")
    with pytest.raises(ValueError, match=rf"{name} must be"):
        LOADERS[name](path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung))).close()  # the trap works
    assert sprung.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_official_checkpoints_with_a_config(network, tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, path)
    loaded, config = load_checkpoint(path, config=CONFIG)
    assert_equal_states(dict(loaded.state_dict()), dict(network.state_dict()))
    assert config == CONFIG and not loaded.training
    with pytest.raises(ValueError, match="an official checkpoint needs the config that it was trained with, got none"):
        load_checkpoint(path)


def test_our_own_checkpoints_hold_their_config(saved):
    with pytest.raises(ValueError, match=r"model\.safetensors: config must be left out for our own checkpoints"):
        load_checkpoint(saved, config=CONFIG)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, "module."),
        (lambda state: {"state_dict": state}, "_orig_mod.module."),
        (lambda state: {"model_state_dict": state, "loss": torch.tensor(1.0)}, ""),
        (lambda state: state, "module._orig_mod."),
    ],
)
@pytest.mark.parametrize("name", ["m.ckpt", "m.bin", "weights", "misnamed.safetensors"])
def test_state_dicts_as_people_save_them(network, tmp_path, wrap, prefix, name):
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(wrap(state), tmp_path / name)
    loaded, config = load_checkpoint(tmp_path / name, config=CONFIG)
    assert_equal_states(dict(loaded.state_dict()), dict(network.state_dict()))
    assert config == CONFIG


def test_a_compiled_part_of_a_network(network, tmp_path):
    state = {
        key.replace("s_modules.0.", "s_modules.0._orig_mod."): value for key, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "m.pt")
    assert_equal_states(load_official_state_dict(tmp_path / "m.pt"), dict(network.state_dict()))


@pytest.mark.parametrize("name", ["plain.safetensors", "plain.st"])
def test_plain_safetensors_with_a_config(network, tmp_path, name):
    save_tensors(tmp_path / name, {f"module.{key}": value for key, value in network.state_dict().items()}, {})
    loaded, _ = load_checkpoint(tmp_path / name, config=CONFIG)
    assert_equal_states(dict(loaded.state_dict()), dict(network.state_dict()))
    with pytest.raises(ValueError, match=r"weights alone need the config that they were trained with \(--config"):
        load_checkpoint(tmp_path / name)


def test_state_dicts_that_are_ambiguous(tmp_path):
    state = {"a": torch.zeros(1)}
    torch.save({"model": state, "ema": state}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m\.pt must hold one state_dict, got model and ema"):
        load_official_state_dict(tmp_path / "m.pt")
    torch.save(state | {"module.a": torch.zeros(1)}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"every tensor once, got a twice, one of them as module\.a"):
        load_official_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("state", [torch.zeros(3), [torch.zeros(3)], {"a": 1}, {1: torch.zeros(1)}, {"model": {}}])
def test_files_that_hold_no_state_dict(tmp_path, state):
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m\.pt must hold a state_dict \(names to tensors\)"):
        load_official_state_dict(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_official_files_are_value_errors(network, tmp_path, zipped):
    path, rng = tmp_path / "m.pt", np.random.default_rng(3)
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    refused = 0
    for trial in range(200):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for place in rng.integers(len(data) or 1, size=3 * (trial % 2 == 0)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_official_state_dict(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 100


# --- building --------------------------------------------------------------------------------------------------------


def test_build_diffusion_reads_every_key(network):
    section = {
        "beta_schedule_name": "cosine",
        "num_timesteps": 30,
        "mode": "cond",
        "rescale_timesteps": True,
        "prior": "com_last",
        "model_mean_type": "start_x",
        "model_var_type": "fixed_small",
    }
    diffusion = build_diffusion(network, {"diffusion": section}, "cpu")
    assert isinstance(diffusion, GeoTDM) and diffusion.denoise_network is network
    assert (diffusion.num_timesteps, diffusion.prior, diffusion.rescale_timesteps) == (30, "com_last", True)
    assert diffusion.model_mean_type is ModelMeanType.START_X and diffusion.model_var_type is ModelVarType.FIXED_SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_timestep": 5}, r"config section diffusion: unknown key 'num_timestep'; did you mean 'num_timesteps'"),
        ({"model_mean_type": "epsilonn"}, r"diffusion\.model_mean_type must be one of .*did you mean 'epsilon'"),
        (
            {"model_var_type": "large"},
            r"diffusion\.model_var_type must be one of fixed_small, fixed_large; got 'large'",
        ),
        ({"prior": "learnt"}, r"GeoTDM: prior must be one of .*; got 'learnt'; did you mean 'learned'"),
        ({"mode": "condi"}, r"diffusion\.mode must be one of cond, uncond; got 'condi'"),
        ({"beta_schedule_name": None}, r"diffusion\.beta_schedule_name must be a text, got nothing"),
        ({"mode": "uncond", "prior": "com"}, r"prior must be 'none' in mode 'uncond', got 'com'"),
    ],
)
def test_build_diffusion_refuses(network, change, message):
    with pytest.raises(ValueError, match=message):
        build_diffusion(network, {"diffusion": DIFFUSION | change})
