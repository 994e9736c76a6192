"""Damaged versions of a file: what disks, transfers, editors and malice make of it."""

import io
import json
import zipfile
from collections.abc import Callable

import numpy as np

Random = np.random.Generator
# What stands in the place of a number or a word of a text.
_WORDS = (
    "-1", "0", "1", "1e999", "-1e30", "nan", "inf", "2147483648", "9223372036854775808", "9" * 5000, "1.5", "true",
    "null", "''", "x", "[]", "{}", "[[[1]]]", "\x1b[7m", "\x00", "9" * 9,
)  # fmt: skip


def damaged(data: bytes, rng: Random, head: int = 0) -> bytes:
    """One damaged version of `data`. head: bytes at its begin that half of the damage goes to, 0: no such part."""
    ways = [_cut, _flip_bits, _change_bytes, _swap_parts, _repeat_part, _zero_part, _drop_part, _insert_noise]
    within = slice(0, head) if head and rng.random() < 0.5 else slice(0, len(data))
    way: Callable = ways[rng.integers(len(ways))]
    return data[: within.start] + way(data[within], rng) + data[within.stop :]


def damaged_text(data: bytes, rng: Random) -> bytes:
    """One damaged version of a text: half of them have another word or number, or are nested, and stay texts."""
    if rng.random() < 0.5:
        return damaged(data, rng)
    text = data.decode(errors="replace")
    if rng.random() < 0.1:
        depth = int(rng.choice([50, 150, 1000, 100_000]))
        place = int(rng.integers(len(text)))
        return (text[:place] + "[" * depth + text[place:]).encode()
    words = [i for i in range(1, len(text)) if text[i].isalnum() and not text[i - 1].isalnum()]
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.choice(words))
        stop = start
        while stop < len(text) and (text[stop].isalnum() or text[stop] in ".+-"):
            stop += 1
        text = text[:start] + str(rng.choice(_WORDS)) + text[stop:]
        words = [i for i in words if i < start] or [1]
    return text.encode(errors="replace")


def damaged_npz(data: bytes, rng: Random) -> bytes:
    """One damaged version of an `.npz`: half of them are whole archives with other arrays in them."""
    if rng.random() < 0.5:
        return damaged(data, rng)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    for _ in range(int(rng.integers(1, 3))):
        name = str(rng.choice(list(arrays)))
        other = str(rng.choice(list(arrays)))
        arrays[name] = _other_array(arrays[name], arrays[other], rng)
        if rng.random() < 0.1:
            arrays[other] = arrays.pop(name)  # lost, under another's name
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def damaged_npy(data: bytes, rng: Random) -> bytes:
    """One damaged version of an `.npy`; half of the damage goes to its header."""
    if rng.random() < 0.7:
        return damaged(data, rng, head=128)
    buffer = io.BytesIO()
    array = np.load(io.BytesIO(data))
    np.save(buffer, _other_array(array, array[:1], rng))
    return buffer.getvalue()


def damaged_safetensors(data: bytes, rng: Random) -> bytes:
    """One damaged version of a safetensors file without its checksum: what is in it must be checked as well."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if not k.endswith("sha256")}
    if rng.random() < 0.5:
        name = str(rng.choice([name for name, text in header["__metadata__"].items() if len(text) > 2]))
        changed = damaged_text(header["__metadata__"][name].encode(), rng)
        header["__metadata__"][name] = changed.decode(errors="replace")
    text = json.dumps(header).encode()
    if rng.random() < 0.3:
        text = damaged_text(text, rng)
    whole = len(text).to_bytes(8, "little") + text + data[end:]
    return whole if rng.random() < 0.5 else damaged(whole, rng, head=len(text))


def damaged_zip(data: bytes, rng: Random) -> bytes:
    """One damaged version of a zip archive: half of them have right checksums around what is damaged."""
    if rng.random() < 0.5:
        return damaged(data, rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as new:
        names = archive.namelist()
        chosen = str(rng.choice(names))
        for name in names:
            part = archive.read(name)
            new.writestr(name, damaged(part, rng) if name == chosen and part else part)
    return buffer.getvalue()


def _other_array(array: np.ndarray, other: np.ndarray, rng: Random) -> np.ndarray:
    extremes = np.array([-1, 0, 2**31, 2**62, -(2**63)])
    with np.errstate(all="ignore"):
        ways = [
            lambda: other,
            lambda: array.ravel()[: rng.integers(array.size + 1)],
            lambda: array[None],
            lambda: array.astype(complex) if array.dtype.kind in "iufb" else np.zeros(3, complex),
            lambda: array.astype(str),
            lambda: np.full(array.shape, np.nan),
            lambda: np.full(array.shape, rng.choice(extremes)),
            lambda: np.full(array.shape, 1e38, np.float32),
            lambda: _one_changed(array, rng),
            lambda: np.zeros((0, *array.shape[1:])),
            lambda: np.float64(3.0),
            lambda: array.T,
            lambda: array > array if array.dtype.kind in "iufb" else array == array,
            lambda: np.zeros(array.shape, "datetime64[s]"),
            lambda: np.zeros(array.shape, [("a", "f4"), ("b", "i4")]),
        ]
        return np.asarray(ways[rng.integers(len(ways))]())


def _one_changed(array: np.ndarray, rng: Random) -> np.ndarray:
    changed = np.array(array)
    if changed.size and changed.dtype.kind in "iuf":
        values = [-1, 10**9] if changed.dtype.kind in "iu" else [np.nan, np.inf, 1e30]
        with np.errstate(all="ignore"):
            changed.flat[rng.integers(changed.size)] = np.asarray(rng.choice(values)).astype(changed.dtype)
    return changed


def _part(data: bytes, rng: Random, longest: int = 4096) -> slice:
    start = int(rng.integers(len(data)))
    return slice(start, min(len(data), start + 1 + int(rng.integers(longest))))


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.integers(len(data))]


def _flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.choice([1, 1, 10]))):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _change_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.choice([1, 3, 30]))):
        changed[place] = int(rng.choice([0, 255, rng.integers(256)]))
    return bytes(changed)


def _swap_parts(data: bytes, rng: Random) -> bytes:
    a, b, c, d = sorted(int(i) for i in rng.integers(0, len(data) + 1, 4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _repeat_part(data: bytes, rng: Random) -> bytes:
    part = _part(data, rng)
    return data[: part.stop] + data[part] * int(rng.integers(1, 5)) + data[part.stop :]


def _zero_part(data: bytes, rng: Random) -> bytes:
    part = _part(data, rng)
    return data[: part.start] + bytes(part.stop - part.start) + data[part.stop :]


def _drop_part(data: bytes, rng: Random) -> bytes:
    part = _part(data, rng, 64)
    return data[: part.start] + data[part.stop :]


def _insert_noise(data: bytes, rng: Random) -> bytes:
    place = int(rng.integers(len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 64))) + data[place:]
