"""`Captured` and its cache: on the CPU with a tape in place of the graph, on a GPU with the graph."""

import contextlib
import copy
import functools
import pickle

import pytest
import torch
from tape import TapeRecorder

from bench.common import device_timing
from geotdm_fast.runtime import cuda_graphs
from geotdm_fast.runtime.cuda_graphs import CaptureCache, Captured, CUDAGraphRecorder, signature


def recorder(device: str) -> TapeRecorder | None:
    return TapeRecorder() if device == "cpu" else None


def step(inputs):
    """Moves x in place; draws."""
    noise = torch.randn_like(inputs["x"])
    inputs["x"].mul_(inputs["a"]).add_(noise)
    inputs["k"].add_(1)
    return {"sum": inputs["x"].sum(), "noise": noise}


def some_inputs(device, shape=(3, 4), k=0):
    x, a = torch.randn(*shape, device=device), torch.rand(1, device=device) + 0.5
    return {"x": x, "a": a, "k": torch.tensor([k], device=device)}


def seeded(device):
    torch.manual_seed(5)  # of every device


def test_replays_go_on_from_their_state_and_draw_as_the_function_does(device):
    inputs = some_inputs(device)
    seeded(device)
    captured = Captured(step, inputs, record=recorder(device))
    found = []
    for _ in range(3):
        results = captured.replay()
        found.append((captured.inputs["x"].clone(), results["noise"].clone(), results["sum"].clone()))
    assert int(captured.inputs["k"]) == 3
    plain = {name: tensor.clone() for name, tensor in inputs.items()}
    seeded(device)
    for x, noise, total in found:
        expected = step(plain)
        assert torch.equal(noise, expected["noise"]) and torch.equal(x, plain["x"])
        assert torch.equal(total, expected["sum"])
    assert int(inputs["k"]) == 0  # its own copies are changed, not these


def test_a_replay_takes_other_inputs(device):
    captured = Captured(lambda i: i["x"] * i["a"] + i["k"], some_inputs(device), record=recorder(device))
    for k in (1, 2):
        other = some_inputs(device, k=k)
        expected = other["x"] * other["a"] + k
        found = captured.replay(other)
        other["x"].fill_(float("nan"))  # was copied
        assert torch.equal(found, expected)


def test_all_that_the_function_makes_is_made_anew():
    record = TapeRecorder()
    captured = Captured(step, some_inputs("cpu"), record=record)
    record.tapes[0].spoil(captured.inputs)
    assert captured.results["noise"].isnan().all()
    assert captured.replay()["noise"].isfinite().all() and captured.inputs["x"].isfinite().all()
    assert not record.tapes[0].read_from_outside(captured.inputs)
    beside = torch.ones(1)
    record = TapeRecorder()
    reads = Captured(lambda i: i["x"] + beside, some_inputs("cpu"), record=record)
    assert record.tapes[0].read_from_outside(reads.inputs)[0] is beside


def test_state_beside_the_inputs_comes_back(device):
    weight = torch.ones(3, device=device)

    def train(inputs):
        weight.sub_(inputs * 0.1)

    captured = Captured(train, torch.ones(3, device=device), state=[weight], record=recorder(device))
    assert weight.tolist() == [1, 1, 1]
    captured.replay()
    assert weight.cpu().allclose(torch.full((3,), 0.9))


def test_an_exception_leaves_the_state():
    weight = torch.ones(1)

    def waits(inputs):
        return weight.add_(inputs.sum()).item()

    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        Captured(waits, torch.ones(2), state=[weight], record=TapeRecorder())
    assert weight.tolist() == [1]


class FakeStreams:
    """What of torch.cuda a capture uses, without a GPU. Every capture fails at its end, and `torch.cuda.graph` then
    stays on its stream, as in torch 2.11 and 2.13."""

    def __init__(self):
        self.current = "outer"

    def install(self, monkeypatch) -> None:
        nothing = lambda *args, **options: contextlib.nullcontext()
        fakes = {"device": nothing, "synchronize": nothing, "current_device": lambda: 0, "Stream": FakeStream}
        fakes |= {"current_stream": lambda: FakeStream(), "default_generators": [torch.Generator()]}
        fakes |= {"CUDAGraph": nothing, "stream": self.stream, "graph": self.graph}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream=None, **options):
        self.current = stream or "a stream of torch's own"
        yield
        raise RuntimeError("operation failed due to a previous error")


