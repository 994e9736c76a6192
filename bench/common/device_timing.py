"""Times on the device itself: CUDA events around captured calls; on the CPU, a clock around plain ones."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch

from bench.common.timing import Times, timed
from geotdm_fast.runtime.memory import FAILURES, first_line

# Dense products with float32 sums, operations a second, of the data sheets.
DATA_SHEETS = {
    "H100": {"bf16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12},
    "H200": {"bf16": 989.4e12, "tf32": 494.7e12, "fp32": 66.9e12},
    "A100": {"bf16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
}


def data_sheet(gpu: str) -> dict[str, float]:
    """Operations a second by precision of a GPU of this name; empty where it is not known."""
    return next((rates for name, rates in DATA_SHEETS.items() if name in gpu), {})


class Captured(NamedTuple):
    """A call whose launches are replayed into the same results; why_not: no graph, each replay is a plain call."""

    replay: Callable[[], Any]
    results: Any
    why_not: str | None = None


def captured(call: Callable[[], Any], device: torch.device | str) -> Captured:
    """A CUDA graph of `call`, after three warm-up calls on a stream of its own; on the CPU, the call."""
    device = torch.device(device)
    if device.type != "cuda":
        results = call()
        return Captured(lambda: _copy(results, call()), results, "no CUDA device")
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # torch.cuda.graph stays on its stream where a capture fails.
            with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream):
                results = call()
        except FAILURES as error:
            torch.cuda.synchronize()
            return Captured(call, None, first_line(error))
    return Captured(graph.replay, results)


def _copy(into: Any, values: Any) -> None:
    with torch.no_grad():
        for old, new in zip(into, values, strict=True):
            if old is not None:
                old.copy_(new)


def device_times(
    calls: Mapping[Hashable, Callable[[], object]],
    repeats: int,
    device: torch.device | str,
    *,
    warm_up: int = 2,
    limit: float = 30,
) -> dict[Hashable, Times]:
    """Time the calls in turn, A B C A B C ..., at least twice and no longer than about `limit` seconds in all.

    On CUDA a round is launched as a whole before anything waits, so that a call seldom waits for its launches: put
    one that is long on the device first.
    """
    device = torch.device(device)
    round_of = _round_by_events if device.type == "cuda" else _round_by_clock
    for _ in range(warm_up):
        round_of(calls, device)
    seconds = {name: [] for name in calls}
    stop = time.perf_counter() + limit
    for i in range(repeats):
        for name, took in round_of(calls, device).items():
            seconds[name].append(took)
        if i and time.perf_counter() > stop:
            break
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def _round_by_clock(calls: Mapping[Hashable, Callable[[], object]], device: torch.device) -> dict[Hashable, float]:
    return {name: timed(call, device) for name, call in calls.items()}


def _round_by_events(calls: Mapping[Hashable, Callable[[], object]], device: torch.device) -> dict[Hashable, float]:
    with torch.cuda.device(device):
        pairs = {name: [torch.cuda.Event(enable_timing=True) for _ in range(2)] for name in calls}
        for name, call in calls.items():
            first, last = pairs[name]
            first.record()
            call()
            last.record()
        torch.cuda.synchronize()
    return {name: first.elapsed_time(last) / 1000 for name, (first, last) in pairs.items()}
