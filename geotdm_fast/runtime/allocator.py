"""How the C library's malloc treats the memory that tensors on the CPU give back."""

import ctypes
import sys

# mallopt's names in malloc.h, with values beyond every tensor.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 2**30)


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed for what comes next; whether it does now (False with another C library).

    By itself it returns blocks of some MB to the system at once, and the next call of a network faults every page in
    again: a quarter of the time of fast kernels. The process's memory then never shrinks below its peak, so a program
    decides: the commands of `geotdm` do, the benchmarks do not.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt")):
        return False
    return libc.mallopt(*_TRIM_THRESHOLD) == libc.mallopt(*_MMAP_THRESHOLD) == 1
