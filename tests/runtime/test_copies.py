"""Copies to a device: all tensors of a tree at once, on a pretended GPU."""

from typing import NamedTuple

import pytest
import torch
from pretended_cuda import DEVICE, PretendedGPU

from geotdm_fast.runtime.copies import all_to_device


class Pair(NamedTuple):
    one: torch.Tensor | None
    other: object


def tree() -> Pair:
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return Pair(torch.arange(5), [draw(3, 2).T, {"none": None, "empty": draw(0, 4), "count": 7}, torch.tensor([True])])


def test_on_the_cpu():
    made = tree()
    assert all_to_device(made, torch.device("cpu")).other[0] is made.other[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_on_a_gpu():
    made = tree()
    with PretendedGPU() as gpu:
        found = all_to_device(made, DEVICE)
        assert not gpu.waits and isinstance(found, Pair)
        tensors = [found.one, found.other[0], found.other[1]["empty"], found.other[2]]
        assert all(tensor.is_cuda and tensor.is_contiguous() for tensor in tensors)
        there = [tensor.cpu() for tensor in tensors]
    for one, other in zip(there, [made.one, made.other[0], made.other[1]["empty"], made.other[2]], strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert found.other[1]["none"] is None and found.other[1]["count"] == 7
