"""The emulation of a GPU block on the host: right kernels give right numbers, and every mistake is named."""

import ctypes
import re
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builds import needs_compiler, recipe
from places import TESTS

pytestmark = needs_compiler

SOURCE = TESTS / "support" / "emulation_cases.cu"
ORDERS = {"forward": 0, "reverse": 1, "shuffle": 2}
COUNTS = ("mma_bf16", "mma_tf32", "load_matrices", "bank_conflicts", "tanh", "exp2", "exp")
COUNTS += ("shared_read", "shared_written", "sync_block", "sync_warp", "shuffle", "multiply_async")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    built = tmp_path_factory.mktemp("emulation") / "cases.so"
    flags = "-x c++ -std=c++20 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -DGEOTDM_EMULATE"
    subprocess.run([*recipe("ninja_build").compiler(), *flags.split(), str(SOURCE), "-o", str(built)], check=True)
    library = ctypes.CDLL(built)
    library.geotdm_emulation_report.restype = ctypes.c_char_p
    return library


@pytest.fixture(params=ORDERS)
def order(request, library):
    library.geotdm_emulation_order(ORDERS[request.param], 7)
    yield request.param
    library.geotdm_emulation_order(ORDERS["forward"], 1)


class Product(ctypes.Structure):
    _fields_ = [*[(name, ctypes.c_void_p) for name in "abc"], *[(name, ctypes.c_int) for name in "mnk"]]


class Matrices(ctypes.Structure):
    _fields_ = [("source", ctypes.c_void_p), ("to", ctypes.c_void_p), ("transposed", ctypes.c_bool)]


class InBackground(ctypes.Structure):
    _fields_ = [*[(name, ctypes.c_void_p) for name in "abc"], ("which", ctypes.c_int)]


class Values(ctypes.Structure):
    _fields_ = [("source", ctypes.c_void_p), ("to", ctypes.c_void_p)]


class Case(ctypes.Structure):
    _fields_ = [("source", ctypes.c_void_p), ("out", ctypes.c_void_p), ("which", ctypes.c_int)]


def check(library, error):
    assert error == 0, library.geotdm_emulation_report().decode()
    assert library.geotdm_emulation_report() == b""


def counts(library) -> SimpleNamespace:
    taken = (ctypes.c_int64 * len(COUNTS))()
    library.geotdm_emulation_take_counts(taken)
    return SimpleNamespace(**dict(zip(COUNTS, taken, strict=True)))


def aligned(values):
    """A copy that starts at a multiple of 16 bytes."""
    memory = np.empty(values.nbytes + 16, np.uint8)
    start = -memory.ctypes.data % 16
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def truncated(values, bits):
    return (values.view(np.uint32) & np.uint32(0xFFFFFFFF << bits & 0xFFFFFFFF)).view(np.float32)


