"""Memory that tensors give back stays with the process once it is asked to."""

import platform

import pytest
import warm_python

PAGES = """
import resource
import torch
from geotdm_fast import keep_freed_memory

def faults(calls):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        torch.ones(2**24)  # 64 MiB, more than malloc ever keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
without = faults(5)
assert keep_freed_memory()
faults(20)  # until the heap has as much
print(without, faults(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is for glibc's malloc")
def test_freed_memory_is_used_again():
    done = warm_python.run("-c", PAGES)
    assert done.returncode == 0, done.stderr
    without, kept = map(int, done.stdout.split())
    assert without > 5 * 16  # at least 5 x 32 huge pages, or many more small ones
    assert kept < 10


def test_other_systems_are_left_alone(monkeypatch):
    from geotdm_fast import keep_freed_memory

    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_memory() is False
