"""The page of samples in a headless Chromium, by clicks, keys, wheel and fingers."""

import base64
import dataclasses
import io
import pathlib
import time

import numpy as np
import pytest
from browser import Browser, chromium
from PIL import Image
from tiny_models import ETHANOL, ETHANOL_POSITIONS, made_samples

from geotdm_fast.plots.page import write_page
from geotdm_fast.samples.record import Samples

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium (Debian's package chromium)")
GIVEN, BLUE = (154, 160, 166), (0, 114, 178)


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture
def tab(browser, tmp_path):
    """Opens a page of samples, standing still, in a window of a desktop; no error may have been said by its end."""

    def open_page(samples, *, playing: bool = False, **options) -> Browser:
        write_page(samples, tmp_path / "page.html", **options)
        browser.open(tmp_path / "page.html")
        if not playing:
            browser.get("geotdm.choose({playing: false})")
            browser.get("geotdm.go(0)")
        browser.drawn()
        return browser

    browser.resize(1280, 800)
    browser.prefer()
    yield open_page
    assert browser.said == []


def clock(tab: Browser) -> str:
    return tab.get("document.getElementById('clock').textContent")


def picture(tab: Browser, panel: int = 0) -> np.ndarray:
    """[H, W, 4] uint8 - the canvas of a panel."""
    tab.drawn()
    code = f"geotdm.panels[{panel}].canvas.toDataURL('image/png').split(',')[1]"
    return pixels(tab.get(code))


def pixels(text: str | bytes) -> np.ndarray:
    content = base64.b64decode(text) if isinstance(text, str) else text
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGBA")).astype(int)


def share(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels are of a colour, up to anti-aliasing."""
    return int(((np.abs(image[..., :3] - np.array(colour)).max(-1) < 14) & (image[..., 3] > 200)).sum())


def num_red(image: np.ndarray) -> int:
    """How many pixels are of the red of oxygen, in light or in shade."""
    red, green, blue, alpha = np.moveaxis(image, -1, 0)
    return int(((red > 120) & (red > 2 * green) & (red > 2 * blue) & (alpha > 200)).sum())


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape != b.shape or int((np.abs(a - b).max(-1) > 40).sum()) > 20


def pressed(tab: Browser) -> list[str]:
    return tab.get("[...document.querySelectorAll('#tracks [aria-pressed=true]')].map((e) => e.textContent)")


# --- time -------------------------------------------------------------------------------------------------------------


def test_it_plays_and_stops(tab):
    page = tab(made_samples(frames=40), playing=True)
    assert page.get("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    first = page.get("geotdm.state.frame")
    page.wait(f"geotdm.state.frame > {first}")
    page.click("#play")
    assert page.get("document.getElementById('play').getAttribute('aria-label')") == "Play"
    stopped = clock(page)
    time.sleep(0.4)
    assert clock(page) == stopped
    page.get("document.activeElement.blur()")
    page.press(" ")
    page.wait("geotdm.state.playing")
    page.press("ArrowRight")  # a step stops it
    assert page.get("geotdm.state.playing") is False


def test_steps_and_ends(tab):
    page = tab(dataclasses.replace(made_samples(), frame_time=0.5))
    assert clock(page) == "frame 1 of 12, time 0: given"
    page.press("ArrowRight")
    page.click("#forward")
    page.get("document.activeElement.blur()")
    assert clock(page) == "frame 3 of 12, time 1: given"
    page.press("End")
    assert clock(page) == "frame 12 of 12, time 5.5: forecast"
    page.press("ArrowRight")  # around
    assert clock(page).startswith("frame 1 of 12")
    page.click("#back")
    assert clock(page).startswith("frame 12 of 12")
    page.get("document.activeElement.blur()")
    page.press("Home")
    assert clock(page).startswith("frame 1 of 12")
    assert page.get("[...document.querySelectorAll('figcaption em')].map((e) => e.textContent)") == ["given"] * 4


def test_scrubbing(tab):
    page = tab(made_samples())
    x, y = page.middle("#time")
    left, width = page.get("(({left, width}) => [left, width])(document.getElementById('time').getBoundingClientRect())")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=left + width - 9, y=y, button="left", clickCount=1)
    page.drawn()
    assert clock(page) == "frame 12 of 12: forecast"
    page.press("ArrowLeft")  # of the slider itself, which has the focus
    assert clock(page) == "frame 11 of 12: forecast"
    assert page.get("document.getElementById('time').getAttribute('aria-valuetext')") == clock(page)
    # The band over it marks the given frames.
    parts = page.get("[...document.querySelectorAll('#band b')].map((e) => [e.className, parseFloat(e.style.width)])")
    assert [name for name, _ in parts] == ["given", "drawn"] and parts[0][1] == pytest.approx(100 / 3, abs=0.1)


def test_speed_and_loop(tab):
    page = tab(made_samples(frames=5, given=2))
    page.press("ArrowUp")
    page.press("ArrowUp")
    page.press("ArrowUp")  # there is nothing faster
    assert page.get("document.getElementById('speed').value") == "4"
    page.choose("#speed", "2")
    assert page.get("geotdm.state.speed") == "2"
    page.press("l")
    assert page.get("document.getElementById('loop').checked") is False
    page.get("document.activeElement.blur()")
    page.press(" ")
    page.wait("!geotdm.state.playing")
    assert clock(page) == "frame 5 of 5: forecast"
    page.click("#loop")
    page.get("document.activeElement.blur()")
    page.press(" ")
    page.wait("geotdm.state.frame === 1")  # begun again
    assert page.get("geotdm.state.playing") is True


# --- the view ---------------------------------------------------------------------------------------------------------


def test_turn_zoom_and_shift(tab):
    page = tab(made_samples(graphs=1, nodes=9))
    view = lambda: page.get("[...geotdm.view.turn, geotdm.view.zoom, geotdm.view.x, geotdm.view.y]")
    first, seen = view(), picture(page)
    page.drag("canvas", 120, 40)
    turned = view()
    matrix = np.array(turned[:9]).reshape(3, 3)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1) and turned[9:] == first[9:]
    angle = np.arccos((np.trace(matrix @ np.array(first[:9]).reshape(3, 3).T) - 1) / 2)
    assert angle == pytest.approx(np.hypot(1.2, 0.4), rel=0.05) and differ(picture(page), seen)
    page.wheel("canvas", -100)
    assert view()[9] == pytest.approx(np.exp(0.2)) and np.abs(view()[10:]).max() < 1
    shifted = np.array(view()[10:])
    page.drag("canvas", 30, 20, shift=True)
    page.drag("canvas", 10, 0, button="right")
    np.testing.assert_allclose(view()[10:] - shifted, [40, 20], atol=1e-9)
    assert view()[:9] == turned[:9]
    page.press("r")
    assert view() == first and not differ(picture(page), seen)
    page.press("+")
    page.press("d")
    page.press("ArrowLeft", shift=True)
    assert view()[9] == pytest.approx(1.2) and view()[10] == 24 and view()[:9] != first[:9]
    page.click("#reset")
    assert view() == first
    page.drag("canvas", 50, 0)
    page.click("canvas", count=2)
    assert view() == first


def test_what_is_to_the_right_goes_to_the_right(tab):
    """The view is right-handed, z upwards, and what is nearer covers what is farther."""
    x = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1.0]])
    samples = dataclasses.replace(made_samples(graphs=1, nodes=3), x_given=np.tile(x[..., None], 4).astype(np.float32))
    samples = dataclasses.replace(samples, target=np.tile(x[..., None], 8).astype(np.float32))
    page = tab(samples)
    xs, ys = page.get("[[...geotdm.panels[0].shown.at.x], [...geotdm.panels[0].shown.at.y]]")
    assert xs[1] > xs[0] + 20 and ys[2] < ys[0] - 20
    page.get("geotdm.view.turn = [1, 0, 0, 0, 0, 1, 0, -1, 0]; geotdm.redraw()")  # y away from the eye
    page.drag("canvas", 0, 30)  # what is in front goes down, so that it is seen from above
    turn = np.array(page.get("geotdm.view.turn")).reshape(3, 3)
    assert turn[2] @ [0, 0, 1] > 0.2


def test_fingers(tab, browser):
    browser.resize(390, 844, ratio=2, touch=True)
    page = tab(made_samples(graphs=1, nodes=9))
    x, y = page.middle("canvas")
    first = page.get("geotdm.view.turn")
    page.touch([[(x, y)], [(x + 60, y)], [(x + 90, y)]])
    assert page.get("geotdm.view.turn") != first and page.get("geotdm.view.zoom") == 1
    turned = page.get("geotdm.view.turn")
    page.touch([[(x - 20, y), (x + 20, y)], [(x - 40, y), (x + 20, y)], [(x - 40, y), (x + 40, y)]])
    assert page.get("geotdm.view.zoom") == pytest.approx(2, rel=0.05) and page.get("geotdm.view.turn") == turned


def test_the_plane_is_shifted_not_turned(tab):
    page = tab(made_samples(dims=2, graphs=1))
    page.drag("canvas", 25, 15)
    assert page.get("[geotdm.view.x, geotdm.view.y]") == [25, 15]
    assert page.get("geotdm.view.turn") == [1, 0, 0, 0, 1, 0, 0, 0, 1]


# --- what is shown ----------------------------------------------------------------------------------------------------


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
        np.savez(tmp_path / "top.npz", z=ETHANOL, bonds=np.array([[0, 1]]), orders=np.array([order]))
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
    code = "(() => {{ const s = geotdm.data.systems[0]; return [...({})(s, -1)].map((v, k) => v - s.box.corner[k % 3]); }})()"
    stay = np.array(page.get(code.format("decoded"))).reshape(12, 18, 3)
    moved = np.array(page.get(code.format("wrapped"))).reshape(12, 18, 3)
    np.testing.assert_allclose(stay, samples.truth().transpose(2, 0, 1), atol=2e-3)
    cell = samples.cell[0, 0]
    for k in (0, 9):
        middle = moved[:, k : k + 9].mean(1) @ np.linalg.inv(cell)
        assert (middle > -1e-3).all() and (middle < 1 + 1e-3).all()
        np.testing.assert_allclose(moved[:, k : k + 9] - moved[:, k : k + 1], stay[:, k : k + 9] - stay[:, k : k + 1], atol=1e-4)
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


# --- the page ---------------------------------------------------------------------------------------------------------


def test_names_are_not_run(tab, tmp_path):
    hostile = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    np.savez(tmp_path / "top.npz", z=ETHANOL, names=["<img src=x onerror=alert(1)>"[:24]] * 9, resnames=["<b>x</b>"] * 9,
             chains=["<script>broken=3</script>"] * 9)  # fmt: skip
    samples = dataclasses.replace(made_samples(graphs=1, nodes=9), name=hostile, unit="<i>m</i>")
    page = tab(samples, topology=tmp_path / "top.npz")
    for _ in range(4):
        page.press("c")
    page.choose("#names", "residues")
    assert page.get("document.getElementById('title').textContent") == f"Forecasts: {hostile}" == page.get("document.title")
    assert page.get("document.querySelectorAll('img, b:not(#band b), body script').length") == 2  # the two of the page
    assert page.get("typeof window.broken") == "undefined"
    # And were one to come in by another way, it would not run.
    page.get("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 4\">')")
    page.drawn()
    assert page.get("typeof window.broken") == "undefined"
    assert page.said and all("Content Security Policy" in said or "violates" in said for said in page.said)
    page.said.clear()


def test_nothing_is_fetched(tab):
    page = tab(made_samples())
    assert page.get("performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("system", ["light", "dark"])
def test_themes(tab, browser, system):
    browser.prefer(prefers_color_scheme=system)
    page = tab(made_samples(graphs=1, nodes=9))
    back = lambda: sum(page.get("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")[:3])
    is_dark = lambda: back() < 200
    assert is_dark() is (system == "dark")
    browser.prefer(prefers_color_scheme="light" if system == "dark" else "dark")
    page.drawn()
    assert is_dark() is (system != "dark")  # it follows
    page.click("#theme")
    assert is_dark() is False and page.get("document.getElementById('theme').textContent") == "◐ light"
    page.press("m")
    assert is_dark() is True and page.get("document.getElementById('theme').getAttribute('aria-label')") == "Theme: dark"
    image = pixels(page.screenshot())
    assert np.median(image[..., :3]) < 60


def test_keys_are_listed(tab):
    page = tab(made_samples())
    page.press("?")
    assert page.get("document.getElementById('keys').open") is True
    told = page.get("[...document.querySelectorAll('#key-table kbd')].map((e) => e.textContent)")
    assert {"space", "r", "p", "?", "x", "m"} <= set(told)
    frame = clock(page)
    page.press("ArrowRight")  # of the dialog, not of the page behind it
    assert clock(page) == frame
    page.press("Escape")
    page.wait("!document.getElementById('keys').open")
    page.click("#help")
    page.click("#keys button")
    assert page.get("document.getElementById('keys').open") is False


def test_a_picture_is_saved(tab, tmp_path):
    page = tab(made_samples(nodes=9))
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.press("End")
    page.press("p")
    wanted = tmp_path / "page-frame-12.png"
    until = time.monotonic() + 20
    while not wanted.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    image = pixels(wanted.read_bytes())
    width, height = page.get("[document.getElementById('stage').scrollWidth, document.getElementById('stage').scrollHeight]")
    assert image.shape[:2] == (height + 30, width)
    assert (image[..., 3] == 255).all() and num_red(image) > 20  # oxygen


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_it_fits_the_screen(tab, browser, width):
    browser.resize(width, 844, ratio=2 if width == 390 else 1, touch=width == 390)
    page = tab(dataclasses.replace(made_samples(nodes=9), name="a name that is quite long " * 4, unit="angstrom"))
    assert page.get("document.documentElement.scrollWidth") <= width
    assert page.get("document.documentElement.scrollHeight") <= 844
    outside = page.get(
        "[...document.querySelectorAll('button, select, input, canvas')].filter((e) => e.offsetParent)"
        f".filter((e) => {{ const b = e.getBoundingClientRect(); return b.left < 0 || b.right > {width} || b.bottom > 844; }})"
        ".map((e) => e.id || e.outerHTML)"
    )
    assert outside == []
    assert page.get("geotdm.panels[0].canvas.clientHeight") > 200
    if width == 390:
        assert page.get("document.getElementById('options').offsetParent") is None
        page.click("#more")
        assert page.get("document.getElementById('options').offsetParent !== null")
        assert page.get("document.getElementById('more').getAttribute('aria-expanded')") == "true"


def test_everything_has_a_name(tab):
    page = tab(made_samples(nodes=9))
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    of = lambda role: [n.get("name", {}).get("value") for n in nodes if n.get("role", {}).get("value") == role]
    assert all(of("button")) and all(of("combobox")) and all(of("checkbox")) and all(of("slider"))
    assert {"Play", "One frame back", "One frame on", "Save PNG", "Theme: system"} <= set(of("button"))
    assert {"Layout", "Colour", "Speed", "Names", "Trails"} <= {name.strip() for name in of("combobox")}
    assert of("slider") == ["Frame"]


def test_who_wants_no_motion_gets_none(tab, browser):
    browser.prefer(prefers_reduced_motion="reduce")
    page = tab(made_samples(), playing=True)
    assert page.get("geotdm.state.playing") is False


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


def test_a_large_page_is_drawn_at_once(tab, tmp_path):
    """200 frames of 500 atoms with bonds: how soon the first picture is there. Frames a second are measured by hand."""
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
    page.get("(async () => { for (let k = 0; k < 10; k++) { geotdm.go(k); await new Promise(requestAnimationFrame); } })()")
    assert page.get("geotdm.draws") - before >= 9
