"""Molecule graphs against golden features, and windows of molecular dynamics as the benchmark cuts them."""

import warnings

import numpy as np
import pytest
import torch
from places import GOLDEN

from geotdm_fast.data import collate, md17_dataset, molecule_graph

# Six atoms in a row, 1.5 angstrom apart.
CHAIN = np.array([[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0], [4.5, 0, 0], [6.0, 0, 0], [7.5, 0, 0]])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("molecule", ["aspirin", "ethanol", "malonaldehyde", "salicylic"])
def test_equals_official_features(molecule, full):
    golden = np.load(GOLDEN / f"features_md_{molecule}.npz")
    h, edge_index, edge_attr = molecule_graph(golden["positions"], golden["atomic_numbers"], fully_connected=full)
    suffix = f"_fc{int(full)}"
    assert h.dtype == edge_attr.dtype == torch.float32
    np.testing.assert_allclose(h, golden["h" + suffix], rtol=1e-6)
    np.testing.assert_array_equal(edge_index, golden["edge_index" + suffix])
    np.testing.assert_array_equal(edge_attr, golden["edge_attr" + suffix])


def hops_of(edge_index, edge_attr):
    return {(int(i), int(j)): int(a.argmax()) for i, j, a in zip(*edge_index, edge_attr, strict=True)}


def test_hops_along_a_chain():
    _, edge_index, edge_attr = molecule_graph(CHAIN, [6] * 6)
    expected = {(i, j): abs(i - j) - 1 for i in range(6) for j in range(6) if 1 <= abs(i - j) <= 3}
    assert hops_of(edge_index, edge_attr) == expected
    assert edge_attr.shape[1] == 4
    _, edge_index, edge_attr = molecule_graph(CHAIN, [6] * 6, fully_connected=True, max_hops=2)
    expected = {(i, j): abs(i - j) if abs(i - j) <= 2 else 0 for i in range(6) for j in range(6) if i != j}
    assert hops_of(edge_index, edge_attr) == expected
    assert edge_attr.shape[1] == 3


def test_given_bonds_replace_the_cutoff():
    ring = [[0, 1], [2, 1], [2, 3], [3, 4], [4, 5], [5, 0], [0, 5], [3, 3]]  # any order, twice, a self-loop
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, edge_index, edge_attr = molecule_graph(CHAIN * 10, [6] * 6, bonds=ring)
    apart = lambda i, j: min((i - j) % 6, (j - i) % 6)
    expected = {(i, j): apart(i, j) - 1 for i in range(6) for j in range(6) if i != j}
    assert hops_of(edge_index, edge_attr) == expected


def test_no_bonds_at_all():
    h, edge_index, edge_attr = molecule_graph(CHAIN, [6] * 6, bonds=np.zeros((0, 2)))
    assert h.shape == (6, 30)
    assert edge_index.shape == (2, 0)
    assert edge_attr.shape == (0, 4)
    _, edge_index, edge_attr = molecule_graph(CHAIN[:1], [6])
    assert edge_index.shape == (2, 0)


def test_more_types():
    h, _, _ = molecule_graph(CHAIN[:2], [16, 1], num_types=17)
    assert h.shape == (2, 51)
    assert torch.equal(h[0].nonzero()[:, 0], torch.tensor([48, 49, 50]))
    np.testing.assert_allclose(h[0, 48:], [1.0, 16 / 17, (16 / 17) ** 2], rtol=1e-6)


