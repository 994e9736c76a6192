"""The page of samples in a headless Chromium: time and view, by clicks, keys, wheel and fingers."""

import dataclasses
import time

import numpy as np
import pytest
from page_pictures import clock, differ, picture
from tiny_models import ETHANOL, made_samples


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
    _, y = page.middle("#time")
    left, width = page.get(
        "(({left, width}) => [left, width])(document.getElementById('time').getBoundingClientRect())"
    )
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


def test_a_finger_shows_a_name(tab, browser):
    browser.resize(390, 844, ratio=2, touch=True)
    page = tab(made_samples(graphs=1, nodes=9))
    page.get("document.getElementById('options').classList.remove('open')")
    x, y = page.get(
        "(() => { const p = geotdm.panels[0], b = p.canvas.getBoundingClientRect();"
        "return [b.left + p.shown.at.x[3], b.top + p.shown.at.y[3]]; })()"
    )
    tip = "[document.getElementById('tip').hidden, document.getElementById('tip').textContent.split(' ').length]"
    page.touch([[(x, y)]])
    assert page.get(tip) == [False, 2]
    page.touch([[page.middle("#legend")]])  # elsewhere
    assert page.get(tip)[0] is True


def test_an_option_keeps_the_focus(tab):
    """Side by side, a panel that was chosen stays, unless there are more or fewer of them."""
    page = tab(made_samples(nodes=9))
    page.choose("#layout", "side")
    page.get("geotdm.panels[1].canvas.focus()")
    for key in "tcny":
        page.press(key)
    assert page.get("document.activeElement === geotdm.panels[1].canvas") is True
    page.press("2")
    assert page.get("geotdm.panels.length") == 3


def test_a_longer_legend_cuts_no_panel_off(tab, browser, tmp_path):
    browser.resize(700, 800)
    names = [f"a residue of the name {i}" for i in range(9)]
    np.savez(tmp_path / "top.npz", z=ETHANOL, resnames=names)
    page = tab(made_samples(nodes=9), topology=tmp_path / "top.npz")
    height = page.get("document.getElementById('legend').offsetHeight")
    page.choose("#colour", "residue")
    assert page.get("document.getElementById('legend').offsetHeight") > height
    stage = page.get("((e) => [e.scrollHeight, e.clientHeight])(document.getElementById('stage'))")
    assert stage[0] <= stage[1]


def test_the_plane_is_shifted_not_turned(tab):
    page = tab(made_samples(dims=2, graphs=1))
    page.drag("canvas", 25, 15)
    assert page.get("[geotdm.view.x, geotdm.view.y]") == [25, 15]
    assert page.get("geotdm.view.turn") == [1, 0, 0, 0, 1, 0, 0, 0, 1]
