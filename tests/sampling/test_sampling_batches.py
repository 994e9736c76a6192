"""How a request is cut, measured, halved when memory runs out, and written beside the drawing."""

import threading
import time

import pytest
import torch
from shard_runs import CONFIG, NUM_SHARDS, TASK, content, into
from tiny_models import tiny_diffusion
from tolerances import assert_same

from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import GeoTDM, Sampler
from geotdm_fast.runtime.memory import is_out_of_memory
from geotdm_fast.samples.blocks import Block
from geotdm_fast.sampling import sample
from geotdm_fast.sampling.batch_size import extrapolated_batch_size, measured_batch_size
from geotdm_fast.sampling.batches import Drawer
from geotdm_fast.sampling.progress import TrajectoryBar
from geotdm_fast.sampling.writer import BackgroundWriter


@pytest.fixture(scope="module")
def batch():
    dataset = open_dataset(CONFIG["data"]["test"], progress=False)
    return collate([dataset[i] for i in range(len(dataset))])


@pytest.fixture(scope="module")
def diffusion():
    return tiny_diffusion(CONFIG)


def draw(diffusion, batch, **options):
    options = {"num_samples": 2, "seed": 3, "progress": False} | options
    return sample(Sampler(diffusion), batch, TASK, **options)


@pytest.mark.parametrize("graphs", [1, 3, 8])
@pytest.mark.parametrize("samples", [1, 4, 9])
@pytest.mark.parametrize("size", [1, 2, 4, 7, 100])
def test_split_covers_every_trajectory_once(graphs, samples, size):
    whole = Block(range(5, 5 + graphs), range(2, 2 + samples))
    parts = whole.split(size)
    pairs = [(g, k) for part in parts for g in part.graphs for k in part.samples]
    assert pairs == [(g, k) for g in whole.graphs for k in whole.samples], "graph by graph"
    sizes = [part.size for part in parts]
    assert max(sizes) <= size and sum(sizes) == whole.size
    if samples <= size:
        assert all(part.samples == whole.samples for part in parts), "samples of a graph stay together"
        assert max(len(part.graphs) for part in parts) - min(len(part.graphs) for part in parts) <= 1
    assert len({(len(part.graphs), len(part.samples)) for part in parts}) <= 2, "few shapes"


# --- memory that runs out ---------------------------------------------------------------------------------------------

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


def limit(monkeypatch, most: int, error: Exception) -> list[int]:
    """`Sampler.draw` fails for more than `most` graphs, after a step; returns the sizes that were asked for."""
    asked, real = [], Sampler.draw

    def limited(self, shape, model_kwargs, noise, progress, x_ref):
        asked.append(int(model_kwargs["batch"][-1]) + 1)
        if asked[-1] > most:
            progress()
            raise error
        return real(self, shape, model_kwargs, noise, progress=progress, x_ref=x_ref)

    monkeypatch.setattr(Sampler, "draw", limited)
    return asked


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch_and_goes_on(diffusion, batch, monkeypatch, error):
    expected = draw(diffusion, batch)
    asked = limit(monkeypatch, 3, error)
    with pytest.warns(UserWarning, match="trajectories at once do not fit into the memory of cpu; going on with"):
        drawn = draw(diffusion, batch, batch_size=12)
    assert asked == [12, 6, 2, 2, 2, 2, 2, 2], "12 fails, then 6; 3 are one graph and its two samples"
    assert_same(drawn, expected, 1e-4)


def test_the_halved_batch_stays_for_the_shards_that_follow(tmp_path, monkeypatch):
    into(tmp_path / "a", batch_size=2)
    asked = limit(monkeypatch, 2, FULL[0])
    with pytest.warns(UserWarning, match="cpu; going on with 2"):
        into(tmp_path / "b", batch_size=4)
    assert asked[0] == 3 and max(asked[1:]) == 2 and len(asked) == 1 + 2 * NUM_SHARDS
    shards = [{name: data for name, data in content(tmp_path / f).items() if name != "manifest.json"} for f in "ab"]
    assert shards[0] == shards[1], "the batches were the same in the end"


