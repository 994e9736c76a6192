"""From what people have in memory to a data set."""

import ase
import numpy as np
import pytest
import torch

from geotdm_fast.data import array_dataset, collate, nbody_dataset
from geotdm_fast.data.convert import from_pyg, to_dataset
from geotdm_fast.data.md17 import CUTOFF

RNG = np.random.default_rng(0)
WATER = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
FRAMES = WATER + 0.01 * RNG.normal(size=(5, 3, 3))


class Data(dict):
    """What is asked of PyTorch Geometric's `Data`: keys and values."""

    __module__ = "torch_geometric.data.data"


def same(one, other):
    for name in ("x", "h", "edge_index", "edge_attr", "scored"):
        assert torch.equal(one[name], other[name]), name


def test_data_sets_pass(tmp_path):
    data = array_dataset(FRAMES, z=[8, 1, 1], span=5)
    assert to_dataset(data) is data
    for form in (collate(data), data[0], list(data)):
        same(to_dataset(form)[0], data[0])


@pytest.mark.parametrize("kind", ["npz", "file", "md17"])
def test_atoms_are_positions_with_their_elements(kind):
    atoms = [ase.Atoms("OH2", frame) for frame in FRAMES]
    section = {"kind": kind, "max_hops": 1, "num_types": 9, "split": "train"}
    options = {"max_hops": 1, "num_types": 9} | ({"cutoff": CUTOFF} if kind == "md17" else {})
    expected = array_dataset(FRAMES, z=[8, 1, 1], span=5, **options)
    found = to_dataset(atoms, section)
    same(found[0], expected[0])
    assert found.unit == "angstrom" and found.atomic_numbers.tolist() == [8, 1, 1] and found.name == "H2O"
    same(to_dataset(FRAMES, section, z=[8, 1, 1])[0], expected[0])
    two = to_dataset([atoms, atoms[::-1]], section)
    assert len(two) == 2
    torch.testing.assert_close(two[1].x, expected[0].x.flip(-1))


@pytest.mark.parametrize(("kind", "array"), [("charged", "charges"), ("springs", "springs"), ("gravity", None)])
def test_particles_have_the_features_of_their_system(kind, array):
    data = nbody_dataset(kind, "test", num_systems=2, num_frames=6, progress=False)
    item, section = data[1], {"kind": "nbody", "system": kind, "split": "test"}
    n = item.num_nodes
    arrays = {}
    if array == "charges":
        arrays = {"charges": item.h[:, 0].numpy()}
    if array == "springs":
        springs = torch.zeros(n, n)
        springs[item.edge_index[0], item.edge_index[1]] = item.edge_attr[:, 0]
        arrays = {"springs": springs.numpy()}
    same(to_dataset(item.x.permute(2, 0, 1), section, **arrays)[0], item)
    if array is not None:
        with pytest.raises(TypeError, match=rf"{array} \[N.*\] must be given with the positions of {kind} particles"):
            to_dataset(item.x.permute(2, 0, 1), section)
        with pytest.raises(ValueError, match=f"{array} must be"):
            to_dataset(item.x.permute(2, 0, 1), section, **{array: np.ones((2, 2) if array == "springs" else 2)})


def test_pyg_has_the_sender_first():
    edges = torch.tensor([[0, 0], [1, 2]])  # node 0 sends to 1 and 2
    x = torch.from_numpy(FRAMES).float().permute(1, 2, 0)
    batch = torch.tensor([0, 0, 0])
    with pytest.warns(UserWarning, match="rows of edge_index were exchanged: PyTorch Geometric has the sender first"):
        (item,) = from_pyg(Data(pos=x, x=torch.eye(3), edge_index=edges, edge_attr=torch.ones(2, 4), batch=batch))
    assert item.edge_index.tolist() == [[1, 2], [0, 0]]
    assert torch.equal(item.h, torch.eye(3)) and torch.equal(item.x, x) and item.edge_attr.shape == (2, 4)
    (item,) = from_pyg(Data(x=x, h=torch.ones(3, 2)))
    assert item.h.shape == (3, 2) and sorted(item.edge_index.T.tolist()) == [
        [i, j] for i in range(3) for j in range(3) if i != j
    ]
    data = to_dataset([Data(x=x), Data(x=x)])
    assert len(data) == 2 and data[1].edge_index.max() == 2
    with pytest.raises(ValueError, match=r"pos must be positions \[N, 2 or 3, T\] in every frame, got \[3, 3\]"):
        from_pyg(Data(pos=x[..., 0]))


def test_pyg_itself():
    geometric = pytest.importorskip("torch_geometric.data")
    x = torch.from_numpy(FRAMES).float().permute(1, 2, 0)
    one = geometric.Data(x=x, h=torch.ones(3, 2), edge_index=torch.tensor([[0, 1], [1, 2]]))
    with pytest.warns(UserWarning, match="were exchanged"):
        found = to_dataset(geometric.Batch.from_data_list([one, one]))
    assert len(found) == 2 and found[1].edge_index.tolist() == [[1, 2], [0, 1]]


def test_positions_say_their_unit():
    """What the message about nm advises can be done here, too; the unit of the training's file is no matter."""
    water = WATER + 0.01 * np.random.default_rng(0).normal(size=(8, 3, 3))
    expected = to_dataset(water, {"kind": "npz"}, z=[8, 1, 1])
    with pytest.raises(ValueError, match=r"forecast: distances look like nm: .* or give unit: nm"):
        to_dataset(water / 10, {"kind": "npz"}, "forecast", z=[8, 1, 1])
    found = to_dataset(water / 10, {"kind": "npz", "unit": "bohr"}, "forecast", z=[8, 1, 1], unit="nm")
    torch.testing.assert_close(found[0].x, expected[0].x, atol=1e-6, rtol=0)
    assert found.unit == "angstrom" and torch.equal(found[0].edge_index, expected[0].edge_index)
    with pytest.raises(TypeError, match="unit must not be given for a model of gravity particles"):
        to_dataset(water, {"kind": "nbody", "system": "gravity"}, "forecast", unit="nm")


@pytest.mark.parametrize(
    ("data", "arrays", "error", "message"),
    [
        ("a.xyz", {}, TypeError, "data must be a data set, .*; got str"),
        ([], {}, TypeError, "got list"),
        ([ase.Atoms("H2"), 3], {}, TypeError, "got list of Atoms"),
        (
            [ase.Atoms("H2"), ase.Atoms("HO")],
            {},
            ValueError,
            "frame 1 of trajectory 0 must have the atoms of the first",
        ),
        ([ase.Atoms("H")], {"z": [1]}, TypeError, r"z must come with positions \[frames, N, D\], got list of Atoms"),
        (FRAMES, {"charges": [1, 1, 1]}, TypeError, "charges must not be given for a model of npz"),
        (FRAMES, {"z": [8, 1]}, ValueError, r"z must be \[3\]"),
        (FRAMES, {"elements": [8, 1, 1]}, TypeError, "unknown argument 'elements'; with positions go z, h"),
        (FRAMES, {"z": [8, 1, 1], "unit": "mm"}, ValueError, "unit must be one of angstrom, nm, bohr, pm .*got 'mm'"),
        (FRAMES[0], {}, ValueError, r"x must be \[frames, N, 2\] or \[frames, N, 3\]"),
    ],
)
def test_what_is_no_data(data, arrays, error, message):
    with pytest.raises(error, match=message):
        to_dataset(data, {"kind": "npz"}, "forecast", **arrays)
