"""Sections of one configuration that are read from the same file: it is opened, looked through and parsed once."""

import collections
import warnings

import numpy as np
import pytest
import torch
from molecule_frames import (
    ETHANOL_BONDS,
    NAMES,
    dump_text,
    motion,
    nothing_unexpected,
    pdb_text,
    places,
    write,
    xyz_text,
)

import geotdm_fast.data.molecule_files.mdtraj_files as mdtraj_files
from geotdm_fast.data import file_dataset, open_dataset, open_datasets
from geotdm_fast.data.molecule_files.lammps import LammpsDump
from geotdm_fast.data.molecule_files.mdtraj_files import MdtrajFile
from geotdm_fast.data.molecule_files.pdb import PdbFile
from geotdm_fast.data.molecule_files.reading import OpenFile, Reading
from geotdm_fast.data.molecule_files.xyz import XyzFile
from geotdm_fast.inspection.look import inspect_file

pytestmark = pytest.mark.usefixtures("nothing_unexpected")
assert nothing_unexpected
SPLITS = ("train", "val", "test")
FRAMES = 100


@pytest.fixture
def counts(monkeypatch):
    """How often a file was opened and looked through, and which frames were parsed."""
    seen = collections.Counter()
    parsed = []
    for module in ("xyz", "lammps", "pdb"):
        name = f"geotdm_fast.data.molecule_files.{module}.open_text"
        before = pytest.importorskip(name.rsplit(".", 1)[0]).open_text
        monkeypatch.setattr(name, lambda path, before=before: seen.update(["opened"]) or before(path))
    for kind, method, place in ((XyzFile, "_frame", 1), (LammpsDump, "_positions", 2), (PdbFile, "_positions", 1)):
        before = getattr(kind, method)
        note = lambda self, *args, before=before, place=place: parsed.append(args[place]) or before(self, *args)
        monkeypatch.setattr(kind, method, note)
    for kind in (XyzFile, LammpsDump, PdbFile, MdtrajFile):
        before = kind.__init__
        note = lambda self, *args, before=before: seen.update(["scanned"]) or before(self, *args)
        monkeypatch.setattr(kind, "__init__", note)
    seen.parsed = parsed
    return seen


def xyz(path, x, comment=lambda t: ""):
    return write(path / "a.xyz", xyz_text(x, comment=comment))


def dump(path, x):
    values = lambda t, i: f"{i} {'CCOHHHHHH'[i]} " + " ".join(f"{c:.6f}" for c in x[t, i])
    return write(path / "a.lammpstrj", dump_text(x, "id element x y z", values, box="ff ff ff"))


def pdb(path, x):
    return write(path / "a.pdb", pdb_text(x, NAMES, elements=[name[0] for name in NAMES]))


def sections(path, splits=SPLITS, **more):
    return {f"data.{split}": {"kind": "file", "path": str(path), "split": split, "span": 5} | more for split in splits}


def assert_same(ours, alone):
    assert list(ours) == list(alone)
    for where in ours:
        a, b = ours[where], alone[where]
        assert len(a) == len(b) and a.name == b.name and a.unit == b.unit
        assert torch.equal(a.items.x, b.items.x) and torch.equal(a[0].edge_index, b[0].edge_index)
        assert torch.equal(a[0].h, b[0].h) and a.items.x.untyped_storage().nbytes() == a.items.x.nbytes


def each_alone(asked):
    return {where: open_dataset(section, where, progress=False) for where, section in asked.items()}


@pytest.mark.parametrize("make", [xyz, dump, pdb])
def test_sections_are_read_in_one_pass(tmp_path, counts, make):
    asked = sections(make(tmp_path, motion(FRAMES)), bonds=ETHANOL_BONDS.tolist())
    ours = open_datasets(asked, progress=False)
    # To look through it, and to read it; of a PDB twice for the CONECT records.
    assert counts["scanned"] == 1 and counts["opened"] == (4 if make is pdb else 2)
    assert counts.parsed == list(range(FRAMES)), "each frame once, in order"
    counts.clear()
    counts.parsed.clear()
    assert_same(ours, each_alone(asked))
    assert counts["scanned"] == 3