def test_one_trajectory_that_does_not_fit(diffusion, batch, monkeypatch):
    limit(monkeypatch, 0, FULL[1])
    with (
        pytest.warns(UserWarning),
        pytest.raises(MemoryError, match=r"one trajectory alone does not fit .* of cpu: .*enf"),
    ):
        draw(diffusion, batch)


def test_other_errors_are_not_taken_for_it(diffusion, batch, monkeypatch):
    asked = limit(monkeypatch, 3, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        draw(diffusion, batch)
    assert asked == [12]
    assert not is_out_of_memory(ValueError("out of memory")) and not is_out_of_memory(None)


def test_an_error_that_arose_from_it_counts():
    """As when a capture ends because an allocation in it failed."""
    try:
        try:
            raise FULL[0]
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert is_out_of_memory(error)


def test_a_batch_that_failed_does_not_count_in_the_bar(diffusion, batch, monkeypatch, capsys):
    limit(monkeypatch, 3, FULL[0])
    with pytest.warns(UserWarning):
        draw(diffusion, batch, progress=True)
    assert "12/12" in capsys.readouterr().err


# --- a batch that fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("few", "first", "many", "last", "budget", "most", "expected"),
    [
        (1, 110, 11, 210, 1010, 1000, 91),  # 100 + 10 a trajectory
        (1, 110, 11, 210, 1010, 50, 50),
        (1, 110, 11, 210, 50, 1000, 1),
        (1, 110, 11, 110, 1010, 1000, 1000),  # no growth that could be seen
    ],
)
def test_extrapolation(few, first, many, last, budget, most, expected):
    assert extrapolated_batch_size(few, first, many, last, budget, most) == expected


