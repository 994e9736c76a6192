"""Browsers that end, or never answer: the tests of pages hear of it soon, and nothing stays behind."""

import os
import subprocess
import time

import browser
import pytest


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [("exit 1", RuntimeError, "has ended"), ("exec sleep 60", TimeoutError, "does not answer")],
)
def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch, script, error, message):
    program = tmp_path / "chromium"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    begun, popen = [], subprocess.Popen
    monkeypatch.setattr(browser, "chromium", lambda: str(program))
    monkeypatch.setattr(browser, "TIMEOUT", 2.0)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: begun.append(popen(*args, **options)) or begun[0])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=message):
        browser.Browser()
    assert begun[0].returncode is not None  # it has ended, and was waited for
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_browser_that_ends_is_noticed():
    if browser.chromium() is None:
        pytest.skip("no Chromium (Debian's package chromium)")
    with browser.Browser() as opened:
        opened._process.kill()
        opened._process.wait()
        begun = time.monotonic()
        for _ in range(2):  # at every call
            with pytest.raises(RuntimeError, match="the browser has ended"):
                opened.get("1")
        assert time.monotonic() - begun < 20
