"""The page of samples without a browser: what is in it, how large it is, and that no name becomes a part of it."""

import base64
import dataclasses
import hashlib
import re

import numpy as np
import pytest
from page_pictures import written
from tiny_models import made_samples

from geotdm_fast.plots import page_content
from geotdm_fast.plots.page import SCRIPTS, VIEWER, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&quot;'\"`${1}\\u003c"
ETHANOL_BONDS = [0, 1, 0, 4, 0, 5, 0, 6, 1, 2, 1, 7, 1, 8, 2, 3]


def positions(stored: dict, nodes: int, dims: int) -> np.ndarray:
    """[N, D, T], as the page's script decodes them."""
    whole = np.frombuffer(base64.b64decode(stored["data"]), "<i2").reshape(-1, nodes, dims)
    x = np.where(whole == page_content.MISSING, np.nan, whole * stored["step"])
    return np.moveaxis(x, 0, 2)


@pytest.mark.parametrize("made", [{}, {"dims": 2, "nodes": 3}, {"nodes": 9}, {"mode": "uncond"}])
def test_positions_are_those_of_the_samples(tmp_path, made):
    samples = made_samples(**made)
    content = written(tmp_path / "a.html", samples, num_systems=2)
    assert content["given"] == samples.cond_mask.astype(int).tolist()
    assert content["generated"] is (samples.mode == "uncond") and content["dims"] == samples.samples.shape[2]
    assert [system["name"] for system in content["systems"]] == ["system 0", "system 2"]
    assert len(content["topologies"]) == 1  # of equal systems one is kept
    nodes = samples.nodes(2)
    truth, drawn = samples.truth()[nodes], samples.forecasts()[:, nodes]
    centre = truth.mean((0, 2), keepdims=True)
    system = content["systems"][1]
    found = [positions(stored, truth.shape[0], truth.shape[1]) for stored in (system["truth"], *system["samples"])]
    for x, expected in zip(found, (truth, *drawn), strict=True):
        away = np.abs(expected - centre)
        np.testing.assert_allclose(x, expected - centre, atol=away.max() / 65534 * 1.01 + 1e-6)


def test_positions_that_nobody_knows(tmp_path):
    samples = made_samples()
    target = samples.target.copy()
    target[..., 5:] = np.nan
    content = written(tmp_path / "a.html", dataclasses.replace(samples, target=target))
    truth = positions(content["systems"][0]["truth"], 5, 3)
    assert np.isfinite(truth[..., :9]).all() and np.isnan(truth[..., 9:]).all()
    assert "the truth of the last 3 frames is not known" in content["about"]
    samples = dataclasses.replace(samples, target=target[..., :0], samples=samples.samples * np.nan)
    without = written(tmp_path / "b.html", samples)
    assert np.isnan(positions(without["systems"][0]["truth"], 5, 3)[..., 4:]).all()
    assert np.isnan(positions(without["systems"][0]["samples"][2], 5, 3)[..., 4:]).all()


def test_positions_far_from_the_origin_keep_their_digits(tmp_path):
    samples = made_samples(graphs=1)
    far = dataclasses.replace(samples, origin=np.full((1, 3), 1e9))
    near, away = written(tmp_path / "a.html", samples), written(tmp_path / "b.html", far)
    x, y = (positions(content["systems"][0]["truth"], 5, 3) for content in (near, away))
    np.testing.assert_allclose(x, y, atol=2 * near["systems"][0]["truth"]["step"])


def test_names_stay_text(tmp_path):
    samples = dataclasses.replace(made_samples(nodes=9, graphs=1), name=HOSTILE, unit=HOSTILE)
    np.savez(
        tmp_path / "top.npz", names=[HOSTILE[:30]] * 9, resnames=["<b>"] * 9, resid=np.arange(9), chains=["<i>"] * 9
    )
    content = written(tmp_path / "a.html", samples, topology=tmp_path / "top.npz")
    text = (tmp_path / "a.html").read_text()
    assert content["title"] == f"Forecasts: {HOSTILE}" and content["topologies"][0]["kind_names"] == ["<b>"]
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert "<img" not in text and "<b>" not in text and "<i>" not in text
    # The policy knows the hashes of the script and the style that are there, and lets nothing else run or load.
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.S).group(1)
        assert f"{name} 'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert policy.endswith("; base-uri 'none'; form-action 'none'")


def test_the_script_writes_no_html():
    for name in SCRIPTS:
        text = (VIEWER / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text), name
        assert len(text.splitlines()) < 300
    assert {path.name for path in VIEWER.iterdir()} == {*SCRIPTS, "page.html", "style.css"}


def test_a_molecule_has_its_bonds(tmp_path):
    topology = written(tmp_path / "a.html", made_samples(nodes=9))["topologies"][0]
    bonds = np.array(topology["bonds"]).reshape(-1, 3)
    assert bonds[:, :2].ravel().tolist() == ETHANOL_BONDS and (bonds[:, 2] == 0).all()
    assert topology["symbols"] == list("CCOHHHHHH") and topology["bonded"] == [1] * 9
    assert written(tmp_path / "b.html", made_samples())["topologies"][0]["bonds"] == []


