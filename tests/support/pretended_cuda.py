"""Tensors that tell Python they are on cuda:0 and are computed on the CPU: they find what waits, and wrong devices.

    with PretendedGPU() as gpu:
        x = torch.zeros(3, device="cuda")

gpu.waits counts, by what and where, how often the host waited for the device. Within what a CUDA graph captures nothing
may: there a wait raises AssertionError, as does everywhere an operand of the CPU beside one of the GPU. C++ goes on
believing in the CPU; Triton's launches go to its interpreter. Nothing is asynchronous, and memory is the CPU's.
"""

import contextlib
import importlib
import pathlib
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from places import ROOT
from tape import WAITS
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from geotdm_fast.ops import cuda_native, kernels, native
from geotdm_fast.runtime import cuda_graphs

DEVICE = torch.device("cuda:0")
COPIES = ("aten.copy_", "aten._foreach_copy_")
INDEXED = ("aten.index", "aten.index_put_", "aten._unsafe_index")


class CUDATensor(Tensor):
    """`cpu_tensor`, which says that it is on cuda:0."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, cpu_tensor: Tensor):
        about = {"dtype": cpu_tensor.dtype, "strides": cpu_tensor.stride()}
        made = Tensor._make_wrapper_subclass(cls, cpu_tensor.shape, storage_offset=cpu_tensor.storage_offset(), **about)
        made.cpu_tensor = cpu_tensor
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return PretendedGPU.current.computed(func, args, kwargs or {})

    # What C++ answers by itself, because it takes them for tensors of the CPU.

    @property
    def data(self) -> Tensor:
        return CUDATensor(self.cpu_tensor.detach())

    @data.setter
    def data(self, other: Tensor) -> None:
        self.cpu_tensor = other.cpu_tensor

    def cpu(self) -> Tensor:
        PretendedGPU.current.copied(is_asynchronous=False)
        return self.cpu_tensor.detach().clone()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **options) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def pin_memory(self) -> None:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor', only dense CPU tensors can be pinned")

    def data_ptr(self) -> int:
        return self.cpu_tensor.data_ptr()

    def __repr__(self, **options) -> str:
        return f"CUDATensor({self.cpu_tensor!r})"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = CUDATensor(self.cpu_tensor.detach().clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied


class PretendedGPU(TorchDispatchMode):
    """One GPU of compute capability 9.0, while it is entered."""

    current: "PretendedGPU"

    def __init__(self):
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.graphs = 0
        self._capturing = False
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> "PretendedGPU":
        for patch in _patches(self):
            self._patches.enter_context(patch)
        PretendedGPU.current = self
        kernels.why_not_device.cache_clear()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._patches.close()
        kernels.why_not_device.cache_clear()

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        if self._capturing:
            raise AssertionError(f"{what} waits for the device in a captured part: {_where()}")
        self.waits[what, _where()] += 1

    def copied(self, is_asynchronous: bool) -> None:
        """The host waits for a copy, but from pinned memory; a graph would read whatever lies there later."""
        if self._capturing or not is_asynchronous:
            self.wait("a copy between CPU and GPU")

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Within the block nothing may wait."""
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.computed(func, args, kwargs or {})

    def computed(self, func, args: tuple, kwargs: dict) -> Any:
        """What `func` gives on the CPU; on the GPU where an operand is, or where it was to be made."""
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = {id(leaf.cpu_tensor): leaf for leaf in leaves if isinstance(leaf, CUDATensor)}
        others = [leaf for leaf in leaves if not isinstance(leaf, CUDATensor)]
        made_here = _is_cuda(kwargs.get("device"))
        name = str(func.overloadpacket)
        if ours:
            self._check(name, args, kwargs, others)
        if made_here:
            kwargs = kwargs | {"device": torch.device("cpu")}
        if ours and torch.Tag.inplace_view in func.tags:  # the tensor changes, and what it says
            with no_dispatch():
                func(*args, **kwargs)
        args, kwargs = tree_map_only(CUDATensor, lambda tensor: tensor.cpu_tensor, (args, kwargs))
        out = func(*args, **kwargs)
        if not ours and not made_here:
            return out
        known = lambda tensor: ours[id(tensor)] if id(tensor) in ours else CUDATensor(tensor)
        return tree_map_only(Tensor, known, out)

    def _check(self, name: str, args: tuple, kwargs: dict, others: list[Tensor]) -> None:
        """An operation on the GPU: whether it waits, and whether others of its operands may be on the CPU."""
        if name in WAITS or (name == "aten.repeat_interleave" and kwargs.get("output_size") is None):
            self.wait(name.removeprefix("aten."))
        if name in INDEXED and any(_is_mask(index) for index in args[1]):
            self.wait("an index that is a mask")
        others = [other for other in others if other.dim() > 0]
        if not others:
            return
        if name in COPIES:
            self.copied(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        elif name in INDEXED:
            self.wait("an index on the CPU")
        elif not all(map(_is_no_gradient, others)):
            shapes = [list(other.shape) for other in others]
            raise AssertionError(f"{name} on the GPU with operands {shapes} on the CPU: {_where()}")

    def launched(self, run: Callable) -> Callable:
        """`InterpretedFunction.run`, for which tensors must be on the GPU; its roundings are emulated."""

        def launch(kernel, *args, grid, warmup=False, **kwargs):
            others = [arg for arg in args if isinstance(arg, Tensor) and not isinstance(arg, CUDATensor)]
            if others:
                raise AssertionError(f"{kernel.fn.__name__} is launched with a tensor on the CPU: {_where()}")
            args = [arg.cpu_tensor.detach() if isinstance(arg, CUDATensor) else arg for arg in args]
            if kwargs.get("PRECISION") in ("bf16", "tf32"):
                kwargs["PRECISION"] += "_emulated"
            with torch.utils._python_dispatch._disable_current_modes():
                return run(kernel, *args, grid=grid, warmup=warmup, **kwargs)

        return launch


def _is_no_gradient(tensor: Tensor) -> bool:
    """Where a gradient is not there autograd makes zeros, on the device that C++ knows: the CPU."""
    return torch._C._current_graph_task_id() != -1 and not bool(tensor.any())


def _with_missing_gradients(apply: Callable) -> Callable:
    """`BackwardCFunction.apply` of a Function on the GPU, where the zeros that autograd made for it are there too."""

    def applied(function, *gradients):
        if any(isinstance(gradient, CUDATensor) for gradient in gradients):
            gradients = [CUDATensor(one) if _is_zeros(one) else one for one in gradients]
        return apply(function, *gradients)

    return applied


def _is_zeros(gradient: Any) -> bool:
    return isinstance(gradient, Tensor) and not isinstance(gradient, CUDATensor) and not bool(gradient.any())


class PretendedGraph:
    """In the place of `CUDAGraphRecorder`: warm-up, a call that is captured, and replays, which are calls as well."""

    def __init__(self, device: torch.device, generators=(), *, shares_memory: bool = False):
        assert device == DEVICE and not generators

    def __call__(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        gpu, state = PretendedGPU.current, torch.get_rng_state()
        call()
        with gpu.capturing():
            results = call()
        torch.set_rng_state(state)
        gpu.graphs += 1
        return results, lambda: self._replay(call)

    @staticmethod
    def _replay(call: Callable[[], Any]) -> None:
        with PretendedGPU.current.capturing():
            call()


class Stream:
    """The only one."""

    def wait_stream(self, other: "Stream") -> None:
        pass


def _patches(gpu: PretendedGPU) -> Iterator[contextlib.AbstractContextManager]:
    """What of torch, Triton and our dispatch would look for a GPU."""
    the_stream, nothing = Stream(), lambda *args, **options: None
    answers = {"is_available": True, "device_count": 1, "current_device": 0, "current_stream": the_stream}
    answers |= {"get_device_capability": (9, 0), "get_device_name": "a pretended GPU", "_lazy_init": None}
    answers["get_device_properties"] = types.SimpleNamespace(multi_processor_count=132)  # an H100's
    answers |= {"is_current_stream_capturing": False, "synchronize": None}
    fakes = {name: (lambda *args, value=value, **options: value) for name, value in answers.items()}
    yield mock.patch.multiple(torch.cuda, device=lambda device: contextlib.nullcontext(), **fakes)
    backward = torch.autograd.function.BackwardCFunction
    yield mock.patch.object(backward, "apply", _with_missing_gradients(backward.apply))
    yield mock.patch.object(Tensor, "to", _to)
    yield mock.patch.object(Tensor, "pin_memory", _pin_memory)
    yield mock.patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True)
    yield mock.patch.object(torch, "tensor", _made(torch.tensor))
    yield mock.patch.object(torch, "as_tensor", _made(torch.as_tensor))
    group = "_group_tensors_by_device_and_dtype"
    yield mock.patch.object(torch._C, group, _grouped(getattr(torch._C, group)))
    yield mock.patch.object(cuda_graphs, "CUDAGraphRecorder", PretendedGraph)
    yield mock.patch.object(cuda_native, "shared_memory", lambda device: 227 * 1024)
    if native._C is not None:  # its kernels for the CPU stand in for those of `_C_cuda`
        yield mock.patch.object(cuda_native, "why_not_module", nothing)
        temporal = importlib.import_module("geotdm_fast.ops.temporal_attention")  # the package has a function of it
        yield mock.patch.object(temporal, "why_not_compiled", _without_gaps(temporal.why_not_compiled))
    if kernels.missing() is None:
        from triton.runtime.interpreter import InterpretedFunction

        yield mock.patch.object(InterpretedFunction, "run", gpu.launched(InterpretedFunction.run))


def _without_gaps(why_not: Callable[..., str | None]) -> Callable[..., str | None]:
    """The kernels for the CPU do not take frames with gaps, those for CUDA do."""

    def why_not_compiled(x, h, params, frames, *others):
        return "the CPU stands in" if frames is not None else why_not(x, h, params, frames, *others)

    return why_not_compiled


def _made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor or torch.as_tensor, which copy from the host on the way to a GPU."""

    def made(*args, device=None, **options):
        return make(*args, device=device, **options) if not _is_cuda(device) else make(*args, **options).to(device)

    return made


def _grouped(group: Callable) -> Callable:
    """By the device that Python is told, not by the one that C++ knows."""

    def grouped(lists, with_indices=False):
        found = group(lists, with_indices)
        on = lambda lists: next((t.device for tensors in lists for t in tensors if t is not None), None)
        return {(on(tensors), dtype): (tensors, indices) for (_, dtype), (tensors, indices) in found.items()}

    return grouped


def _to(self: Tensor, *args, copy: bool = False, **kwargs) -> Tensor:
    """`Tensor.to`; C++ is told of a device only where something moves to the GPU."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    options = {"dtype": dtype or self.dtype, "copy": copy}
    if memory_format is not None:
        options["memory_format"] = memory_format
    here = isinstance(self, CUDATensor)
    if here and device is not None and device.type == "cpu":
        return _TO(self.cpu(), **options)
    if not here and _is_cuda(device):
        PretendedGPU.current.copied(non_blocking and getattr(self, "is_said_to_be_pinned", False))
        options["device"] = DEVICE
    return _TO(self, **options)


_TO = Tensor.to


def _pin_memory(self: Tensor) -> Tensor:
    pinned = self.clone()
    pinned.is_said_to_be_pinned = True
    return pinned


def _is_cuda(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def _where() -> str:
    """The project's lines that led here, the last one first."""
    # An environment of Python may lie in the project's folder.
    is_ours = lambda name: name.startswith(str(ROOT)) and "site-packages" not in name
    frames = [frame for frame in traceback.extract_stack() if is_ours(frame.filename)]
    frames = [f"{pathlib.Path(frame.filename).relative_to(ROOT)}:{frame.lineno}" for frame in frames]
    return " < ".join([frame for frame in reversed(frames) if "pretended_cuda" not in frame][:4])
