"""Launches as Triton's JIT sees them: which machine code each asks for on a GPU, found and compiled without one.

The JIT compiles a kernel anew for other constants and types, and for numbers and addresses that 16 divides or that are
one. A launch is recorded as JSON of just that, so that a process without the interpreter can ask the JIT.
"""

import importlib
import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from unittest import mock

import torch


def recorded(kernel: Any, args: tuple, options: dict) -> str:
    """The launch `kernel[grid](*args, **options)`, of a function of triton.jit, compiled or interpreted."""
    parameters = inspect.signature(kernel.fn).parameters
    values = dict(zip(parameters, args, strict=False)) | {name: options[name] for name in parameters if name in options}
    arguments = [
        ["constant", _executed(values[name])] if "constexpr" in str(parameter.annotation) else _described(values[name])
        for name, parameter in parameters.items()
    ]
    others = {name: value for name, value in options.items() if name not in parameters}
    return json.dumps([kernel.fn.__module__, kernel.fn.__name__, arguments, others], sort_keys=True)


def _executed(constant: Any) -> Any:
    """What the interpreter emulates the GPU rounds in hardware."""
    return constant.removesuffix("_emulated") if isinstance(constant, str) else constant


def _described(value: Any) -> list:
    if torch.is_tensor(value):
        return ["tensor", str(value.dtype).removeprefix("torch."), value.data_ptr() % 16 == 0]
    if isinstance(value, int):
        like = 1 if value == 1 else 16 if value % 16 == 0 else 3
        return ["number", like if -(2**31) <= value < 2**31 else like + 2**32]
    if isinstance(value, float):
        return ["real", 0.5]
    raise TypeError(f"jit_launches: an argument must be a tensor or a number, got {value!r}")


def _like(kind: str, value: Any, aligned: bool = True) -> Any:
    """An argument that the JIT takes for the described one."""
    if kind != "tensor":
        return value
    return torch.zeros(64, dtype=getattr(torch, value))[0 if aligned else 1 :]


class Variant(NamedTuple):
    """One machine code.

    asked: kernel, constants, types of tensors and options: what a launcher says
    found: of the other arguments, what the JIT relies on: the type of a number, `== 1`, `% 16 == 0`
    """

    asked: tuple
    found: tuple[tuple[str, str], ...]

    @property
    def kernel(self) -> str:
        return self.asked[0].rsplit(".", 1)[1].removesuffix("_kernel")


class NoGPU:
    """As a driver of Triton, which then compiles for this capability and launches nothing."""

    def __init__(self, capability: int):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return self.target.arch  # the JIT keeps what it compiled by device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self):
        return self.target


class JIT:
    """Triton's JIT for a GPU that need not be there, until there is another; in a process without the interpreter."""

    def __init__(self, capability: int):
        import triton

        if triton.knobs.runtime.interpret:
            raise RuntimeError("TRITON_INTERPRET must not be set: interpreted kernels are not compiled")
        triton.runtime.driver.set_active(NoGPU(capability))
        self._knobs = triton.knobs.runtime

    def variant(self, launch: str) -> Variant:
        """What machine code the launch asks for; nothing is compiled."""
        asked = {}

        def hook(*, compile: dict, **others) -> bool:
            asked.update(compile)
            return True  # as if somebody else compiled it

        module, kernel, arguments, options = json.loads(launch)
        self._knobs.jit_cache_hook = hook
        try:
            self._run(launch)
        finally:
            self._knobs.jit_cache_hook = None
        kinds = dict(zip(asked["signature"], arguments, strict=True))
        (attributes,) = asked["configs"]
        names = list(kinds)
        found = {name: asked["signature"][name] for name, kind in kinds.items() if kind[0] == "number"}
        for (place, *_), value in asked["constants"].items():
            if names[place] in found:
                found[names[place]] = f"== {value}"
        for (place, *_), value in attributes.items():
            if value:  # [["tt.divisibility", 16]]
                found[names[place]] = f"{found.get(names[place], '')} % {value[0][1]} == 0".strip()
        said = tuple((name, *kind[: 2 if kind[0] in ("tensor", "constant") else 1]) for name, kind in kinds.items())
        return Variant((f"{module}.{kernel}", said, tuple(sorted(options.items()))), tuple(sorted(found.items())))

    def compiled(self, launch: str) -> Any:
        """The launch compiled, into the cache of TRITON_CACHE_DIR, or found there."""
        return self._run(launch)

    @staticmethod
    def _run(launch: str) -> Any:
        module, name, arguments, options = json.loads(launch)
        kernel = getattr(importlib.import_module(module), name)
        return kernel.run(*(_like(*argument) for argument in arguments), grid=(1,), warmup=True, **options)


class Twice(NamedTuple):
    """What launchers ask for in one way and the JIT compiles in several: the arguments that make the difference."""

    kernel: str
    arguments: tuple[str, ...]
    values: dict[str, list[str]]


def compiled_twice(variants: Iterable[Variant]) -> list[Twice]:
    by_asked = defaultdict(list)
    for variant in dict.fromkeys(variants):
        by_asked[variant.asked].append(variant)
    found = []
    for same in by_asked.values():
        relied_on = [dict(variant.found) for variant in same]
        values = {name: sorted({one.get(name, "any") for one in relied_on}) for one in relied_on for name in one}
        values = {name: seen for name, seen in sorted(values.items()) if len(seen) > 1}
        if values:
            found.append(Twice(same[0].kernel, tuple(values), values))
    return found


def launched_by(call: Callable[[], None]) -> list[str]:
    """What `call` launches, each once; nothing runs, so it may be on tensors without data."""
    from triton.runtime.jit import JITFunction

    launches = {}

    def record(kernel, *args, grid, warmup, **options):
        launches[recorded(kernel, args, options)] = None

    with mock.patch.object(JITFunction, "run", record):
        call()
    return list(launches)