class FakeStream:
    def wait_stream(self, other):
        pass


@pytest.mark.parametrize("where", ["CUDAGraphRecorder", "bench"])
def test_a_failed_capture_leaves_the_stream_as_it_was(where, monkeypatch):
    streams, during, cuda = FakeStreams(), [], torch.device("cuda")
    streams.install(monkeypatch)
    call = lambda: during.append(streams.current)
    if where == "bench":
        assert device_timing.captured(call, cuda).why_not == "operation failed due to a previous error"
    else:
        with pytest.raises(RuntimeError, match="due to a previous error"):
            CUDAGraphRecorder(cuda)(call)
    assert streams.current == "outer" and len(during) == 4 and len(set(during)) == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((torch.ones(3), 2), r"leaf 0 \[2\] torch.float32 on cpu .*, got \[3\] torch.float32 on cpu"),
        ((torch.ones(2, dtype=torch.float64), 2), "leaf 0 .*, got .* torch.float64"),
        ((torch.ones(2), 3), "leaf 1 2, got 3"),
        ((torch.ones(2), None), "leaf 1 2, got None"),
        ((torch.ones(2),), "structure .*, got "),
    ],
)
def test_inputs_that_do_not_fit(other, message):
    captured = Captured(lambda i: i[0] * i[1], (torch.ones(2), 2), record=TapeRecorder())
    with pytest.raises(ValueError, match="Captured: inputs must be as captured: " + message):
        captured.replay(other)


def test_a_tensor_that_comes_twice_is_one():
    x = torch.ones(2)
    captured = Captured(lambda i: i[0].add_(i[1]), (x, x), record=TapeRecorder())
    assert captured.inputs[0] is captured.inputs[1]
    with pytest.raises(ValueError, match=r"leaf 1 .*as leaf 0, or new\), got .*as leaf 1, or new\)"):
        captured.replay((x, x.clone()))


def test_no_tensor_and_no_cuda():
    with pytest.raises(ValueError, match="Captured: inputs must hold at least one tensor, got none"):
        Captured(lambda i: i, (1, None), record=TapeRecorder())
    with pytest.raises(ValueError, match="Captured: inputs must be on cuda, got cpu"):
        Captured(lambda i: i, torch.ones(1))
    with pytest.raises(ValueError, match="CaptureCache: capacity must be at least 1, got 0"):
        CaptureCache(0)


def double(inputs):
    return inputs[0] * 2


def test_the_cache_keeps_the_last_used():
    record = TapeRecorder()
    cache = CaptureCache(2, record)

    def of(size, value=1.0, **more):
        made = cache.borrow(double, (torch.full((size,), value), None), **more)
        cache.give_back(made)
        return made

    first = of(1)
    assert of(1, 3.0) is first and first.replay().tolist() == [6.0]
    of(2)
    assert of(1) is first and len(cache) == 2
    of(3)  # the one of 2 goes
    assert of(1) is first and len(record.tapes) == 3
    of(2)
    assert len(record.tapes) == 4 and len(cache) == 2
    assert of(2, key="other") is not of(2)
    with torch.no_grad():
        assert of(2) is not first
    lent = cache.borrow(double, (torch.ones(1), None))
    assert cache.borrow(double, (torch.ones(1), None)) is not lent  # one has it, and another comes
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(CaptureCache(2)))):
        assert len(other) == 0 and other.capacity == 2


def test_a_capture_that_another_of_its_kind_replaces_is_waited_for(monkeypatch):
    """Two chains had one each: the first to be given back may still run when the second takes its place."""
    cache, waited = CaptureCache(2, TapeRecorder()), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    first, second = (cache.borrow(double, (torch.ones(1), None)) for _ in range(2))
    first.device = second.device = torch.device("cuda", 0)
    cache.give_back(first)
    cache.give_back(first)
    assert waited == []
    cache.give_back(second)
    assert waited == ["cuda:0"] and len(cache) == 1


