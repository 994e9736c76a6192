"""The headers of an XTC are looked at before its frames are decompressed."""

import struct

import numpy as np
import pytest

from geotdm_fast.data.molecule_files.xdr import read_headers


@pytest.fixture(params=[4, 11])
def file(request, tmp_path):
    mdtraj = pytest.importorskip("mdtraj")
    x = np.random.default_rng(0).normal(size=(3, request.param, 3)).astype(np.float32)
    with mdtraj.formats.XTCTrajectoryFile(str(tmp_path / "m.xtc"), "w") as out:
        out.write(x)
    return tmp_path / "m.xtc"


def test_whole_files_pass(file):
    assert len(read_headers(file, "xtc").times) == 3
    file.write_bytes(b"")
    assert len(read_headers(file, "xtc").times) == 0


def test_cut_files(file):
    whole = file.read_bytes()
    for kept in (4, 60, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"m\.xtc must hold whole frames, got an end within frame [012]"):
            read_headers(file, "xtc")


@pytest.mark.parametrize(
    ("place", "number", "message"),
    [
        (4, 12, "atoms must be one or more, twice the same, got 12 and 11"),
        (52, -1, "atoms must be one or more, twice the same, got 11 and -1"),
        (56, 0x7FC00000, "precision must be a positive number, got nan"),
        (60, 2**30, r"positions must be in ranges, got from \[1073741824, "),
        (84, 8, r"smallidx must be in 9\.\.72, got 8"),
        (84, 73, r"smallidx must be in 9\.\.72, got 73"),
        (88, -5, r"the positions of 11 atoms must take 1\.\.192 bytes, got -5"),
        (88, 10**9, r"the positions of 11 atoms must take 1\.\.192 bytes, got 1000000000"),
    ],
)
def test_headers_that_cannot_be_right(tmp_path, place, number, message):
    mdtraj = pytest.importorskip("mdtraj")
    with mdtraj.formats.XTCTrajectoryFile(str(tmp_path / "m.xtc"), "w") as out:
        out.write(np.random.default_rng(0).normal(size=(3, 11, 3)).astype(np.float32))
    data = bytearray((tmp_path / "m.xtc").read_bytes())
    data[place : place + 4] = struct.pack(">i", number)
    (tmp_path / "m.xtc").write_bytes(data)
    with pytest.raises(ValueError, match=f"m.xtc: frame 0: .*{message}"):
        read_headers(tmp_path / "m.xtc", "xtc")
