"""Training models of Align Your Structures: both stages, what learns, what is given, exact resume."""

import copy
import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
import warm_python
from places import ROOT
from tiny_ays import INTERPOLATOR, SIZES, SPAN, WATER, interpolator_config, structure_config, write_runs
from tiny_training import RUN, assert_same_run, log_of, tiny_config

from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.checkpoint import load_tensors, save_tensors
from geotdm_fast.config.ays_files import free_share
from geotdm_fast.config.files import load_config, normalise_config
from geotdm_fast.data import TrajectoryDataset, collate, open_dataset
from geotdm_fast.diffusion import ModelMeanType
from geotdm_fast.families import build_diffusion, build_network, load_checkpoint
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.initial_weights import initial_network
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.random_streams import mixed_order
from geotdm_fast.training.shares import shares_of
from geotdm_fast.training.state import check_same_training, fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("ays")
    write_runs(made)
    return made


@pytest.fixture(scope="module")
def structure(folder):
    """The folder of a structure model's training."""
    run(structure_config(folder), folder / "structure")
    return folder / "structure"


def run(config, output):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bonds by distance
        return train(config, output_dir=output, device="cpu", progress=False)


def source_of(config, **more) -> BatchSource:
    data = DeviceData(open_dataset(config["data"]["train"]))
    about = {"seed": 3, "batch_size": 4, "num_timesteps": 25, "by_nodes": True}
    return BatchSource(data, num_noisy=Task.of_config(config).num_noisy(data.num_frames), **about | more)


@pytest.mark.parametrize("conditioning", ["none", "forward", "interpolation"])
def test_the_loss_is_the_official_one_over_all_nodes(folder, conditioning):
    config = interpolator_config(folder, conditioning)
    network = initial_network(config)
    source = source_of(config)
    (draw,) = source.training(0)
    noised = source.noised(draw)
    task = Task.of_config(config)
    loss = Objective(build_diffusion(network, config), task).loss(noised)

    batch = noised.batch
    given = {"none": [], "forward": [0], "interpolation": [0, SPAN - 1]}[conditioning]
    mask = torch.zeros(SPAN, dtype=torch.bool)
    mask[given] = True
    about = {"h": batch.h[:, 0].long(), "f": batch.h[:, 1:], "edge_attr": batch.edge_attr[:, 0].long()}
    about |= {"edge_index": batch.edge_index, "batch": batch.batch}
    if given:
        about |= {"cond_mask": mask, "original_frames": batch.x}
    section = config["diffusion"]
    official = OurDiffusion("linear", 25, use_kabsch_alignment=section["use_kabsch_alignment"])
    expected = official.training_losses(network, batch.x[..., ~mask], noised.steps, about, noised.noise)["loss"].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert len(set(torch.bincount(batch.batch).tolist())) == 2  # molecules of different size
    assert batch.x.mean(dim=-1).abs().max() > 0.1


def test_parts_and_processes_have_the_weights_of_the_whole(folder):
    config = interpolator_config(folder)
    whole = source_of(config)
    objective = Objective(build_diffusion(initial_network(config), config), Task.of_config(config))
    expected = objective.loss(whole.noised(whole.training(1)[0]))
    parts = [d for rank in (0, 1) for d in source_of(config, accumulate=2, rank=rank, world_size=2).training(1)]
    assert len(parts) == 4
    torch.testing.assert_close(sum(objective.loss(whole.noised(part)) for part in parts), expected)


def test_a_coin_says_whether_nothing_is_given(folder):
    config = interpolator_config(folder, "unconditional_forward")
    assert free_share(config) == 0.5 and free_share(interpolator_config(folder)) == 0.0
    source = source_of(config, free_share=0.5)
    draws = [source.training(step)[0] for step in range(60)]
    free = [draw.is_free for draw in draws]
    assert 15 <= sum(free) <= 45 and free == [source.training(step)[0].is_free for step in range(60)]
    assert {draw.noise.shape[2] for draw in draws if draw.is_free} == {SPAN}
    assert {draw.noise.shape[2] for draw in draws if not draw.is_free} == {SPAN - 1}
    objective = Objective(build_diffusion(initial_network(config), config), Task.of_config(config))
    x_start, about = objective.split(source.noised(draws[free.index(True)]))
    assert x_start.shape[2] == SPAN and "cond_mask" not in about
    x_start, about = objective.split(source.noised(draws[free.index(False)]))
    assert x_start.shape[2] == SPAN - 1 and about["cond_mask"].flatten().tolist() == [1, 0, 0, 0, 0]


