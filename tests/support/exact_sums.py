"""Arithmetic in float32 tensors that does not depend on how many rows there are, for tests bit for bit.

Two programs that add the same terms, and zeros, give the same bits here. In torch's own arithmetic they need not: sums
and products of matrices are cut into parts by their sizes, and the last elements of a tensor, which fill no vector of
the processor, pass other instructions than those before.
"""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ONE = 2.0**40
_PRODUCTS = {"aten.mm": 0, "aten.bmm": 0, "aten.addmm": 1, "aten.baddbmm": 1}  # which argument is the first factor
_OF_ELEMENTS = ("aten.silu", "aten.silu_backward", "aten.sin", "aten.cos", "aten.exp", "aten.sigmoid", "aten.tanh")
_INTO_ROWS = ("aten.index_add", "aten.index_add_", "aten.index_put", "aten.index_put_", "aten.scatter_add",
              "aten.scatter_add_")  # fmt: skip
_VECTORS = 64  # elements: a whole number of vectors, however a loop is unrolled


class ExactSums(TorchDispatchMode):
    """In its block products of matrices, and sums over an axis or into rows, are exact in whole numbers of 2^-40, and
    functions of elements the same for all of them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if name in _PRODUCTS:
            first = _PRODUCTS[name]
            product = _product(*args[first : first + 2])
            return args[0] + product if first else product
        if name in ("aten.sum", "aten.mean") and args[0].is_floating_point():
            dims = (args[1] if len(args) > 1 else None) or list(range(args[0].dim()))
            keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
            total = _total(args[0].double(), dims, keep)
            if name == "aten.mean":
                total /= math.prod(args[0].shape[dim] for dim in dims)
            return total.to(kwargs.get("dtype") or args[0].dtype)
        if name in _INTO_ROWS and args[0].is_floating_point() and _adds(name, args):
            total = _into_rows(func, args, kwargs)
            return args[0].copy_(total) if name.endswith("_") else total
        if name in ("aten.lerp", "aten.lerp_"):
            mixed = _lerp(*args)
            return args[0].copy_(mixed) if name.endswith("_") else mixed
        if name in _OF_ELEMENTS:
            return func(*map(_in_vectors, args), **kwargs)[: args[0].numel()].view(args[0].shape)
        return func(*args, **kwargs)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [..., M, K] times b [..., K, N]."""
    return _total(a.double()[..., :, :, None] * b.double()[..., None, :, :], [-2], False).to(a.dtype)


def _total(terms: Tensor, dims: list[int], keep: bool) -> Tensor:
    whole = (terms * _ONE).round().to(torch.int64)
    return (whole.sum(dims, keepdim=keep) if dims else whole).double() / _ONE


def _adds(name: str, args: tuple) -> bool:
    return "index_put" not in name or (len(args) > 3 and args[3])


def _into_rows(func, args: tuple, kwargs: dict) -> Tensor:
    """What `func` makes of args[0], whatever the order of the terms that it adds to a row."""
    whole = lambda value: (value.double() * _ONE).round().to(torch.int64)
    place = 2 if "index_put" in str(func.overloadpacket) else 3
    args = [*args]
    dtype, args[0], args[place] = args[0].dtype, whole(args[0]), whole(args[place])
    return (func(*args, **kwargs).double() / _ONE).to(dtype)


def _lerp(start: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """`torch.lerp`, whose vectors fuse a product with a sum."""
    if not isinstance(weight, Tensor):
        return torch.lerp(_in_vectors(start), _in_vectors(end), weight)[: start.numel()].view(start.shape)
    start, end, weight = torch.broadcast_tensors(start, end, weight)
    mixed = torch.lerp(_in_vectors(start), _in_vectors(end), _in_vectors(weight))
    return mixed[: start.numel()].view(start.shape)


def _in_vectors(value: Tensor) -> Tensor:
    """The elements one after the other, and zeros until they fill vectors."""
    return torch.nn.functional.pad(value.reshape(-1), (0, -value.numel() % _VECTORS))
