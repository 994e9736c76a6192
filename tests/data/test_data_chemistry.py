"""Molecules as Align Your Structures takes them: features, types of edges, centred frames."""

import numpy as np
import pytest
import torch
from test_data_conformers import ETHANOL_SDF
from tiny_ays import WATER
from tiny_models import ETHANOL, write_ethanol

from geotdm_fast.data import array_dataset, collate, conformer_dataset, normalise_section, open_dataset
from geotdm_fast.data.chemistry.atom_graph import AtomGraph, graph_of_molecule, graph_of_pairs, is_atom_graph, parts
from geotdm_fast.data.chemistry.datasets import with_atoms
from geotdm_fast.data.chemistry.names import COLUMNS, OFFICIAL
from geotdm_fast.data.chemistry.rdkit_graph import FEATURES
from geotdm_fast.training.device_data import DeviceData


def section(path, **more) -> dict:
    about = {"kind": "npz", "path": str(path), "span": 6, "project": "frames", "features": ["degree", "hydrogens"]}
    return about | {"num_types": 100} | more


@pytest.fixture
def ethanol(tmp_path):
    write_ethanol(tmp_path / "ethanol.npz", 40)
    return tmp_path / "ethanol.npz"


def test_names_have_the_columns_that_rdkit_gives():
    assert tuple(FEATURES) == tuple(COLUMNS) and sum(COLUMNS[name] for name in OFFICIAL) == 42


def test_features_and_types_of_ethanol(ethanol):
    data = open_dataset(section(ethanol))
    z, f, c = parts(data[0].h, data[0].edge_attr)
    assert z.tolist() == ETHANOL.tolist() and z.dtype == c.dtype == torch.int64
    assert f.shape == (9, 13)
    assert f[:, :8].argmax(1).tolist() == [4, 4, 2, 1, 1, 1, 1, 1, 1]  # bonds of each atom
    assert f[:, 8:].argmax(1).tolist() == [3, 2, 1, 0, 0, 0, 0, 0, 0]  # hydrogens of each atom
    plain = open_dataset({key: value for key, value in section(ethanol).items() if key != "features"})
    assert torch.equal(data[0].edge_index, plain[0].edge_index)
    hops = plain[0].edge_attr.argmax(1) + 1
    assert torch.equal(c, torch.tensor([0, 2, 23, 24])[hops])
    assert len(data) == len(plain) and torch.equal(data[3].x, plain[3].x)
    assert data.atomic_numbers.tolist() == ETHANOL.tolist()
    fewer = open_dataset(section(ethanol, max_hops=2, features=["degree_scalar"]))
    assert fewer[0].h[:, 1].tolist() == [4, 4, 2, 1, 1, 1, 1, 1, 1] and fewer[0].edge_attr.max() == 23


def test_frames_are_centred_one_by_one(ethanol):
    data = open_dataset(section(ethanol))
    plain = open_dataset(section(ethanol, project=False))
    assert data[2].x.mean(0).abs().max() < 1e-6 and plain[2].x.mean(0).abs().max() > 1e-2
    torch.testing.assert_close(data[2].x, plain[2].x - plain[2].x.mean(0))
    items = torch.tensor([0, 5, 7])
    on_device = DeviceData(data)
    batch, expected = on_device.batch(items, on_device.structure(items)), collate([data[i] for i in items])
    torch.testing.assert_close(batch.x, expected.x, rtol=0, atol=1e-6)
    assert torch.equal(batch.h, expected.h) and torch.equal(batch.edge_attr, expected.edge_attr)
    assert torch.equal(batch.edge_index, expected.edge_index)


