"""Radial distribution functions: an ideal gas, lattices, all images by hand, MDTraj."""

import numpy as np
import pytest
from molecule_samples import samples_from

from geotdm_fast.scores.md import MDSettings, score_molecules
from geotdm_fast.scores.md.ensemble import ensembles
from geotdm_fast.scores.md.periodic import heights, images
from geotdm_fast.scores.md.rdf import NUM_BINS, Kind, ideal_counts, pair_kinds, shell_counts

SKEWED = np.array([[9.0, 0, 0], [3.5, 8.0, 0], [-2.0, 3.0, 7.0]])


def all_pairs(num_atoms: int) -> list[Kind]:
    return [Kind("all", np.stack(np.triu_indices(num_atoms, 1), axis=1))]


def function(x: np.ndarray, cell: np.ndarray, r_max: float) -> tuple[np.ndarray, np.ndarray]:
    """r and g(r) of frames x [S, N, 3] in a box [3, 3]."""
    kinds = all_pairs(x.shape[1])
    edges = np.linspace(0, r_max, NUM_BINS + 1)
    rows = np.ascontiguousarray(x.transpose(2, 1, 0))[:, :, None]
    counts = shell_counts(rows, kinds, r_max, cell[None, None])[0, 0, :-1]
    return (edges[1:] + edges[:-1]) / 2, counts / ideal_counts(kinds, edges, cell[None, None], len(x))[0, 0]


@pytest.mark.parametrize("r_max", [3.0, 9.0])
def test_an_ideal_gas_is_one_everywhere(r_max):
    # 9 is beyond half of the box, where several images of one atom count.
    x = np.random.default_rng(0).random((150, 24, 3)) @ SKEWED + 40
    _, g = function(x, SKEWED, r_max)
    volume = np.linalg.det(SKEWED)
    pairs = 150 * 24 * 23 / 2
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, r_max, NUM_BINS + 1) ** 3)
    error = 1 / np.sqrt(np.maximum(pairs * shells / volume, 1e-9))
    far = error < 0.2
    assert far.sum() > 50 and np.abs((g - 1) / error)[far].max() < 4.5
    assert np.average(g[far], weights=1 / error[far] ** 2) == pytest.approx(1, abs=0.01)


def test_a_simple_cubic_lattice_has_its_shells():
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.0
    r, g = function(grid[None] + 0.1, 8 * np.eye(3), 3.9)
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, 3.9, NUM_BINS + 1) ** 3)
    neighbours = g * shells * 63 / 8**3  # of an atom: 63 others in the box
    peak = {2.0: 6, 2 * np.sqrt(2): 12, 2 * np.sqrt(3): 8}
    taken = np.zeros(NUM_BINS, bool)
    for distance, number in peak.items():
        near = np.abs(r - distance) < 0.05
        taken |= near
        assert neighbours[near].sum() == pytest.approx(number, rel=1e-9)
    assert (g[~taken] == 0).all()


def test_all_images_by_hand():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 5, 3)) * 9
    r_max = 11.0
    rows = np.ascontiguousarray(x.transpose(2, 1, 0))[:, :, None]
    found = shell_counts(rows, all_pairs(5), r_max, SKEWED[None, None])[0, 0, :-1]
    far = np.array([[a, b, c] for a in range(-9, 10) for b in range(-9, 10) for c in range(-9, 10)]) @ SKEWED
    distances = []
    for frame in x:
        for i in range(5):
            for j in range(i + 1, 5):
                distances.append(np.linalg.norm(frame[j] - frame[i] + far, axis=1))
    wanted = np.histogram(np.concatenate(distances), np.linspace(0, r_max, NUM_BINS + 1))[0]
    np.testing.assert_array_equal(found, wanted)
    # Wrapping atoms by any lattice vector changes nothing.
    moved = x + rng.integers(-3, 4, (3, 5, 3)) @ SKEWED
    again = shell_counts(
        np.ascontiguousarray(moved.transpose(2, 1, 0))[:, :, None], all_pairs(5), r_max, SKEWED[None, None]
    )
    np.testing.assert_array_equal(again[0, 0, :-1], wanted)


def test_up_to_half_the_least_height_there_is_one_image():
    assert heights(SKEWED).min() / 2 > 2.9
    assert images("here", SKEWED, heights(SKEWED).min() / 2).tolist() == [[0, 0, 0]]
    assert len(images("here", np.eye(3) * 5, 7.5)) == 27
    with pytest.raises(ValueError, match="here: r_max must need at most 64 images of the cell, got 1000"):
        images("here", SKEWED, 1000)


def test_boxes_that_change_with_the_frames():
    # Atoms and box swell together: each frame counts with its own density.
    rng = np.random.default_rng(2)
    fraction = rng.random((40, 30, 3))
    scale = np.linspace(0.8, 1.3, 40)
    cell = SKEWED * scale[:, None, None]
    x = fraction @ cell
    kinds, edges = all_pairs(30), np.linspace(0, 3.0, NUM_BINS + 1)
    rows = np.ascontiguousarray(x.transpose(2, 1, 0))[:, :, None]
    counts = shell_counts(rows, kinds, 3.0, cell[None])[0, 0, :-1]
    ideal = ideal_counts(kinds, edges, cell[None], 40)[0, 0]
    assert counts.sum() / ideal.sum() == pytest.approx(1, abs=4 / np.sqrt(counts.sum()))


