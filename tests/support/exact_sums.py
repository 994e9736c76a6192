"""Sums and products of float32 tensors whose order does not matter: in whole numbers of 2^-40, which add exactly.

Two programs that add the same terms, and zeros, give the same bits then, however they share them out among partial
sums. In floating point they need not: a product of matrices is cut into blocks by its sizes.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ONE = 2.0**40


class ExactSums(TorchDispatchMode):
    """In its block every product of matrices and every sum over an axis is exact in steps of 2^-40."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        if name == "aten.mm":
            return _product(*args)
        if name == "aten.bmm":
            return _product(*args)
        if name == "aten.addmm":
            return args[0] + _product(*args[1:3])
        if name == "aten.baddbmm":
            return args[0] + _product(*args[1:3])
        if name == "aten.sum" and args[0].is_floating_point():
            dims = args[1] if len(args) > 1 and args[1] is not None else list(range(args[0].dim()))
            keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
            dtype = kwargs.get("dtype") or args[0].dtype
            return _total(args[0].double(), dims, keep).to(dtype)
        return func(*args, **kwargs)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a [..., M, K] times b [..., K, N]."""
    terms = a.double()[..., :, :, None] * b.double()[..., None, :, :]
    return _total(terms, [-2], False).to(a.dtype)


def _total(terms: Tensor, dims: list[int], keep: bool) -> Tensor:
    whole = (terms * _ONE).round().to(torch.int64)
    return (whole.sum(dims, keepdim=keep) if dims else whole).double() / _ONE
