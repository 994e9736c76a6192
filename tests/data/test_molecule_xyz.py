"""XYZ and extended XYZ: what columns, boxes and comments say, frames in chunks, elements of the user."""

import bz2
import gzip
import lzma
import warnings

import numpy as np
import pytest
from molecule_frames import ETHANOL_Z, NAMES, WATER, motion, nothing_unexpected, places, write, xyz_text

import geotdm_fast.data.molecule_files.xyz as module
from geotdm_fast.data import file_dataset
from geotdm_fast.data.molecule_files.contents import frames_in_chunk
from geotdm_fast.data.molecule_files.xyz import XyzFile, keys_of

pytestmark = pytest.mark.usefixtures("nothing_unexpected")
assert nothing_unexpected


def test_xyz(tmp_path):
    x = motion()
    dataset = file_dataset(write(tmp_path / "a.xyz", xyz_text(x)), span=20)
    assert len(dataset) == 21 and dataset.atomic_numbers.tolist() == ETHANOL_Z.tolist() and dataset.name == "a"
    np.testing.assert_allclose(places(dataset), x, atol=1e-6)
    (tmp_path / "b.xyz.gz").write_bytes(gzip.compress(xyz_text(x).encode()))
    np.testing.assert_array_equal(places(file_dataset(tmp_path / "b.xyz.gz", span=20)), places(dataset))


def test_extended_xyz_obeys_its_properties(tmp_path):
    """Columns before and after the positions, in any order."""
    x, lines = motion(), []
    for frame in x:
        lines += ["9", 'Properties=forces:R:3:species:S:1:id:I:1:pos:R:3:tags:I:1 energy=-1.0 comment="x = 3"']
        lines += [f"7 8 9 {s} 5 {a:.8f} {b:.8f} {c:.8f} 2" for s, (a, b, c) in zip("CCOHHHHHH", frame, strict=True)]
    dataset = file_dataset(write(tmp_path / "a.extxyz", "\n".join(lines)), span=20)
    np.testing.assert_allclose(places(dataset), x, atol=1e-6)
    assert dataset.atomic_numbers.tolist() == ETHANOL_Z.tolist()
    numbered = xyz_text(x, [str(z) for z in ETHANOL_Z.tolist()], lambda t: "properties=Z:I:1:pos:R:3")
    assert file_dataset(write(tmp_path / "b.xyz", numbered), span=20).atomic_numbers.tolist() == ETHANOL_Z.tolist()


def test_what_ase_writes(tmp_path):
    ase = pytest.importorskip("ase")
    from ase.io import write as ase_write

    x = motion(drift=(0.3, 0, -0.2)) + 6
    box = np.array([[12.0, 0, 0], [3, 11, 0], [-2, 4, 10]])
    wrapped = np.mod(x @ np.linalg.inv(box), 1) @ box
    frames = [
        ase.Atoms(ETHANOL_Z, p, cell=box, pbc=[True, True, True], info={"time": 0.5 * t}) for t, p in enumerate(wrapped)
    ]
    for frame in frames:
        frame.arrays["forces"] = np.ones((9, 3))
    for name in ("a.extxyz", "a.traj"):
        ase_write(tmp_path / name, frames)
        with pytest.warns(UserWarning) as said:
            dataset = file_dataset(tmp_path / name, span=20)
        # the molecule as it moved, in an image of the box
        shift = places(dataset)[0, 0] - x[0, 0]
        np.testing.assert_allclose(np.mod(shift @ np.linalg.inv(box) + 0.5, 1), 0.5, atol=1e-5)
        np.testing.assert_allclose(places(dataset) - shift, x, atol=2e-5)
        assert any("jumps across the box were mended, the first of atom" in str(w.message) for w in said)
    warnings.simplefilter("ignore")  # of the jumps, and of the bonds
    as_stored = file_dataset(tmp_path / "a.extxyz", span=20, unwrap="no", bonds=[[0, 1]])
    np.testing.assert_allclose(places(as_stored), wrapped, atol=1e-6)
    assert np.abs(np.diff(places(as_stored), axis=0)).max() > 5
    frames[3].pbc = frames[0].pbc = False
    ase_write(tmp_path / "open.extxyz", [ase.Atoms(f.numbers, f.positions, cell=box, pbc=False) for f in frames])
    np.testing.assert_allclose(
        places(file_dataset(tmp_path / "open.extxyz", span=20, bonds=[[0, 1]])), wrapped, atol=1e-6
    )


