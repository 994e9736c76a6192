"""Which frames are given: the object that models, samplers and scores are told by."""

import pytest
import torch
from cases import NUM_FRAMES, case

from geotdm_fast.conditioning import frames_of
from geotdm_fast.task import Task


def test_split_conditional():
    batch = case("molecule").batch
    x_start, model_kwargs = Task(given=[[0, 1], [3, 5]]).split(batch)
    assert torch.equal(x_start, batch.x[..., [1, 2, 5, 6]])
    assert model_kwargs["x_given"] is batch.x and model_kwargs["h"] is batch.h
    assert model_kwargs["cond_mask"].reshape(-1).tolist() == [1, 0, 0, 1, 1, 0, 0]
    assert {*model_kwargs} == {"h", "edge_index", "edge_attr", "batch", "cond_mask", "x_given"}


def test_split_unconditional():
    batch = case("pedestrian").batch  # h has frames as well
    x_start, model_kwargs = Task(num_frames=4).split(batch)
    assert torch.equal(x_start, batch.x[..., :4]) and torch.equal(model_kwargs["h"], batch.h[..., :4])
    assert "cond_mask" not in model_kwargs
    x_start, _ = Task().split(batch)
    assert torch.equal(x_start, batch.x)
    with pytest.raises(ValueError, match=f"train.tot_len must be at most the {NUM_FRAMES} frames of the data, got 8"):
        Task(num_frames=8).split(batch)


def test_boxes_that_change_are_known_as_far_as_the_given_frames():
    batch = case("molecule").batch
    batch.cell = torch.randn(batch.num_graphs, NUM_FRAMES, 3, 3, generator=torch.Generator().manual_seed(0))
    batch.pbc = torch.ones(batch.num_graphs, 3, dtype=torch.bool)
    _, model_kwargs = Task(given=[[0, 2]]).split(batch)
    assert torch.equal(model_kwargs["cell"].vectors, batch.cell[:, [0, 1, 1, 1, 1, 1, 1]])
    assert model_kwargs["cell"].pbc is batch.pbc
    _, model_kwargs = Task(num_frames=4).split(batch)
    assert torch.equal(model_kwargs["cell"].vectors, batch.cell[:, [0, 0, 0, 0]])
    batch.cell = batch.cell[:, :1]
    assert torch.equal(Task(num_frames=4).split(batch)[1]["cell"].vectors, batch.cell)


def test_a_mask_that_somebody_changed_is_made_anew():
    batch, task = case("molecule").batch, Task(given=[[0, 2]])
    task.split(batch)[1]["cond_mask"].zero_()
    mask = task.split(batch)[1]["cond_mask"]
    assert mask.reshape(-1).tolist() == [1, 1, 0, 0, 0, 0, 0] and frames_of(mask).given == (0, 1)


def test_a_mask_made_in_inference_mode_serves_a_training():
    batch, task = case("molecule").batch, Task(given=[[0, 3]])
    with torch.inference_mode():
        task.split(batch)
    x_start, model_kwargs = task.split(batch)
    weight = torch.ones(1, requires_grad=True)
    (x_start * weight * model_kwargs["cond_mask"].sum()).sum().backward()
    assert weight.grad is not None


def test_of_a_configuration():
    config = {"diffusion": {"mode": "cond"}, "train": {"cond_mask": [[0, 10], [25, 30]], "tot_len": None}}
    task = Task.of_config(config)
    assert (
        task == Task(given=((0, 10), (25, 30))) and task.mode == "cond" and hash(task) == hash(Task.of_config(config))
    )
    assert task.num_noisy(30) == 15 and task.window(15) == 30 and task.window(3) == 30
    free = Task.of_config({"diffusion": {"mode": "uncond"}, "train": {"tot_len": 20}})
    assert free == Task(num_frames=20) and free.mode == "uncond" and free.num_noisy(30) == 20 and free.window(20) == 20


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"given": [[0]]}, TypeError, r"task: given must be ranges \[\[start, stop\], \.\.\.\] of frames, got"),
        ({"given": "0:3"}, TypeError, "task: given must be ranges"),
        ({"given": [[0, 5.0]]}, TypeError, "task: given must be ranges"),
        ({"given": [[0, 5]], "num_frames": 5}, ValueError, "must give some frames and leave some, got 5 given of 5"),
        ({"given": [[3, 9]], "num_frames": 5}, ValueError, r"ranges must lie in 0\.\.5 .*\[3, 9\]"),
        ({"num_frames": 0}, ValueError, "num_frames must be a whole number of at least 1, got 0"),
    ],
)
def test_what_is_no_task(arguments, error, message):
    with pytest.raises(error, match=message):
        Task(**arguments)


def test_of_another_mode_than_the_model():
    with pytest.raises(ValueError, match=r"sample: task must be one for a model of mode 'uncond', got one that would"):
        Task(given=[[0, 2]]).check_mode("sample", "uncond")