def test_one_section_reads_its_frames_once_too(tmp_path, counts):
    open_datasets(sections(xyz(tmp_path, motion(FRAMES)), ["val"]), progress=False)
    assert counts["opened"] == 2 and counts.parsed == [0, *range(60, 80)], "the graph is that of the first frame"


def test_sections_in_another_order_or_of_the_same_frames(tmp_path, counts):
    path = xyz(tmp_path, motion(FRAMES))
    for asked in (
        sections(path, reversed(SPLITS)),
        {f"data.{i}": sections(path)["data.val"] | {"stride": 1 + i} for i in range(2)},
        sections(path, every=3),
        {
            "a": sections(path)["data.train"] | {"frames": [10, 50]},
            "b": sections(path)["data.val"] | {"frames": [50, 90]},
        },
        {"a": sections(path)["data.train"], "b": sections(path)["data.val"] | {"with_h": False}},
    ):
        counts.clear()
        ours = open_datasets(asked, progress=False)
        assert counts["scanned"] == 1
        assert_same(ours, each_alone(asked))


def test_files_of_a_list_are_read_one_after_the_other(tmp_path, counts):
    for name in "ab":
        (tmp_path / name).mkdir()
    paths = [str(xyz(tmp_path / name, motion(FRAMES, seed=i))) for i, name in enumerate("ab")]
    asked = {where: section | {"path": paths} for where, section in sections("").items()}
    ours = open_datasets(asked, progress=False)
    assert counts["scanned"] == 2 and counts["opened"] == 4 and counts.parsed == [*range(FRAMES)] * 2
    for where, alone in each_alone(asked).items():
        assert len(ours[where]) == len(alone)
        for i in (0, len(alone) - 1):
            assert torch.equal(ours[where][i].x, alone[i].x)


def test_atoms_are_followed_on_from_section_to_section(tmp_path, counts):
    x = motion(FRAMES, drift=(0.3, 0.2, 0)) + 3
    path = xyz(tmp_path, np.mod(x, 8), lambda t: f'Lattice="8 0 0 0 8 0 0 0 8" time={t}')
    with pytest.warns(UserWarning, match="jumps across the box were mended") as said:
        ours = open_datasets(sections(path), progress=False)
    assert counts["scanned"] == 1 and counts["opened"] == 2 and counts.parsed == list(range(FRAMES))
    with pytest.warns(UserWarning) as alone_said:
        assert_same(ours, each_alone(sections(path)))
    assert [str(one.message) for one in said] == [str(one.message) for one in alone_said]
    whole = np.concatenate([places(ours[f"data.{split}"]) for split in SPLITS])
    np.testing.assert_allclose(whole - whole[0, 0], x - x[0, 0], atol=2e-5)


def test_molecules_are_made_whole_after_a_gap(tmp_path):
    """Beyond the gap atoms may be in any image of the box: the molecule begins anew."""
    x = motion(60, drift=(0.3, 0.2, 0)) + 3
    x[30:] += 2.6
    times = np.r_[0:30, 50:80]
    path = xyz(tmp_path, np.mod(x, 8), lambda t: f'Lattice="8 0 0 0 8 0 0 0 8" time={times[t]}')
    with pytest.warns(UserWarning) as said:
        dataset = file_dataset(path, span=10)
    texts = [str(one.message) for one in said]
    assert any("the first 21 after frame 29; no window crosses these" in text for text in texts)
    assert any("made whole after 1 gaps in time too" in text for text in texts)
    found = places(dataset)
    assert len(dataset) == 2 * 21
    for part in (slice(0, 30), slice(30, 60)):
        np.testing.assert_allclose(found[part] - found[part][0, 0], x[part] - x[part][0, 0], atol=2e-5)
    for split, length in (("train", 36), ("val", 12), ("test", 12)):
        with pytest.warns(UserWarning):
            part = file_dataset(path, None, split, span=6)
        begin = {"train": 0, "val": 36, "test": 48}[split]
        np.testing.assert_array_equal(places(part), found[begin : begin + length])


