"""The page of samples in a headless Chromium: what is drawn of samples, molecules and residues."""

import dataclasses

import numpy as np
from page_pictures import BLUE, GIVEN, clock, differ, num_red, picture, pressed, share
from tiny_models import ETHANOL, made_samples

ETHANOL_BONDS = np.array([[0, 1], [0, 4], [0, 5], [0, 6], [1, 2], [1, 7], [1, 8], [2, 3]])


def test_layouts_and_samples(tab):
    page = tab(made_samples())
    captions = lambda: page.get("[...document.querySelectorAll('figcaption')].map((e) => e.firstChild.textContent)")
    assert captions() == ["system 0", "system 1", "system 2", "system 3"]
    page.click("figure:nth-of-type(3) figcaption button")
    assert captions() == ["system 2"] and page.get("document.getElementById('layout').value") == "over"
    page.press("v")
    assert captions() == ["truth", "sample 1", "sample 2", "sample 3"]
    page.press("2")
    assert captions() == ["truth", "sample 1", "sample 3"] and pressed(page) == captions()
    page.click("#tracks button:nth-child(1)")
    assert captions() == ["sample 1", "sample 3"]
    page.get("document.activeElement.blur()")
    page.press("]")
    assert page.get("document.getElementById('system').value") == "3"
    page.press("0")
    page.choose("#layout", "over")
    page.press("End")
    both = picture(page)
    page.press("1")
    page.press("3")
    assert pressed(page) == ["truth"] and differ(picture(page), both)
    label = page.get("document.querySelector('canvas').getAttribute('aria-label')")
    assert label == "system 3: truth; 5 nodes"


def test_samples_come_after_what_was_given(tab):
    page = tab(made_samples(graphs=1, nodes=9))
    given = picture(page)
    page.press("0")
    page.press("0")
    assert not differ(picture(page), given)
    assert share(given, BLUE) < 5
    page.press("End")
    assert share(picture(page), BLUE) > 50  # thin lines of the samples
    for key in "123":
        page.press(key)
    assert share(picture(page), BLUE) < 5


def test_trails(tab):
    page = tab(made_samples(graphs=1, dims=2))
    page.press("End")
    image = picture(page)
    assert share(image, GIVEN) > 50 and share(image, BLUE) > 100
    page.press("t")
    assert page.get("geotdm.state.trails") == "off"
    assert share(picture(page), GIVEN) < share(image, GIVEN) / 4


def test_bonds_and_their_orders(tab, tmp_path):
    samples = made_samples(graphs=1, nodes=9)
    widths = {}
    for order in (0, 2, 3):
        np.savez(tmp_path / "top.npz", z=ETHANOL, bonds=ETHANOL_BONDS, orders=np.array([order, *[0] * 7]))
        page = tab(samples, topology=tmp_path / "top.npz")
        page.get("geotdm.view.turn = [1, 0, 0, 0, 1, 0, 0, 0, 1]; geotdm.redraw()")
        page.drawn()
        at = np.array(page.get("[0, 1].map((i) => [geotdm.panels[0].shown.at.x[i], geotdm.panels[0].shown.at.y[i]])"))
        across = np.array([at[0, 1] - at[1, 1], at[1, 0] - at[0, 0]]) / np.linalg.norm(at[1] - at[0])
        line = at.mean(0) + np.linspace(-40, 40, 321)[:, None] * across
        alpha = picture(page)[line[:, 1].round().astype(int), line[:, 0].round().astype(int), 3] > 128
        widths[order] = int((np.diff(alpha.astype(int)) == 1).sum())
    assert widths == {0: 1, 2: 2, 3: 3}  # lines side by side


def test_residues_have_colours_and_names(tab, tmp_path):
    np.savez(tmp_path / "top.npz", z=ETHANOL, names=[f"Q{i}" for i in range(9)], resid=[4] * 5 + [7] * 4,
             resnames=["ALA"] * 5 + ["GLY"] * 4, chains=["A"] * 5 + ["B"] * 4)  # fmt: skip
    page = tab(made_samples(graphs=1, nodes=9), topology=tmp_path / "top.npz")
    assert page.get("[...document.querySelectorAll('#colour option')].map((e) => e.value)") == [
        "element", "residue", "chain", "node", "sample",
    ]  # fmt: skip
    by_element = picture(page)
    page.press("c")
    legend = page.get("[...document.querySelectorAll('#legend span')].map((e) => e.textContent)")
    assert legend[-2:] == ["ALA", "GLY"] and differ(picture(page), by_element)
    without = picture(page)
    page.choose("#names", "residues")
    assert differ(picture(page), without)
    x, y = page.get(
        "(() => { const p = geotdm.panels[0], b = p.canvas.getBoundingClientRect();"
        "return [b.left + p.shown.at.x[3], b.top + p.shown.at.y[3]]; })()"
    )
    page.hover(x, y)
    assert page.get("[document.getElementById('tip').hidden, document.getElementById('tip').textContent]") == [
        False, "Q3 3, ALA 4, chain A",
    ]  # fmt: skip
    page.hover(5, 5)