def test_boxes(tmp_path):
    samples = made_samples(nodes=9, graphs=2, frames=6)
    cell = np.broadcast_to(np.diag([9.0, 8.0, 7.0]), (2, 6, 3, 3)).astype(np.float32).copy()
    cell[:, 4:] *= 2  # of two drawn frames, of which the network was told the box of the last given one
    samples = dataclasses.replace(samples, cell=cell, pbc=np.array([[True, True, False]] * 2))
    content = written(tmp_path / "a.html", samples)
    box = content["systems"][0]["box"]
    height = np.ptp(samples.truth()[:9, 2])
    assert box["pbc"] == [1, 1, 0] and box["corner"] == pytest.approx([-4.5, -4.0, -height / 2], abs=1e-5)
    assert [cell[8] for cell in box["truth"] + box["samples"]] == pytest.approx([height] * 12, abs=1e-5)
    assert [cell[0] for cell in box["truth"]] == [9, 9, 9, 9, 18, 18]
    assert [cell[0] for cell in box["samples"]] == [9] * 6
    assert content["topologies"][0]["molecules"] == [0] * 9
    # A box that is periodic in no direction is none.
    content = written(tmp_path / "b.html", dataclasses.replace(samples, pbc=np.zeros((2, 3), bool)))
    assert content["systems"][0]["box"] is None and content["topologies"][0]["molecules"] is None


def test_films_and_chains_have_their_box_around_their_atoms(tmp_path):
    """Along a direction that is not periodic a box says nothing: zeros, and what stands for them, are no height."""
    samples = made_samples(nodes=9, graphs=1, frames=6)
    x = samples.truth().astype(np.float64)
    for vectors, pbc in (
        ([[9, 0, 0], [4, 8, 0], [0, 0, 0]], [1, 1, 0]),
        ([[0, 0, 0], [0, 8, 0], [0, 0, 5]], [0, 1, 0]),
    ):
        cell = np.array(vectors, np.float32)[None, None]
        content = written(
            tmp_path / "a.html", dataclasses.replace(samples, cell=cell, pbc=np.array([pbc], bool))
        )["systems"][0]  # fmt: skip
        box = content["box"]
        found = np.array(box["samples"][0]).reshape(3, 3)
        assert box["pbc"] == pbc and box["truth"] == box["samples"]
        for k in range(3):
            low, high = x[:, k].min(), x[:, k].max()
            if pbc[k]:
                np.testing.assert_allclose(found[k], vectors[k])
                high, low = vectors[0][k] + vectors[1][k] + vectors[2][k], 0  # the middle of the box itself
            else:
                np.testing.assert_allclose(np.abs(found[k]), np.eye(3)[k] * (high - low), atol=1e-5)
            whole = positions(content["truth"], 9, 3)[:, k]
            np.testing.assert_allclose(whole - (x[:, k] - (high + low) / 2), 0, atol=2 * content["truth"]["step"])
        np.testing.assert_allclose(np.add(box["corner"], found.sum(0) / 2), 0, atol=1e-5)


def test_atoms_in_one_plane_have_a_box(tmp_path):
    samples = made_samples(nodes=9, graphs=1)
    flat = {name: getattr(samples, name) * np.array([1, 1, 0])[:, None] for name in ("x_given", "target", "samples")}
    cell = np.diag([9.0, 8.0, 0.0]).astype(np.float32)[None, None]
    made = dataclasses.replace(samples, **flat, cell=cell, pbc=np.array([[True, True, False]]))
    box = written(tmp_path / "a.html", made)["systems"][0]["box"]
    assert abs(box["samples"][0][8]) == pytest.approx(0.45)


def test_no_bonds_between_unknown_positions(tmp_path):
    samples = made_samples(nodes=9, graphs=1, mode="uncond")
    values = samples.samples.copy()
    values[0, 3] = np.inf
    made = dataclasses.replace(samples, target=samples.target[..., :0], samples=values)
    for what in (made, dataclasses.replace(made, samples=values * np.nan)):
        content = written(tmp_path / "a.html", what)
        assert content["topologies"][0]["bonds"] == [] and 0 < content["systems"][0]["extent"] < 100


def test_people_that_are_not_there(tmp_path):
    samples = made_samples(dims=2, nodes=3, graphs=1)
    x_given, target = samples.x_given.copy(), samples.target.copy()
    x_given[2], target[2] = 0, 0
    content = written(
        tmp_path / "a.html", dataclasses.replace(samples, x_given=x_given, target=target, scored=np.array([0]))
    )
    assert content["systems"][0]["present"] == [1, 1, 0] and content["systems"][0]["counted"] == [1, 0, 0]
    # One that is scored is there, though it stands at the origin.
    content = written(tmp_path / "b.html", dataclasses.replace(samples, x_given=x_given, target=target))
    assert content["systems"][0]["present"] is None and content["systems"][0]["counted"] is None


def test_the_size_of_a_page_is_bounded(tmp_path, monkeypatch):
    samples = made_samples(num_samples=6)
    one = 2 * 5 * 3 * 12  # bytes of a trajectory
    for room, (num_systems, num_samples) in {(4 * 5): (4, 4), (4 * 2): (4, 1), 4: (2, 1), 1: (1, 1)}.items():
        monkeypatch.setattr(page_content, "MAX_BYTES", room * one)
        with pytest.warns(UserWarning, match=rf"holds {num_systems} of 4 systems, {num_samples} of 6 samples"):
            content = written(tmp_path / "a.html", samples)
        assert len(content["systems"]) == num_systems
        assert {len(system["samples"]) for system in content["systems"]} == {num_samples}
        assert f"{num_systems} of 4 systems, {num_samples} of 6 samples" in content["about"]


def test_bytes_of_a_position(tmp_path):
    """Two bytes a number, and a third for base64."""
    size = {}
    for frames in (10, 210):
        write_page(made_samples(graphs=1, nodes=50, frames=frames), tmp_path / "a.html")
        size[frames] = (tmp_path / "a.html").stat().st_size
    assert size[210] - size[10] == pytest.approx(200 * 50 * 3 * 2 * 4 / 3 * (1 + 3), rel=0.02)
    assert size[10] < 80_000


def test_samples_and_systems_are_checked(tmp_path):
    with pytest.raises(ValueError, match="num_systems must be at least 1, got 0"):
        write_page(made_samples(), tmp_path / "a.html", num_systems=0)
