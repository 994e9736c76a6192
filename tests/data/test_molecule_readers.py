"""Trajectories and topologies through MDTraj and MDAnalysis."""

import contextlib
import gc
import re
import warnings

import numpy as np
import pytest
from molecule_frames import (
    ETHANOL,
    ETHANOL_BONDS,
    ETHANOL_Z,
    NAMES,
    SYMBOLS,
    WATER,
    dump_text,
    motion,
    nothing_unexpected,
    pdb_text,
    places,
    xyz_text,
)
from test_frame_times import trr_frame

from geotdm_fast.data import file_dataset
from geotdm_fast.data.molecule_files import formats, mdtraj_files
from geotdm_fast.data.molecule_files.opening import open_molecules
from geotdm_fast.runtime import packages
from geotdm_fast.runtime.packages import how_to_install

mdtraj = pytest.importorskip("mdtraj")
HAS_MDANALYSIS = formats.installed("mdanalysis")
READERS = [
    "mdtraj",
    pytest.param("mdanalysis", marks=pytest.mark.skipif(not HAS_MDANALYSIS, reason="MDAnalysis is not installed")),
]
TRICLINIC = np.array([[13.0, 0, 0], [3, 12, 0], [-2, 4, 11]])


pytestmark = pytest.mark.usefixtures("nothing_unexpected")
assert nothing_unexpected


def topology(residue="ETH", waters=0):
    top = mdtraj.Topology()
    chain = top.add_chain()
    one = top.add_residue(residue, chain)
    for name, z in zip(NAMES, ETHANOL_Z.tolist(), strict=True):
        top.add_atom(name, mdtraj.element.Element.getByAtomicNumber(z), one)
    for _ in range(waters):
        one = top.add_residue("HOH", chain)
        for name in ("O", "H1", "H2"):
            top.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), one)
    top.create_standard_bonds()
    return top


def trajectory(x, top=None, cell=None, time=None):
    """Positions [T, N, 3] (angstrom) as MDTraj has them; cell: [3, 3] or [T, 3, 3]."""
    made = mdtraj.Trajectory((x / 10).astype(np.float32), top or topology(), time=time)
    if cell is not None:
        made.unitcell_vectors = np.broadcast_to(cell / 10, (len(x), 3, 3)).astype(np.float32)
    return made


@pytest.fixture
def eth(tmp_path):
    """The topology of ethanol as a PDB file, with the bonds of its CONECT records."""
    path = tmp_path / "eth.pdb"
    bonds = "".join(f"CONECT{a + 1:5d}{b + 1:5d}\n" for a, b in ETHANOL_BONDS.tolist())
    path.write_text(
        pdb_text(ETHANOL[None], NAMES, elements=[name[0] for name in NAMES]).replace("END\n", bonds + "END\n")
    )
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", ["xtc", "dcd", "trr"])
@pytest.mark.parametrize("breathes", [False, True])
def test_atoms_are_followed_across_the_box(tmp_path, eth, reader, suffix, breathes):
    x = motion(drift=(0.3, 0, -0.2)) + 5
    factor = 1 + breathes * 0.01 * np.sin(np.arange(40))
    cells = TRICLINIC * factor[:, None, None]
    wrapped = np.mod(x @ np.linalg.inv(cells), 1) @ cells
    trajectory(wrapped, cell=cells).save(str(tmp_path / f"a.{suffix}"))
    with pytest.warns(UserWarning, match=r"jumps across the box were mended, the first of atom \d at frame \d+"):
        found = places(file_dataset(tmp_path / f"a.{suffix}", eth, reader=reader, span=20))
    np.testing.assert_allclose(found, x + (found[0, 0] - x[0, 0]), atol=0.03)
    assert np.linalg.norm(np.diff(found, axis=0), axis=-1).max() < 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the jumps
        stored = file_dataset(tmp_path / f"a.{suffix}", eth, reader=reader, span=20, unwrap="no")
    assert np.linalg.norm(np.diff(places(stored), axis=0), axis=-1).max() > 5


