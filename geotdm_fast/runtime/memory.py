"""How much memory there is, and whether an error says that it is out."""

import os
import sys

# What a computation that fails raises: torch a RuntimeError, and our compiled ops a MemoryError where memory is out.
FAILURES = (RuntimeError, MemoryError)
# How PyTorch on the CPU, the C++ library, the CUDA driver and cuBLAS say that memory is out.
_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "std::bad_alloc", "out of memory", "ALLOC_FAILED")


def physical_memory() -> int | None:
    """The bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has none, as a MemoryError of Python."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether `error`, or what it arose from, says that memory is out, on a GPU or the CPU.

    A capture that fails for want of memory raises its own error while that of the allocator is being handled.
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES):
            return True
        # Nothing is imported here: there may be no memory for it.
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False
