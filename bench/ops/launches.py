"""What a call of an op launches: every kernel with the types and constants that its machine code depends on."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import torch


class Case(NamedTuple):
    """One call of egcl; flags: (D, whether there is an edge term, normalize, pre_norm)."""

    width: int
    precision: str
    capability: int
    flags: tuple[int, bool, bool, bool] = (3, True, True, False)
    has_cutoff: bool = False
    has_shift: bool = False

    def __str__(self) -> str:
        flags = "" if self.flags == DEFAULT_FLAGS else " " + "".join(f"{int(flag)}" for flag in self.flags)
        options = (" cutoff" if self.has_cutoff else "") + (" shift" if self.has_shift else "")
        return f"H={self.width} {self.precision} sm_{self.capability}{flags}{options}"


DEFAULT_FLAGS = Case.__new__.__defaults__[0]


class SearchCase(NamedTuple):
    """One call of the neighbour search, by all pairs or by cells, or of all images in periodic boxes."""

    by_cells: bool
    dim: int
    capability: int
    in_boxes: bool = False

    def __str__(self) -> str:
        return f"D={self.dim} sm_{self.capability}"


class StepCase(NamedTuple):
    """What a step of sampling launches beside the network, for positions of D axes, with graphs' means or a prior."""

    by_graph: bool
    dim: int
    capability: int

    def __str__(self) -> str:
        return f"D={self.dim} sm_{self.capability}{' by graph' if self.by_graph else ''}"


class TrainingCase(NamedTuple):
    """What a training step launches beside the layers."""

    width: int
    precision: str
    capability: int

    def __str__(self) -> str:
        return f"H={self.width} {self.precision} sm_{self.capability}"


AnyCase = Case | SearchCase | StepCase | TrainingCase


class Launch(NamedTuple):
    """A kernel with what its machine code depends on; aligned: pointers and numbers that 16 divides."""

    kernel: object
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    options: tuple[tuple[str, int], ...]
    aligned: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.removesuffix("_kernel")


def launches(case: AnyCase) -> list[Launch]:
    """What the call launches, each once."""
    of = {Case: _of_egcl, SearchCase: _of_search, StepCase: _of_step, TrainingCase: _of_training}
    return of[type(case)](case)


def _recorded(call: Callable[[], None]) -> list[Launch]:
    """What is launched by `call` on tensors without data."""
    from triton.runtime.jit import JITFunction

    recorded = {}

    def record(kernel, *args, grid, warmup, **options):
        recorded[described(kernel, args, options)] = None

    with mock.patch.object(JITFunction, "run", record):
        call()
    return list(recorded)


def _of_search(case: SearchCase) -> list[Launch]:
    return _recorded(lambda: call_search(case))


def call_search(case: SearchCase, num_nodes: int = 1011, dtype: torch.dtype = torch.float32) -> None:
    """The search on tensors without data."""
    from geotdm_fast.kernels import radius_graph_launch, radius_images_launch
    from geotdm_fast.reference import Cell, CellSearch

    x = torch.empty(num_nodes, 30, case.dim, dtype=dtype, device="meta")
    batch = torch.empty(num_nodes, dtype=torch.int64, device="meta")
    if case.in_boxes:
        boxes = lambda *shape: torch.empty(*shape, dtype=torch.float64, device="meta")
        cell = Cell(boxes(1, 1, 3, 3), torch.empty(1, 3, dtype=torch.bool, device="meta"))
        search = CellSearch(cell, boxes(1, 1, 3, 3), boxes(1, 1, 3, 3), (1, 1, 1), ("cutoff", 5.0))
        with mock.patch.object(radius_images_launch, "CELLS_FROM", 1 if case.by_cells else 2**31):
            radius_images_launch.radius_images_table(x, 5.0, 63, batch, False, search)
        return
    with mock.patch.object(radius_graph_launch, "CELLS_FROM", 1 if case.by_cells else 2**31):
        radius_graph_launch.radius_table(x, 5.0, 63, batch, False)


def _of_step(case: StepCase) -> list[Launch]:
    return _recorded(lambda: call_step(case, 1011, 20))


