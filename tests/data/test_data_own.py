"""A user's own trajectories, from arrays and `.npz`."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from geotdm_fast.data import array_dataset, collate, npz_dataset
from geotdm_fast.data.windows import complete_edges

RNG = np.random.default_rng(0)
LONG = RNG.standard_normal((50, 4, 3))
MANY = RNG.standard_normal((10, 12, 4, 2))
LINE = np.array([[0.0, 0, 0], [1.1, 0, 0], [2.5, 0, 0], [3.45, 0, 0]]) + 0.01 * RNG.standard_normal((50, 4, 3))


def frames(item):
    return item.x.permute(2, 0, 1).numpy()


def test_one_long_trajectory():
    dataset = array_dataset(LONG)
    assert len(dataset) == 21  # spans of 30 by default
    np.testing.assert_array_equal(frames(dataset[20]), LONG[20:].astype(np.float32))
    assert torch.equal(dataset[0].edge_index, complete_edges(4))
    assert dataset[0].edge_attr is None
    assert torch.equal(dataset[0].h, torch.ones(4, 1))
    # in time: 0..29, 30..39, 40..49
    expected = {"train": range(0, 26, 4), "val": range(30, 36, 4), "test": range(40, 46, 4)}
    for split, starts in expected.items():
        dataset = array_dataset(LONG, split, span=5, stride=4)
        assert len(dataset) == len(starts)
        for i, start in enumerate(starts):
            np.testing.assert_array_equal(frames(dataset[i]), LONG[start : start + 5].astype(np.float32))


def test_many_trajectories():
    dataset = array_dataset(MANY, "val")
    assert len(dataset) == 2
    np.testing.assert_array_equal(frames(dataset[1]), MANY[7].astype(np.float32))
    dataset = array_dataset(MANY, "test", span=10, stride=2, split_ratio=(0.5, 0, 0.5))
    assert len(dataset) == 10
    np.testing.assert_array_equal(frames(dataset[9]), MANY[9, 2:].astype(np.float32))


def test_graph_of_the_user():
    edge_index = np.array([[0, 1, 2], [1, 0, 2]])
    h, edge_attr = RNG.standard_normal((10, 4, 3)), RNG.standard_normal((10, 3, 2))
    dataset = array_dataset(MANY, "test", h=h, edge_index=edge_index, edge_attr=edge_attr, project=True)
    item = dataset[1]
    np.testing.assert_allclose(item.h, h[9], rtol=1e-6)
    np.testing.assert_allclose(item.edge_attr, edge_attr[9], rtol=1e-6)
    np.testing.assert_array_equal(item.edge_index, edge_index)
    np.testing.assert_allclose(item.x.mean(dim=(0, 2)), 0, atol=1e-6)
    shared = array_dataset(MANY, h=h[0], edge_index=edge_index, edge_attr=edge_attr[0])
    assert torch.equal(shared[0].h, shared[9].h)
    batch = collate([shared[0], shared[9]])
    assert batch.edge_attr.shape == (6, 2)
    # A graph without edges is a graph.
    assert array_dataset(MANY, edge_index=np.zeros((2, 0)))[0].edge_index.shape == (2, 0)


def test_molecule():
    dataset = array_dataset(LINE, z=[1, 6, 8, 1], max_hops=1)
    assert dataset[0].edge_index.tolist() == [[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]]
    assert dataset[0].h.shape == (4, 30)
    assert dataset.atomic_numbers.tolist() == [1, 6, 8, 1]
    with_own_h = array_dataset(LINE, z=[1, 6, 8, 1], h=np.ones((4, 2)), bonds=[[0, 3], [2, 1]], max_hops=1)
    assert with_own_h[0].h.shape == (4, 2)
    assert with_own_h[0].edge_index.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_npz(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, R=LINE, z=[1, 6, 8, 1], bonds=[[0, 1], [3, 2]], comment="anything else is passed over")
    dataset = npz_dataset(path, "train", span=5)
    assert dataset.name == "mine"
    assert len(dataset) == 26
    assert dataset[0].edge_index.tolist() == [[0, 1, 2, 3], [1, 0, 3, 2]]
    assert npz_dataset(path, bonds=[[0, 2], [1, 3]])[0].edge_index.tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]
    np.savez(path, x=MANY, h=np.ones((4, 1)), edge_index=[[0], [1]], edge_attr=np.ones((1, 5)))
    assert npz_dataset(path, name="name", unit="m")[3].edge_attr.shape == (1, 5)


TWO_FEATURES = {"edge_index": [[0], [1]], "edge_attr": np.ones((2, 3))}
BAD_ARRAYS = [
    (ValueError, r"array_dataset: x must be \[frames, N, 2\] or .*, got \[4, 3\]", LONG[0], {}),
    (ValueError, r"x must be .* got \[10, 12, 4, 5\]", np.zeros((10, 12, 4, 5)), {}),
    (ValueError, r"x must be finite, got nan at \[0, 0, 0\]", LONG * np.nan, {}),
    (ValueError, r"x must be below 3\.4e38, which is what float32 holds", LONG * 1e39, {}),
    (ValueError, r"x must not be empty, got \[0, 4, 3\]", LONG[:0], {}),
    (ValueError, r"x must have at least span=60 frames, got 50", LONG, {"span": 60}),
    (ValueError, r"split 'val' of x must have at least span=30 frames, got 10", LONG, {"split": "val"}),
    (ValueError, r"split 'val' must hold a trajectory, got none of 2", MANY[:2], {"split": "val"}),
    (ValueError, r"split must be one of train, val, test; got 'tset'", LONG, {"split": "tset"}),
    (ValueError, r"stride must be at least 1, got 0", LONG, {"stride": 0}),
    (ValueError, r"split_ratio must add up to at most 1", LONG, {"split_ratio": (0.6, 0.3, 0.2)}),
    (ValueError, r"split_ratio must be three numbers", LONG, {"split_ratio": (0.6, 0.4)}),
    (ValueError, r"edge_index must be \[2, E\], got \[3, 2\]", LONG, {"edge_index": np.zeros((3, 2), dtype=int)}),
    (ValueError, r"edge_index must be node indices from 0 to 3, got 4", LONG, {"edge_index": [[0], [4]]}),
    (ValueError, r"edge_index must be node indices from 0 to 3, got -1", LONG, {"edge_index": [[-1], [0]]}),
    (TypeError, r"edge_index must hold whole numbers", LONG, {"edge_index": [[0.0], [1.0]]}),
    (ValueError, r"edge_attr must come with edge_index", LONG, {"edge_attr": np.ones((1, 1))}),
    (ValueError, r"edge_attr must be \[1, 3\], got \[2, 3\]", LONG, TWO_FEATURES),
    (ValueError, r"h must be \[4, 2\], got \[5, 2\]", LONG, {"h": np.ones((5, 2))}),
    (ValueError, r"h must be for one trajectory", LONG, {"h": np.ones((1, 4, 2))}),
    (ValueError, r"h must be for 10 trajectories, got \[9, 4, 2\]", MANY, {"h": np.ones((9, 4, 2))}),
    (ValueError, r"h must be finite, got inf", LONG, {"h": np.full((4, 2), np.inf)}),
    (ValueError, r"z must be \[4\], got \[3\]", LONG, {"z": [1, 1, 1]}),
    (ValueError, r"x must be three-dimensional when z is given, got 2", MANY, {"z": [1, 1, 1, 1]}),
    (ValueError, r"bonds must come with z", LONG, {"bonds": [[0, 1]]}),
]  # fmt: skip


@pytest.mark.parametrize("error, message, x, more", BAD_ARRAYS)
def test_bad_arrays(error, message, x, more):
    with pytest.raises(error, match=message):
        array_dataset(x, **more)


def test_bad_npz(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, positions=LONG)
    with pytest.raises(ValueError, match=r"mine\.npz must contain the positions as one of x and R, got positions"):
        npz_dataset(path)
    np.savez(path, x=LONG, edge_index=[[0], [9]])
    with pytest.raises(ValueError, match=r"mine\.npz: edge_index must be node indices from 0 to 3, got 9"):
        npz_dataset(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"mine\.npz must be an \.npz archive"):
        npz_dataset(path)
    with pytest.raises(FileNotFoundError, match=r"other\.npz: no such file"):
        npz_dataset(tmp_path / "other.npz")


def test_pieces_are_warned_of_once(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, R=LINE * 1.4, z=[1, 6, 8, 1])
    with pytest.warns(UserWarning, match=r"leave 4 atoms in 4 pieces") as caught:
        npz_dataset(path)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        npz_dataset(path, cutoff=2.0)


def test_only_the_arrays_that_are_used_are_read(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, R=LINE, z=[1, 6, 8, 1], info=np.array({"T": 300}, dtype=object))
    assert len(npz_dataset(path)) == 21
    np.savez(path, R=LINE, z=[1, 6, 8, 1], time=np.array([None] * 50, dtype=object))
    assert len(npz_dataset(path)) == 21
    np.savez(path, R=np.array([{}, LINE], dtype=object), z=[1, 6, 8, 1])
    with pytest.raises(ValueError, match=r"array 'R' must be plain numbers, got pickled objects, which are refused"):
        npz_dataset(path)
    # What the file calls R is called so in messages.
    np.savez(path, R=LINE[:, :, :1], z=[1, 6, 8, 1])
    with pytest.raises(ValueError, match=r"mine\.npz: R must be \[frames, N, 2\] or .*, got \[50, 4, 1\]"):
        npz_dataset(path)
    np.savez(path, R=LINE[:5], z=[1, 6, 8, 1])
    with pytest.raises(ValueError, match=r"mine\.npz: R must have at least span=30 frames, got 5"):
        npz_dataset(path)
    broken = LINE.copy()
    broken[7, 2, 1] = np.inf
    np.savez(path, R=broken, z=[1, 6, 8, 1])
    with pytest.raises(ValueError, match=r"mine\.npz: R must be finite, got inf at \[7, 2, 1\]"):
        npz_dataset(path)
    assert npz_dataset(path, "test", span=5).unit == "angstrom"
    assert npz_dataset(path, frames=[8, None]).numbers_of(0).tolist() == [1, 6, 8, 1]


def test_a_damaged_array_is_named(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=LONG)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"mine\.npz: array 'x' is corrupt"):
        npz_dataset(path, "train", span=3)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_blocks_make_the_same_windows_as_the_array(tmp_path, monkeypatch, order, dtype, compressed):
    monkeypatch.setattr("geotdm_fast.data.npy._BLOCK", 90)  # seven frames
    path = tmp_path / "mine.npz"
    for x in (10 * LONG, 10 * MANY):
        x = np.asarray(x.astype(dtype), order=order)
        (np.savez_compressed if compressed else np.savez)(path, x=x)
        for more in ({}, {"frames": [3, -2, 2]}, {"every": 3}, {"split": "val", "every": 2}, {"split": "test"}):
            read, whole = npz_dataset(path, span=4, **more), array_dataset(x, span=4, **more)
            assert len(read) == len(whole) > 0
            assert all(torch.equal(a.x, b.x) for a, b in zip(read, whole, strict=True))


def test_frames_are_chosen_before_splits_and_windows(tmp_path):
    dataset = array_dataset(LONG, "val", frames=[10, None, 2], span=3)
    assert len(dataset) == 2  # of the frames 10, 12 ... 48 these are the 13th to the 16th
    np.testing.assert_array_equal(frames(dataset[0]), LONG[34:40:2].astype(np.float32))
    many = array_dataset(MANY, frames="1::3")
    np.testing.assert_array_equal(frames(many[4]), MANY[4, 1::3].astype(np.float32))
    # The graph is that of the first frame of all.
    apart = LINE.copy()
    apart[20:, 3] += 5.0
    edges = array_dataset(apart, z=[1, 6, 8, 1], frames=[20, None])[0].edge_index
    assert torch.equal(edges, array_dataset(LINE, z=[1, 6, 8, 1])[0].edge_index)
    with pytest.raises(ValueError, match="array_dataset: frames must stop within the 50 frames there are, got 60"):
        array_dataset(LONG, frames=[0, 60])


def test_reading_takes_little_more_memory_than_what_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "long.npz", R=LINE[:1] + 0.01 * rng.normal(size=(300_000, 4, 3)), z=[1, 6, 8, 1])  # 29 MB
    npz_dataset(tmp_path / "long.npz", frames=[0, 100])
    for split, share in ((None, 1.0), ("test", 0.2)):
        tracemalloc.start()
        dataset = npz_dataset(tmp_path / "long.npz", split)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        kept = dataset.items.x.nbytes
        assert kept == pytest.approx(300_000 * 4 * 3 * 4 * share, rel=1e-4)
        # Beside the positions, a frame takes 8 bytes of its number and 8 of its window; a block of the file 2 MB.
        assert held < kept * 1.4 + 1e5 and peak < kept * 1.6 + 5e6


def _same_items(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found.items, expected.items, strict=True):
        for name in ("x", "h", "edge_index", "edge_attr"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert (mine is None and theirs is None) or torch.equal(mine, theirs), name


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_npz_without_its_hydrogen(tmp_path, order):
    z, heavy = np.array([6, 1, 8, 7]), [0, 2, 3]
    h, edges = RNG.standard_normal((4, 2)), np.array([[0, 2, 1, 2, 3], [2, 0, 0, 3, 1]])
    attr = np.arange(5.0)[:, None]
    np.savez(tmp_path / "all.npz", x=np.asarray(LINE, order=order), z=z, h=h, edge_index=edges, edge_attr=attr)
    kept, left = np.array([[0, 1, 1], [1, 0, 2]]), attr[[0, 1, 3]]
    np.savez(tmp_path / "heavy.npz", x=LINE[:, heavy], z=z[heavy], h=h[heavy], edge_index=kept, edge_attr=left)
    found = npz_dataset(tmp_path / "all.npz", "val", span=5, with_h=False)
    _same_items(found, npz_dataset(tmp_path / "heavy.npz", "val", span=5))
    assert found.numbers_of(0).tolist() == [6, 8, 7]

    np.savez(tmp_path / "all.npz", x=LINE, z=z, bonds=[[0, 2], [0, 1], [3, 2]], ptr=[0, 2, 4])
    np.savez(tmp_path / "heavy.npz", x=LINE[:, heavy], z=z[heavy], bonds=[[0, 1], [2, 1]], ptr=[0, 1, 3])
    _same_items(npz_dataset(tmp_path / "all.npz", with_h=False), npz_dataset(tmp_path / "heavy.npz"))


def test_hydrogen_is_known_by_z(tmp_path):
    np.savez(tmp_path / "none.npz", x=LINE)
    with pytest.raises(ValueError, match=r"none\.npz: with_h may be false where z, .* is in the file, got no z"):
        npz_dataset(tmp_path / "none.npz", with_h=False)
    np.savez(tmp_path / "h.npz", x=LINE, z=[1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"z must hold an atom other than hydrogen when with_h is false, got \[1, 1"):
        npz_dataset(tmp_path / "h.npz", with_h=False)
    with pytest.raises(TypeError, match=r"with_h must be true or false, got 'no'"):
        npz_dataset(tmp_path / "h.npz", with_h="no")