def test_cached_frames_are_centred_too(tmp_path):
    rng = np.random.default_rng(0)
    rows = lambda frame: "".join(f"{s} {a} {b} {c}\n" for s, (a, b, c) in zip("OHH", frame, strict=True))
    frames = [WATER + 3 + 0.01 * rng.normal(size=(3, 3)) for _ in range(30)]
    (tmp_path / "w.xyz").write_text("".join(f"3\nwater\n{rows(frame)}" for frame in frames))
    about = section(tmp_path / "w.xyz", kind="file")
    stored = open_dataset(about | {"cache": str(tmp_path / "cache")}, progress=False)
    plain = open_dataset(about, progress=False)
    for name in ("x", "h", "edge_index", "edge_attr"):
        assert torch.equal(stored[3][name], plain[3][name]), name
    assert stored[3].x.mean(0).abs().max() < 1e-6


def test_types_and_features_of_your_own(tmp_path):
    pairs, types = np.array([[0, 1, 1, 2], [1, 0, 2, 1]]), np.array([3, 3, 13, 13])
    h = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    x = np.tile(WATER, (8, 1, 1)) + 0.01 * np.random.default_rng(1).normal(size=(8, 3, 3))
    np.savez(tmp_path / "a.npz", x=x, z=[6, 6, 8], h=h, edge_index=pairs, edge_attr=types[:, None])
    own = open_dataset(section(tmp_path / "a.npz", features=["own"]))
    z, f, c = parts(own[0].h, own[0].edge_attr)
    assert z.tolist() == [6, 6, 8] and np.array_equal(f, h) and c.tolist() == types.tolist()
    many = array_dataset(np.stack([x, x + 1]), z=[6, 6, 8], h=np.stack([h, 2 * h]), edge_index=pairs)
    made = with_atoms(many, ["own"])
    assert torch.equal(made[1].h[:, 1:], 2 * made[0].h[:, 1:]) and made[0].edge_attr.unique().tolist() == [2]


def test_what_is_an_atom_graph():
    z = torch.tensor([6, 8])
    graph = AtomGraph.of(z, torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]]), torch.tensor([2, 2]))
    assert is_atom_graph(graph.h, graph.edge_attr, z, 3) and is_atom_graph(graph.h, graph.edge_attr, None, 3)
    assert not is_atom_graph(graph.h, graph.edge_attr, z, 4) and not is_atom_graph(graph.h, None, z, 3)
    assert not is_atom_graph(graph.h, graph.edge_attr, z + 1, 3)


def test_pairs_that_the_tables_have_no_row_for(tmp_path):
    count = 32  # atoms in a row, the last 31 bonds from the first
    x, z = 1.3 * np.arange(count)[:, None] * np.array([1.0, 0, 0]), np.full(count, 6)
    bonds = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)
    np.savez(tmp_path / "c.npz", x=x, z=z, bonds=bonds)
    assert int(conformer_dataset(tmp_path / "c.npz", max_hops=28)[0].edge_attr.max()) == 49
    with pytest.raises(ValueError, match="max_hops must be at most 28, got a pair 29 bonds apart"):
        conformer_dataset(tmp_path / "c.npz", max_hops=29)
    long = array_dataset(np.stack([x] * 4) + np.arange(4)[:, None, None], z=z, bonds=bonds, max_hops=31, span=2)
    with pytest.raises(ValueError, match="here: max_hops must be at most 28, got a pair 31 bonds apart"):
        with_atoms(long, where="here")
    chem = pytest.importorskip("rdkit.Chem")
    with pytest.raises(ValueError, match="here: max_hops must be at most 28, got a pair 31 bonds apart"):
        graph_of_molecule("here", chem.MolFromSmiles("C" * count), None, ["degree"], 31)


def test_a_molecule_tells_bond_orders_of_a_trajectory(tmp_path, ethanol):
    pytest.importorskip("rdkit.Chem")
    (tmp_path / "e.sdf").write_text(ETHANOL_SDF)
    about = section(ethanol, with_h=False, features=list(OFFICIAL), molecule=str(tmp_path / "e.sdf"))
    data = open_dataset(about)
    assert data[0].h.shape == (3, 43) and data[0].edge_attr[:, 0].tolist() == [2, 23, 2, 2, 23, 2]
    (tmp_path / "o.sdf").write_text(ETHANOL_SDF.replace(" O   0", " N   0"))
    with pytest.raises(ValueError, match="atoms of the data in their order, got 7 at place 2, where the data have 8"):
        open_dataset(about | {"molecule": str(tmp_path / "o.sdf")})
    with pytest.raises(ValueError, match="the molecule must have the 9 atoms of the data, got 3"):
        open_dataset(about | {"with_h": True})


