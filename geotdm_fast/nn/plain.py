"""Whether a module is what its constructor made: only then may the ops take its weights and never call it.

And the network within its wrappers.
"""

import contextlib
import contextvars
import functools
import itertools
import operator
import warnings
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor, nn

# The names that DistributedDataParallel and `torch.compile` give to what they wrap.
WRAPPERS = ("module", "_orig_mod")
_COMPILED = "torch._dynamo.eval_frame.OptimizedModule"
# Wrappers whose call is a call of what they wrap, by name: to import them takes long.
_TRANSPARENT = (
    "torch.nn.parallel.distributed.DistributedDataParallel",
    _COMPILED,
    "geotdm_fast.ays.as_geotdm.AtomNetwork",
)
_OURS = ("geotdm_fast.nn.", "geotdm_fast.ays.")
# Of the dictionary of a module's attributes.
_PARTS = operator.itemgetter("_modules")
_HOOKS = operator.itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HAS_FORWARD = operator.methodcaller("__contains__", "forward")
_PLAIN = (nn.Linear.forward, nn.SiLU.forward, nn.Sequential.forward, nn.Module.forward)


def is_plain(module: nn.Module) -> bool:
    """Whether calling `module` does nothing but the forward of this package's class, or of torch's Linear or SiLU.

    A Linear with a parametrised weight is plain. One with hooks, or wrapped by an adapter, is not.
    """
    return _is_known(type(module).forward) and not is_hooked(module)


@functools.cache
def _is_known(forward: object) -> bool:
    """Whether a class's forward is of this package, or torch's of Linear, SiLU or Sequential."""
    return forward in _PLAIN or str(getattr(forward, "__module__", "")).startswith(_OURS)


@contextlib.contextmanager
def looked_at_once() -> Iterator[None]:
    """Within the block `why_not_plain` looks at a module once: for a block in which nobody changes the modules."""
    token = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(token)


_Looked: TypeAlias = dict[tuple[nn.Module, tuple[type[nn.Module], ...]], str | None]
_seen: contextvars.ContextVar[_Looked | None] = contextvars.ContextVar("geotdm_fast_seen", default=None)


def why_not_plain(module: nn.Module, read: tuple[type[nn.Module], ...] = ()) -> str | None:
    """The reason why the ops must not read the weights of `module` themselves, as text; None where they may.

    The reason names the first part of `module` whose call does more than its weights tell.
    read: types of parts, at any depth, whose weights are read beside those that each module names
    """
    seen = None if torch.compiler.is_compiling() else _seen.get()
    if seen is None:
        return _why_not(module, read)
    if (module, read) not in seen:
        seen[module, read] = _why_not(module, read)
    return seen[module, read]


def _why_not(module: nn.Module, read: tuple[type[nn.Module], ...]) -> str | None:
    if not torch.compiler.is_compiling() and _has_known_parts(module):
        return None
    wholes = [("", module)]
    while wholes:
        prefix, whole = wholes.pop()
        known = (*_read_by(whole), *read)
        for name, part in whole._modules.items():
            if part is None or (type(part) in known and not is_hooked(part)):
                continue
            if not is_plain(part):
                return f"{prefix}{name} is {type(part).__name__}, with hooks or a forward of its own"
            # Below a Linear are parametrisations, which the weight shows.
            if part._modules and not isinstance(part, nn.Linear):
                wholes.append((f"{prefix}{name}.", part))
    return None


def _has_known_parts(module: nn.Module) -> bool:
    """Whether every part of `module`, at any depth, is plain: what most networks are, told without naming a part.

    A draw asks of 200 parts. So all of one depth are asked together, in loops of C: a third of the time.
    """
    parts: list[nn.Module | None] = [module]
    joined = itertools.chain.from_iterable
    while parts := [*dict.fromkeys(joined(map(dict.values, map(_PARTS, map(vars, parts)))))]:
        if not all(_is_known(getattr(kind, "forward", None)) for kind in set(map(type, parts))):
            return False
        own = [*map(vars, parts)]
        if any(joined(map(_HOOKS, own))) or any(map(_HAS_FORWARD, own)):
            return False
    return True


def _read_by(module: nn.Module) -> tuple[type[nn.Module], ...]:
    """Types of parts whose weights `module`, a layer, reads (`geotdm_fast.nn.layers.SpatialLayer.reads`)."""
    return getattr(type(module), "reads", ())


def is_hooked(module: nn.Module) -> bool:
    """Whether `module` itself, parts aside, has hooks or a forward that was set on the instance."""
    return _has_hooks(module) or "forward" in vars(module)


def _has_hooks(module: nn.Module) -> bool:
    own = vars(module)  # where torch keeps the hooks of a module
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks)


def bare(network: nn.Module) -> nn.Module:
    """The network within the wrappers of DistributedDataParallel and `torch.compile`, in any order."""
    return _layers_of(network)[-1]


def wrappers(network: nn.Module) -> list[nn.Module] | None:
    """What is around `bare(network)`, from without; None where a call of it may do more than one of the bare network.

    Known are DistributedDataParallel, `torch.compile` and `geotdm_fast.ays.as_geotdm.AtomNetwork`, without hooks.
    """
    found = _layers_of(network)[:-1]
    return found if all(map(_is_transparent, found)) else None


def is_compiled(network: nn.Module) -> bool:
    """Whether `torch.compile` is among the wrappers of `network`, or compiled its bare call."""
    layers = _layers_of(network)
    return any(_name(type(layer)) == _COMPILED or layer._compiled_call_impl is not None for layer in layers)


def _layers_of(network: nn.Module) -> list[nn.Module]:
    """`network` and what it wraps, from without."""
    layers = [network]
    while within := [part for name in WRAPPERS if (part := layers[-1]._modules.get(name)) is not None]:
        layers.append(within[0])
    return layers


def _is_transparent(wrapper: nn.Module) -> bool:
    # torch.compile puts its forward upon each of its wrappers.
    is_own = _has_hooks(wrapper) or ("forward" in vars(wrapper) and _name(type(wrapper)) != _COMPILED)
    return _name(type(wrapper)) in _TRANSPARENT and not is_own


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def like(module: nn.Module) -> Tensor:
    """A tensor on the device and in the dtype of `module`: its first floating-point parameter or buffer."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.empty(0)  # weights that are packed away, as quantisation does it


@functools.cache
def warn_called_by_modules(where: str, why: str) -> None:
    """Warn, once for each reason, that a network is called module by module, which is slower."""
    text = f"{where}: {why}: its layers are called module by module, by plain PyTorch, which is slower"
    warnings.warn(text, RuntimeWarning, stacklevel=4)