def test_sets_are_drawn_by_their_shares(folder):
    order = mixed_order(0, 1, [10, 30], [3.0, 1.0])
    assert len(order) == 40 and 22 <= int((order < 10).sum()) <= 37
    first = order[order < 10][:10]
    assert sorted(first.tolist()) == list(range(10))  # all of a set before one of it again
    assert not torch.equal(order, mixed_order(0, 2, [10, 30], [3.0, 1.0]))
    assert mixed_order(0, 0, [3, 4], [1.0, 0.0]).max() < 3
    config = interpolator_config(folder)
    source = source_of(config, shares=[(6, 0.0), (len(open_dataset(config["data"]["train"])) - 6, 1.0)])
    assert min(int(source.training(step)[0].items.min()) for step in range(4)) >= 6
    config["data"]["train"]["ratio"] = [0.5, 0.5]
    run(config, folder / "mixed")
    section = config["data"]["train"] | {"path": [str(folder / "[ew]*.npz"), str(folder / "water.npz")]}
    data = open_dataset(section | {"ratio": [2, 1]})
    (all_of_both, _), (water, _) = shares_of(section | {"ratio": [2, 1]}, data)
    assert all_of_both + water == len(data) and water < all_of_both
    # A file at several lags, or with molecules side by side, is one entry.
    lags = section | {"every": [1, 2], "ratio": [2, 1]}
    data = open_dataset(lags)
    alone = [len(open_dataset(lags | {"path": [path], "ratio": [1]})) for path in lags["path"]]
    assert shares_of(lags, data) == [(alone[0], 2), (alone[1], 1)] and sum(alone) == len(data)
    pair = folder / "pair.npz"
    z, jitter = np.array([8, 1, 1, 8, 1, 1]), 0.03 * np.random.default_rng(0).normal(size=(20, 6, 3))
    frames = np.concatenate([WATER, WATER + 5]) + jitter
    np.savez(pair, R=frames, z=z, batch=np.array([0, 0, 0, 1, 1, 1]), edge_index=np.array([[0, 1, 3, 4], [1, 0, 4, 3]]))
    side = section | {"path": [str(pair)], "ratio": [1], "split_ratio": [1, 0, 0]}
    data = open_dataset(side)
    assert len(data.items.parts) == 2 and shares_of(side, data) == [(len(data), 1)]
    config["data"]["train"] |= {"split_by": "replica", "split_ratio": [0.5, 0.5, 0]}
    with pytest.raises(
        ValueError, match=r"data\.train: ratio needs windows of all 2 entries of the list, of which 1 have some"
    ):
        run(config, folder / "mixed_wrong")