def call_step(case: StepCase, num_nodes: int, num_frames: int) -> None:
    """Noise and step on tensors without data."""
    from geotdm_fast.kernels import diffusion_step_launch, trajectory_noise_launch
    from geotdm_fast.reference import Counters

    x = torch.empty(num_nodes, case.dim, num_frames, device="meta")
    table, step = torch.empty(100, 6, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    first = torch.empty(129, dtype=torch.int64, device="meta") if case.by_graph else None
    prior = (None, None) if case.by_graph else (torch.empty_like(x), x)

    def numbers(*shape):
        return torch.empty(*shape, dtype=torch.int64, device="meta")

    who = Counters(numbers(num_nodes, case.dim * 5), numbers(num_nodes, 1), numbers(num_nodes, 1), numbers(2))
    z = trajectory_noise_launch.trajectory_noise(who, step, x.shape[1:], torch.float32)[0]
    diffusion_step_launch.diffusion_step(x, x, prior[0], x.transpose(1, 2), z, prior[1], first, table, step)


def _of_training(case: TrainingCase) -> list[Launch]:
    return _recorded(lambda: call_training(case, 1011, 3001))


def call_training(case: TrainingCase, num_nodes: int, num_edges: int) -> None:
    """What a training step launches beside the layers, on tensors without data."""
    from geotdm_fast.kernels import (
        adam_step_launch,
        cut_windows_launch,
        node_embedding_launch,
        noised_positions_launch,
        reference_frame_launch,
    )
    from geotdm_fast.reference import AdamSettings, AdamState, BatchLayout, WindowTables

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    numbers = lambda *shape: empty(*shape, dtype=torch.int64)
    width = case.width
    tables = WindowTables(numbers(100, 4), empty(99999), empty(500, 5), empty(900, 2), 3, 30)
    layout = BatchLayout(
        numbers(num_nodes), numbers(num_nodes), *(numbers(num_edges) for _ in "ab"), numbers(9), empty(9)
    )
    z, positions = empty(num_nodes, 30, width), empty(num_nodes, 3, 20)
    weights = [empty(12345) for _ in range(4)]

    cut = cut_windows_launch.cut_windows(tables, layout, numbers(7), numbers(7), empty(7))
    y = empty(num_nodes, 10, 3)
    for step, num_inputs in ((None, 5), (cut.steps, 37)):
        arguments = (cut.h, step, empty(16))
        node_embedding_launch.node_embedding(*arguments, empty(width, num_inputs), empty(width), 30, case.precision)
        backward = node_embedding_launch.node_embedding_backward
        backward(z, *arguments, num_inputs, case.precision)
    _, mean = reference_frame_launch.reference_frame(y, z[:, :10], empty(20))
    reference_frame_launch.reference_frame_backward(positions, y, mean, empty(20), width)
    noised_positions_launch.noised_positions(cut.x[..., 10:], positions, positions, empty(9), empty(9), cut.steps)
    noised_positions_launch.noised_positions_backward(positions, empty(9), cut.steps)
    state = AdamState(*weights, empty(()), empty(12345))
    adam_step_launch.adam_step(state, empty(2), AdamSettings(1.0))


def _of_egcl(case: Case) -> list[Launch]:
    return _recorded(lambda: call_egcl(case, 1011, 30, 3001))


def call_egcl(case: Case, num_nodes: int, num_frames: int, num_edges: int) -> None:
    """Forward and backward on tensors without data, and of the gated feed-forward that may stand behind it."""
    from geotdm_fast.kernels import egcl_backward_launch, egcl_launch, egcl_weights_launch, gv_ff_launch
    from geotdm_fast.reference import EGCLOptions, EGCLParams, GVFFParams

    dim, has_term, normalize, pre_norm = case.flags

    def empty(*shape, dtype=torch.float32):
        return torch.empty(*shape, dtype=dtype, device="meta")

    width = case.width
    matrix, vector = empty(width, width), empty(width)
    params = EGCLParams(
        empty(width, 2 * width + 1 + 4 * has_term), vector, matrix, vector, matrix, vector, empty(1, width), empty(1),
        empty(width, 2 * width), vector, matrix, vector,
    )  # fmt: skip
    index, long = torch.int32, torch.int64
    graph = egcl_launch.TritonTables(
        empty(num_nodes, dtype=index), empty(num_nodes, dtype=index), empty(num_nodes),
        empty(num_edges, dtype=index), empty(num_edges, dtype=index), empty(num_nodes + 1, dtype=long),
        empty(num_nodes + 1, dtype=long), empty(num_edges, dtype=long), empty(num_nodes),
    )  # fmt: skip
    x, h = empty(num_nodes, num_frames, dim), empty(num_nodes, num_frames, width)
    attr = empty(num_edges, 4) if has_term else None
    shift = empty(num_edges, dim) if case.has_shift else None
    options = EGCLOptions(normalize, pre_norm, case.precision, 2.0 if case.has_cutoff else None)
    with contextlib.ExitStack() as of_the_case:
        for module in (egcl_launch, egcl_backward_launch, egcl_weights_launch, gv_ff_launch):
            of_the_case.enter_context(mock.patch.object(module, "capability", lambda x: case.capability))
            of_the_case.enter_context(mock.patch.object(module, "executed", lambda precision, x: precision))
        *_, kept = egcl_launch.egcl_forward(x, h, graph, attr, None, params, options, shift=shift)
        of_shift = {"shift": shift, "wants_shift": case.has_shift}
        egcl_backward_launch.egcl_backward(x, h, x, h, graph, attr, params, kept, options, **of_shift)
        wide = empty(width, width + 4)
        gated = GVFFParams(
            empty(4, 1), empty(4, 4), wide, vector, empty(4, width), empty(4),
            empty(4, 4), empty(1, 4), wide, vector, empty(1, width), empty(1),
        )  # fmt: skip
        k, u = empty(num_nodes * num_frames, width), empty(num_nodes * num_frames, dim)
        gv_ff_launch.gv_ff(k, u, gated, case.precision)
        gv_ff_launch.gv_ff_backward(k, u, k, u, k, gated, case.precision, False)


TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.bool: "*i1",
}


def described(kernel, args: tuple, options: dict) -> Launch:
    """The launch with types in place of tensors and numbers, specialised as Triton does it at a launch."""
    names = [param.name for param in kernel.params]
    values = dict(zip(names, args, strict=False)) | {name: options.pop(name) for name in names if name in options}
    is_constant = {param.name: param.is_constexpr for param in kernel.params}
    of_number = lambda value: "fp32" if isinstance(value, float) else "i32"

    def type_of(value):
        return TYPES[value.dtype] if torch.is_tensor(value) else of_number(value)

    signature = tuple((name, "constexpr" if is_constant[name] else type_of(values[name])) for name in names)
    constants = tuple((name, values[name]) for name in names if is_constant[name])
    is_number = {
        param.name: not param.do_not_specialize and isinstance(values[param.name], int) for param in kernel.params
    }
    # Tensors of torch begin at multiples of 16 bytes.

    def divides(name):
        return torch.is_tensor(values[name]) or (is_number[name] and values[name] % 16 == 0)

    aligned = tuple(name for name in names if not is_constant[name] and divides(name))
    return Launch(kernel, signature, constants, tuple(sorted(options.items())), aligned)