def test_chosen_atoms_far_from_each_other_are_made_whole_by_the_others(tmp_path):
    """The trace of a chain is whole where the chain is, though its own atoms are 3.8 angstrom apart."""
    names, base = [], []
    for i in range(5):
        names += ["N", "CA", "C"]
        base += [[3.8 * i, 0, 0], [3.8 * i + 1.3, 0.5, 0], [3.8 * i + 2.5, 0, 0]]
    x = motion(base=np.array(base)) + np.array([12.0, 2, 2])
    top = mdtraj.Topology()
    chain = top.add_chain()
    for _ in range(5):
        residue = top.add_residue("ALA", chain)
        for name in names[:3]:
            top.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
    top.create_standard_bonds()
    trajectory(np.mod(x, 25), top, np.diag([25.0] * 3)).save(str(tmp_path / "a.xtc"))
    trajectory(x[:1], top).save(str(tmp_path / "a.pdb"))
    with pytest.warns(UserWarning) as said:
        dataset = file_dataset(
            tmp_path / "a.xtc", tmp_path / "a.pdb", selection="name CA", span=20, fully_connected=True
        )
    found = places(dataset)
    np.testing.assert_allclose(found - found[:, :1], (x - x[:, 1:2])[:, 1::3], atol=0.02)
    assert any("made whole in the first frame: 1 of 5 atoms moved" in str(w.message) for w in said)


@pytest.mark.parametrize("reader", READERS)
def test_frames_without_positions_are_left_out(tmp_path, eth, reader):
    """GROMACS writes them where velocities are wanted more often than positions."""
    x = motion(30)
    frames = []
    for t, frame in enumerate(x):
        data = bytearray(trr_frame(2.0 * t, True, atoms=9))
        data[-216:-108] = (frame / 10).astype(">f4").tobytes()
        frames += [bytes(data), trr_frame(2.0 * t + 1, False, atoms=9)]
    (tmp_path / "mixed.trr").write_bytes(b"".join(frames))
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"mixed\.trr: 30 of 60 frames hold no positions and are left out"):
            dataset = file_dataset(tmp_path / "mixed.trr", eth, reader=reader, span=20)
        np.testing.assert_allclose(places(dataset), x, atol=1e-5)
    (tmp_path / "none.trr").write_bytes(b"".join(trr_frame(t, False, atoms=9) for t in range(3)))
    with (
        pytest.warns(UserWarning, match="3 of 3 frames hold no positions"),
        pytest.raises(ValueError, match="must have frames with positions, got none"),
    ):
        file_dataset(tmp_path / "none.trr", eth, reader=reader, span=2)


@pytest.mark.parametrize("reader", READERS)
def test_a_restarted_run_and_an_uneven_one(tmp_path, eth, reader):
    x = motion(110, drift=(0.1, 0, 0))
    again = np.r_[0:60, 50:110]
    trajectory(x[again], time=again.astype(np.float32)).save(str(tmp_path / "restart.xtc"))
    with pytest.warns(UserWarning, match=r"times run back in 1 place, first to 50 in frame 60 after 59: 10"):
        dataset = file_dataset(tmp_path / "restart.xtc", eth, reader=reader, span=20)
    assert len(dataset) == 91
    np.testing.assert_allclose(places(dataset), x, atol=1e-4)
    uneven = np.r_[0:60, 60:110:10]
    trajectory(x[uneven], time=uneven.astype(np.float32)).save(str(tmp_path / "uneven.xtc"))
    with pytest.warns(UserWarning, match="times are 1 apart but in 4 places, the first 10 after frame 60"):
        dataset = file_dataset(tmp_path / "uneven.xtc", eth, reader=reader, span=20)
    assert len(dataset) == 42 and dataset.items.x.shape[-1] == 61, "what no window holds is not kept"
    assert len(file_dataset(tmp_path / "uneven.xtc", eth, reader=reader, span=20, frames=[0, 61])) == 42


@pytest.mark.parametrize("reader", READERS)
def test_selected_first_and_read_alone(tmp_path, reader):
    top = topology("LIG", waters=30)
    rng = np.random.default_rng(0)
    base = np.concatenate([ETHANOL, *(WATER + rng.uniform(5, 30, 3) for _ in range(30))])
    x = motion(50, base)
    trajectory(x, top).save(str(tmp_path / "a.xtc"))
    trajectory(x[:1], top).save(str(tmp_path / "a.pdb"))
    chosen = "resname LIG and not name H9"
    knows_water = pytest.warns(UserWarning, match="xtc: the bonds of the topology leave 8 atoms without any")
    with knows_water if reader == "mdtraj" else contextlib.nullcontext():
        dataset = file_dataset(tmp_path / "a.xtc", tmp_path / "a.pdb", "val", reader=reader, selection=chosen, span=5)
    np.testing.assert_allclose(places(dataset), x[30:40, :8], atol=1e-2)
    assert dataset.items.x.shape == (1, 8, 3, 10)
    with pytest.raises(ValueError, match=r"must have atoms left after selection='resname XYZ' .*got none"):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.pdb", reader=reader, selection="resname XYZ")
    with pytest.raises(ValueError, match=r"selection='foo bar baz' must choose atoms, got"):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.pdb", reader=reader, selection="foo bar baz")


