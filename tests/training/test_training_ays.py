"""Training models of Align Your Structures: both stages, what learns, what is given, what is refused."""

import json

import numpy as np
import pytest
import torch
from ays_trainings import folder_of_runs, run, source_of, trained_structure
from tiny_ays import SPAN, interpolator_config, structure_config
from tiny_training import tiny_config

from geotdm_fast.ays.diffusion import OurDiffusion
from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.config.ays_files import free_share
from geotdm_fast.data import collate, open_dataset
from geotdm_fast.families import build_diffusion, load_checkpoint
from geotdm_fast.task import Task
from geotdm_fast.training.initial_weights import initial_network
from geotdm_fast.training.objective import Objective


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of_runs(tmp_path_factory)


@pytest.fixture(scope="module")
def structure(folder):
    return trained_structure(folder)


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


def test_a_batch_goes_through_the_network_of_a_checkpoint(folder, structure):
    network, config = load_checkpoint(structure / "best.safetensors")
    diffusion = build_diffusion(network, config)
    batch = collate(open_dataset(config["data"]["val"]))
    x_start, about = Task.of_config(config).split(batch)
    losses = diffusion.training_losses(x_start, model_kwargs=about)["loss"]
    assert losses.shape == (len(batch.x),) and bool(losses.isfinite().all())
    bound = diffusion.calc_bpd_loop(x_start, about)["total_bpd"]
    assert bound.shape == (len(batch.x),)


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