class _Gpu:
    """Stands in for a GPU's memory: `fixed` bytes and `each` for a trajectory, of `total`."""

    def __init__(self, monkeypatch, fixed: int, each: int, total: int):
        self.fixed, self.each, self.total, self.peak, self.drawn = fixed, each, total, 0, []
        self.full: Exception = torch.OutOfMemoryError("CUDA out of memory.")
        for name, stand_in in {
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", 0),
            "memory_allocated": lambda device: 0,
            "max_memory_allocated": lambda device: self.peak,
            "mem_get_info": lambda device: (total, total),
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def draw(self, size: int) -> None:
        self.drawn.append(size)
        self.peak = self.fixed + self.each * size
        if self.peak > self.total:
            raise self.full


@pytest.mark.parametrize(
    ("fixed", "each", "total", "most", "expected", "drawn"),
    [
        (1000, 10, 101_000, 100_000, 8485, [1, 64]),  # 85 % of the memory
        (1000, 10, 101_000, 500, 500, [1, 64]),
        (1000, 10, 101_000, 20, 20, []),  # small enough to be tried
        (0, 1000, 40_000, 10_000, 34, [1, 64, 32]),  # the probe itself does not fit
        (0, 30_000, 40_000, 10_000, 1, [1, 64, 32, 16, 8, 4, 2]),
    ],
)
def test_batch_size_is_measured(monkeypatch, fixed, each, total, most, expected, drawn):
    gpu = _Gpu(monkeypatch, fixed, each, total)
    assert measured_batch_size(gpu.draw, most, torch.device("cuda")) == expected
    assert gpu.drawn == drawn


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_a_smaller_probe_is_tried_whatever_says_that_memory_is_out(monkeypatch, error):
    gpu = _Gpu(monkeypatch, 0, 1000, 40_000)
    gpu.full = error
    assert measured_batch_size(gpu.draw, 10_000, torch.device("cuda")) == 34
    assert gpu.drawn == [1, 64, 32]


def test_measuring_lets_other_errors_through(monkeypatch):
    gpu = _Gpu(monkeypatch, 0, 1, 1000)

    def broken(size):
        gpu.draw(size)
        if size > 1:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        measured_batch_size(broken, 100, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")
def test_measured_batch_fits_a_gpu(batch):
    from tiny_models import tame_network

    from geotdm_fast.checkpoint import build_diffusion

    diffusion = build_diffusion(tame_network(CONFIG).cuda(), CONFIG, "cuda")
    drawer = Drawer(Sampler(diffusion), batch, TASK, 0)
    most = Block(range(6), range(10**9))
    fits = drawer.fitting_batch_size(most)
    assert 64 < fits < most.size
    torch.cuda.reset_peak_memory_stats()
    kept, (free, _) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    size = min(fits, 20_000)  # a batch that fills an H100 takes minutes; the line must hold a good way beyond the probe
    drawer.batch_size = size
    with TrajectoryBar(size, show=False) as bar:
        drawer.draw(Block(range(1), range(size)), bar)
    assert torch.cuda.max_memory_allocated() - kept < free * size / fits
    assert_same(draw(diffusion, batch, batch_size=5), draw(diffusion, batch), 1e-3)


def test_the_samples_of_a_graph_share_its_inputs_and_prior(diffusion, batch, monkeypatch):
    seen, real, priors = [], Sampler.draw, []

    def watched(self, shape, model_kwargs, noise, progress, x_ref):
        seen.append(model_kwargs)
        assert_same(x_ref, diffusion.get_ref_frame(model_kwargs), 1e-5)
        return real(self, shape, model_kwargs, noise, progress=progress, x_ref=x_ref)

    def counted(model_kwargs):
        priors.append(int(model_kwargs["batch"][-1]) + 1)
        return GeoTDM.get_ref_frame(diffusion, model_kwargs)

    monkeypatch.setattr(Sampler, "draw", watched)
    draw(diffusion, batch, num_samples=4, batch_size=2)
    assert len(seen) == 12 and len({id(kwargs["edge_index"]) for kwargs in seen}) == 6
    assert all(a["x_given"] is b["x_given"] for a, b in zip(seen[::2], seen[1::2], strict=True))
    monkeypatch.setattr(Sampler, "draw", real)
    monkeypatch.setattr(diffusion, "get_ref_frame", counted)
    drawn = draw(diffusion, batch, num_samples=4, batch_size=12)
    assert priors == [3, 3], "once for a graph, not for a sample"
    assert_same(drawn, draw(diffusion, batch, num_samples=4, batch_size=1), 1e-4)


# --- writing beside ---------------------------------------------------------------------------------------------------


def test_writer_runs_beside_and_holds_back():
    gate, done = threading.Event(), []
    with BackgroundWriter(pending=1) as writer:
        writer.put(lambda: (gate.wait(10), done.append(0)))
        time.sleep(0.1)  # the thread has taken it
        writer.put(lambda: done.append(1))
        late = threading.Thread(target=lambda: writer.put(lambda: done.append(2)))
        late.start()
        late.join(0.2)
        assert late.is_alive() and not done, "a full queue holds the caller back"
        gate.set()
        late.join(10)
        writer.finish()
    assert done == [0, 1, 2]


def test_writers_error_stops_the_next_put_and_drops_the_rest():
    done = []

    def fail():
        raise OSError(28, "No space left on device")

    with BackgroundWriter(pending=1) as writer:
        writer.put(fail)
        with pytest.raises(OSError, match="No space left"):
            for _ in range(1000):
                writer.put(lambda: done.append(0))
                time.sleep(0.001)
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
    assert len(done) == 0


def test_what_was_put_is_written_when_the_drawing_fails():
    done = []
    with pytest.raises(KeyboardInterrupt), BackgroundWriter() as writer:
        writer.put(lambda: (time.sleep(0.1), done.append(0)))
        raise KeyboardInterrupt
    assert done == [0]
