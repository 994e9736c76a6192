"""Samples as a table of pandas: every number where it belongs."""

import dataclasses
import importlib.util
import re

import numpy as np
import pytest
from test_exports_in_boxes import WALK, samples_of
from tiny_models import made_samples

from geotdm_fast.runtime.packages import how_to_install
from geotdm_fast.samples import atoms as atoms_of_samples
from geotdm_fast.samples.molecule_exports import export_molecules
from geotdm_fast.samples.record import Samples

needs_pandas = pytest.mark.skipif(
    importlib.util.find_spec("pandas") is None, reason="pandas (extra tables) is not installed"
)
FLAT = made_samples(graphs=3, dims=2, num_samples=2)


def array(table, names, shape):
    """The columns of a table [K, T, N, ...] in the order of its rows."""
    return table[names].to_numpy().reshape(*shape, len(names))


@needs_pandas
def test_every_position_is_in_its_row():
    samples = dataclasses.replace(FLAT, scale=2.0, unit="m")
    table = samples.to_frame(truth=True)
    assert list(table.columns) == ["graph", "sample", "frame", "given", "node", "x", "y", "x_true", "y_true"]
    assert len(table) == 3 * 2 * 12 * 5 and table.attrs == {"name": "N-body charged", "unit": "m"}
    forecasts, truth = samples.forecasts(), samples.truth()
    for row in table.sample(200, random_state=0).itertuples():
        node = 5 * row.graph + row.node
        assert (row.x, row.y) == tuple(forecasts[row.sample, node, :, row.frame])
        assert (row.x_true, row.y_true) == tuple(truth[node, :, row.frame])
        assert row.given == (row.frame < 4)
    order = table[["graph", "sample", "frame", "node"]]
    assert order.equals(order.sort_values(list(order.columns), ignore_index=True)) and not order.duplicated().any()
    assert table.x.dtype == np.float32 and table.given.dtype == np.bool_ and table.node.dtype == np.int64


@needs_pandas
def test_one_graph_and_one_sample():
    whole, part = FLAT.to_frame(), FLAT.to_frame(graph=2, sample=np.int64(1))
    expected = whole[(whole.graph == 2) & (whole["sample"] == 1)].reset_index(drop=True)
    assert part.equals(expected) and len(part) == 12 * 5


@pytest.fixture
def merged(monkeypatch):
    """The shapes of all samples and truths [..., T] that are put together with their given frames."""
    shapes = []
    merge = Samples._merge
    noted = lambda samples, noisy, *rest: shapes.append(noisy.shape) or merge(samples, noisy, *rest)
    monkeypatch.setattr(Samples, "_merge", noted)
    return shapes


@needs_pandas
def test_one_trajectory_costs_no_copy_of_the_others(merged):
    FLAT.to_frame(graph=2, sample=1, truth=True)
    assert merged == [(1, 5, 2, 8), (5, 2, 8)]


def test_one_trajectory_of_a_molecule_costs_no_copy_of_the_others(merged):
    pytest.importorskip("ase")
    made_samples(graphs=3, nodes=9, num_samples=4).to_ase(graph=1, sample=3)
    assert merged == [(1, 9, 3, 8)]


def test_one_graph_is_that_of_all():
    away = dataclasses.replace(FLAT, origin=np.arange(6.0).reshape(3, 2) * 1e6, scale=2.0)
    for samples in (FLAT, away):
        for absolute in (True, False):
            one = samples.forecasts(absolute, graph=1, samples=range(1, 2))
            assert np.array_equal(one, samples.forecasts(absolute)[1:, 5:10])
            assert np.array_equal(samples.truth(absolute, graph=2), samples.truth(absolute)[10:])


@needs_pandas
def test_graphs_of_different_size():
    samples = dataclasses.replace(FLAT, batch=np.array([0] * 2 + [1] * 9 + [2] * 4))
    table = samples.to_frame(sample=0)
    assert table.groupby("graph")["node"].max().tolist() == [1, 8, 3]
    assert np.array_equal(
        array(table[table.graph == 1], ["x", "y"], (12, 9)), samples.forecasts()[0, 2:11].T.swapaxes(1, 2)
    )


