"""The matrix products of bfloat16 numbers, with the instructions emulated, and as they are where there are any.

Two bfloat16 numbers multiply exactly in float32, so the order of the sums decides every bit. AVX512_BF16 adds of a pair
of products the second first. AMX sums the first and the second products of 16 pairs apart, adds the two sums, then adds
that. In both, blocks of K are summed apart.
"""

import ctypes
import platform
import subprocess

import numpy as np
import pytest
import torch
from builds import ROOT, needs_compiler, recipe
from tolerances import assert_same

from geotdm_fast.ops import native
from tools import ninja_build

pytestmark = [
    needs_compiler,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these kernels are for x86-64"),
]

# The products alone, by the definitions of kernels_<isa>.cpp: all kernels would compile ten times as long.
LIBRARY = """
#include "gemm.h"
using namespace geotdm::GEOTDM_ISA;
extern "C" {
void packed(float* to, const float* b, long k, long n, long k_stride, long n_stride) {
  pack(to, b, k, n, k_stride, n_stride);
}
long size(long k, long n) { return packed_size(k, n); }
// C (+)= A B for `k` rows of the packed B [rows, n] from row `first`
void product(long m, long n, long k, const float* a, long a_stride, const float* b, long first, long rows, float* c,
             long c_stride, bool accumulate) {
  [[maybe_unused]] const ProductUnit unit;
  multiply(m, n, k, a, a_stride, b + packed_rows(first), packed_rows(rows), c, c_stride, accumulate);
}
void product_at(long k, long n, long m, const float* a, long a_stride, const float* b, long b_stride, float* c,
                long c_stride) {
  [[maybe_unused]] const ProductUnit unit;
  gemm_at(k, n, m, a, a_stride, b, b_stride, c, c_stride);
}
}
"""
DEPTH, SUMMED = 256, 64  # kDepth, kSummedRows
PANEL = 32
EMULATED = "-O1 -Wno-psabi -DGEOTDM_EMULATE"
FLAGS = {("avx512bf16", "emulated"): EMULATED, ("amx", "emulated"): EMULATED}
# the one that runs here, compiled as it is: the module has asked for AMX's tiles already
if (RUNS := (native.build_info() or {}).get("low_precision_isa")) in ("avx512bf16", "amx"):
    FLAGS[RUNS, "instruction"] = recipe().KERNELS[f"cpu/kernels_{RUNS}"]


@pytest.fixture(scope="module", params=FLAGS, ids="-".join)
def library(request, tmp_path_factory):
    isa, how = request.param
    folder = tmp_path_factory.mktemp("gemm")
    source = (ROOT / f"csrc/cpu/kernels_{isa}.cpp").read_text()
    definitions = [line for line in source.splitlines() if line.startswith("#define GEOTDM_")]
    (folder / "gemm.cpp").write_text("\n".join([*definitions, LIBRARY]))
    flags = [*recipe().FLAGS.split(), *FLAGS[request.param].split(), "-fvisibility=default"]
    command = [*ninja_build.compiler(), *flags, "-I", ROOT / "csrc/cpu", "-shared"]
    subprocess.run([*command, folder / "gemm.cpp", "-o", folder / "gemm.so"], check=True)
    library = ctypes.CDLL(folder / "gemm.so")
    library.size.restype = ctypes.c_long
    library.exact = how == "emulated" or isa == "amx"
    library.sums = {"avx512bf16": pair_by_pair, "amx": tile_by_tile}[isa]
    return library


def call(function, *arguments):
    """Arrays as pointers, numbers as long."""
    given = [v.ctypes.data_as(ctypes.c_void_p) if isinstance(v, np.ndarray) else ctypes.c_long(v) for v in arguments]
    return function(*given)


def rounded(a: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.ascontiguousarray(a)).bfloat16().float().numpy()


def pair_by_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b in float32 as AVX512_BF16 sums it: of each pair of steps the second first."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(0, a.shape[1], 2):
        for step in (k + 1, k):
            if step < a.shape[1]:
                total += a[:, step, None] * b[step]
    return total