def test_mdtraj_has_the_same_function():
    md = pytest.importorskip("mdtraj")
    rng = np.random.default_rng(3)
    x = (rng.random((20, 18, 3)) @ (2 * np.eye(3))).astype(np.float32)  # nm
    table = md.Topology()
    residue = table.add_residue("X", table.add_chain())
    for i in range(18):
        table.add_atom(f"A{i}", md.element.argon, residue)
    boxed = md.Trajectory(x, table, unitcell_lengths=np.full((20, 3), 2.0), unitcell_angles=np.full((20, 3), 90.0))
    pairs = table.select_pairs("all", "all")
    r, wanted = md.compute_rdf(boxed, pairs, r_range=(0, 0.9), n_bins=NUM_BINS)
    ours_r, g = function(x, 2 * np.eye(3), 0.9)
    np.testing.assert_allclose(ours_r, r, atol=1e-6)
    assert np.abs(g - wanted).max() < 0.02 * wanted.max()  # a distance at an edge of a bin may round across it
    assert np.abs(g - wanted).mean() < 1e-3


def test_mdanalysis_has_the_same_function():
    pytest.importorskip("MDAnalysis")
    import MDAnalysis
    from MDAnalysis.analysis.rdf import InterRDF

    rng = np.random.default_rng(4)
    x = (rng.random((10, 12, 3)) * 20).astype(np.float32)
    universe = MDAnalysis.Universe.empty(12, trajectory=True)
    universe.load_new(x, dimensions=np.tile([20, 20, 20, 90, 90, 90.0], (10, 1)))
    found = InterRDF(universe.atoms, universe.atoms, nbins=NUM_BINS, range=(0, 9.5), exclusion_block=(1, 1)).run()
    _, g = function(x, 20 * np.eye(3), 9.5)
    np.testing.assert_allclose(g, found.results.rdf, atol=0.03 * g.max())
    assert np.abs(g - found.results.rdf).mean() < 1e-3 * g.max()


def water(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Molecules of water far from each other, [count * 3, 3], and their elements."""
    one = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    places = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:count] * 4.0
    return (places[:, None] + one).reshape(-1, 3) + seed * 0.01, np.tile([8, 1, 1], count)


def test_in_a_box_pairs_are_of_different_molecules():
    x, z = water(4, 0)
    many = np.tile(x, (8, 3, 1, 1))
    samples = samples_from(many, many[None], z)
    with_cell, without = (ensembles(samples, cell=cell)[0] for cell in (12 * np.eye(3), None))
    sizes = lambda e: {kind.name: len(kind.pairs) for kind in pair_kinds(e)}
    assert sizes(with_cell) == {"O-O": 6, "O-H": 4 * 3 * 2, "H-H": 6 * 4}
    assert sizes(without) == sizes(with_cell)  # within a molecule of water no two atoms are more than two bonds apart


def test_the_score():
    rng = np.random.default_rng(5)
    truth, drawn = rng.random((40, 5, 16, 3)) * 10, rng.random((1, 40, 5, 16, 3)) * 10
    settings = MDSettings(scores=("rdf",), r_max=4.9, resamples=50)
    samples = samples_from(truth, drawn, np.full(16, 18))
    (row,) = score_molecules(samples, settings, cell=10 * np.eye(3))[0].rows
    assert row.estimate.value == pytest.approx(row.estimate.floor, rel=0.1)
    assert np.mean(row.detail["truth"]["Ar-Ar"][60:]) == pytest.approx(1, abs=0.05)
    # Half of the atoms in a corner: distances that no gas has.
    drawn = np.where(np.arange(16)[:, None] < 8, drawn / 4, drawn)
    found = score_molecules(samples_from(truth, drawn, np.full(16, 18)), settings, cell=10 * np.eye(3))[0].rows[0]
    assert found.estimate.low > 3 * found.estimate.floor_high
    # Without a box: a share from 0 to 1, and 1 for distances without overlap.
    (row,) = score_molecules(samples, settings)[0].rows
    assert row.quantity.startswith("sum |p") and 0 < row.estimate.value < 0.1
    apart = samples_from(truth, truth[None] * 0.01, np.full(16, 18))
    assert score_molecules(apart, settings)[0].rows[0].estimate.value > 0.95


def test_errors():
    rng = np.random.default_rng(6)
    truth = rng.random((8, 4, 5, 3))
    samples = samples_from(truth, truth[None])
    score = lambda cell: score_molecules(samples, MDSettings(scores=("rdf",)), cell=cell)
    for cell in (np.eye(2), np.ones((3, 3, 3)), np.ones((8, 7, 3, 3))):
        with pytest.raises(ValueError, match=r"cell must be \[3, 3\], \[8, 3, 3\] or \[8 or 1, 4, 3, 3\], got \["):
            score(cell)
    for cell in (np.ones((3, 3)), np.diag([1, 1, np.nan]), np.zeros((8, 3, 3))):
        with pytest.raises(ValueError, match=r"cell must span a volume, got .* of graph 0, frame 0"):
            score(cell)
    with pytest.raises(ValueError, match="r_max must need at most 64 images"):
        score(0.01 * np.eye(3))
    bonded = samples_from(truth[:, :, :2], truth[None, :, :, :2], np.array([1, 9]), bonds=np.array([[0, 1]]))
    with pytest.raises(ValueError, match="no score 'rdf': no two atoms are more than two bonds apart"):
        score_molecules(bonded, MDSettings(scores=("rdf",), bonds="edges"))
