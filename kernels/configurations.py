"""How each kernel is cut into programs: one small table, so that nothing is tuned while a user waits.

Chosen by the counts of `python -m bench.codegen`: no spills, `wgmma` on sm_90, the fewest instructions.
"""

from typing import NamedTuple


class Configuration(NamedTuple):
    """block: rows of a program; slice: columns of a weight at a time (all of them: it stays on chip)."""

    block: int
    slice: int
    num_warps: int
    num_stages: int = 1


def padded(width: int) -> int:
    """The power of two from `width` on, 16 or more: what a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())


def edges_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For egcl_edges_kernel. size: padded width; capability: 80, 90, 100."""
    if precision == "fp32":  # products on the FMA units: short slices, or every operand goes through registers at once
        return Configuration(16, 16, 4)
    if size >= 256:
        return Configuration(32, 64, 8)
    return Configuration(64, size, 8 if size == 128 else 4)


def rows_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For the kernels over rows: project, update, and their backward ones."""
    if precision == "fp32":
        return Configuration(16, 16, 4 if size <= 64 else 8)
    return Configuration(64, size, 4 if size <= 64 else 8) if size < 256 else Configuration(16, 64, 8)


def backward_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For egcl_edges_backward_kernel."""
    if precision == "fp32":
        return Configuration(16, 16, 8)
    if size >= 256:
        return Configuration(16, 64, 8)
    return Configuration(32, size, 8)


def weight_configuration(size: int, precision: str, capability: int) -> tuple[int, int, int, int]:
    """For egcl_weight_kernel: tile of the weight, rows at a time, warps, slots."""
    if precision == "fp32":
        return min(size, 64), 16, 4, 16
    return min(size, 128), 64, 8, 64