def tile_by_tile(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b in float32 as AMX sums it: of 32 steps the even and the odd ones apart."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(0, a.shape[1], 32):
        parts = np.zeros((2, *total.shape), np.float32)
        for step in range(k, min(k + 32, a.shape[1])):
            parts[step % 2] += a[:, step, None] * b[step]
        total += parts[0] + parts[1]
    return total


def summed_in_blocks(sums, a: np.ndarray, b: np.ndarray, depth: int, total: np.ndarray | None) -> np.ndarray:
    """total + a b for a [m, k], b [k, n]: blocks of `depth` steps apart."""
    for k in range(0, a.shape[1], depth):
        block = sums(a[:, k : k + depth], b[k : k + depth])
        total = block if total is None else total + block
    return np.zeros((a.shape[0], b.shape[1]), np.float32) if total is None else total


def padded_to(n: int) -> int:
    return -(-n // PANEL) * PANEL


def poisoned_rows(values: np.ndarray, stride: int) -> np.ndarray:
    """Rows `stride` apart, NaN between them."""
    out = np.full((values.shape[0], stride), np.nan, np.float32)
    out[:, : values.shape[1]] = values
    return out


def check(library, ours: np.ndarray, a: np.ndarray, b: np.ndarray, depth: int, start: np.ndarray | None = None):
    """ours = start + a b, near the exact product of the rounded factors, and bit by bit where the order is known."""
    low_a, low_b = rounded(a), rounded(b)
    exact = (0 if start is None else start) + low_a.astype(np.float64) @ low_b.astype(np.float64)
    assert_same(ours, exact, 1e-5)
    if library.exact:
        np.testing.assert_array_equal(ours, summed_in_blocks(library.sums, low_a, low_b, depth, start))


# rows around the blocks of 12, 16 and 64, columns around the panel of 32, depths around pairs, 32 and the block of 256
SIZES = [
    (1, 1, 1), (2, 16, 2), (11, 31, 31), (12, 32, 32), (13, 33, 33), (60, 128, 128), (23, 48, 48), (24, 30, 112),
    (16, 32, 64), (17, 33, 65), (64, 64, 32), (100, 40, 96), (5, 20, 255), (5, 20, 256), (5, 20, 257),
    (3, 129, 513), (7, 256, 30), (4, 8, 0),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n", "k"), SIZES)
@pytest.mark.parametrize("order", ["rows", "columns", "apart"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_product(library, m, n, k, order, accumulate):
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n)))
    stored = {"rows": b, "columns": np.asfortranarray(b), "apart": np.repeat(b, 2, axis=1)[:, ::2]}[order]
    strides = [stride // 4 for stride in stored.strides]
    packed = np.full(call(library.size, k, n), np.nan, np.float32)
    call(library.packed, packed, stored, k, n, *strides)
    c = np.full((m, padded_to(n)), np.nan, np.float32)
    start = draw.standard_normal((m, n)).astype(np.float32) if accumulate else None
    if accumulate:
        c[:, :n] = start
    a_rows = poisoned_rows(a, k + 3)
    call(library.product, m, n, k, a_rows, k + 3, packed, 0, k, c, c.shape[1], accumulate)
    check(library, c[:, :n], a, b, DEPTH, start)


def test_product_with_a_part_of_the_rows(library):
    """As psi's table is used: rows from a whole panel's width on, an odd number of them, rows behind them left out."""
    draw = np.random.default_rng(1)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((9, 45), (119, 40)))
    packed = np.empty(call(library.size, 119, 40), np.float32)
    call(library.packed, packed, b, 119, 40, 40, 1)
    c = np.zeros((9, 64), np.float32)
    call(library.product, 9, 40, 45, a, 45, packed, 64, 119, c, 64, 0)
    check(library, c[:, :40], a, b[64:109], DEPTH)


@pytest.mark.parametrize(("k", "n", "m"), [*SIZES, (48, 128, 60), (49, 160, 63), (100, 33, 64), (30, 30, 65)])
def test_product_with_the_transpose(library, k, n, m):
    draw = np.random.default_rng(2)
    a, b, start = (draw.standard_normal(shape).astype(np.float32) for shape in ((m, k), (m, n), (k, n)))
    c = poisoned_rows(start, padded_to(n))
    rows = poisoned_rows(a, padded_to(k)), poisoned_rows(b, padded_to(n))
    call(library.product_at, k, n, m, rows[0], padded_to(k), rows[1], padded_to(n), c, c.shape[1])
    check(library, c[:, :n], a.T, b, SUMMED, start)


def test_a_row_does_not_depend_on_its_block(library):
    draw = np.random.default_rng(3)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((31, 48), (48, 48)))
    packed = np.empty(call(library.size, 48, 48), np.float32)
    call(library.packed, packed, b, 48, 48, 48, 1)
    whole, one = np.zeros((31, 64), np.float32), np.zeros((1, 64), np.float32)
    call(library.product, 31, 48, 48, a, 48, packed, 0, 48, whole, 64, 0)
    for row in range(31):
        call(library.product, 1, 48, 48, a[row].copy(), 48, packed, 0, 48, one, 64, 0)
        assert np.array_equal(one[0, :48], whole[row, :48])


def test_rounding(library):
    """To the nearest, ties to even, at the border of infinity too; infinity and NaN stay what they are."""
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF, 0x7F7FFFFF, 0x7F7F7FFF, 0x7F800000, 0xFF800000]
    bits += [0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x00800000]
    a = np.array(bits, np.uint32).view(np.float32)[:, None]
    one = np.ones((1, 1), np.float32)
    expected = torch.from_numpy(a).bfloat16().float().numpy()
    packed, c = np.empty(call(library.size, 1, 1), np.float32), np.empty((len(a), PANEL), np.float32)
    call(library.packed, packed, one, 1, 1, 1, 1)
    call(library.product, len(a), 1, 1, a, 1, packed, 0, 1, c, PANEL, 0)
    np.testing.assert_array_equal(c[:, :1], expected)
