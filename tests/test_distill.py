"""`geotdm_fast.distill`: a teacher's draws with their noise, the student that learns from them, and wrong requests."""

import pathlib

import numpy as np
import pytest
import torch
from tape import TapeRecorder
from tiny_ays import interpolator_config, write_runs
from tiny_models import charged_config, ethanol_config, tame_network, write_checkpoint, write_ethanol
from tiny_training import log_of

import geotdm_fast
from geotdm_fast import Model
from geotdm_fast.checkpoint import load_tensors, save_checkpoint
from geotdm_fast.config.diffusion_rules import time_power
from geotdm_fast.config.files import normalise_config, portable_config, read_yaml
from geotdm_fast.data import collate
from geotdm_fast.data.sections import open_dataset
from geotdm_fast.diffusion.one_call import one_call_losses
from geotdm_fast.distill import GRID, distill, draw_pairs, nearest_step, student_config
from geotdm_fast.families import build_diffusion, build_network
from geotdm_fast.runtime.digest import tensors_sha256
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.scores.equivariance import check_equivariance
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.objective import Objective
from geotdm_fast.training.pairs import open_pairs, pairs_of
from geotdm_fast.training.step import TrainingStep

SHORT = {"num_steps": 8, "batch_size": 4, "eval_every_step": 4, "checkpoint_every_steps": 3, "log_every_step": 2,
         "checkpoint_every_minutes": None, "warmup_steps": 0, "schedule": "none"}  # fmt: skip


def of_data(config: dict) -> dict:
    """With a network that predicts positions, whose draws stay near them whatever its weights are."""
    config["diffusion"]["model_mean_type"] = "start_x"
    return config


def uncond(config: dict) -> dict:
    config["diffusion"]["mode"] = "uncond"
    config["train"] |= {"cond_mask": None, "tot_len": 8}
    config["denoise_model"]["learn_ref_frame"] = False
    return normalise_config(config)


def flow(config: dict) -> dict:
    config["diffusion"] = {"num_timesteps": 25, "kind": "flow", "prior": "walk", "sigma": 0.2}
    return normalise_config(config)


TEACHERS = {
    "forecast": lambda: of_data(charged_config()),
    "interpolation": lambda: of_data(charged_config(cond_mask=[[0, 2], [10, 12]])),
    "unconditional": lambda: uncond(of_data(charged_config())),
    "flow": lambda: flow(charged_config()),
}


def teacher_in(folder: pathlib.Path, config: dict) -> Model:
    write_checkpoint(folder / "teacher.safetensors", config)
    return geotdm_fast.load(folder / "teacher.safetensors", device="cpu")


def prepared(folder: pathlib.Path, config: dict, num_pairs: int = 12, **options) -> tuple[Model, dict]:
    """A teacher and its student's configuration, whose pairs are drawn."""
    teacher = teacher_in(folder, config)
    student = student_config(teacher, folder / "teacher.safetensors", folder / "student")
    draw_pairs(teacher, student, num_pairs=num_pairs, progress=False, **options)
    return teacher, student