def test_a_restarted_run_in_sections(tmp_path, counts):
    times = [*range(50), *range(40, 90)]
    path = xyz(tmp_path, motion(90)[times], lambda t: f"time={times[t]}")
    with pytest.warns(UserWarning, match="times run back in 1 place"):
        ours = open_datasets(sections(path), progress=False)
    assert counts["scanned"] == 1
    # Of the frames 40 and 50, which have the same time, it is looked at once whether they agree.
    assert counts.parsed == [0, 40, 50, *range(1, 40), *range(50, 100)]
    with pytest.warns(UserWarning, match="times run back in 1 place"):
        assert_same(ours, each_alone(sections(path)))


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "nc", "mdcrd"])
def test_sections_through_mdtraj(tmp_path, counts, monkeypatch, suffix):
    mdtraj = pytest.importorskip("mdtraj")
    warnings.simplefilter("ignore")
    topology = pdb(tmp_path, motion(1))
    x = motion(FRAMES)
    path = tmp_path / f"a.{suffix}"
    mdtraj.Trajectory((x / 10).astype(np.float32), mdtraj.load_topology(str(topology))).save(str(path))
    monkeypatch.setattr(mdtraj_files, "frames_in_chunk", lambda n: 7)
    asked = sections(path, topology=str(topology))
    read, before = [], MdtrajFile._chunks

    def chunks(self, file, atoms, number=None):
        for part in before(self, file, atoms, number):
            read.append(len(part))
            yield part

    ours = open_datasets(asked, progress=False)
    assert counts["scanned"] == 1 + 1  # the PDB beside it
    np.testing.assert_allclose(np.concatenate([places(ours[where]) for where in ours]), x, atol=2e-2)
    with OpenFile() as file:
        monkeypatch.setattr(MdtrajFile, "_chunks", chunks)
        reading = file.molecules("a", path, topology, "mdtraj", None, True)
        read.clear()
        reading.frame(0)
        for numbers in np.split(np.arange(FRAMES), [60, 80]):
            for _ in reading.frames(np.arange(9), numbers):
                pass
        assert sum(read) == FRAMES
    monkeypatch.setattr(MdtrajFile, "_chunks", before)
    assert_same(ours, each_alone(asked))


def test_what_is_asked_for_after_an_error(tmp_path):
    """A broken frame ends a reading; others can be read all the same."""
    text = xyz_text(motion(20)).splitlines(keepends=True)
    text[10 * 11 + 4] = "O 0.1 x 0.3\n"
    path = write(tmp_path / "a.xyz", "".join(text))
    with OpenFile() as file:
        reading = file.molecules("file_dataset: a.xyz", path, None, "auto", None, True)
        assert reading is file.molecules("file_dataset: a.xyz", path, None, "auto", None, True)
        assert isinstance(reading, Reading)
        with pytest.raises(ValueError, match=r"line 115, atom 2 of frame 10, must have three coordinates"):
            list(reading.frames(np.arange(9), np.arange(20)))
        (frames,) = reading.frames(np.arange(9), np.arange(11, 20))
        np.testing.assert_allclose(frames.x, motion(20)[11:], atol=1e-7)
    with pytest.raises(ValueError, match=r"^data\.val: file_dataset: .*atom 2 of frame 10"):
        open_datasets(sections(path, split_ratio=[0.4, 0.4, 0.2]), progress=False)


def test_inspect_looks_through_a_file_once(tmp_path, counts):
    path = xyz(tmp_path, motion(FRAMES))
    inspect_file(path)
    assert counts["scanned"] == 1 and counts.parsed == [FRAMES - 1, *range(FRAMES)]