@pytest.mark.parametrize(
    "labels, message",
    [
        (["CA", "CB", "C"], r"become CA -> Ca, CB -> C \(line 3: 'CA'\)\. .*elements: \{CA: \.\.\., CB: \.\.\.\}"),
        (["1", "2", "2"], r"got the types 1, 2 alone \(line 3: '1'\); .* elements: \{1: \.\.\., 2"),
        (["OW", "HW1", "HW2"], r"would have become OW -> O, HW1 -> H, HW2 -> H \(line 3: 'OW'\)"),
    ],
)  # fmt: skip
def test_labels_that_are_no_elements(tmp_path, labels, message):
    path = write(tmp_path / "a.xyz", xyz_text(motion(base=WATER), labels))
    with pytest.raises(
        ValueError, match=rf"file_dataset: .*a\.xyz: the element of every atom must be stated.*{message}"
    ):
        file_dataset(path, span=20)
    for elements in ([8, 1, 1], ["O", "H", "H"], dict(zip(labels, "OHH", strict=True))):
        assert file_dataset(path, span=20, elements=elements).atomic_numbers.tolist() == [8, 1, 1]


def test_names_that_leave_no_doubt_are_taken_with_a_warning(tmp_path):
    path = write(tmp_path / "a.xyz", xyz_text(motion(), [name.upper() for name in NAMES]))
    with pytest.warns(UserWarning, match=r"elements of 9 atoms are taken from their labels.*C1 -> C, C2 -> C, O3 -> O"):
        assert file_dataset(path, span=20).atomic_numbers.tolist() == ETHANOL_Z.tolist()


@pytest.mark.parametrize(
    "elements, error, message",
    [
        ([8, 1], ValueError, "elements must have one for each of 3 atoms, got 2"),
        ({"X9": "O"}, ValueError, "elements must name labels of the file, OW, HW1, HW2; got 'X9'"),
        (["O", "H", "Hx"], ValueError, "elements must be symbols such as Cl, or atomic numbers, got 'Hx'"),
        ([8, 1, 0], ValueError, "or atomic numbers, got 0"),
        ("OHH", TypeError, "elements must be a list, or a mapping of names to elements, got 'OHH'"),
    ],
)
def test_elements_of_the_user_that_cannot_be(tmp_path, elements, error, message):
    path = write(tmp_path / "a.xyz", xyz_text(motion(base=WATER), ["OW", "HW1", "HW2"]))
    with pytest.raises(error, match=message):
        file_dataset(path, span=20, elements=elements)


GOOD = xyz_text(motion(5, WATER), "OHH")
LINES = GOOD.splitlines(keepends=True)
BROKEN_XYZ = [
    ("", r"must have a frame, got none"),
    ("three\n", r"frame 0 must begin with the number of its atoms, got 'three'"),
    ("".join(LINES[:-1]), r"must have 3 lines of atoms in frame 4, got less"),
    (GOOD.replace("H ", "H1 ", 4).replace("H1 ", "H ", 2), r"got others in frame 1: 'H1' for 'H'"),
    ("".join([*LINES[:5], "2\n", *LINES[6:9]]), r"same atoms in every frame, got 2 instead of 3 in frame 1"),
    ("".join([*LINES[:8], "H 0.1 x 0.3\n", *LINES[9:]]), r"line 9, .*must have three coordinates, got '0.1 x 0.3'"),
    ("".join([*LINES[:8], "H 0.1 0.2\n", *LINES[9:]]), r"line 9, atom 1 of frame 1, must have 4 columns"),
    ("".join([*LINES[:8], "H 0.1 nan 0.3\n", *LINES[9:]]), r"must be finite .*, got nan for atom 1 in frame 1"),
    ("".join([*LINES[:1], "Properties=species:S:1\n", *LINES[2:]]), r"Properties must have pos:R:3"),
    ("".join([*LINES[:1], "Properties=pos:R:3\n", *LINES[2:]]), r"Properties must have species"),
    ("".join([*LINES[:1], 'Lattice="9 0 0 0 9 0 0 0"\n', *LINES[2:]]), r"Lattice of frame 0 must be nine numbers"),
    ("".join([*LINES[:1], 'Lattice="9 0 0 0 9 0 0 0 9"\n', *LINES[2:]]), r"in every frame or none, got none in"),
]  # fmt: skip