@pytest.mark.parametrize("kind", TEACHERS)
def test_pairs_are_the_teachers_draws_bit_for_bit(kind, tmp_path):
    teacher, config = prepared(tmp_path, TEACHERS[kind](), seed=7, steps=3)
    dataset = open_dataset(config["data"]["train"], progress=False)
    pairs = pairs_of(config, "train", dataset)
    assert (len(dataset), len(pairs.dataset), pairs.num_samples) == (6, 12, 2)
    method = teacher.diffusion.fast_method
    drawn = teacher.sample(dataset, 2, method=method, steps=3, seed=7, batch_size=12).samples
    task, numbers = teacher.task, torch.arange(12)
    batch = collate(pairs.dataset)
    x_start, model_kwargs = task.split(batch)
    # Pairs go graph by graph, samples sample by sample.
    expected = torch.from_numpy(drawn).reshape(2, 6, 5, 3, -1).transpose(0, 1).reshape(x_start.shape)
    assert torch.equal(x_start, expected)
    assert torch.equal(pairs.dataset[3].x[..., 0] == dataset[1].x[..., 0], torch.full((5, 3), task.is_conditional))
    # The noise that is not stored leads the sampler to the same draws.
    z = pairs.noise(numbers, batch.batch, *x_start.shape[1:])
    again = teacher.sampler(method, 3).draw(x_start.shape, model_kwargs, noise=lambda k: z)
    torch.testing.assert_close(again, x_start, rtol=0, atol=2e-5)
    # Those of validation have another seed, and one draw of each trajectory.
    val = pairs_of(config, "val", open_dataset(config["data"]["val"], progress=False))
    assert (val.seed, val.num_samples, len(val.dataset)) == (8, 1, 6)


def test_there_are_as_many_pairs_as_asked_for(tmp_path):
    _, config = prepared(tmp_path, charged_config(), num_pairs=4)
    pairs = pairs_of(config, "train", open_dataset(config["data"]["train"], progress=False))
    assert (len(pairs.dataset), pairs.num_samples) == (4, 1)
    _, config = prepared(tmp_path, charged_config(), num_pairs=7, num_graphs=3, restart=True)
    pairs = pairs_of(config, "train", open_dataset(config["data"]["train"], progress=False))
    assert (len(pairs.dataset), pairs.num_samples) == (9, 3)
    _, config = prepared(tmp_path, charged_config(), num_pairs=4, num_graphs=5, restart=True)
    pairs = pairs_of(config, "train", open_dataset(config["data"]["train"], progress=False))
    assert (len(pairs.dataset), pairs.num_samples) == (4, 1)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_student_learns_and_is_a_checkpoint_like_any_other(kind, tmp_path, curves):
    teacher = teacher_in(tmp_path, TEACHERS[kind]())
    distill(tmp_path / "teacher.safetensors", tmp_path / "student", num_pairs=12, device="cpu", progress=False,
            **SHORT | {"num_steps": 24, "lr": 3e-3})  # fmt: skip
    losses = [record["val_loss"] for record in log_of(tmp_path / "student") if "val_loss" in record]
    assert losses[-1] < losses[0]
    student = geotdm_fast.load(tmp_path / "student", device="cpu")
    assert "a student that draws in 1 call" in repr(student) and "a student" not in repr(teacher)
    assert "  draws " in repr(teacher) and "  draws " not in repr(student)
    with pytest.raises(ValueError, match=r"folder .--out. must be another folder than that of the teacher"):
        student_config(teacher, tmp_path / "teacher.safetensors", tmp_path)
    assert student.sampler().num_steps == 1
    data = open_dataset(student.config["data"]["test"], progress=False)
    drawn = student.sample(data, 2, seed=3)
    assert np.isfinite(drawn.samples).all() and drawn.samples.shape[0] == 2
    assert not np.array_equal(drawn.samples[0], drawn.samples[1])
    assert np.array_equal(student.sample(data, 2, seed=3).samples, drawn.samples)
    student.save(tmp_path / "again.safetensors")
    again = geotdm_fast.load(tmp_path / "again.safetensors", device="cpu")
    assert np.array_equal(again.sample(data, 2, seed=3).samples, drawn.samples)
    score = "marginal" if kind == "unconditional" else "ade"
    assert score.replace("ade", "forecast") in student.evaluate(drawn, score)
    with pytest.raises(ValueError, match="a student of 1 call" if kind != "flow" else "has no likelihood"):
        student.likelihood(data)
    if kind == "forecast":
        rolled = student.rollout(data, 20, seed=3).samples
        assert rolled.shape[-1] == 20
        np.testing.assert_allclose(rolled[..., :8], student.forecast(data, seed=3).samples, atol=1e-5)
    about = student.config["distill"]["teacher"]
    assert about["weights_sha256"] == tensors_sha256(teacher.network.state_dict())
    assert (about["checkpoint"], about["num_steps"], about["seed"]) == ("teacher.safetensors", 5, 1)
    found = list(check_equivariance(student.diffusion, student.task, kinds=("nbody",), precisions=("float64",)))
    assert found and all(one.holds for one in found)


