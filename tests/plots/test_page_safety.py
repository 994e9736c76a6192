"""The page of samples in a headless Chromium: names are text, themes, screens, labels, saved pictures."""

import dataclasses
import time

import numpy as np
import pytest
from page_pictures import clock, num_red, pixels
from tiny_models import ETHANOL, made_samples


def test_names_are_not_run(tab, tmp_path):
    hostile = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
    names = {"names": "<img src=x onerror=a(1)>", "resnames": "<b>x</b>", "chains": "<script>broken=3</script>"}
    np.savez(tmp_path / "top.npz", z=ETHANOL, **{key: [name] * 9 for key, name in names.items()})
    samples = dataclasses.replace(made_samples(graphs=1, nodes=9), name=hostile, unit="<i>m</i>")
    page = tab(samples, topology=tmp_path / "top.npz")
    for _ in range(4):
        page.press("c")
    page.choose("#names", "residues")
    assert (
        page.get("document.getElementById('title').textContent")
        == f"Forecasts: {hostile}"
        == page.get("document.title")
    )
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
    assert (
        is_dark() is True and page.get("document.getElementById('theme').getAttribute('aria-label')") == "Theme: dark"
    )
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
    width, height = page.get(
        "[document.getElementById('stage').scrollWidth, document.getElementById('stage').scrollHeight]"
    )
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
        f".filter((e) => ((b) => b.left < 0 || b.right > {width} || b.bottom > 844)(e.getBoundingClientRect()))"
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
    # The clock is read when it is asked for, not ten times a second.
    assert page.get("document.getElementById('clock').getAttribute('aria-live')") == "off"


def test_who_wants_no_motion_gets_none(tab, browser):
    browser.prefer(prefers_reduced_motion="reduce")
    page = tab(made_samples(), playing=True)
    assert page.get("geotdm.state.playing") is False