@pytest.mark.parametrize("text, message", BROKEN_XYZ)
def test_broken_xyz(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"file_dataset: .*a\.xyz.*{message}"):
        file_dataset(write(tmp_path / "a.xyz", text), span=2)


@pytest.mark.parametrize(
    "comment, keys",
    [
        (b"Time=1.5\n", {b"time": b"1.5"}),
        (b" i =   7, TIME =  3.5, E = -17.1\n", {b"i": b"7", b"time": b"3.5"}),
        (b"pbc='T T F' LATTICE = \"1 0 0 0 1 0 0 0 1\"", {b"pbc": b"T T F", b"lattice": b"1 0 0 0 1 0 0 0 1"}),
        (b'energy=2 mytime=3 lattice="" step="', {b"lattice": b"", b"step": b'"'}),
        (b"time 3\n", {}),
    ],
)
def test_keys_of_a_comment(comment, keys):
    assert keys_of(comment) == keys


def test_a_box_that_changes(tmp_path):
    sizes = [8, 8, 9, 9, 8]
    box = lambda t: f'Lattice="{sizes[t]} 0 0 0 8 0 0 0 8"'
    source = XyzFile(write(tmp_path / "a.xyz", xyz_text(motion(5), comment=box)))
    (frames,) = source.read(np.arange(9), np.arange(5))
    np.testing.assert_array_equal(frames.cells, [np.diag([size, 8, 8]) for size in sizes])


def test_times_of_cp2k(tmp_path):
    times = [*range(30), *range(25, 50)]
    comment = lambda t: f" i = {times[t]:8d}, time = {times[t] * 0.5:12.3f}, E =  -17.16"
    whole = motion(50, WATER)
    path = write(tmp_path / "a.xyz", xyz_text(whole[times], "OHH", comment))
    with pytest.warns(
        UserWarning, match=r"times run back in 1 place, first to 12\.5 in frame 30 after 14\.5: 5 frames"
    ):
        dataset = file_dataset(path, span=20)
    np.testing.assert_allclose(places(dataset), whole, atol=1e-6)
    later = xyz_text(motion(55, WATER), "OHH", lambda t: f"time={t + 5 * (t > 39)}")
    with pytest.warns(UserWarning, match=r"times are 1 apart but in 1 places, the first 6 after frame 39; no window"):
        dataset = file_dataset(write(tmp_path / "b.xyz", later), span=15)
    assert len(dataset) == 26 + 1 and places(dataset).shape[0] == 55


def test_runs_that_do_not_agree_where_the_second_begins(tmp_path):
    """The same times alone make no restarted run."""
    times = [*range(30), *range(10, 40)]
    x = np.concatenate([motion(30, WATER), motion(30, WATER, seed=1) + 1])
    path = write(tmp_path / "a.xyz", xyz_text(x, "OHH", lambda t: f"time={times[t]}"))
    with (
        pytest.warns(UserWarning, match="first to 10 in frame 30 after 29: 20 frames"),
        pytest.raises(ValueError, match=r"frames 10 and 30 have the same time and must agree.* frames: \[30, null\]"),
    ):
        file_dataset(path, span=20)
    assert len(file_dataset(path, span=20, frames=[0, 30])) == 11


