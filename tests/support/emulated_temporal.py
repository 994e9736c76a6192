"""The CUDA temporal attention on CPU tensors: csrc/cuda/temporal_attention.h through the emulation of a block.

Every buffer that the functions see lies between margins, all of it NaN before it is written; what they write elsewhere,
or into an input, raises MemoryError.
"""

import contextlib
import ctypes
import functools
import math
from collections.abc import Iterator, Sequence

import emulated_build
import torch
from torch import Tensor

from geotdm_fast import ops
from geotdm_fast.ops.backend import current_backend
from geotdm_fast.reference import TemporalAttentionParams

PRECISIONS = ("fp32", "tf32", "bf16")  # in the order of Precision
ORDERS = ("forward", "reverse", "shuffle")  # in the order of emulation::Order
NUM_PARAMS = len(TemporalAttentionParams._fields)
ALIGNMENT, MARGIN = 256, 4096
POISON = 0xFF  # as every byte of a float: NaN

Pointers = ctypes.c_void_p * NUM_PARAMS


class TemporalAttention(ctypes.Structure):
    _fields_ = (
        ("num_nodes", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_frames", "dim", "width", "num_turns", "time_emb_dim")),
        *((name, ctypes.c_int32) for name in ("window", "precision", "reserved")),
        *((name, ctypes.c_void_p) for name in ("x", "h", "turns")),
        ("params", Pointers),
    )


class TemporalForward(ctypes.Structure):
    _fields_ = (("in_", TemporalAttention), *((name, ctypes.c_void_p) for name in ("x_out", "h_out", "workspace")))


class TemporalBackward(ctypes.Structure):
    _fields_ = (
        ("in_", TemporalAttention),
        *((name, ctypes.c_void_p) for name in ("grad_x_out", "grad_h_out", "grad_x", "grad_h")),
        ("grad_params", Pointers),
        ("workspace", ctypes.c_void_p),
    )


class Buffer:
    """Bytes between margins; an input, if they are copied from a tensor, stays as it is."""

    def __init__(self, name: str, size: int, tensor: Tensor | None = None):
        self.name, self.size = name, size
        self.bytes = torch.full((size + 2 * MARGIN + ALIGNMENT,), POISON, dtype=torch.uint8)
        self.begin = MARGIN + -(self.bytes.data_ptr() + MARGIN) % ALIGNMENT
        self.address = self.bytes.data_ptr() + self.begin
        self.content = self.bytes[self.begin : self.begin + size]
        self.before = None
        if tensor is not None:
            self.content.copy_(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
            self.before = self.content.clone()

    def check(self) -> None:
        for where, margin in (("before", self.bytes[: self.begin]), ("after", self.bytes[self.begin + self.size :])):
            wrong = (margin != POISON).nonzero()
            if len(wrong):
                distance = self.begin - int(wrong[-1]) if where == "before" else int(wrong[0])
                raise MemoryError(f"emulation: {distance} bytes {where} {self.name}, of {self.size}, are written")
        if self.before is not None and not torch.equal(self.content, self.before):
            raise MemoryError(f"emulation: {self.name} is an input and is written")


class Buffers:
    """All memory of one call."""

    def __init__(self):
        self.all: list[Buffer] = []

    def given(self, name: str, tensor: Tensor) -> int:
        self.all.append(Buffer(name, 4 * tensor.numel(), tensor.float()))
        return self.all[-1].address

    def made(self, name: str, *shape: int) -> tuple[int, Tensor]:
        self.all.append(Buffer(name, 4 * math.prod(shape)))
        return self.all[-1].address, self.all[-1].content.view(torch.float32).view(shape)

    def workspace(self, size: int) -> int:
        self.all.append(Buffer("workspace", size))
        return self.all[-1].address

    def check(self) -> None:
        for buffer in self.all:
            buffer.check()


def turns(frames: Sequence[int], time_emb_dim: int) -> Tensor:
    """[T, 2 (E / 2)]: cos(w_0 t), sin(w_0 t), cos(w_1 t), ..., w_k the frequencies of `reference.sinusoid`."""
    n = time_emb_dim // 2
    frequency = (torch.arange(n, dtype=torch.float64) * (-math.log(10000.0) / max(n - 1, 1))).exp()
    angle = torch.tensor(list(frames), dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).view(len(angle), 2 * n).float()


class Call:
    """Inputs as the functions take them, and the memory around them."""

    def __init__(
        self,
        x: Tensor,
        h: Tensor,
        params: Sequence[Tensor],
        frames: Sequence[int] | None = None,
        window: int | None = None,
        precision: str = "fp32",
    ):
        self.buffers = Buffers()
        self.params = TemporalAttentionParams(*params)
        self.x_shape, self.h_shape = x.shape, h.shape
        num_nodes, num_frames, width = h.shape
        time_emb_dim = self.params.time_w.shape[1]
        table = turns(range(num_frames) if frames is None else frames, time_emb_dim)
        self.inputs = TemporalAttention(
            num_nodes, num_frames, x.shape[2], width, table.shape[1], time_emb_dim,
            num_frames if window is None else window, PRECISIONS.index(precision), 0,
            self.buffers.given("x", x), self.buffers.given("h", h), self.buffers.given("turns", table),
            Pointers(*(self.buffers.given(name, p) for name, p in self.params._asdict().items())),
        )  # fmt: skip

    def forward(self) -> tuple[Tensor, Tensor]:
        """x_out and h_out."""
        (x_to, x_out), (h_to, h_out) = (
            self.buffers.made("x_out", *self.x_shape),
            self.buffers.made("h_out", *self.h_shape),
        )
        self.run("forward", TemporalForward, x_to, h_to)
        return x_out, h_out

    def backward(self, grad_x_out: Tensor, grad_h_out: Tensor) -> list[Tensor]:
        """The gradients of x, h and every parameter."""
        given = self.buffers.given("grad_x_out", grad_x_out), self.buffers.given("grad_h_out", grad_h_out)
        shapes = {"x": self.x_shape, "h": self.h_shape, **{n: p.shape for n, p in self.params._asdict().items()}}
        to, made = zip(*(self.buffers.made(f"grad_{name}", *shape) for name, shape in shapes.items()), strict=True)
        self.run("backward", TemporalBackward, *given, *to[:2], Pointers(*to[2:]))
        return list(made)

    def run(self, direction: str, structure: type[ctypes.Structure], *members) -> None:
        """Call the function of a direction; raises RuntimeError with what it returns or the emulation reports."""
        library = emulated_build.kernels(self.inputs.width)
        library["geotdm_emulation_order"](*_settings.order)
        library["geotdm_emulation_has_warpgroups"](_settings.has_warpgroups)
        size = _function(library, f"geotdm_temporal_{direction}_workspace", ctypes.c_size_t)(ctypes.byref(self.inputs))
        call = structure(self.inputs, *members, self.buffers.workspace(size))
        wrong = _function(library, f"geotdm_temporal_{direction}", ctypes.c_char_p)(ctypes.byref(call), None)
        report = _function(library, "geotdm_emulation_report", ctypes.c_char_p)()
        if wrong or report:
            raise RuntimeError(f"temporal_attention_{direction}: {b'; '.join(filter(None, [wrong, report])).decode()}")
        self.buffers.check()


class _Settings:
    """What every call tells the emulation first: ORDERS' number and a seed, and whether warpgroups multiply."""

    order = 0, 1
    has_warpgroups = True


_settings = _Settings()


@contextlib.contextmanager
def order(name: str, seed: int = 1) -> Iterator[None]:
    """Threads and blocks run in one of ORDERS within the block; forward outside."""
    _settings.order = ORDERS.index(name), seed
    try:
        yield
    finally:
        del _settings.order


@contextlib.contextmanager
def without_warpgroups() -> Iterator[None]:
    """The GPU is one that has no products of warpgroups within the block."""
    _settings.has_warpgroups = False
    try:
        yield
    finally:
        del _settings.has_warpgroups


def _function(library: ctypes.CDLL, name: str, result: type):
    function = library[name]
    function.restype = result
    return function


def temporal_attention(
    x: Tensor,
    h: Tensor,
    *params: Tensor,
    frames: Sequence[int] | None = None,
    window: int | None = None,
    precision: str = "fp32",
) -> tuple[Tensor, Tensor]:
    """`geotdm_fast.ops.temporal_attention` by the emulated kernels; by the reference in its `backend` block."""
    flags = {"frames": frames, "window": window, "precision": precision}
    if current_backend() == "reference":
        return ops.temporal_attention(x, h, TemporalAttentionParams(*params), **flags)
    return _Emulated.apply(functools.partial(Call, **flags), x, h, *params)


class _Emulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, x, h, *params):
        ctx.call = call
        ctx.save_for_backward(x, h, *params)
        return call(x, h, params).forward()

    @staticmethod
    def backward(ctx, grad_x_out, grad_h_out):
        x, h, *params = ctx.saved_tensors
        return None, *ctx.call(x, h, params).backward(grad_x_out, grad_h_out)