def test_warns_when_the_graph_falls_apart():
    stretched = CHAIN.copy()
    stretched[3:, 0] += 0.3
    with pytest.warns(UserWarning, match=r"at most 1\.6 angstrom, leave 6 atoms in 2 pieces.*bonds=\[\[0, 1\]"):
        molecule_graph(stretched, [6] * 6, 1.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        molecule_graph(CHAIN, [6] * 6)


BAD_MOLECULES = [
    (ValueError, r"molecule_graph: positions must be \[N, 3\], got \[6, 2\]", {"positions": CHAIN[:, :2]}),
    (ValueError, r"molecule_graph: positions must be finite, got inf at \[0, 0\]", {"positions": CHAIN + np.inf}),
    (ValueError, r"molecule_graph: positions must not be empty", {"positions": CHAIN[:0]}),
    (ValueError, r"molecule_graph: atomic_numbers must be \[6\], got \[5\]", {"atomic_numbers": [6] * 5}),
    (ValueError, r"atomic_numbers must be .* 0 to 9, got 17; give num_types=18", {"atomic_numbers": [6] * 5 + [17]}),
    (ValueError, r"atomic_numbers must be .* got 1\.5", {"atomic_numbers": [1.5] * 6}),
    (ValueError, r"bonds must be \[M, 2\], got \[3\]", {"bonds": [0, 1, 2]}),
    (ValueError, r"bonds must be node indices from 0 to 5, got 6", {"bonds": [[0, 6]]}),
    (TypeError, r"bonds must hold whole numbers, got float64", {"bonds": [[0.5, 1]]}),
    (ValueError, r"cutoff must be positive and finite, got -1", {"cutoff": -1}),
    (ValueError, r"max_hops must be at least 1, got 0", {"max_hops": 0}),
    (TypeError, r"fully_connected must be true or false, got 'no'", {"fully_connected": "no"}),
]


@pytest.mark.parametrize("error, message, bad", BAD_MOLECULES)
def test_bad_molecules(error, message, bad):
    with pytest.raises(error, match=message):
        molecule_graph(**({"positions": CHAIN, "atomic_numbers": [6] * 6} | bad))


def write_md(path, num_frames, **replaced):
    """Four atoms in a row whose x coordinate grows by 0.001 each frame, so that positions tell the frame."""
    start = np.array([[0.0, 0, 0], [1.0, 0, 0], [2.5, 0, 0], [3.5, 0, 0]])
    frames = start + 0.001 * np.arange(num_frames)[:, None, None]
    np.savez(path, **({"R": frames, "z": np.array([1, 6, 6, 1], dtype=np.uint8), "E": np.zeros(num_frames)} | replaced))
    return path


def first_frame_of(item):
    return round(float(item.x[0, 0, 0]) * 1000)


@pytest.mark.parametrize(
    "split, every, num_windows, expected",
    [
        # 2001 frames: the last is left out, 200 kept at 10: train 0..119, val 120..159, test 160..199.
        ("train", 10, None, [10 * t for t in range(91)]),
        ("val", 10, None, [10 * (120 + t) for t in range(11)]),
        ("test", 10, None, [10 * (160 + t) for t in range(11)]),
        ("train", 10, 40, [10 * 2 * t for t in range(40)]),  # 91 // 40 = 2
        ("val", 10, 3, [10 * (120 + 3 * t) for t in range(3)]),  # 11 // 3 = 3
        ("test", 1, 1000, [1600 + t for t in range(371)]),
    ],
)
def test_windows_start_where_the_official_loader_starts_them(tmp_path, split, every, num_windows, expected):
    path = write_md(tmp_path / "m.npz", 2001)
    dataset = md17_dataset(path, split, down_sample_every=every, num_windows=num_windows)
    assert [first_frame_of(item) for item in dataset] == expected
    last = dataset[len(dataset) - 1]
    np.testing.assert_allclose(np.diff(last.x[2, 1].numpy()), 0.001 * every, rtol=1e-2)
    assert last.x.shape == (4, 3, 30)


def test_windows_are_views_with_one_graph(tmp_path):
    dataset = md17_dataset(write_md(tmp_path / "m.npz", 400), "train", down_sample_every=1, span=8)
    assert dataset[3].x.data_ptr() == dataset[0].x.data_ptr() + 3 * 4
    assert dataset[0].h.data_ptr() == dataset[9].h.data_ptr()
    assert dataset.name == "m"
    assert dataset.unit == "angstrom"
    assert dataset.atomic_numbers.tolist() == [1, 6, 6, 1]
    batch = collate([dataset[0], dataset[5]])
    assert batch.x.dtype == batch.h.dtype == batch.edge_attr.dtype == torch.float32
    assert batch.x.shape == (8, 3, 8)


def test_without_hydrogen_and_projected(tmp_path):
    path = write_md(tmp_path / "m.npz", 400)
    dataset = md17_dataset(path, "val", down_sample_every=1, with_h=False, project=True, bonds=[[0, 1], [1, 2], [2, 3]])
    assert dataset.atomic_numbers.tolist() == [6, 6]
    assert dataset[0].x.shape == (2, 3, 30)
    assert dataset[0].edge_index.tolist() == [[0, 1], [1, 0]]
    torch.testing.assert_close(dataset[7].x.mean(dim=(0, 2)), torch.zeros(3), atol=1e-6, rtol=0)
    plain = md17_dataset(path, "val", down_sample_every=1, with_h=False)
    torch.testing.assert_close(plain[7].x - plain[7].x.mean(dim=(0, 2), keepdim=True), dataset[7].x)


def test_bad_md_files(tmp_path):
    path = tmp_path / "m.npz"
    write_md(path, 2001)
    with pytest.raises(ValueError, match=r"must have at least span=300 frames, got 40 at .*=10; down_sample_every=1"):
        md17_dataset(path, "val", span=300)
    with pytest.raises(ValueError, match=r"down_sample_every=1 with span=400 would do"):
        md17_dataset(path, "val", span=500)
    with pytest.raises(ValueError, match=r"md17_dataset: split must be one of train, val, test; got 'valid'"):
        md17_dataset(path, "valid")
    with pytest.raises(ValueError, match=r"md17_dataset: span must be at least 1, got 0"):
        md17_dataset(path, "val", span=0)
    with pytest.raises(TypeError, match=r"md17_dataset: with_h must be true or false, got 1"):
        md17_dataset(path, "val", with_h=1)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        md17_dataset(tmp_path / "absent.npz", "train")
    for replaced, message in [
        ({"R": np.zeros((5, 4))}, r"m\.npz: R must be \[frames, N, 3\], got \[5, 4\]"),
        ({"R": np.full((2001, 4, 3), np.nan)}, r"m\.npz: R must be finite, got nan at \[0, 0, 0\]"),
        ({"z": np.array([6, 6])}, r"m\.npz: z must be \[4\], got \[2\]"),
        ({"z": np.array([1, 6, 35, 1])}, r"got 35; give num_types=36 or more"),
        ({"z": np.array([{}, 1], dtype=object)}, r"'z' must be plain numbers, got pickled objects"),
    ]:
        write_md(path, 2001, **replaced)
        with pytest.raises(ValueError, match=message):
            md17_dataset(path, "train")
    write_md(path, 2001, z=np.array([1, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"z must hold an atom other than hydrogen"):
        md17_dataset(path, "train", with_h=False)
    write_md(path, 2)
    with pytest.raises(ValueError, match=r"the file has 2 frames, too few to split"):
        md17_dataset(path, "train")
    np.savez(path, x=np.zeros((5, 4, 3)))
    with pytest.raises(ValueError, match=r"must contain R, z; got x"):
        md17_dataset(path, "train")


def test_frames_of_a_molecule_are_chosen(tmp_path):
    path = write_md(tmp_path / "m.npz", 2001)
    starts = lambda **more: [first_frame_of(item) for item in md17_dataset(path, "val", span=5, **more)][:3]
    assert starts(every=2) == starts(down_sample_every=2) == starts(frames=[None, None, 2]) == [1200, 1202, 1204]
    assert starts(frames=[1000, 2000]) == [1600, 1610, 1620]
    assert starts(frames=[1000, 2000], down_sample_every=5) == [1600, 1605, 1610]
    for more in ({"every": 2, "down_sample_every": 3}, {"frames": [0, 100, 2], "down_sample_every": 3}):
        with pytest.raises(ValueError, match="down_sample_every must not be given beside every or a step in frames"):
            starts(**more)
    with pytest.raises(ValueError, match=r"m\.npz: frames must stop within the 2000 frames there are, got 2001"):
        starts(frames=[0, 2001])
