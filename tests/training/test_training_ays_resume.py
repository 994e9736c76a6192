"""Trainings of Align Your Structures that are resumed, repeated, and shared out among processes."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
import warm_python
from ays_trainings import folder_of_runs, run, trained_structure
from tiny_ays import interpolator_config
from tiny_training import RUN, assert_same_run, log_of

from geotdm_fast.checkpoint import load_tensors, save_tensors
from geotdm_fast.data import TrajectoryDataset, open_dataset
from geotdm_fast.families import load_checkpoint
from geotdm_fast.training.state import check_same_training, fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def structure(folder):
    return trained_structure(folder)


@pytest.mark.parametrize("conditioning", ["unconditional_forward", "interpolation"])
@pytest.mark.parametrize("freeze", [True, False])
def test_resumed_equals_undisturbed(folder, structure, conditioning, freeze):
    """Where the structure model has gone since, too: the state has its weights, and which of them are frozen."""
    shutil.copytree(structure, folder / "elsewhere" / "structure")
    about = {"pretrain_ckpt": str(folder / "elsewhere" / "structure"), "freeze_spatial": freeze}
    whole = interpolator_config(folder, conditioning, about, num_steps=8, accumulate=2)
    shutil.rmtree(folder / f"whole_{conditioning}", ignore_errors=True)
    shutil.rmtree(folder / f"parts_{conditioning}", ignore_errors=True)
    run(whole, folder / f"whole_{conditioning}")
    run(whole | {"train": whole["train"] | {"num_steps": 4}}, folder / f"parts_{conditioning}")
    shutil.rmtree(folder / "elsewhere")
    whole["denoise_model"]["pretrain_ckpt"] = str(folder / "nowhere" / "structure")
    run(whole, folder / f"parts_{conditioning}")
    with_last = lambda name: folder / f"{name}_{conditioning}"
    one, other = (load_tensors(with_last(n) / "state.safetensors")[0] for n in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    one, other = (load_tensors(with_last(n) / "last.safetensors")[0] for n in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_a_state_says_of_frozen_weights(folder, structure):
    about = {"pretrain_ckpt": str(structure), "freeze_spatial": True}
    config = interpolator_config(folder, network=about, num_steps=2)
    path = folder / "frozen_state" / "state.safetensors"
    run(config, path.parent)
    tensors, metadata = load_tensors(path)
    names = sorted(load_tensors(structure / "best.safetensors")[0])
    assert sorted(json.loads(metadata["frozen"])) == names
    for frozen, message in (
        (None, r"not a training state of this version \('frozen'\)"),
        ("{}", r"not a training state .*frozen must be a list of names, got \{\}"),
        ('["nothing"]', "names must be of parameters of the network, got 'nothing'"),
    ):
        held = {key: value for key, value in metadata.items() if key != "frozen"}
        save_tensors(path, tensors, held if frozen is None else held | {"frozen": frozen})
        with pytest.raises(ValueError, match=f"cannot resume from .*{message}"):
            run(config, path.parent)


def test_files_that_moved_and_data_that_changed(folder, structure):
    config = interpolator_config(folder, network={"pretrain_ckpt": str(structure)})
    config["data"]["train"]["molecule"] = "here/mol.sdf"
    other = copy.deepcopy(config)
    other["data"]["train"] |= {"molecule": "there/mol.sdf", "path": ["there.npz", "too.npz"]}
    other["denoise_model"]["pretrain_ckpt"] = "there"
    check_same_training(config, other, where="here", hint="")
    other["denoise_model"]["freeze_spatial"] = True
    with pytest.raises(ValueError, match=r"here: denoise_model\.freeze_spatial must be False"):
        check_same_training(config, other, where="here", hint="")

    data = list(open_dataset(interpolator_config(folder)["data"]["train"]))
    doubled = [dataclasses.replace(item, edge_attr=2 * item.edge_attr) for item in data]
    one, two = TrajectoryDataset(data, name="single"), TrajectoryDataset(doubled, name="double")
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(one, with_atoms=True) != fingerprint(two, with_atoms=True)


def test_the_same_run_twice_and_another_type_of_network(folder):
    for kind in ("interpolator_simple", "stack", "egtn"):
        more = {"type": kind} | ({} if kind == "interpolator_simple" else {"use_extra": False, "use_double": False})
        config = interpolator_config(folder, network=more, num_steps=3, precision="bf16")
        run(config, folder / f"{kind}_a")
        run(config, folder / f"{kind}_b")
        assert_same_run(folder / f"{kind}_a", folder / f"{kind}_b")
        network, held = load_checkpoint(folder / f"{kind}_a" / "last.safetensors")
        assert held == config and type(network).__module__.startswith("geotdm_fast.ays")


def test_two_processes_equal_one(folder, structure):
    about = {"pretrain_ckpt": str(structure), "freeze_spatial": True}
    settings = {"batch_size": 5, "accumulate": 2, "num_steps": 4, "log_every_step": 1, "eval_batch_size": 2}
    config = interpolator_config(folder, "unconditional_forward", about, **settings)
    run(config, folder / "one_process")
    for done in warm_python.run_together(2, "-c", RUN, json.dumps(config), str(folder / "two_processes")):
        assert done.returncode == 0, done.stderr
    one, two = log_of(folder / "one_process"), log_of(folder / "two_processes")
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for mine, theirs in zip(one, two, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
