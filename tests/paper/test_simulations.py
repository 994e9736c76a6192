"""`geotdm reproduce` of simulations with tiny sizes: rows, floors and baselines of liquids and peptides."""

import dataclasses

import numpy as np
import pytest

from geotdm_fast.paper import Request, recipe, reproduce
from geotdm_fast.paper.molecule_scores import baseline_samples
from geotdm_fast.paper.results import results_table
from geotdm_fast.paper.simulations import SIMULATIONS
from geotdm_fast.samples.npz import read_samples

TINY = ("denoise_model.n_layers=1", "denoise_model.hidden_dim=8", "denoise_model.n_layers_ref=1",
        "diffusion.num_timesteps=25", "train.num_steps=2", "train.warmup_steps=0", "train.eval_every_step=2",
        "train.log_every_step=1", "train.eval_graphs=2", "data.train.stride=40")  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    # Seconds each; other tests draw them.
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", lambda self: None)
    monkeypatch.setattr("geotdm_fast.paper.report.pictures", lambda *_, **__: None)


def write_liquid(path, z, num_frames=300):
    """Molecules of elements z, bonds of 1 angstrom, at sites of a lattice of 3 x 3 x 2: they drift apart in a box."""
    rng = np.random.default_rng(0)
    sites = 4.0 * np.stack(np.meshgrid(range(3), range(3), range(2), indexing="ij"), -1).reshape(-1, 3)
    walk = np.cumsum(0.05 * rng.normal(size=(num_frames, len(sites), 1, 3)), axis=0)
    molecule = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])[: len(z)]
    x = sites[:, None] + molecule + walk + 0.02 * rng.normal(size=(*walk.shape[:2], len(z), 3))
    box = np.diag([12.0, 12.0, 8.0])
    z = np.tile(z, len(sites))
    np.savez(path, R=x.reshape(num_frames, -1, 3).astype("f4"), z=z, cell=box, pbc=np.ones(3, bool))


def write_chain(path, num_frames=300):
    """A zigzag of nine atoms other than hydrogen that shake."""
    place = np.arange(9)
    chain = np.stack([1.25 * place, 0.7 * (place % 2), 0.2 * (place % 3)], axis=-1)
    x = chain + 0.05 * np.random.default_rng(0).normal(size=(num_frames, 9, 3))
    np.savez(path, R=x.astype("f4"), z=np.array([6, 7, 6, 8, 6, 6, 7, 6, 8]))


def row_of(experiment, path, tmp_path):
    request = Request(experiment, preset="small", data=str(path), overrides=TINY, num_graphs=2, num_samples=2)
    return reproduce(request, out=tmp_path / "run", progress=False)


def test_argon_from_a_file_to_a_row(tmp_path):
    write_liquid(tmp_path / "argon.npz", [18])
    row = row_of("argon", tmp_path / "argon.npz", tmp_path)
    ((label, ours),) = row["scores"].items()
    assert label == "mean of 2" and ours["num_graphs"] == 2
    samples = read_samples(tmp_path / "run" / "samples_official.npz")
    error = np.linalg.norm(samples.samples - samples.target[None], axis=2)  # [K, N, T]
    assert ours["ade"] == pytest.approx(error.mean(), rel=1e-5)
    assert ours["ade_best"] <= ours["ade"] and ours["fde_best"] <= ours["fde"]
    assert ours["md"].keys() == {"rdf", "msd", "rmsf"} and all(s["floor"] > 0 for s in ours["md"].values())

    baselines = row["baselines"]
    assert set(baselines) == {"standing_still", "mean_of_given", "constant_velocity", "persistent_velocity"}
    assert baselines["standing_still"]["md"]["msd"]["drawn"] == pytest.approx(1.0), "|0 - MSD| / MSD"
    for name, scores in baselines.items():
        assert scores["md"]["rdf"]["floor"] == ours["md"]["rdf"]["floor"], "the truth beside the truth"
        drawn = baseline_samples(samples, name).samples[0]
        assert scores["ade"] == pytest.approx(np.linalg.norm(drawn - samples.target, axis=1).mean(), rel=1e-5)
    assert set(row["beats"]) == set(baselines) and row["paper"] == []

    text = results_table([row])
    assert "## argon, conditional" in text and "no rows yet" not in text
    assert "|  | ADE (angstrom) | FDE (angstrom) | best ADE (angstrom) | best FDE (angstrom) | RDF (floor) | " in text
    assert "| standing still |" in text and "argon.npz: 108 atoms of liquid argon in a box" in text
    floor = baselines["standing_still"]["md"]["msd"]["floor"]
    assert f"| 1 ({float(f'{floor:.4g}'):.4f}) |" in text


def test_the_forecast_of_a_baseline_is_in_the_units_of_the_samples(tmp_path):
    write_liquid(tmp_path / "argon.npz", [18])
    row_of("argon", tmp_path / "argon.npz", tmp_path)
    samples = dataclasses.replace(read_samples(tmp_path / "run" / "samples_official.npz"), scale=2.0)
    still = baseline_samples(samples, "standing_still").samples
    np.testing.assert_allclose(still, np.broadcast_to(samples.x_given[None, ..., -1:], still.shape), atol=1e-5)


@pytest.mark.parametrize("experiment", [name for name in SIMULATIONS if name != "argon" and ":" not in name])
def test_every_recipe_trains_and_is_scored(experiment, tmp_path):
    path = tmp_path / "data.npz"
    if experiment == "water":
        write_liquid(path, [8, 1, 1])
    else:
        write_chain(path)
    row = row_of(experiment, path, tmp_path)
    (ours,) = row["scores"].values()
    assert set(ours["md"]) == set(SIMULATIONS[experiment].scores)
    assert np.isfinite([ours["ade"], ours["fde_best"], row["baselines"]["persistent_velocity"]["ade"]]).all()


@pytest.mark.parametrize("experiment", SIMULATIONS)
def test_requests_that_are_wrong(experiment):
    small = Request(experiment, preset="small", data="x.npz")
    assert recipe(small).config["train"]["cond_mask"] == [[0, SIMULATIONS[experiment].given]]
    with pytest.raises(ValueError, match=rf"{experiment} has the task conditional and the preset small .*'paper'"):
        recipe(dataclasses.replace(small, preset="paper"))
    with pytest.raises(ValueError, match=r"the preset small alone .*got 'interpolation' and 'small'"):
        recipe(dataclasses.replace(small, task="interpolation"))
    with pytest.raises(ValueError, match=rf"{experiment} needs data: an .npz: .+"):
        recipe(dataclasses.replace(small, data=None))