def test_signatures_tell_shapes_and_sharing():
    x = torch.ones(2)
    assert signature({"a": (x, 1)}) == signature({"a": (torch.zeros(2), 1)})
    for other in ({"a": (x, 2)}, {"a": [x, 1]}, {"b": (x, 1)}, {"a": (x.double(), 1)}, {"a": (x[:1], 1)}):
        assert signature(other) != signature({"a": (x, 1)})


def test_made_in_inference_mode_it_works_outside():
    with torch.inference_mode():
        captured = Captured(double, (torch.ones(2), None), record=TapeRecorder())
    assert captured.replay((torch.full((2,), 4.0), None)).tolist() == [8.0, 8.0]


def adds(inputs, *, to):
    to.add_((inputs @ inputs.T).relu().sum())


def test_captures_of_a_cache_that_share_what_they_work_in(device):
    """Used in any order, each adds what its inputs say, and making one leaves the sum as it was."""
    total, expected = torch.zeros((), device=device), 0.0
    cache, function = CaptureCache(3, recorder(device), shares_memory=True), functools.partial(adds, to=total)
    for number, size in enumerate((5, 3, 4, 5, 4, 3, 3, 2, 5)):
        x = torch.full((size, 2), float(number), device=device)
        captured = cache.borrow(function, x, state=[total])
        assert float(total) == expected
        captured.replay()
        cache.give_back(captured)
        expected += 2 * number**2 * size**2
        assert float(total) == expected
    assert len(cache) == 3 and cache.made == 5
    other = copy.copy(cache)
    assert other.shares_memory and other.capacity == 3 and len(other) == other.made == 0
    cache.clear()
    assert len(cache) == cache.made == 0
    with pytest.raises(ValueError, match="generators must be left out where shares_memory is true, got 1"):
        cache.borrow(function, x, generators=[torch.Generator(device)])


@pytest.mark.parametrize("capacity", [1, 2])
def test_captures_share_memory_as_long_as_there_is_one(capacity, monkeypatch):
    """A pool goes with its last graph, and another one is asked for."""
    pools = []

    class Recorder(TapeRecorder):
        def __init__(self, device, shares_memory):
            assert shares_memory
            super().__init__()
            pools.append(self)

    monkeypatch.setattr(cuda_graphs, "CUDAGraphRecorder", Recorder)
    total = torch.zeros(())
    cache, function = CaptureCache(capacity, shares_memory=True), functools.partial(adds, to=total)

    def replayed(size):
        captured = cache.borrow(function, torch.ones(size, 2), state=[total])
        captured.replay()
        cache.give_back(captured)

    for size in (3, 4, 3):
        replayed(size)
    assert len(pools) == (3 if capacity == 1 else 1)
    lent = cache.borrow(function, torch.ones(3, 2), state=[total])
    cache.clear()
    replayed(5)
    assert len(pools) == (3 if capacity == 1 else 1), "one is lent"
    del lent
    cache.clear()
    replayed(5)
    assert len(pools) == (4 if capacity == 1 else 2)
    assert float(total) == 2 * (3 * 3 + 4 * 4 + 3 * 3 + 2 * 5 * 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")
def test_streams_take_turns():
    """A replay on another stream begins when the one before it is done."""
    big = torch.randn(2048, 2048, device="cuda")

    def slow(inputs):
        for _ in range(4):
            inputs.add_((big @ big).sum() * 0 + 1)
        return inputs

    captured = Captured(slow, torch.zeros(64, device="cuda"))
    torch.cuda.synchronize()
    for stream in (torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            captured.replay()
            last = captured.results.clone()
    torch.cuda.synchronize()
    assert last.tolist() == [12.0] * 64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU")
def test_a_generator_of_its_own_draws_new_numbers_and_the_same_after_a_seed():
    generator = torch.Generator("cuda")
    draw = lambda x: torch.randn(x.shape, device="cuda", generator=generator)
    generator.manual_seed(3)
    captured = Captured(draw, torch.zeros(1000, device="cuda"), generators=[generator])
    first, second = (captured.replay().clone() for _ in range(2))
    assert not torch.equal(first, second)
    generator.manual_seed(3)
    assert torch.equal(captured.replay(), first)
    generator.manual_seed(3)
    assert torch.equal(draw(first), first)