def test_frames_and_splits_are_read_alone(tmp_path, monkeypatch):
    x = motion(100)
    path = write(tmp_path / "a.xyz", xyz_text(x))
    read = []
    frame = XyzFile._frame
    monkeypatch.setattr(XyzFile, "_frame", lambda self, file, t, atoms: read.append(t) or frame(self, file, t, atoms))
    dataset = file_dataset(path, span=5, frames=[10, 90], every=4)
    np.testing.assert_allclose(places(dataset), x[10:90:4], atol=1e-6)
    assert read == [*range(10, 90, 4)]
    read.clear()
    dataset = file_dataset(path, None, "test", span=5, frames="10:90:2")  # 40 frames: 24, 8 and 8
    np.testing.assert_allclose(places(dataset), x[10:90:2][32:], atol=1e-6)
    assert read == [10, *range(74, 90, 2)] and dataset.items.x.shape[-1] == 8
    with pytest.raises(ValueError, match=r"frames must stop within the 100 frames there are, got 900"):
        file_dataset(path, span=5, frames=[0, 900])
    with pytest.raises(ValueError, match=r"split 'val' must have at least span=30 frames, got 20 of 100"):
        file_dataset(path, None, "val")


def test_the_graph_is_that_of_the_first_frame_in_every_split(tmp_path):
    x = motion(50)
    x[30:, 8] += 3  # the hydrogen leaves
    path = write(tmp_path / "a.xyz", xyz_text(x))
    edges = [file_dataset(path, None, split, span=5)[0].edge_index.tolist() for split in ("train", "val", "test")]
    assert edges[0] == edges[1] == edges[2] and len(edges[0][0]) == 66


def test_long_files_are_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "frames_in_chunk", lambda n: 7)
    x = motion(60, drift=(0.3, 0.2, 0)) + 3
    box = 'Lattice="8 0 0 0 8 0 0 0 8"'
    path = write(tmp_path / "a.xyz", xyz_text(np.mod(x, 8), comment=lambda t: box))
    with pytest.warns(UserWarning, match="jumps across the box were mended"):
        found = places(file_dataset(path, span=20))
    np.testing.assert_allclose(found - found[0, 0], x - x[0, 0], atol=2e-5)
    with pytest.warns(UserWarning):
        later = places(file_dataset(path, None, "test", span=10))
    np.testing.assert_allclose(later, found[48:], atol=1e-6)  # followed from the first frame on
    assert frames_in_chunk(10**9) == 1 and frames_in_chunk(21) > 1000


def test_a_step_of_half_the_box_is_in_doubt(tmp_path):
    x = motion(30, drift=(3.7, 0, 0))
    path = write(tmp_path / "a.xyz", xyz_text(np.mod(x, 8), comment=lambda t: 'Lattice="8 0 0 0 8 0 0 0 8"'))
    warnings.simplefilter("ignore", UserWarning)
    with pytest.warns(UserWarning, match=r"a step of 3\.\d* angstrom between frames is 9\d% of half of the box"):
        file_dataset(path, span=20)


@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_damaged_compressed_files(tmp_path, suffix, compress):
    whole = compress(xyz_text(motion()).encode())
    path = tmp_path / f"a.xyz{suffix}"
    path.write_bytes(whole)
    assert len(file_dataset(path, span=20)) == 21
    rng = np.random.default_rng(0)
    for trial in range(60):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for place in rng.integers(len(data) or 1, size=2 * (trial % 2 == 0)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            file_dataset(path, span=20)
        except ValueError as error:
            assert str(error).startswith(f"file_dataset: {path}")


def test_a_number_of_atoms_that_cannot_be(tmp_path):
    for count in ("9" * 30, "9" * 5000, "-3", "0"):
        path = write(tmp_path / "a.xyz", xyz_text(motion(3)).replace("9\n", f"{count}\n", 1))
        with pytest.raises(ValueError, match=r"file_dataset: .*a\.xyz"):
            file_dataset(path, span=2)
