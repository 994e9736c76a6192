"""The page of samples in a headless Chromium: molecules in periodic boxes, whole, in films, very many."""

import dataclasses

import numpy as np
import pytest
from page_pictures import differ, picture
from tiny_models import ETHANOL, ETHANOL_POSITIONS, made_samples

from geotdm_fast.samples.record import Samples


def boxed() -> Samples:
    """Two ethanols in a box, one of which drifts out of it; a cell for every frame."""
    x = np.concatenate([ETHANOL_POSITIONS + 4, ETHANOL_POSITIONS + 7.7])[..., None] + np.zeros(12)
    x[9:] += np.linspace(0, 30, 12)
    x = x.astype(np.float32)
    cell = np.broadcast_to(np.diag([10.0, 10.0, 10.0]), (1, 12, 3, 3)).astype(np.float32).copy()
    cell[..., 1, 0] = 3
    samples = made_samples(graphs=1, nodes=9)
    return dataclasses.replace(
        samples, x_given=x[..., :4], target=x[..., 4:], samples=x[None, ..., 4:], batch=np.zeros(18, int),
        scored=np.arange(18), h=np.ones((18, 1), np.float32), edge_index=np.zeros((2, 0), int),
        atomic_numbers=np.tile(ETHANOL, 2), cell=cell, pbc=np.ones((1, 3), bool),
    )  # fmt: skip


def test_molecules_are_whole_in_their_box(tab):
    samples = boxed()
    page = tab(samples)
    values = "[...({})(s, -1)].map((v, k) => v - s.box.corner[k % 3])"
    code = f"((s) => {values})(geotdm.data.systems[0])"
    stay = np.array(page.get(code.format("decoded"))).reshape(12, 18, 3)
    moved = np.array(page.get(code.format("wrapped"))).reshape(12, 18, 3)
    np.testing.assert_allclose(stay, samples.truth().transpose(2, 0, 1), atol=2e-3)
    cell = samples.cell[0, 0]
    for k in (0, 9):
        middle = moved[:, k : k + 9].mean(1) @ np.linalg.inv(cell)
        assert (middle > -1e-3).all() and (middle < 1 + 1e-3).all()
        np.testing.assert_allclose(
            moved[:, k : k + 9] - moved[:, k : k + 1], stay[:, k : k + 9] - stay[:, k : k + 1], atol=1e-4
        )
    image = (moved - stay) @ np.linalg.inv(cell)
    np.testing.assert_allclose(image, image.round(), atol=1e-3)
    assert np.abs(image[-1, 9:]).max() >= 2
    page.press("End")
    inside = picture(page)
    page.press("x")
    assert page.get("document.getElementById('wrap').checked") is False and differ(picture(page), inside)
    page.press("x")
    with_box = picture(page)
    page.click("#box")
    assert differ(picture(page), with_box)


def test_the_bonds_of_a_film_are_drawn(tab):
    """The vector of length 1 that stands for the direction that is not periodic makes no bond a jump."""
    samples = made_samples(graphs=1, nodes=9)
    drawn = {}
    for height in (1, 0):
        cell = np.diag([9.0, 8.0, height]).astype(np.float32)[None, None]
        page = tab(dataclasses.replace(samples, cell=cell, pbc=np.array([[True, True, False]])))
        assert page.get("jump(geotdm.data.systems[0], -1)") == 4
        page.choose("#style", "lines")
        page.click("#box")
        drawn[height] = picture(page)
        at = np.array(page.get("[0, 1].map((i) => [geotdm.panels[0].shown.at.x[i], geotdm.panels[0].shown.at.y[i]])"))
        x, y = at.mean(0).round().astype(int)
        assert drawn[height][y - 1 : y + 2, x - 1 : x + 2, 3].max() > 128  # the middle of the bond of the carbons
    assert not differ(drawn[1], drawn[0])


def test_steps_through_a_wall_have_no_trail(tab):
    """A molecule that leaves a film's box through a wall comes in through the other; across the film it just moves."""
    samples = made_samples(graphs=1, nodes=9)
    for direction, step, has_trail in ((0, 1, False), (2, 4, True)):
        x = np.tile((ETHANOL_POSITIONS - ETHANOL_POSITIONS.mean(0) + [8.5, 5, 5])[..., None], 12)
        x[:, direction, 1:] += step
        cell = np.diag([9.0, 9.0, 0.0]).astype(np.float32)[None, None]
        made = dataclasses.replace(
            samples, x_given=x[..., :4].astype(np.float32), target=x[..., 4:].astype(np.float32), cell=cell,
            pbc=np.array([[True, True, False]]),
        )  # fmt: skip
        page = tab(made)
        page.get("geotdm.choose({frame: 1, trails: 'off', box: false, tracks: new Set([-1])})")
        without = picture(page)
        page.get("geotdm.choose({trails: 'all'})")
        assert differ(picture(page), without) is has_trail


def test_as_many_molecules_as_atoms(tab):
    """A box of 200,000 atoms without a bond."""
    page = tab(boxed())
    page.get(
        "(() => { const n = 200000, system = {...geotdm.data.systems[0]}, topology = {...geotdm.data.topologies[0]};"
        "topology.count = n; topology.molecules = Array.from({length: n}, (_, i) => i);"
        "system.truth = {x: new Float32Array(3 * n * geotdm.data.given.length).fill(25)};"
        "system.topology = geotdm.data.topologies.push(topology) - 1; window.last = wrapped(system, -1).at(-1); })()"
    )
    assert page.get("last + 5 - geotdm.data.systems[0].box.corner[2] - 5") == pytest.approx(
        (25 - page.get("geotdm.data.systems[0].box.corner[2]")) % 10, abs=1e-3
    )