def test_the_legend_has_the_elements_of_all_systems(tab):
    samples = made_samples(graphs=2, nodes=9)
    numbers = samples.atomic_numbers.copy()
    numbers[11] = 16  # the oxygen of the second one
    page = tab(dataclasses.replace(samples, atomic_numbers=numbers))
    legend = (
        "[...document.querySelectorAll('#legend span')].map((e) => e.textContent).filter((text) => text.length < 3)"
    )
    page.choose("#layout", "all")
    assert page.get(legend) == ["H", "C", "O", "S"]
    page.choose("#layout", "over")
    assert page.get(legend) == ["H", "C", "O"]


def test_generated_trajectories(tab):
    page = tab(made_samples(nodes=9, mode="uncond", graphs=1))
    assert page.get("[...document.querySelectorAll('figcaption')].map((e) => e.firstChild.textContent)") == [
        "data", "sample 1", "sample 2", "sample 3",
    ]  # fmt: skip
    assert clock(page) == "frame 1 of 12: generated"
    for panel in range(4):
        assert num_red(picture(page, panel)) > 20


def test_what_nobody_knows_is_not_drawn(tab):
    samples = made_samples(graphs=1, nodes=9)
    target = samples.target.copy()
    target[..., 4:] = np.nan
    page = tab(dataclasses.replace(samples, target=target))
    for key in "123":
        page.press(key)
    page.press("ArrowRight")
    assert picture(page)[..., 3].max() > 200
    page.press("End")
    assert picture(page)[..., 3].max() == 0
    page = tab(dataclasses.replace(samples, target=samples.target[..., :0]))
    page.press("End")
    assert picture(page)[..., 3].max() > 200


def test_where_nobody_knows_the_truth_a_sample_is_in_front(tab):
    samples = made_samples(graphs=1, nodes=9)
    page = tab(dataclasses.replace(samples, target=samples.target[..., :0]))
    thick = (
        "[...document.querySelectorAll('#legend span')].map((e) => e.textContent).find((text) => /thick/.test(text))"
    )
    assert page.get("geotdm.panels[0].shown.index") == -1 and page.get(thick) == "truth, then first sample: thick"
    page.press("End")
    page.drawn()
    assert page.get("geotdm.panels[0].shown.index") == 0
    assert num_red(picture(page)) > 20  # its oxygen
    without = picture(page)
    page.choose("#names", "atoms")
    assert differ(picture(page), without)
    page.press("0")
    assert page.get(thick) == "first sample: thick"
    for key in "123":
        page.press(key)
    page.drawn()
    assert page.get("geotdm.panels[0].shown") is None  # nothing is drawn, so nothing has a name


def test_given_frames_after_drawn_ones_are_grey(tab):
    samples = made_samples(graphs=1, dims=2, given=6)
    page = tab(dataclasses.replace(samples, cond_mask=np.isin(np.arange(12), [0, 1, 2, 9, 10, 11])))
    page.get("geotdm.choose({tracks: new Set([-1])})")
    page.get("geotdm.go(9)")
    first = share(picture(page), GIVEN)
    page.press("End")
    assert share(picture(page), GIVEN) > 1.2 * first > 0


def test_a_ball_that_is_near_is_a_small_picture_drawn_larger(tab):
    page = tab(made_samples(graphs=1, nodes=9))
    page.choose("#style", "spheres")
    small = picture(page)
    page.get("(() => { geotdm.view.zoom = 60; geotdm.redraw(); })()")
    page.drawn()
    assert page.get("Math.max(...[...sprites.values()].map((ball) => ball.width))") <= 2 * 64 + 2
    filled = lambda image: (image[..., 3] > 0).mean()
    assert filled(small) < 0.5 and filled(picture(page)) > 0.95


def test_a_large_page_is_drawn_within_seconds(tab, tmp_path):
    """Ten of 200 frames of 500 atoms with bonds, under a generous limit. Frames a second are measured by hand."""
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(8) * 1.4] * 3), -1).reshape(-1, 3)[:500]
    x = (places[..., None] + 0.1 * rng.normal(size=(500, 3, 200))).astype(np.float32)
    samples = dataclasses.replace(
        made_samples(graphs=1, nodes=9), x_given=x[..., :20], target=x[..., 20:], samples=x[None, ..., 20:],
        cond_mask=np.arange(200) < 20, batch=np.zeros(500, int), scored=np.arange(500), h=np.ones((500, 1), np.float32),
        edge_index=np.zeros((2, 0), int), atomic_numbers=np.full(500, 6),
    )  # fmt: skip
    page = tab(samples)
    assert (tmp_path / "page.html").stat().st_size < 1.8e6
    assert page.get("geotdm.data.topologies[0].bonds.length") > 3 * 1000
    before = page.get("geotdm.draws")
    took = page.get(
        "(async () => { const begun = performance.now();"
        "for (let k = 0; k < 10; k++) { geotdm.go(k); await new Promise(requestAnimationFrame); }"
        "return performance.now() - begun; })()"
    )
    assert page.get("geotdm.draws") - before >= 9
    assert took < 8000
