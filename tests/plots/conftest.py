"""A browser for the tests of pages, and pages in it."""

import pytest
from browser import Browser, chromium

from geotdm_fast.plots.page import write_page


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.skip("no Chromium (Debian's package chromium)")
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
