"""The kernels for GPUs among streams, CUDA graphs, devices and autocast; on the CPU, interpreted or emulated."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import emulated_build
import emulated_temporal
import pytest
import torch
from native_cases import (
    EGCL_NAMES,
    TEMPORAL_NAMES,
    assert_same_bits,
    bind,
    cotangents_of,
    egcl,
    egcl_inputs,
    graph,
    results,
    temporal_attention,
    temporal_inputs,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.common.device_timing import captured
from geotdm_fast import backend, radius_neighbours, reference

DEGREES = [3, 0, 1, 2]
SIZES = (5, 2, 3, 16, 2)  # nodes, frames, D, H, A


class Call(NamedTuple):
    """An op, its inputs and what backward begins with."""

    op: Callable
    inputs: list[Tensor]
    cotangents: list[Tensor]


NAMES = {"egcl": EGCL_NAMES, "temporal_attention": TEMPORAL_NAMES}


@pytest.fixture(params=[*NAMES])
def name(request) -> str:
    return request.param


def small_call(name: str, device: str) -> Call:
    """On the CPU the spatial op runs in Triton's interpreter, the temporal one in the emulation of a block."""
    if name == "egcl":
        edge_index = graph(5, DEGREES).to(device)
        op, inputs = bind(egcl, edge_index=edge_index), egcl_inputs(*SIZES, edge_index)
    else:
        if device == "cpu" and emulated_build.missing:
            pytest.skip(f"the emulation cannot be compiled here: {emulated_build.missing}")
        op = temporal_attention if device != "cpu" else emulated_temporal.temporal_attention
        inputs = temporal_inputs(*SIZES[:4])
    inputs = [v.to(device) for v in inputs]
    return Call(op, inputs, cotangents_of(inputs))


def stream(device: str) -> contextlib.AbstractContextManager:
    """A block on a new stream, which begins when all before is done; all after begins when it is."""
    return torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else contextlib.nullcontext()


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@pytest.mark.recorded("interpreted", always=r"egcl")
def test_another_stream_gives_the_same_bits(name, device):
    op, inputs, cotangents = small_call(name, device)
    with backend("triton"):
        expected = results(op, inputs, cotangents)
        wait(device)
        with stream(device):
            found = results(op, inputs, cotangents)
        wait(device)
    assert_same_bits(found, expected, NAMES[name])


@pytest.mark.recorded("interpreted")
def test_two_streams_at_once_do_not_disturb_one_another(name, device):
    calls = [small_call(name, device) for _ in range(2)]
    with backend("triton"):
        expected = [results(*call) for call in calls]
        wait(device)
        streams = [stream(device) for _ in calls]
        found = [[] for _ in calls]
        for _ in range(2):
            for which, call in enumerate(calls):
                with streams[which]:
                    found[which].append(results(*call))
        wait(device)
    for values, right in zip(found, expected, strict=True):
        for value in values:
            assert_same_bits(value, right, NAMES[name])


@pytest.mark.recorded("interpreted", always=r"egcl")
def test_work_of_the_current_stream_is_waited_for(name, device):
    """x is written on the same stream just before the call, behind a product that takes a while."""
    op, inputs, _ = small_call(name, device)
    size = 4096 if device == "cuda" else 16
    large = torch.randn(size, size, device=device)
    with backend("triton"), torch.no_grad():
        expected = op(*inputs)
        x = torch.zeros_like(inputs[0])
        wait(device)
        with stream(device):
            zero = (large @ large).sum() * 0
            x.copy_(inputs[0] + zero)
            found = op(x, *inputs[1:])
        wait(device)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.recorded("interpreted")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_graph_takes_the_inputs_of_each_replay(name, device, precision):
    op, inputs, cotangents = small_call(name, device)
    op = bind(op, precision=precision)
    with backend("triton"):
        leaves = [v.clone().requires_grad_() for v in inputs]

        def call():
            outputs = op(*leaves)
            return [*outputs, *torch.autograd.grad(outputs, leaves, cotangents)]

        graph_of_call = captured(call, device)
        assert device == "cpu" or graph_of_call.why_not is None
        for _ in range(2):
            other = [torch.randn_like(v) for v in inputs[:2]]
            with torch.no_grad():
                for leaf, value in zip(leaves, other, strict=False):
                    leaf.copy_(value)
            graph_of_call.replay()
            wait(device)
            found = [v.detach().clone() for v in graph_of_call.results]
            assert_same_bits(found, results(op, [*other, *inputs[2:]], cotangents), NAMES[name])


@pytest.mark.recorded("interpreted", always=r"40")
@pytest.mark.parametrize("num_nodes", [40, 2000])
def test_a_captured_neighbour_search_takes_the_positions_of_each_replay(device, num_nodes):
    """40 nodes by all pairs, 2000 by cells (fewer in the interpreter)."""
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    if device == "cpu" and num_nodes > 1000:
        num_nodes = 60
    batch = torch.arange(num_nodes, device=device) % 3
    x = torch.randn(num_nodes, 2, 3, device=device)
    with pytest.MonkeyPatch.context() as patch, backend("triton"):
        patch.setattr(launch, "CELLS_FROM", 50)
        graph_of_call = captured(lambda: list(radius_neighbours(x, 0.4, 64, batch)[:4]), device)
        assert device == "cpu" or graph_of_call.why_not is None
        for _ in range(2):
            x.copy_(torch.randn_like(x))
            graph_of_call.replay()
            wait(device)
            for a, b in zip(graph_of_call.results, reference.radius_neighbours(x, 0.4, 64, batch)[:4], strict=True):
                assert torch.equal(a, b)


class ReadsNothing(TorchDispatchMode):
    """Raises where a value would be read on the host, or a size depend on values: a capture would fail there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func.overloadpacket)
        if name in ("aten._local_scalar_dense", "aten.nonzero", "aten.bincount", "aten.masked_select"):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cells_from", [1, 10**9])
def test_the_neighbour_search_reads_nothing_on_the_host(device, cells_from, monkeypatch):
    launch = pytest.importorskip("geotdm_fast.kernels.radius_graph_launch")
    monkeypatch.setattr(launch, "CELLS_FROM", cells_from)
    x, batch = torch.randn(20, 2, 3, device=device), torch.arange(20, device=device) % 3
    with backend("triton"):
        with ReadsNothing():
            found = radius_neighbours(x, 0.4, 64, batch)
        with ReadsNothing(), pytest.raises(AssertionError, match="waits for the device"):
            found.check()


@pytest.mark.recorded("interpreted", always=r"egcl")
def test_autocast_changes_nothing(name, device):
    op, inputs, cotangents = small_call(name, device)
    with backend("triton"):
        expected = results(op, inputs, cotangents)
        found = results(torch.autocast(device, torch.bfloat16)(op), inputs, cotangents)
    assert_same_bits(found, expected, NAMES[name])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_a_device_that_is_not_the_current_one(name):
    op, inputs, cotangents = small_call(name, "cuda:1")
    with backend("triton"), torch.cuda.device(0):
        found = results(op, inputs, cotangents)
    with backend("triton"), torch.cuda.device(1):
        expected = results(op, inputs, cotangents)
    assert {v.device.index for v in found} == {1}
    assert_same_bits(found, expected, NAMES[name])