def test_a_selection_keeps_no_trajectory(tmp_path):
    """MDTraj's parser of selections holds on to its callers' frames, and what they hold."""
    top = topology("LIG", waters=30)
    x = motion(50, np.concatenate([ETHANOL, np.arange(90)[:, None] + np.array([5.0, 5, 5])]))
    trajectory(x, top).save(str(tmp_path / "a.xtc"))
    trajectory(x[:1], top).save(str(tmp_path / "a.pdb"))
    kept = [item for item in gc.get_objects() if type(item) is mdtraj.Trajectory]
    with pytest.warns(UserWarning):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.pdb", selection="not water", span=5)
    gc.collect()
    assert len([item for item in gc.get_objects() if type(item) is mdtraj.Trajectory]) == len(kept)


@pytest.mark.parametrize("reader", READERS)
def test_pdb_by_its_residues(tmp_path, reader):
    """Names, bonds of residues and selections, without an element column."""
    names = ["N", "CA", "C", "O", "CB", "CG"]
    base = np.array([[0, 0, 0], [1.4, 0, 0], [2.8, 0, 0], [3.4, 1, 0], [1.4, 1.5, 0], [2.4, 2.5, 0]])
    x = motion(base=base)
    (tmp_path / "a.pdb").write_text(pdb_text(x, names, "HIS"))
    with pytest.warns(UserWarning, match=r"taken from their names, .*CA -> C, .*CB -> C, CG -> C"):
        dataset = file_dataset(tmp_path / "a.pdb", reader=reader, span=20, selection="not name O")
    assert dataset.atomic_numbers.tolist() == [7, 6, 6, 6, 6]
    np.testing.assert_allclose(places(dataset), x[:, [0, 1, 2, 4, 5]], atol=6e-4)


def test_pdb_with_alternate_locations(tmp_path):
    names, alternate = ["N", "CA", "CA", "C"], [(" ", 1.0), ("A", 0.4), ("B", 0.6), (" ", 1.0)]
    x = motion(base=np.array([[0.0, 0, 0], [1.4, 0.5, 0], [1.4, 0, 0], [2.8, 0, 0]]))
    (tmp_path / "a.pdb").write_text(pdb_text(x, names, "ALA", [n[0] for n in names], alternate=alternate))
    with pytest.warns(UserWarning, match="2 of 4 records are alternate locations"):
        dataset = file_dataset(tmp_path / "a.pdb", span=20)
    np.testing.assert_allclose(places(dataset), x[:, [0, 2, 3]], atol=6e-4)


def gro(path, atoms, frames=40):
    base = np.arange(len(atoms))[:, None] * np.array([0.1, 0.1, 0]) + 1
    text = []
    for t in range(frames):
        text.append(f"t= {t}.0\n{len(atoms)}")
        for i, (residue, name) in enumerate(atoms):
            x, y, z = base[i] + 0.001 * t
            text.append(f"{i + 1:5d}{residue:<5s}{name:>5s}{i + 1:5d}{x:8.3f}{y:8.3f}{z:8.3f}")
        text.append("   5.0 5.0 5.0")
    path.write_text("\n".join(text) + "\n")
    return path


def test_names_of_beads_are_no_elements(tmp_path):
    atoms = [("LYS", "BB"), ("LYS", "SC1"), ("PHE", "BB"), ("PHE", "SC1"), ("W", "W"), ("ION", "NA+")]
    path = gro(tmp_path / "martini.gro", atoms)
    with pytest.raises(ValueError, match=r"BB -> B, SC1 -> Sc, W -> W, NA\+ -> Na\. .*types: name"):
        file_dataset(path, span=20, num_types=80)
    dataset = file_dataset(path, span=20, types="name")
    assert dataset[0].h.argmax(dim=1).tolist() == [0, 2, 0, 2, 3, 1] and dataset[0].edge_index.shape == (2, 30)


@pytest.mark.parametrize("reader", READERS)
def test_a_topology_of_names_alone(tmp_path, reader):
    x = motion()
    made = trajectory(x)
    made.save(str(tmp_path / "a.xtc"))
    made[0].save(str(tmp_path / "eth.gro"))
    with pytest.warns(
        UserWarning, match=r"9 atoms are taken from their names, .*eth\.gro states none: C1 -> C, C2 -> C"
    ):
        dataset = file_dataset(tmp_path / "a.xtc", tmp_path / "eth.gro", reader=reader, span=20)
    assert dataset.atomic_numbers.tolist() == ETHANOL_Z.tolist() and dataset[0].edge_index.shape == (2, 66)