def test_a_student_in_pieces_is_one_that_was_not_stopped(tmp_path, curves):
    _, config = prepared(tmp_path, charged_config())
    run = lambda name, **more: train(
        config | {"train": config["train"] | SHORT | more}, output_dir=tmp_path / name, device="cpu", progress=False
    )
    run("whole")
    run("pieces", num_steps=5)
    run("pieces")
    for name in ("last", "state"):
        whole, pieces = (load_tensors(tmp_path / run / f"{name}.safetensors")[0] for run in ("whole", "pieces"))
        assert whole.keys() == pieces.keys() and all(torch.equal(whole[key], pieces[key]) for key in whole)


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_captured_step_is_the_eager_one(kind, tmp_path):
    _, config = prepared(tmp_path, TEACHERS[kind]())
    config = normalise_config(config)
    pairs = pairs_of(config, "train", open_dataset(config["data"]["train"], progress=False))

    def trained(record) -> TrainingStep:
        network, task = tame_network(config).train(), Task.of_config(config)
        weights = FlatWeights(network)
        source = BatchSource(
            DeviceData(pairs.dataset, "cpu"), seed=0, batch_size=4, num_timesteps=25, num_noisy=task.num_noisy(12),
            time_power=time_power(config), pairs=pairs,
        )  # fmt: skip
        objective = Objective(build_diffusion(network, config), task)
        ours, about = Processes(0, 1, torch.device("cpu")), config["train"] | {"cuda_graph": record is not None}
        step = TrainingStep(about, objective, weights, None, source, ours, record=record)
        for number in range(5):
            step(source.training(number), 1e-3, number + 1)
        return step

    eager, captured = trained(None), trained(TapeRecorder())
    assert captured.captures and not eager.captures
    expected = eager.named_state() | {"sums": eager.sums}
    state = captured.named_state() | {"sums": captured.sums}
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def test_pairs_that_are_there_are_not_drawn_again(tmp_path):
    _, config = prepared(tmp_path, charged_config())
    folder = tmp_path / "student" / "pairs" / "train"
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    prepared(tmp_path, charged_config())
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    (folder / "shard-000000.npz").unlink()
    with pytest.raises(ValueError, match=r"must hold 1 shards, got 0; .*; the same command goes on"):
        train(config, output_dir=tmp_path / "student", device="cpu", progress=False)
    prepared(tmp_path, charged_config())
    assert (folder / "shard-000000.npz").read_bytes() == before["shard-000000.npz"][1]
    with pytest.raises(ValueError, match="seed is 1 there, asked for is 2"):
        prepared(tmp_path, charged_config(), seed=2)