def test_both_stages(folder, structure):
    log = [json.loads(line) for line in (structure / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[0] == pytest.approx(1, abs=0.4) and any("val_loss" in line for line in log)
    pretrained, _ = load_tensors(structure / "best.safetensors")
    about = {"pretrain_ckpt": str(structure), "freeze_spatial": True}
    config = interpolator_config(folder, network=about)
    run(config, folder / "frozen")
    for stem in ("last", "best"):
        learned, _ = load_tensors(folder / "frozen" / f"{stem}.safetensors")
        assert all(torch.equal(value, learned[name]) for name, value in pretrained.items())
        begun = {name: value for name, value in initial_network(config).named_parameters() if name not in pretrained}
        moved = [name for name, value in begun.items() if not torch.equal(value, learned[name])]
        assert len(moved) > len(begun) // 2
    state, _ = load_tensors(folder / "frozen" / "state.safetensors")
    moments = [state[f"adam.exp_avg.{name}"].abs().max() for name in pretrained]
    assert max(moments) == 0
    mixed = interpolator_config(folder, network=about | {"freeze_spatial": False})
    run(mixed, folder / "learning")
    learned, _ = load_tensors(folder / "learning" / "last.safetensors")
    assert not torch.equal(learned["input_linear.weight"], pretrained["input_linear.weight"])


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


def test_a_batch_goes_through_the_network_of_a_checkpoint(folder, structure):
    network, config = load_checkpoint(structure / "best.safetensors")
    diffusion = build_diffusion(network, config)
    batch = collate(open_dataset(config["data"]["val"]))
    x_start, about = Task.of_config(config).split(batch)
    losses = diffusion.training_losses(x_start, model_kwargs=about)["loss"]
    assert losses.shape == (len(batch.x),) and bool(losses.isfinite().all())
    bound = diffusion.calc_bpd_loop(x_start, about)["total_bpd"]
    assert bound.shape == (len(batch.x),)


BAD = [
    (
        {"denoise_model": {"type": "basic_ess"}},
        r"denoise_model\.type must be one of basic_es, .*did you mean 'basic_es'",
    ),
    ({"denoise_model": {"conditioning": "forwards"}}, "did you mean 'forward'"),
    ({"denoise_model": {"freeze_spatial": True}}, r"freeze_spatial needs .*denoise_model\.pretrain_ckpt"),
    (
        {"denoise_model": {"pretrain_ckpt": "a"}, "train": {"start_from": "b"}},
        r"train\.start_from does not go with denoise_model\.pretrain_ckpt, whose weights it would replace, got 'b'",
    ),
    ({"denoise_model": {"type": "basic_es"}}, r"conditioning must be left out for type basic_es, got 'forward'"),
    ({"denoise_model": {"node_dims": 3}}, "unknown key 'node_dims'; did you mean 'node_dim'"),
    ({"data": {"train": {"span": 1}}}, r"data\.train: span must be at least 2 for the conditioning forward, got 1"),
    ({"data": {"train": {"span": None}}}, r"data\.train: span, the frames of a window, must be a whole number"),
    ({"data": {"train": {"project": True}}}, "project must be frames"),
    ({"data": {"train": {"box": "auto"}}}, "box must be no"),
    ({"data": {"train": {"graph": {"radius": 3}}}}, "graph must be bonds"),
    ({"data": {"train": {"conditions": {"t": 3}}}}, "conditions do not go with type"),
    ({"data": {"val": {"kind": "nbody"}}}, "kind must be one of md17, npz, file, conformers; got 'nbody'"),
    ({"diffusion": {"mode": "uncond"}}, r"diffusion\.mode must be 'cond', or left out, .* got 'uncond'"),
    ({"train": {"cond_mask": [[0, 2]]}}, r"train\.cond_mask must be \[\[0, 1\]\], or left out"),
    ({"train": {"tot_len": 3}}, r"train\.tot_len must be None, or left out"),
    ({"train": {"block_history": 1}}, r"train\.block_history does not go with denoise_model\.type"),
    ({"diffusion": {"beta_schedule_name": "lin"}}, r"diffusion\.beta_schedule_name"),
    (
        {"diffusion": {"model_mean_type": "velocity"}},
        r"model_mean_type must be one of epsilon, start_x, previous_x; got",
    ),
    (
        {"diffusion": {"model_mean_type": "displacement"}},
        r"model_mean_type must be one of epsilon, start_x, previous_x",
    ),
    ({"diffusion": {"kind": "flow"}}, "diffusion: unknown key 'kind'"),
    ({"diffusion": {"sigma": 1.0}}, "diffusion: unknown key 'sigma'"),
    ({"diffusion": {"time_power": 2}}, "diffusion: unknown key 'time_power'"),
    ({"diffusion": {"prior": "walk"}}, "diffusion: unknown key 'prior'"),
]


def raw_config(folder) -> dict:
    path = str(folder / "ethanol.npz")
    section = lambda split: {"kind": "npz", "path": path, "split": split, "span": SPAN}
    return {
        "data": {split: section(split) for split in ("train", "val")},
        "denoise_model": INTERPOLATOR | SIZES | {"conditioning": "forward"},
        "diffusion": {"num_timesteps": 25},
        "train": {"exp_name": "tiny", "num_steps": 2, "batch_size": 4},
    }


@pytest.mark.parametrize("change, message", BAD)
def test_bad_configurations(folder, change, message):
    raw = raw_config(folder)
    for name, section in change.items():
        for key, value in section.items():
            raw[name][key] = (raw[name][key] | value) if isinstance(value, dict) and key in raw[name] else value
    with pytest.raises(ValueError, match=message):
        normalise_config(raw, "here")


def test_a_normal_configuration_stays(folder):
    config = normalise_config(raw_config(folder))
    assert normalise_config(config) == config
    assert config["train"]["cond_mask"] == [[0, 1]] and config["diffusion"]["mode"] == "cond"
    raw = raw_config(folder)
    raw["denoise_model"]["conditioning"] = "interpolation"
    assert normalise_config(raw)["train"]["cond_mask"] == [[0, 1], [SPAN - 1, SPAN]]
    raw["denoise_model"]["conditioning"] = "none"
    free = normalise_config(raw)
    assert free["train"]["tot_len"] == SPAN and free["diffusion"]["mode"] == "uncond"
    assert free["diffusion"]["model_mean_type"] == "epsilon"
    for given in (None, "epsilon", "start_x", "previous_x"):
        raw["diffusion"]["model_mean_type"] = given
        assert normalise_config(raw)["diffusion"]["model_mean_type"] == (given or "epsilon")
    raw["denoise_model"] |= {"freeze_spatial": True, "pretrain_ckpt": "a"}
    raw["train"]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=r"train\.weight_decay does not go with freeze_spatial"):
        normalise_config(raw)


@pytest.mark.parametrize("name", ["ays_structure_small", "ays_interpolator_small"])
def test_the_configurations_that_come_along_have_a_diffusion(name):
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    diffusion = build_diffusion(build_network(config), config)
    assert diffusion.model_mean_type is ModelMeanType.START_X and diffusion.num_timesteps == 1000
    config = load_config(ROOT / "configs" / f"{name}.yaml", ["diffusion.model_mean_type=null"])
    assert build_diffusion(build_network(config), config).model_mean_type is ModelMeanType.EPSILON


def test_what_does_not_fit(folder, structure):
    config = interpolator_config(folder, network={"ft_dim": 12})
    with pytest.raises(ValueError, match=r"denoise_model\.ft_dim must be 13, the features of atoms in data\.train"):
        run(config, folder / "no")
    config = interpolator_config(folder, network={"pretrain_ckpt": str(structure), "node_dim": 5})
    with pytest.raises(ValueError, match=r"denoise_model\.pretrain_ckpt: .* must be \[100, 5\], got \[100, 6\]"):
        run(config, folder / "no")
    config = interpolator_config(folder, network={"pretrain_ckpt": str(folder / "none.safetensors")})
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        run(config, folder / "no")


def test_models_of_the_other_family(folder, structure):
    run(tiny_config(num_steps=1), folder / "geotdm")
    config = interpolator_config(folder, network={"pretrain_ckpt": str(folder / "geotdm")})
    with pytest.raises(ValueError, match=r"pretrain_ckpt: .*this is a checkpoint of a GeoTDM model"):
        run(config, folder / "no")
    with pytest.raises(ValueError, match="this is a checkpoint of a GeoTDM model"):
        run(structure_config(folder, start_from=str(folder / "geotdm")), folder / "no")
    with pytest.raises(ValueError, match="this is a checkpoint of Align Your Structures"):
        run(tiny_config(start_from=str(structure)), folder / "no")
    with pytest.raises(ValueError, match=r"cannot resume .* data\.train\.kind must be 'nbody'"):
        run(structure_config(folder), folder / "geotdm")


def test_frames_that_are_given_are_centred(folder):
    data = open_dataset(interpolator_config(folder)["data"]["train"])
    means = np.array([item.x.mean(0).abs().max() for item in data])
    assert means.max() < 1e-5


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


def test_official_shapes_of_data():
    raw = {"denoiser": {"type": "basic_es", **SIZES}, "diffusion": {"num_timesteps": 50}, "train": {"batch_size": 3}}
    raw["train"] |= {"accum_grad": 2, "check_val_every_n_epoch": 3, "max_epochs": 7}
    raw["dataset"] = {"type": "tetrapeptide_drugs", "subsample": None, "remove_hs": True}
    raw["dataset"] |= {"train_conf_path_drugs": "d.pkl", "train_conf_path_tetrapeptide": "t.pkl"}
    raw["dataset"] |= {"mixing": {"ratio": {"DRUGS": 0.25, "TETRAPEPTIDE": 0.75}}}
    with pytest.warns(UserWarning, match=r"pickles are not read, files \.sdf of the same names are"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == ["d.sdf", "t.sdf"] and section["ratio"] == [0.25, 0.75] and not section["with_h"]
    train_section = config["train"]
    assert (train_section["batch_size"], train_section["accumulate"], train_section["num_epochs"]) == (6, 2, 7)
    raw["denoiser"] |= INTERPOLATOR | {"conditioning": "interpolation", "freeze_spatial": True}
    raw["dataset"] = {"type": "trajectory", "train_split": "a.csv", "subsample": 0.5, "expected_time_dim": 9}
    raw["dataset"] |= {"num_frames": 100, "frame_rate": 12, "start_frame": 3}
    with pytest.warns(UserWarning, match=r"lists of runs .* are not read.*subsample is passed over"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == "a.csv" and section["frames"] == [3, 103] and section["every"] == 12
    assert config["train"]["cond_mask"] == [[0, 1], [8, 9]] and not config["denoise_model"]["freeze_spatial"]
    lists = {"train_split_drugs": "d.csv", "train_split_qm9": "q.csv", "ratio": {"QM9": 0.25, "DRUGS": 0.75}}
    one = {key: value for key, value in raw["dataset"].items() if key != "train_split"}
    with pytest.warns(UserWarning, match=r"lists of runs .* are not read.*subsample is passed over"):
        section = normalise_config(raw | {"dataset": one | lists})["data"]["train"]
    assert section["path"] == ["d.csv", "q.csv"] and section["ratio"] == [0.75, 0.25]
    raw["dataset"] |= {"start_frame": None, "random_frame": True, "train_traj_dir": "runs/"}
    del raw["dataset"]["train_split"]
    with pytest.warns(UserWarning, match="subsample"):
        config = normalise_config(raw)
    section = config["data"]["train"]
    assert section["path"] == "runs/*/*/traj.xtc" and section["phases"] and "frames" not in section
    assert config["train"]["epoch"] == "runs" and normalise_config(config) == config
    raw["dataset"] |= {"val_traj_dir": "more", "filter_data": False, "frames_per_example_train": 9, "start_frame": 5}
    raw |= {"eval": {"batch_size": 3, "num_sample_batches": 2}, "test": {"ratio": 2}, "num_blocks": 4}
    with pytest.warns(UserWarning, match="subsample") as said:
        sections = normalise_config(raw)["data"]
    assert len(said) == 1 and sections["val"]["frames"] == [5, 105] and not sections["val"].get("phases")
    assert "weight_decay" not in str(said[0].message)
    decay = r"optim\.weight_decay 0\.01 is train\.weight_decay, which shrinks matrices apart from the gradient; in"
    with pytest.warns(UserWarning, match=decay):
        assert normalise_config(raw | {"optim": {"weight_decay": 0.01}})["train"]["weight_decay"] == 0.01
    mdgen = raw | {"dataset": raw["dataset"] | {"expected_time_dim": 251, "num_frames": 251, "frame_rate": 100}}
    with pytest.warns(UserWarning, match="subsample"):
        section = normalise_config(mdgen)["data"]["val"]
    start, stop = section["frames"]
    assert (start, stop) == (5, 25006) and len(range(start, stop, section["every"])) == section["span"] == 251
    for words in (
        "train_traj_dir, val_traj_dir: pickles are not read, files */*/traj.xtc with system.pdb and mol.sdf beside are",
        "validation and tests take the first window of each run",
        "passed over: dataset.filter_data, dataset.frames_per_example_train, dataset.start_frame (random_frame is "
        "true), eval.num_sample_batches, test, num_blocks",
    ):
        assert words in str(said[0].message)
    del raw["dataset"]["val_traj_dir"]
    del raw["dataset"]["train_traj_dir"]
    with pytest.raises(ValueError, match="dataset must name the training data"):
        normalise_config(raw)
    with pytest.raises(ValueError, match="section 'dataset' is missing, which a training needs"):
        normalise_config(raw | {"dataset": None})


def test_an_epoch_of_runs_has_a_window_of_each(folder):
    config = interpolator_config(folder, num_steps=None, num_epochs=3, epoch="runs", batch_size=1, log_every_step=1)
    config["train"] |= {"eval_every_epoch": 2, "checkpoint_every_steps": None}
    run(config, folder / "epochs")
    log = log_of(folder / "epochs")
    assert [(line["step"], line["epoch"]) for line in log if "loss" in line] == [(i, (i + 1) // 2) for i in range(1, 7)]
    assert [line["step"] for line in log if "val_loss" in line] == [4, 6]
    raw = raw_config(folder)
    raw["data"] = {"train": {"kind": "conformers", "path": str(folder / "conformers.npz")}}
    raw["denoise_model"] = {"type": "basic_es", **SIZES}
    raw["train"]["epoch"] = "runs"
    with pytest.raises(ValueError, match=r"train\.epoch runs needs data\.train\.kind npz or file, .* got conformers"):
        normalise_config(raw)


def test_frames_on_disk_train_alike(tmp_path):
    rng = np.random.default_rng(0)
    rows = lambda frame: "".join(f"{s} {a} {b} {c}\n" for s, (a, b, c) in zip("OHH", frame, strict=True))
    frames = [WATER + 3 + 0.02 * rng.normal(size=(3, 3)) for _ in range(30)]
    (tmp_path / "w.xyz").write_text("".join(f"3\nwater\n{rows(frame)}" for frame in frames))
    section = {"kind": "file", "path": str(tmp_path / "w.xyz"), "span": SPAN}
    raw = raw_config(tmp_path) | {"data": {"train": section | {"cache": str(tmp_path / "cache")}}}
    run(normalise_config(raw), tmp_path / "cached")
    run(normalise_config(raw | {"data": {"train": section}}), tmp_path / "plain")
    assert_same_run(tmp_path / "cached", tmp_path / "plain")
