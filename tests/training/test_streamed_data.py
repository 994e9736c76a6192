"""Training on windows that lie in files: batches, their order and every step are those of data in memory."""

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from molecule_frames import WATER, motion, write, xyz_text
from pretended_cuda import PretendedGPU
from tape import TapeRecorder
from test_training_device_data import boxed, joined, molecule
from test_training_step import assert_same_state, make_step, run, steps_config
from tiny_training import assert_same_run, tiny_config

from geotdm_fast import backend
from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.config.files import normalise_config
from geotdm_fast.data import file_dataset, open_dataset
from geotdm_fast.data.conditions import conditions_of, with_conditions
from geotdm_fast.data.joined import join_datasets
from geotdm_fast.training import streamed_data, train
from geotdm_fast.training.ahead import Ahead
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.streamed_data import StreamedData, data_for_training

SPAN = 6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)


@pytest.fixture
def files(tmp_path):
    """Two runs of ethanol of other lengths, and one of water."""
    paths = {name: tmp_path / f"{name}.xyz" for name in ("long", "short", "water")}
    write(paths["long"], xyz_text(motion(40)))
    write(paths["short"], xyz_text(motion(19, seed=1)))
    write(paths["water"], xyz_text(motion(25, base=WATER, seed=2), labels="OHH"))
    return {name: str(path) for name, path in paths.items()}


def section(files, *names, **more):
    paths = [files[name] for name in names]
    return {"kind": "file", "path": paths, "span": SPAN, "atom_types": [1, 6, 8]} | more


def boxed_file(path, changes, seed=0):
    size = lambda t: 20 * (1 + 0.001 * t * changes)
    comment = lambda t: (
        f'Lattice="{size(t)} 0 0 1 {size(t)} 0 0 0 {size(t)}" pbc="T T T" Properties=species:S:1:pos:R:3 time={t}'
    )
    return write(path, xyz_text(motion(20, seed=seed), comment=comment))


def both(tmp_path, section):
    return open_dataset(section), open_dataset(section | {"cache": str(tmp_path / "cache")})


def assert_same_batches(one, other, steps=9, **options):
    """The same draws and batches, step by step; they go over several epochs."""
    about = {"seed": 3, "num_timesteps": 10, "num_noisy": 3, "batch_size": 7} | options
    sources = [BatchSource(data, **about) for data in (one, other)]
    assert sources[0].per_epoch == sources[1].per_epoch
    for step in steps if isinstance(steps, list) else range(steps):
        for mine, theirs in zip(*(source.training(step) for source in sources), strict=True):
            assert mine.gathered is None and theirs.gathered is not None
            a, b = (source.noised(draw) for source, draw in zip(sources, (mine, theirs), strict=True))
            assert_same_noised(a, b)
    for (items, a), (others, b) in zip(*(source.validation(11) for source in sources), strict=True):
        assert torch.equal(items, others)
        assert_same_noised(a, b)


