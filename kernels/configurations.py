"""How each kernel is cut into programs: small tables, so that nothing is tuned while a user waits.

Chosen by the counts of `python -m bench.ops.codegen` for triton 3.6 and 3.9: no spills first (what is left is in
bench/ops/codegen_limits.json), then the fewest instructions for an edge-frame; bench/NOTES.md has times of an H100.
"""

from typing import NamedTuple


class Configuration(NamedTuple):
    """block: rows of a program, or of its tile; slice: columns of a weight at a time (all of them: it stays on chip).

    programs: of a multiprocessor, each with many tiles and sums of its own; 0: each with one tile, and no sums
    """

    block: int
    slice: int
    num_warps: int
    num_stages: int = 1
    programs: int = 0


def padded(width: int) -> int:
    """The power of two from `width` on, 16 or more: what a matrix product takes."""
    return max(16, 1 << (width - 1).bit_length())


# (precision, family of GPUs): by padded width, up to 32, 64, 128, 256. float32 products run on the FMA units, where a
# long slice puts whole operands into registers. sm_90 wants 64 channels or rows a warpgroup of four warps; sm_80 keeps
# operands in registers and has room for less. More rows a program reuse the weights better and spill sooner.
EDGES = {
    ("fp32", 80): ((16, 16, 4), (16, 16, 4), (16, 16, 8), (16, 16, 32)),
    ("fp32", 90): ((16, 16, 4), (16, 16, 4), (16, 16, 8), (16, 16, 32)),
    ("fp32", 100): ((16, 16, 4), (16, 16, 4), (16, 16, 8), (16, 16, 32)),
    ("tf32", 80): ((32, 32, 4), (32, 64, 4), (16, 32, 8), (16, 16, 8)),
    ("tf32", 90): ((64, 32, 4), (32, 64, 4), (32, 32, 8), (16, 32, 8)),
    ("tf32", 100): ((64, 32, 4), (32, 64, 4), (16, 128, 8), (16, 32, 8)),
    ("bf16", 80): ((64, 32, 4), (32, 64, 4), (32, 128, 8), (16, 16, 8)),
    ("bf16", 90): ((64, 32, 4), (64, 64, 4), (64, 128, 8), (16, 64, 8)),
    ("bf16", 100): ((64, 32, 4), (64, 64, 4), (64, 128, 8), (16, 64, 8)),
}
# A fourth number: programs of a multiprocessor that sum U1's gradient on chip (`Configuration.programs`).
BACKWARD = {
    ("fp32", 80): ((16, 16, 4), (16, 16, 4), (16, 16, 16), (16, 16, 32)),
    ("fp32", 90): ((16, 16, 4), (16, 16, 4), (16, 16, 16), (16, 16, 32)),
    ("fp32", 100): ((16, 16, 4), (16, 16, 4), (16, 16, 16), (16, 16, 32)),
    ("tf32", 80): ((32, 32, 4), (16, 32, 4), (16, 32, 8), (16, 32, 8)),
    ("tf32", 90): ((32, 32, 4), (16, 64, 4), (16, 64, 8), (16, 32, 8)),
    ("tf32", 100): ((32, 32, 4), (32, 64, 4), (16, 64, 8), (16, 32, 8)),
    ("bf16", 80): ((64, 32, 4), (16, 64, 4), (16, 32, 8), (16, 32, 8)),
    ("bf16", 90): ((32, 32, 2), (32, 32, 4), (64, 128, 8, 1), (16, 64, 8)),
    ("bf16", 100): ((64, 32, 4), (32, 64, 4), (32, 64, 8), (16, 64, 8)),
}


def family(capability: int) -> int:
    """80, 90 or 100, whose tables hold: others with mma.sync and 99 KB of shared memory are taken for 80."""
    return 90 if capability == 90 else 100 if 100 <= capability < 120 else 80


def edges_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For egcl_edges_kernel. size: padded width; capability: 80, 86, 90, ..."""
    return _of_size(EDGES[precision, family(capability)], size)


def backward_configuration(size: int, precision: str, capability: int, has_cutoff: bool = False) -> Configuration:
    """For egcl_edges_backward_kernel; with a cutoff and sums on chip half the rows: of 64 it spilled 44 registers."""
    found = _of_size(BACKWARD[precision, family(capability)], size)
    return found._replace(block=found.block // 2) if has_cutoff and found.programs else found


def _of_size(by_size: tuple[tuple[int, ...], ...], size: int) -> Configuration:
    block, columns, num_warps, *programs = by_size[max(0, size.bit_length() - 6)]
    return Configuration(block, min(columns, size), num_warps, 1, *programs)


def rows_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For egcl_project_kernel and egcl_update_kernel."""
    if precision == "fp32":
        return Configuration(16, 16, 4 if size <= 64 else 8)
    if size == 256 or family(capability) == 80:
        return Configuration(16, min(size, 32), 4 if size <= 64 else 8)
    return Configuration(64 if precision == "bf16" else 32, size, 4 if size <= 64 else 8)


def rows_backward_configuration(size: int, precision: str, capability: int) -> Configuration:
    """For egcl_update_backward_kernel and egcl_project_backward_kernel, which hold more."""
    forward = rows_configuration(size, precision, capability)
    return forward


def weight_configuration(size: int, precision: str, capability: int) -> tuple[int, int, int, int]:
    """For egcl_weight_kernel: tile of the weight, rows at a time, warps, slots (a sum each, added in order).

    Slots are written and read once more: small tiles make enough programs of few of them.
    """
    if precision == "fp32":
        return min(size, 64), 16, 8, 64
    if family(capability) == 80 or size < 256:
        return min(size, 64), 32, 4, 64
    return 128, 32, 8, 32