def test_the_step_of_the_call_is_the_nearest(tmp_path):
    teacher, student = prepared(tmp_path, of_data(charged_config()))
    chosen = nearest_step(teacher, student)
    dataset = open_dataset(student["data"]["train"], progress=False)
    pairs = open_pairs(pathlib.Path(student["distill"]["pairs"]) / "train", dataset, teacher.task)
    batch = collate(pairs.dataset)
    x_start, model_kwargs = teacher.task.split(batch)
    z = pairs.noise(torch.arange(12), batch.batch, *x_start.shape[1:])
    x_ref, far = teacher.diffusion.get_ref_frame(model_kwargs), {}
    with torch.no_grad():
        for step in range(24, -1, -1):
            x = x_ref + float(teacher.diffusion.sqrt_one_minus_alphas_cumprod[step]) * z
            output, _ = teacher.network(x=x, diffusion_t=torch.full((len(x),), step), **model_kwargs)
            far[step] = float((x_ref + output - x_start).square().mean())
    looked_at = {24 - i * 25 // GRID for i in range(GRID)}
    assert chosen == min(looked_at, key=far.get)


def test_the_step_is_looked_for_in_batches_of_the_training(tmp_path, monkeypatch):
    teacher, student = prepared(tmp_path, of_data(charged_config()))
    student["train"]["batch_size"] = 12
    whole = nearest_step(teacher, student)
    graphs = []

    def counted(diffusion, x_start, model_kwargs, noise):
        graphs.append(int(model_kwargs["batch"].max()) + 1)
        return one_call_losses(diffusion, x_start, model_kwargs, noise)

    monkeypatch.setattr("geotdm_fast.distill.one_call_losses", counted)
    student["train"]["batch_size"] = 5
    assert nearest_step(teacher, student) == whole
    assert graphs == [count for count in (5, 5, 2) for _ in range(GRID)]


def test_windows_of_history_are_cut_to_those_of_the_model(tmp_path):
    config = charged_config(block_history=1)
    config["data"]["train"]["num_frames"] = 20  # 4 given, 8 of history, 8 to predict
    config["data"]["test"]["num_frames"] = 44  # for rollouts
    student = student_config(teacher_in(tmp_path, config), "teacher.safetensors", tmp_path)
    assert [student["data"][split]["num_frames"] for split in ("train", "val", "test")] == [12, 12, 44]
    assert student["train"]["block_history"] == 0


def test_a_students_file_names_no_folder_of_this_machine(tmp_path):
    _, config = prepared(tmp_path, charged_config())
    portable = portable_config(normalise_config(config))
    assert (portable["distill"]["pairs"], portable["train"]["start_from"]) == ("pairs", "teacher.safetensors")


def test_a_student_has_none_itself(tmp_path, curves):
    distill(write_checkpoint(tmp_path / "teacher.safetensors", charged_config()), tmp_path / "student", num_pairs=6,
            device="cpu", progress=False, **SHORT | {"num_steps": 1})  # fmt: skip
    with pytest.raises(ValueError, match=r"the teacher must be a model of all steps, got best.safetensors, a student"):
        distill(tmp_path / "student", tmp_path / "other", num_pairs=6, device="cpu", progress=False)


def test_models_of_align_your_structures_have_no_student(tmp_path):
    write_runs(tmp_path)
    config = interpolator_config(tmp_path)
    save_checkpoint(tmp_path / "ays.safetensors", build_network(config), config)
    with pytest.raises(ValueError, match="a model of Align Your Structures"):
        distill(tmp_path / "ays.safetensors", tmp_path / "student", num_pairs=2, device="cpu", progress=False)


@pytest.mark.parametrize("section", ["data", "denoise_model", "diffusion", "train"])
def test_a_teacher_without_a_section_has_no_student(section, tmp_path):
    teacher = teacher_in(tmp_path, charged_config())
    del teacher.config[section]
    message = f"distill: the configuration of teacher.safetensors must have a section '{section}', got "
    with pytest.raises(ValueError, match=message):
        student_config(teacher, "x", tmp_path)


def test_a_teacher_that_is_told_of_noise_has_no_student(tmp_path):
    config = charged_config(context_noise=0.1, context_noise_told=True)
    config["denoise_model"]["node_dim"] = 2
    with pytest.raises(ValueError, match="must not be told of noise on its given frames"):
        student_config(teacher_in(tmp_path, config), "x", tmp_path)


def test_an_unconditional_teacher_with_edges_by_distance_of_a_frame_has_no_student(tmp_path):
    config = uncond(charged_config())
    config["denoise_model"] |= {"graph": {"radius": 2.0, "of": "given"}, "edge_dim": 0}
    with pytest.raises(ValueError, match="must be given frames where its edges are by distance in these"):
        student_config(teacher_in(tmp_path, normalise_config(config)), "x", tmp_path)
    config["denoise_model"]["graph"] = {"radius": 2.0, "of": "current"}
    assert student_config(teacher_in(tmp_path, normalise_config(config)), "x", tmp_path)["diffusion"]["calls"] == 1


def test_a_mixture_is_learned_without_its_shares(tmp_path, curves):
    for name in ("a", "b"):
        write_ethanol(tmp_path / f"{name}.npz")
    config = ethanol_config(tmp_path / "a.npz", "cond")
    config["data"]["train"] |= {"path": [str(tmp_path / f"{name}.npz") for name in ("a", "b")], "ratio": [1, 3]}
    write_checkpoint(tmp_path / "teacher.safetensors", normalise_config(config))
    with pytest.warns(UserWarning, match=r"data\.train\.ratio of the teacher is left out"):
        distill(tmp_path / "teacher.safetensors", tmp_path / "student", num_pairs=6, device="cpu", progress=False,
                **SHORT)  # fmt: skip
    student = geotdm_fast.load(tmp_path / "student").config
    assert student["data"]["train"].get("ratio") is None
    student["data"]["train"]["ratio"] = [1, 3]
    with pytest.raises(ValueError, match=r"data\.train\.ratio does not go with the section distill"):
        normalise_config(student)


def test_the_function_takes_what_the_command_takes_and_goes_on_at_the_step_it_found(tmp_path, curves, monkeypatch):
    source, folder = write_checkpoint(tmp_path / "teacher.safetensors", charged_config()), tmp_path / "student"
    draws = {"num_pairs": 6, "num_graphs": 3, "seed": 5, "method": "ddim", "steps": 4, "spacing": "quadratic"}
    draws |= {"device": "cpu", "progress": False}
    assert distill(source, folder, **draws, **SHORT | {"max_minutes": 1e-9}) == folder / "last.safetensors"
    monkeypatch.setattr("geotdm_fast.distill.nearest_step", lambda *_: pytest.fail("the step was looked for again"))
    assert distill(source, folder, **draws, **SHORT) == folder / "best.safetensors"
    about = read_yaml(folder / "config.yaml")
    told = {name: about["distill"]["teacher"][name] for name in ("num_graphs", "num_samples", "seed", "method")}
    assert told == {"num_graphs": 3, "num_samples": 2, "seed": 5, "method": "ddim"}
    assert about["distill"]["teacher"]["num_steps"] == 4 and about["diffusion"]["call_step"] is not None
    monkeypatch.setattr("geotdm_fast.distill.nearest_step", lambda *_: 3)
    distill(source, folder, **draws | {"seed": 6}, restart=True, **SHORT)
    assert read_yaml(folder / "config.yaml")["diffusion"]["call_step"] == 3


def test_pairs_of_a_method_that_adds_noise_are_refused(tmp_path):
    _, config = prepared(tmp_path, charged_config())
    manifest = tmp_path / "student" / "pairs" / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dpmpp_2m"', '"ddpm"'))
    with pytest.raises(ValueError, match=r"train: the teacher's method must add no noise on the way, .* got 'ddpm'"):
        pairs_of(config, "train", open_dataset(config["data"]["train"], progress=False))


def test_numbers_out_of_range_are_refused_before_the_draws(tmp_path):
    with pytest.raises(ValueError, match=r"seed must be at most 2\^64 - 2, .* got 18446744073709551615"):
        prepared(tmp_path, charged_config(), seed=2**64 - 1)
    for wrong in ("num_pairs", "num_graphs"):
        with pytest.raises(ValueError, match=f"distill: {wrong} must be at least 1, got 0"):
            prepared(tmp_path, charged_config(), **{"num_pairs": 12, wrong: 0})
    assert not (tmp_path / "student").exists()


def test_a_student_of_a_flow_is_not_guided(tmp_path):
    config = flow(charged_config()) | {"distill": {"pairs": "pairs"}}
    config["diffusion"]["calls"] = 1
    student = teacher_in(tmp_path, normalise_config(config))
    batch = collate(open_dataset(config["data"]["test"], progress=False))
    x_start, model_kwargs = student.task.split(batch)
    with pytest.raises(ValueError, match=r"Sampler\.draw: cond_fn must be None where guidance has no weight"):
        student.sampler().draw(x_start.shape, model_kwargs, cond_fn=lambda x, t: -x)


def test_a_method_that_adds_noise_is_refused(tmp_path):
    for method in ("ddpm", "dpmpp_2m_sde"):
        with pytest.raises(ValueError, match=f"distill: method must add no noise on the way, .* got '{method}'"):
            prepared(tmp_path, charged_config(), method=method)


def test_pairs_of_other_data_or_another_task_are_refused(tmp_path):
    _, config = prepared(tmp_path, charged_config())
    other = normalise_config(config)
    other["data"]["train"]["seed"] = 5
    with pytest.raises(ValueError, match=r"trajectory 0 must be that of data, got another; draw the pairs anew"):
        train(other, output_dir=tmp_path / "run", device="cpu", progress=False)
    other = normalise_config(config)
    other["train"]["cond_mask"], other["denoise_model"]["num_w"] = [[0, 5]], 7
    with pytest.raises(ValueError, match=r"draws of a teacher that is given \[\[0, 5\]\], got \[\[0, 4\]\]"):
        train(other, output_dir=tmp_path / "run", device="cpu", progress=False)


def test_what_the_teacher_recommends_is_not_the_students(tmp_path, curves):
    """And its pairs are drawn as without it."""
    recommended = normalise_config(of_data(charged_config()) | {"sampling": {"method": "ddim", "steps": 3}})
    teacher = teacher_in(tmp_path, recommended)
    assert teacher.sampler().num_steps == 3 and "  draws      ddim in 3 steps (recommended" in repr(teacher)
    distill(tmp_path / "teacher.safetensors", tmp_path / "student", num_pairs=6, device="cpu", progress=False, **SHORT)
    student = geotdm_fast.load(tmp_path / "student", device="cpu")
    assert student.recommended is None and student.sampler().num_steps == 1
    about = student.config["distill"]["teacher"]
    assert (about["method"], about["num_steps"]) == (teacher.diffusion.fast_method, 5)


def test_the_draws_of_molecules(tmp_path, curves):
    write_ethanol(tmp_path / "ethanol.npz")
    write_checkpoint(tmp_path / "teacher.safetensors", ethanol_config(tmp_path / "ethanol.npz", "cond"))
    distill(tmp_path / "teacher.safetensors", tmp_path / "student", num_pairs=6, device="cpu", progress=False, **SHORT)
    assert geotdm_fast.load(tmp_path / "student").data["kind"] == "md17"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusion": {"calls": None}}, "diffusion.calls and the section distill"),
        ({"distill": None}, "diffusion.calls and the section distill"),
        ({"diffusion": {"calls": 2}}, "diffusion.calls must be at most 1"),
        ({"diffusion": {"call_step": 25}}, "diffusion.call_step must be below diffusion.num_timesteps, 25, got 25"),
        ({"train": {"rotate": True}}, "train.rotate does not go with the section distill"),
        ({"train": {"eval": "nll"}}, "train.eval nll does not go with the section distill"),
        ({"distill": {}}, "distill: required key 'pairs'"),
    ],
)
def test_configurations_of_no_student_are_errors_by_name(change, message, tmp_path):
    config = student_config(teacher_in(tmp_path, charged_config()), "teacher.safetensors", tmp_path)
    for name, section in change.items():
        config[name] = section if not section else config[name] | section
    with pytest.raises(ValueError, match=message):
        normalise_config(config)