def assert_same_noised(a, b):
    for name in ("steps", "noise", "weight", "graph_of_scored"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for field in dataclasses.fields(a.batch):
        mine, theirs = getattr(a.batch, field.name), getattr(b.batch, field.name)
        same = torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
        assert same, field.name


@pytest.mark.parametrize("rotate", [False, True])
def test_batches_of_mixed_replicas_are_those_of_memory(files, tmp_path, rotate):
    memory, cached = both(tmp_path, section(files, "long", "short", "water", stride=2, project=rotate))
    data, streamed = data_for_training(memory, "cpu"), data_for_training(cached, "cpu")
    assert type(data) is DeviceData and type(streamed) is StreamedData
    assert len(data) == len(streamed) == len(cached) and not streamed.same_graph
    assert np.array_equal(streamed.sizes_of(np.arange(len(data))), data.sizes)
    assert_same_batches(data, streamed, rotate=rotate, accumulate=2)
    assert_same_batches(data, streamed, rank=1, world_size=3, context=ContextNoise(0.3, (0, 1, 2), torch.device("cpu")))
    items = torch.tensor([len(data) - 1, 0, 3])
    assert torch.equal(data.batch(items, data.structure(items)).x, streamed.batch(items, streamed.structure(items)).x)


@pytest.mark.parametrize("changes", [False, True])
def test_boxes_go_with_the_windows(tmp_path, changes):
    names = {"a": boxed_file(tmp_path / "a.xyz", False), "b": boxed_file(tmp_path / "b.xyz", changes, seed=1)}
    memory, cached = both(tmp_path, section({k: str(v) for k, v in names.items()}, "a", "b", remove_drift=True))
    data, streamed = data_for_training(memory, "cpu"), data_for_training(cached, "cpu")
    assert_same_batches(data, streamed, rotate=True)
    for mine, theirs in zip(data.boxes, streamed.boxes, strict=True):
        assert torch.equal(mine, theirs)


def test_conditions_go_with_the_windows(files, tmp_path):
    told = {"conditions": {"temperature": [300, 350, 310], "lag": "frames"}, "every": [1, 2]}
    memory, cached = both(tmp_path, section(files, "long", "short", "water", **told))
    assert [item.conditions.tolist() for item in (cached[0], cached[len(cached) - 1])] == [[1, 300], [2, 310]]
    assert_same_batches(data_for_training(memory, "cpu"), data_for_training(cached, "cpu"))


def test_numbers_for_each_window_are_refused_where_windows_lie_in_files(files, tmp_path):
    memory, cached = both(tmp_path, section(files, "long", "short"))
    told = [with_conditions(data, {"pull": torch.arange(float(len(data)))}) for data in (memory, cached)]
    assert len(data_for_training(told[0], "cpu")) == len(memory)
    for dataset in (told[1], join_datasets([told[1], told[0]]), with_conditions(told[1], {"temperature": 3.0})):
        with pytest.raises(
            ValueError, match=r"the conditions \w+ of windows that lie in a cache must be one number for"
        ):
            data_for_training(dataset, "cpu")
    with_all = with_conditions(cached, {"temperature": 3.0})
    assert data_for_training(with_all, "cpu").gather(torch.tensor([5])).conditions.tolist() == [[3.0]]


def test_conditions_are_looked_at_in_one_reading(files, tmp_path, monkeypatch):
    _, cached = both(tmp_path, section(files, "long"))
    told, read, real = with_conditions(cached, {"pull": range(len(cached))}), [], type(cached.items).__getitem__
    monkeypatch.setattr(type(cached.items), "__getitem__", lambda self, i: (read.append(i), real(self, i))[1])
    assert conditions_of(told)[1][:, 0].tolist() == list(range(len(cached))) and read == list(range(len(cached)))


def test_what_is_in_memory_may_stand_beside_what_is_not(files, tmp_path):
    about = {"span": 5, "atom_types": [1, 6, 8]}
    stored = file_dataset(files["water"], cache=tmp_path / "cache", **about)
    dataset = joined(
        molecule([6, 6, 8], atom_types=[1, 6, 8]), stored, molecule([6, 1, 8], seed=4, atom_types=[1, 6, 8])
    )
    memory = joined(
        molecule([6, 6, 8], atom_types=[1, 6, 8]),
        file_dataset(files["water"], **about),
        molecule([6, 1, 8], seed=4, atom_types=[1, 6, 8]),
    )
    assert_same_batches(DeviceData(memory), data_for_training(dataset, "cpu"))
    assert_same_batches(DeviceData(memory), StreamedData(memory), steps=2)
    assert_same_batches(DeviceData(boxed(True)), StreamedData(boxed(True)), steps=2)


def test_all_of_a_cache_in_memory_where_it_is_asked_for(files, tmp_path):
    memory, cached = both(tmp_path, section(files, "long"))
    data = DeviceData(cached)
    assert torch.equal(data._tables.x, DeviceData(memory)._tables.x) and torch.equal(
        data._tables.first, DeviceData(memory)._tables.first
    )


def test_more_files_than_may_be_open(files, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_data, "_OPEN_FILES", 1)
    memory, cached = both(tmp_path, section(files, "long", "short", "water"))
    streamed = data_for_training(cached, "cpu")
    assert_same_batches(data_for_training(memory, "cpu"), streamed, steps=3)
    assert len(streamed._open_files) == 1


def test_two_threads_read_one_after_the_other(files, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_data, "_OPEN_FILES", 1)
    memory, cached = both(tmp_path, section(files, "long", "short", "water"))
    streamed, inside, most = data_for_training(cached, "cpu"), [], []
    real = streamed._read

    def read(*args):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        found = real(*args)
        inside.pop()
        return found

    monkeypatch.setattr(streamed, "_read", read)
    items = [torch.randperm(len(cached), generator=torch.Generator().manual_seed(i))[:9] for i in range(6)]
    with ThreadPoolExecutor(2) as pool:
        gathered = list(pool.map(streamed.gather, items))
    assert max(most) == 1 and len(streamed._open_files) == 1
    for one, windows in zip(items, gathered, strict=True):
        assert torch.equal(windows.x, torch.cat([memory[i].x.flatten() for i in one.tolist()]))


def test_steps_asked_for_out_of_order_are_the_same(files, tmp_path):
    memory, cached = both(tmp_path, section(files, "long", "short"))
    assert_same_batches(
        data_for_training(memory, "cpu"), data_for_training(cached, "cpu"), steps=[0, 1, 8, 7, 30, 2, 3, 0]
    )


# --- steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_captured_step_takes_windows_that_are_read(files, tmp_path, accumulate):
    memory, cached = both(tmp_path, section(files, "long", "short"))
    settings = {"batch_size": 9, "rotate": True, "accumulate": accumulate}
    expected = run(make_step(memory, config=steps_config(memory, **settings)), 0, 7)
    captured = make_step(cached, config=steps_config(cached, **settings), record=TapeRecorder())
    captured.source.data = data_for_training(cached, "cpu")
    run(captured, 0, 7)
    assert captured.captures and not captured.lines
    assert_same_state(expected, captured)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_on_a_gpu_windows_come_from_pinned_memory_and_nothing_is_waited_for(files, tmp_path):
    """On pretended tensors: a captured step, with batches of the same size, on the same numbers as in memory."""
    memory, cached = both(tmp_path, section(files, "long", "short"))
    settings = {"batch_size": 7, "rotate": True}
    expected = run(make_step(memory, config=steps_config(memory, **settings)), 0, 3)
    with PretendedGPU() as gpu, backend("reference"):
        there = make_step(cached, "cuda", config=steps_config(cached, **settings))
        there.source.data = data_for_training(cached, "cuda")
        assert isinstance(there.source.data, StreamedData)
        run(there, 0, 1)
        before = gpu.waits.copy()
        run(there, 1, 3)
        assert gpu.waits == before and there.captures and gpu.graphs == 1 and not there.lines
        sums = there.sums.cpu()
    torch.testing.assert_close(sums, expected.sums, rtol=1e-5, atol=0)


def config_of(files, cache=None, **more):
    raw = tiny_config(**{"num_steps": 30, "batch_size": 6, "checkpoint_every_steps": 7, "log_every_step": 5} | more)
    keys = {} if cache is None else {"cache": str(cache)}
    raw["data"] = {
        split: section(files, "long", "short", "water", split=split, span=4, split_ratio=[0.6, 0.3, 0.1], **keys)
        for split in ("train", "val")
    }
    raw["denoise_model"] |= {"node_dim": 9, "edge_dim": 4, "num_w": 2}
    raw["train"]["cond_mask"] = [[0, 2]]
    return normalise_config(raw)


def test_a_training_and_its_resume_are_those_of_memory(files, tmp_path):
    options = {"accumulate": 2, "rotate": True, "eval_every_step": 6, "eval_graphs": 7, "nll_every_step": 6}
    train(config_of(files, **options), output_dir=tmp_path / "memory", device="cpu", progress=False)
    cached = config_of(files, cache=tmp_path / "cache", **options)
    train(
        cached | {"train": cached["train"] | {"num_steps": 12}},
        output_dir=tmp_path / "run",
        device="cpu",
        progress=False,
    )
    train(cached, output_dir=tmp_path / "run", device="cpu", progress=False)
    assert_same_run(tmp_path / "memory", tmp_path / "run")
    # A run in memory may go on from a cache, and the other way round.
    longer = lambda config: config | {"train": config["train"] | {"num_steps": 36}}
    train(longer(config_of(files, **options)), output_dir=tmp_path / "run", device="cpu", progress=False)
    train(longer(cached), output_dir=tmp_path / "memory", device="cpu", progress=False)
    assert_same_run(tmp_path / "memory", tmp_path / "run")


def test_given_frames_that_the_model_draws_are_those_of_memory(files, tmp_path, monkeypatch):
    about = {"num_steps": 7, "block_history": 1, "accumulate": 2, "rotate": True, "eval_every_step": 3}

    def made(cache=None):
        config = config_of(files, cache=cache, **about)
        config["data"]["train"]["span"] = 6
        return config

    threads, real = set(), StreamedData.gather
    monkeypatch.setattr(
        StreamedData, "gather", lambda self, items: (threads.add(threading.current_thread().name), real(self, items))[1]
    )
    train(made(), output_dir=tmp_path / "memory", device="cpu", progress=False)
    assert not threads
    train(made(tmp_path / "cache"), output_dir=tmp_path / "run", device="cpu", progress=False)
    assert_same_run(tmp_path / "memory", tmp_path / "run")
    assert threads == {"windows_0"}, "no window is read while the step waits"


def test_a_cache_that_is_added_keeps_the_best_value(files, tmp_path):
    about = {"num_steps": 4, "eval_every_step": 2}
    best = []
    for cache in (None, tmp_path / "cache", tmp_path / "other", None):
        train(config_of(files, cache=cache, **about), output_dir=tmp_path / "run", device="cpu", progress=False)
        _, metadata = load_tensors(tmp_path / "run" / "state.safetensors")
        best.append(json.loads(metadata["progress"])["best"])
    assert best[0] is not None and best == [best[0]] * 4
    other = config_of(files, **about)
    other["data"]["val"]["stride"] = 2
    train(other, output_dir=tmp_path / "run", device="cpu", progress=False)
    _, metadata = load_tensors(tmp_path / "run" / "state.safetensors")
    assert json.loads(metadata["progress"])["best"] is None


# --- in a second thread -----------------------------------------------------------------------------------------------


def test_ahead_gives_each_value_once_in_one_other_thread():
    made, ahead = [], Ahead()

    def make(key):
        made.append((key, threading.current_thread()))
        return key * 10

    wanted = lambda first: [(key, lambda key=key: make(key)) for key in range(first, first + 3)]
    assert [ahead.get(wanted(first)) for first in range(5)] == [0, 10, 20, 30, 40]
    assert ahead.get(wanted(20)) == 200 and ahead.get(wanted(1)) == 10
    assert [key for key, _ in made[:5]] == [0, 1, 2, 3, 4]
    assert {thread for _, thread in made} == {made[0][1]} and made[0][1] is not threading.current_thread()


def test_ahead_raises_what_the_making_raises_when_it_is_asked_for():
    ahead = Ahead()

    def fail():
        raise ValueError("cut meanwhile")

    assert ahead.get([(0, lambda: "first"), (1, fail)]) == "first"
    for _ in range(2):
        with pytest.raises(ValueError, match="cut meanwhile"):
            ahead.get([(1, fail)])
    assert ahead.get([(2, lambda: "third")]) == "third"


def test_a_cache_that_is_cut_during_training_is_an_error_that_names_it(files, tmp_path):
    _, cached = both(tmp_path, section(files, "long"))
    source = BatchSource(data_for_training(cached, "cpu"), seed=0, batch_size=40, num_timesteps=10, num_noisy=3)
    source.training(0)
    (path,) = (tmp_path / "cache").glob("*/positions.npy")
    with open(path, "r+b") as file:
        file.truncate(500)
    with pytest.raises(ValueError, match=r"positions\.npy must have 40 rows, got an end before"):
        source.training(50)