@pytest.mark.parametrize("dtype", ["bf16", "tf32"])
@pytest.mark.parametrize("m, n, k", [(64, 64, 32), (130, 70, 160), (1, 200, 96)])
def test_a_tiled_product(library, order, dtype, m, n, k):
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal((rows, k), np.float32) for rows in (m, n))
    if dtype == "bf16":
        a, b = truncated(a, 16), truncated(b, 16)
        given = [aligned((v.view(np.uint32) >> 16).astype(np.uint16)) for v in (a, b)]
    else:
        given = [aligned(a), aligned(b)]
        a, b = truncated(a, 13), truncated(b, 13)  # what the product itself drops
    c = np.full((m, n), np.nan, np.float32)
    counts(library)
    call = Product(*[v.ctypes.data for v in (*given, c)], m, n, k)
    check(library, getattr(library, f"product_{dtype}")(ctypes.byref(call)))
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    magnitude = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64).T
    assert np.all(np.abs(c - expected) <= k * 2**-24 * magnitude)

    happened = counts(library)
    blocks = -(-m // 64) * -(-n // 64)
    k_of_mma = 16 if dtype == "bf16" else 8
    assert getattr(happened, f"mma_{dtype}") == blocks * 4 * (64 // 8) * (k // k_of_mma)
    assert happened.mma_bf16 == 0 or happened.mma_tf32 == 0
    assert happened.load_matrices == blocks * 4 * (k // k_of_mma) * (1 + 64 // 16)
    assert happened.bank_conflicts == 0
    bytes_of_row = k * given[0].itemsize
    assert happened.shared_written == blocks * 2 * 64 * bytes_of_row
    assert happened.shared_read == happened.load_matrices * 512
    assert happened.sync_block == blocks * 2 * (bytes_of_row // 64)


def test_every_order_gives_the_same_bits(library):
    a, b = (aligned(np.random.default_rng(1).standard_normal((64, 64), np.float32)) for _ in range(2))
    results = []
    for which, seed in [(0, 1), (1, 1), (2, 1), (2, 2)]:
        c = np.full((64, 64), np.nan, np.float32)
        library.geotdm_emulation_order(which, seed)
        check(library, library.product_tf32(ctypes.byref(Product(*[v.ctypes.data for v in (a, b, c)], 64, 64, 64))))
        results.append(c)
    library.geotdm_emulation_order(0, 1)
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(library, order, transposed):
    m = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    got = np.zeros((32, 4), np.uint32)
    check(library, library.matrices(ctypes.byref(Matrices(m.ctypes.data, got.ctypes.data, transposed))))
    shown = m.transpose(0, 2, 1) if transposed else m
    expected = shown.reshape(4, 32, 2).transpose(1, 0, 2)  # lane, matrix, the two numbers
    assert np.array_equal(got.view(np.uint16).reshape(32, 4, 2), expected)


def test_functions(library):
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3.4028235e38, -130.0, 1 + 2**-11, 1 + 3 * 2**-9]
    special += [1 + 2**-8, -1 - 2**-11]
    values = np.random.default_rng(2).standard_normal(64, np.float32) * 4
    values[: len(special)] = special
    got = np.zeros((7, 64), np.float32)
    counts(library)
    check(library, library.functions(ctypes.byref(Values(values.ctypes.data, got.ctypes.data))))
    other, low, high, tf32, tanh, exp2, exp = got
    assert np.array_equal(other, values[np.arange(64) ^ 5], equal_nan=True)

    bf16 = torch.from_numpy(values).bfloat16().float().numpy()
    assert np.array_equal(low, bf16, equal_nan=True)
    assert np.array_equal(high, bf16[np.arange(64) ^ 5], equal_nan=True)

    finite = np.isfinite(values) & (np.abs(values) < 3e38) & (np.abs(values) > 1e-30)
    ulp = 2.0 ** (np.floor(np.log2(np.abs(values[finite]))) - 10)
    in_ulps = values[finite] / ulp
    assert np.array_equal(tf32[finite], np.sign(in_ulps) * np.floor(np.abs(in_ulps) + 0.5) * ulp)  # ties away from zero
    assert tf32[7] == np.inf and np.isnan(tf32[4]) and np.array_equal(tf32[2:4], values[2:4])

    with np.errstate(over="ignore"):
        wide = values.astype(np.float64)
        np.testing.assert_allclose(tanh, np.tanh(wide), rtol=2**-11, atol=1e-40)
        np.testing.assert_allclose(exp, np.exp(wide).astype(np.float32), rtol=2**-22)
        normal = values != -130
        np.testing.assert_allclose(exp2[normal], np.exp2(wide[normal]).astype(np.float32), rtol=2**-22)
    assert exp2[8] == 0 and exp2[5] == exp2[6] == 1  # subnormal numbers count as zero
    happened = counts(library)
    assert (happened.tanh, happened.exp2, happened.exp, happened.shuffle) == (64, 64, 64, 2)


# In the order of `enum Which`: what the report must say; None where all is right.
MISTAKES = {
    "right": None,
    "barrier of the warp": None,
    "read after write": "thread 40 reads byte 156 of shared memory, which thread 39 wrote, with no barrier in between",
    "write after read": "thread 40 writes byte 160 of shared memory, which thread 39 read, with no barrier in between",
    "write after read beside": "thread 40 writes byte 0 of shared memory, which thread 39 read, with no barrier",
    "write after read elsewhere": r"byte 0 of shared memory, which thread (39 read|3 wrote), with no barrier",
    "write after write": "thread (63|0) writes byte 0 of shared memory, which thread (63|0) wrote, with no barrier",
    "barrier of the warp for the block's": r"which thread \d+ (read|wrote), with no barrier",
    "matrices without barrier": r"thread \d+ reads byte \d+ .* which thread \d+ wrote, with no barrier",
    "part of the block": r"no thread can go on: threads 0-49 in sync_block \(.*\); thread 50 ended; threads 51-63 in",
    "part of the warp": r"threads 0-6 in shuffle_xor \(.*\); thread 7 ended; threads 8-31 in shuffle_xor .*ended",
    "two operations": r"thread \d+ is in (sync_warp|shuffle_xor) .* while thread \d+ waits in (shuffle_xor|sync_warp) ",
    "two barriers": r"thread \d+ is in sync_block .* while thread \d+ waits in sync_block ",
    "early end": r"threads 0-31 ended; threads 32-63 in sync_block ",
    "beyond": "thread 63 writes bytes 256 to 259 of 256 bytes of shared memory",
    "before": "thread 0 writes bytes -4 to -1 of 256 bytes of shared memory",
    "misaligned": r"thread \d+ writes 16 bytes at 8, which is not a multiple of 16",
    "misaligned row": "thread 3 reads 16 bytes at 8, which is not a multiple of 16",
    "misaligned copy": r"thread \d+ copies to 16 bytes at 8, which is not a multiple of 16",
    "misaligned source": r"thread \d+ copies from 0x[0-9a-f]+, which is not a multiple of 16",
    "unwritten": "thread 20 reads byte 80 of shared memory, which nobody wrote",
    "copy not waited for": r"thread (\d+) reads byte \d+ of shared memory, where a copy of thread \1 is under way",
    "copy not committed": r"thread (\d+) reads byte \d+ of shared memory, where a copy of thread \1 is under way",
    "copy without barrier": "thread 31 reads byte 0 of shared memory, which thread 0 wrote, with no barrier",
    "copy overwritten": r"thread (\d+) writes byte \d+ of shared memory, where a copy of thread \1 is under way",
    "copy left over": r"thread \d+ ends and has not waited for 1 of its copies, the first to byte \d+",
}


@pytest.mark.parametrize("which", MISTAKES)
def test_mistakes_are_named(library, order, which):
    source, out = aligned(np.ones(256, np.float32)), np.zeros(64, np.float32)
    call = Case(source.ctypes.data, out.ctypes.data, list(MISTAKES).index(which))
    error = library.mistake(ctypes.byref(call), 2, 256)
    said = library.geotdm_emulation_report().decode()
    if MISTAKES[which] is None:
        check(library, error)
        expected = (np.arange(64) ^ 1) + (63 - np.arange(64) if which == "right" else 0)
        assert np.array_equal(out, expected)
        return
    block = 0 if order == "forward" else 1
    assert error == 1
    assert re.match(rf"\(anonymous namespace\)::Mistake, block \({block}, 0\): ", said), said
    assert re.search(MISTAKES[which], said), said
    assert re.search(r"emulation_cases\.cu:\d+\)", said) or which == "copy left over", said
    # and the next launch is as if nothing had been
    call.which = 0
    check(library, library.mistake(ctypes.byref(call), 2, 256))


# In the order of `enum BackgroundMistake`: what the report must say; None where all is right.
BACKGROUND_MISTAKES = {
    "none": None,
    "no fence": r"multiplies by byte \d+ .* which thread \d+ wrote, with no fence_for_products and barrier in between",
    "fence before writing": r"multiplies by byte \d+ .* which thread \d+ wrote, with no fence_for_products and barrier",
    "fence after barrier": r"multiplies by byte \d+ .* which thread \d+ wrote, with no fence_for_products and barrier",
    "no barrier after the fence": r"reads byte \d+ of shared memory, which (thread \d+ wrote, with no barrier|nobody)",
    "not started": r"thread \d+ multiplies in the background without start_products",
    "sums read": None,
    "sums written": "thread 70 wrote to sums before it waited for their products",
    "factors written": "thread 70 wrote to factors before it waited for their product",
    "matrix written": r"the matrix at byte \d+ was written while thread \d+ multiplied by it",
    "matrix copied over": r"reads byte 0 .*, where a copy of thread 0 is|writes byte 0 .* read, with no barrier",
    "products not committed": r"thread \d+ waits for products, but not for those that it names",
    "waited for others": r"thread \d+ waits for products, but not for those that it names",
    "products left over": r"thread \d+ ends and has not waited for its products",
    "three warps": r"thread \d+ (ends after 0 products|multiplies in the background when warp 3 has ended)",
    "two matrices": "multiplies by the matrix at byte (32|0), another warp of its group by that at (0|32)",
    "two matrices in a warp": "thread 37 multiplies by the matrix at byte 32, thread 32 of the warp by that at 0",
    "between columns": "multiplies by columns at byte 16, which are no 16 of a swizzled matrix",
}


@pytest.mark.parametrize("n", [64, 128])
@pytest.mark.parametrize("which", BACKGROUND_MISTAKES)
def test_products_in_the_background(library, order, which, n):
    generator = np.random.default_rng(3)
    a, b = (truncated(generator.standard_normal((rows, 64), np.float32), 16) for rows in (64, n))
    given = [aligned((v.view(np.uint32) >> 16).astype(np.uint16)) for v in (a, b)]
    c = np.zeros((64, n), np.float32)
    counts(library)
    call = InBackground(*[v.ctypes.data for v in (*given, c)], list(BACKGROUND_MISTAKES).index(which))
    error = library[f"product_in_background_{n}"](ctypes.byref(call))
    said = library.geotdm_emulation_report().decode()
    if BACKGROUND_MISTAKES[which] is not None:
        assert error == 1 and re.search(BACKGROUND_MISTAKES[which], said), said
        return
    check(library, error)
    if which == "sums read":
        assert np.isnan(c.ravel()[:128]).all()
        return
    expected = a.astype(np.float64) @ b.astype(np.float64).T
    magnitude = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64).T
    assert np.all(np.abs(c - expected) <= 64 * 2**-24 * magnitude)
    assert counts(library).multiply_async == 4 * 4


def test_what_no_gpu_launches(library):
    call = Case(None, np.zeros(64, np.float32).ctypes.data, 0)
    assert library.mistake(ctypes.byref(call), 1, 228 * 1024) == 1
    assert b"233472 bytes of shared memory" in library.geotdm_emulation_report()
    assert library.mistake(ctypes.byref(call), 0, 256) == 0