@pytest.mark.parametrize("reader", READERS)
def test_xyz_and_dumps_with_a_topology(tmp_path, eth, reader):
    """The topology gives bonds, residues and a selection; the positions are those that the columns say."""
    x, lines = motion(), []
    for frame in x:
        lines += ["9", "Properties=species:S:1:forces:R:3:pos:R:3"]
        lines += [f"{s} 7 8 9 {a:.6f} {b:.6f} {c:.6f}" for s, (a, b, c) in zip("CCOHHHHHH", frame, strict=True)]
    (tmp_path / "a.xyz").write_text("\n".join(lines))
    dataset = file_dataset(tmp_path / "a.xyz", eth, reader=reader, span=20, selection="name C1 C2 O3", max_hops=1)
    np.testing.assert_allclose(places(dataset), x[:, :3], atol=1e-5)
    assert dataset[0].edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    (tmp_path / "b.xyz").write_text(xyz_text(x, "CCNHHHHHH"))
    with pytest.raises(ValueError, match=r"must have the elements of .*eth\.pdb, O for atom 2; got N"):
        file_dataset(tmp_path / "b.xyz", eth, reader=reader, span=20)
    (tmp_path / "c.xyz").write_text(xyz_text(x[:, :3], "CCO"))
    with pytest.raises(ValueError, match=r"must have the 9 atoms of .*eth\.pdb, got 3"):
        file_dataset(tmp_path / "c.xyz", eth, reader=reader, span=20)
    scaled = (x + 9) / 18
    line = lambda t, i: f"{i + 1} " + " ".join(f"{value:.8f}" for value in scaled[t, i])
    (tmp_path / "a.lammpstrj").write_text(dump_text(x, "id xs ys zs", line))
    dataset = file_dataset(tmp_path / "a.lammpstrj", eth, reader=reader, span=20)
    np.testing.assert_allclose(places(dataset), x, atol=1e-5)


def test_what_xtc_cannot_hold(tmp_path, eth):
    """2147483.75 nm stand for what has overflowed."""
    x = motion(20, np.concatenate([ETHANOL, ETHANOL + 5]))
    x[7, 3, 1] = 3e7
    top = mdtraj.Topology()
    residue = top.add_residue("ETH", top.add_chain())
    for i in range(18):
        z = int(ETHANOL_Z[i % 9])
        top.add_atom(f"{SYMBOLS[z]}{i + 1}", mdtraj.element.Element.getByAtomicNumber(z), residue)
    trajectory(x[:1], top).save(str(tmp_path / "top.pdb"))
    trajectory(x, top).save(str(tmp_path / "a.xtc"))
    with pytest.raises(
        ValueError, match=r"got -?2\.14748e\+07 for atom 0 in frame 7|frame 7: positions must be in range"
    ):
        file_dataset(tmp_path / "a.xtc", tmp_path / "top.pdb", span=5, fully_connected=True, cutoff=9.0)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "nc"])