BAD = [
    ({"features": "degree"}, "features must be a list of names, got 'degree'"),
    ({"features": ["degre"]}, "features must be one of .* got 'degre'; did you mean 'degree'"),
    ({"features": ["degree", "degree"]}, "features must be names, each once"),
    ({"features": ["aromatic"]}, "the feature aromatic needs the bond orders of the molecule: molecule: FILE.sdf"),
    ({"features": None, "molecule": "a.sdf"}, "molecule goes with features"),
    ({"fully_connected": True}, "fully_connected does not go with features"),
    ({"ratio": [1, 2]}, "ratio must be left out where there is no list of paths"),
    ({"path": ["a", "b"], "ratio": [1]}, "ratio must be 2 numbers of at least 0"),
]


@pytest.mark.parametrize("more, message", BAD)
def test_bad_sections(more, message):
    with pytest.raises(ValueError, match=f"data.train: {message}"):
        normalise_section(section("a.npz") | more, "data.train")


def test_bad_data(tmp_path, ethanol):
    with pytest.raises(ValueError, match="project must be true, false or frames, got 'frame'"):
        open_dataset(section(ethanol, project="frame"))
    with pytest.raises(ValueError, match="data must be molecules, with atomic numbers z, got 'trajectories' without"):
        with_atoms(array_dataset(np.zeros((40, 2, 3)) + np.arange(2)[:, None]))
    z, edges = torch.tensor([6, 8]), torch.tensor([[0, 1], [1, 0]])
    for attr, message in (
        (torch.tensor([[0.5], [2.0]]), r"edge_attr \[E\] must be types of edges, whole numbers from 1 to 49"),
        (torch.tensor([50.0, 50.0]), "whole numbers from 1 to 49"),
        (torch.ones(2, 3), r"one-hot of the bonds between \[E, hops\], got \[2, 3\] of other numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            graph_of_pairs("here", z, edges, attr, None, ["degree"])
    with pytest.raises(ValueError, match="z must be atomic numbers from 0 to 99, got 100"):
        graph_of_pairs("here", z + 92, edges, None, None, ["degree"])
    with pytest.raises(ValueError, match="z must be atomic numbers from 0 to 99, got -1"):
        graph_of_pairs("here", torch.tensor([6, -1]), edges, None, None, ["degree"])
    with pytest.raises(ValueError, match=r"features: \[own\] needs h"):
        graph_of_pairs("here", z, edges, None, None, ["own"])
    needs_h = r"features: \[own\] needs h \[N, F\] beside the positions, got none"
    (tmp_path / "w.xyz").write_text("3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n" * 3)
    np.savez(tmp_path / "md17.npz", R=np.tile(WATER, (40, 1, 1)) + 0.01 * np.arange(40)[:, None, None], z=[8, 1, 1])
    md17 = {"kind": "md17", "down_sample_every": 1, "split": "train"}
    file = {"kind": "file", "span": 2, "split": None}
    for path, more in (
        (ethanol, {}),
        ("md17.npz", md17),
        ("w.xyz", file),
        ("w.xyz", file | {"cache": str(tmp_path / "cache")}),
    ):
        with pytest.raises(ValueError, match=needs_h):
            open_dataset(section(tmp_path / path, features=["own"], **more), progress=False)
    with pytest.raises(ValueError, match=needs_h):
        with_atoms(array_dataset(np.tile(WATER, (4, 1, 1)), z=[8, 1, 1], span=2).subset([0]), ["own"])