@needs_pandas
def test_times_elements_origin_and_an_unknown_truth():
    samples = samples_of(WALK)
    away = np.full((2, 3), 1e7)
    table = dataclasses.replace(samples, origin=away, target=samples.target[..., :0]).to_frame(graph=1, truth=True)
    assert table.time.tolist() == np.repeat(np.arange(8) * 0.5, 9).tolist()
    assert table.element.tolist() == ["O", "H", "H"] * 3 * 8 and table.dtypes["x"] == np.float64
    assert np.array_equal(
        array(table, ["x", "y", "z"], (8, 9)), samples.forecasts()[0, 9:].astype(np.float64).T.swapaxes(1, 2) + 1e7
    )
    assert table.x_true.isna().to_numpy().tolist() == (table.frame >= 3).tolist()
    assert "resid" not in table


@needs_pandas
def test_residues_of_a_topology(tmp_path, monkeypatch):
    pytest.importorskip("mdtraj")
    export_molecules(tmp_path / "s.xtc", samples_of(WALK), progress=False)
    atoms = [line for line in (tmp_path / "s.pdb").read_text().splitlines() if line.startswith("ATOM")]
    names = (" O  ", " H1 ", " H2 ")
    named = [f"{line[:12]}{names[i % 3]} HOH A{i // 3 + 1:4d}{line[26:]}\n" for i, line in enumerate(atoms)]
    (tmp_path / "w.pdb").write_text("".join(named))
    samples, read = samples_of(WALK), []
    named = atoms_of_samples.named_atoms
    monkeypatch.setattr(atoms_of_samples, "named_atoms", lambda *rest: read.append(rest) or named(*rest))
    assert samples.to_frame(topology=tmp_path / "w.pdb").resid.max() == 3 and len(read) == 1  # of two graphs
    table = samples.to_frame(topology=tmp_path / "w.pdb", graph=0)
    assert table.resid.tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3] * 8 and set(table.resname) == {"HOH"}
    part = samples.to_mdtraj(topology=tmp_path / "w.pdb").topology
    assert [(atom.name, atom.residue.resSeq) for atom in part.atoms][3:5] == [("O", 2), ("H1", 2)]
    with pytest.raises(ValueError, match=r"to_frame: topology must name the 9 atoms of the samples, got 3 .*w\.pdb"):
        samples.to_frame(topology=tmp_path / "w.pdb", selection="resid 0")
    with pytest.raises(ValueError, match="selection must come with a topology"):
        samples.to_frame(selection="resid 0")
    other = dataclasses.replace(samples, atomic_numbers=np.tile([8, 1, 7], 6))
    with pytest.raises(ValueError, match=r"topology must have the elements of the samples, N for atom 2, got H"):
        other.to_frame(topology=tmp_path / "w.pdb")


@needs_pandas
def test_what_is_out_of_range_is_told():
    for arguments, message in (
        ({"graph": 3}, r"Samples\.to_frame: graph must be in 0\.\.2, got 3"),
        ({"sample": -1}, r"Samples\.to_frame: sample must be in 0\.\.1, got -1"),
        ({"topology": "a.pdb"}, "topology must be None for samples that are no molecules in three dimensions"),
    ):
        with pytest.raises(ValueError, match=message):
            FLAT.to_frame(**arguments)
    for index, kind in ((1.0, "float"), (True, "bool")):
        with pytest.raises(TypeError, match=rf"graph must be a whole number or None, got {kind}"):
            FLAT.to_frame(graph=index)


@pytest.mark.parametrize(
    ("method", "package", "extra"),
    [
        ("to_frame", "pandas", "tables"),
        ("to_mdtraj", "mdtraj", "md"),
        ("to_mdanalysis", "MDAnalysis", "md"),
        ("to_ase", "ase", "molecules"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, method, package, extra):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    message = rf"Samples\.{method} needs {package}, which is not installed: {re.escape(how_to_install(extra))}"
    with pytest.raises(ModuleNotFoundError, match=message):
        getattr(FLAT, method)()