def test_a_trajectory_of_other_atoms_than_its_topology(tmp_path, eth, reader, suffix):
    """Also where atoms are chosen that both have."""
    x = motion(30, np.concatenate([ETHANOL, WATER + 5, WATER + 9, WATER + 13]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDTraj's, of netCDF4
        trajectory(x, topology(waters=3)).save(str(tmp_path / f"a.{suffix}"))
        with pytest.raises(ValueError, match=rf"a\.{suffix} must .*(9|18).*(18|9)"):
            file_dataset(tmp_path / f"a.{suffix}", eth, reader=reader, selection="name C1 C2 O3", span=20)


def test_who_reads_what(tmp_path, eth, monkeypatch):
    here = {"mdtraj": True, "mdanalysis": False, "ase": True}
    monkeypatch.setattr(formats, "installed", lambda name: here[name])
    monkeypatch.setattr(packages, "is_installed", lambda module: module != "MDAnalysis")
    for name in ("a.tpr", "a.h5md", "a.foo", "XDATCAR", "a.xtc", "a.prmtop"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ModuleNotFoundError, match=rf"a\.tpr needs MDAnalysis, .*{re.escape(how_to_install('md'))}"):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.tpr")
    with pytest.raises(ModuleNotFoundError, match=r"a\.h5md needs MDAnalysis"):
        file_dataset(tmp_path / "a.h5md", eth)
    with pytest.raises(ValueError, match=r"a\.foo must be of a known format, got 'foo'; format: names another"):
        file_dataset(tmp_path / "a.foo")
    with pytest.raises(
        ValueError, match=r"a\.xtc holds bare positions; topology must be the file that names its atoms"
    ):
        file_dataset(tmp_path / "a.xtc")
    with pytest.raises(
        ValueError, match=r"a\.xtc must be of a format that ASE knows, got xtc, which MDTraj and MDAnalysis"
    ):
        file_dataset(tmp_path / "a.xtc", reader="ase")
    with pytest.raises(ValueError, match=r"XDATCAR must be readable by ASE, got"):
        file_dataset(tmp_path / "XDATCAR")
    with pytest.raises(ValueError, match=r"topology must be one of arc, .*; got .*a\.foo"):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.foo")
    with pytest.raises(ValueError, match=r"a\.prmtop must be readable by MDTraj, got MDTraj \("):
        file_dataset(tmp_path / "a.xtc", tmp_path / "a.prmtop")
    with pytest.raises(ValueError, match=r"a\.xtc must be readable by MDTraj, got MDTraj \(ValueError: .*whole frames"):
        file_dataset(tmp_path / "a.xtc", eth)
    with pytest.raises(ValueError, match=r"format must be one of .* got 'xtcc'; did you mean 'xtc'"):
        file_dataset(tmp_path / "a.xtc", eth, format="xtcc")


def test_the_next_reader_is_tried(tmp_path, eth, monkeypatch):
    """What the first reader fails at, the second may read."""
    from geotdm_fast.data.molecule_files import mdanalysis_files

    def fails(path, file_format, num_atoms):
        raise RuntimeError("no way")

    trajectory(motion()).save(str(tmp_path / "a.xtc"))
    monkeypatch.setattr(formats, "installed", lambda name: True)
    monkeypatch.setattr(mdanalysis_files, "MdanalysisFile", mdtraj_files.MdtrajFile)
    monkeypatch.setattr(mdtraj_files, "MdtrajFile", fails)
    opened = open_molecules("here", tmp_path / "a.xtc", eth, "auto", None, True)
    assert opened.source.num_frames == 40
    monkeypatch.setattr(mdanalysis_files, "MdanalysisFile", fails)
    with pytest.raises(
        ValueError, match=r"readable by MDTraj or MDAnalysis, got MDTraj \(RuntimeError: no way\); MDAnalysis"
    ):
        open_molecules("here", tmp_path / "a.xtc", eth, "auto", None, True)


def test_a_molecule_without_one_known_element_is_refused(tmp_path):
    ase = pytest.importorskip("ase")
    from ase.io import write

    for name in ("a.traj", "a.extxyz"):
        write(tmp_path / name, [ase.Atoms([0] * 9, x) for x in motion()])
        with pytest.raises(ValueError, match=r"the element of every atom must be stated, but .* become X -> \?"):
            file_dataset(tmp_path / name, span=20)
    residue = [("UNK", "A")] * 9
    with pytest.raises(ValueError, match=r"stated, but .* become A -> \?.* give a topology with an element column"):
        file_dataset(gro(tmp_path / "a.gro", residue), span=20)


def test_gro_trajectories(tmp_path):
    path = gro(tmp_path / "a.gro", [("ALA", "N"), ("ALA", "CA"), ("ALA", "C")])
    with pytest.warns(UserWarning, match="taken from their names"):
        dataset = file_dataset(path, span=10, frames=[0, 30], every=3, bonds=[[0, 1], [1, 2]])
    assert dataset.atomic_numbers.tolist() == [7, 6, 6] and len(dataset) == 1


def test_frames_that_do_not_arrive(tmp_path, eth, monkeypatch):
    """A reader that ends early, or fails on the way, leaves no frame of whatever is in memory."""
    trajectory(motion()).save(str(tmp_path / "a.dcd"))
    read = mdtraj_files.MdtrajFile.read

    def ends_early(self, atoms, numbers):
        yield from read(self, atoms, numbers[:-3] if len(numbers) > 1 else numbers)

    monkeypatch.setattr(mdtraj_files.MdtrajFile, "read", ends_early)
    with pytest.raises(ValueError, match=r"a\.dcd must have its frames to the end, got 37 of 40"):
        file_dataset(tmp_path / "a.dcd", eth, span=20)

    def fails(self, atoms, numbers):
        raise OSError("no way")
        yield

    monkeypatch.setattr(mdtraj_files.MdtrajFile, "read", fails)
    with pytest.raises(ValueError, match=r"file_dataset: .*a\.dcd must be readable, got OSError: no way"):
        file_dataset(tmp_path / "a.dcd", eth, span=20)
