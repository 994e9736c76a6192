"""Progress bars: lines in files and pipes, few of them."""

import sys

import pytest

from geotdm_fast.runtime import bars


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    from tqdm.std import tqdm

    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(tqdm, "monitor_interval", 0)

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_a_line_every_ten_seconds_at_most_and_one_at_the_end(clock, capsys):
    with bars.progress_bar(total=1000, desc="work", unit="step") as bar:
        for _ in range(1000):
            clock(1 / 32)
            bar.update()
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert [line.split("%")[0] for line in lines] == ["work:  32", "work:  64", "work:  96", "work: 100"]
    assert all(line.endswith("]\n") and "\r" not in line for line in lines)
    assert "1000/1000 [00:31<00:00, 32.00step/s]" in lines[-1]


def test_a_short_bar_is_one_line(clock, capsys):
    assert list(bars.progress_bar(range(3), desc="short")) == [0, 1, 2]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bar_that_leaves_nothing_and_one_that_is_off(clock, capsys):
    with bars.progress_bar(total=3, leave=False) as bar, bars.progress_bar(total=3, disable=True) as off:
        bar.update(3)
        off.update(3)
    assert capsys.readouterr().err.strip() == ""


def test_a_line_beside_a_bar(clock, capsys):
    with bars.progress_bar(total=2, desc="work") as bar:
        clock(11)
        bar.update()
        bars.say("resuming")
        bar.update()
    assert [line[:8] for line in capsys.readouterr().err.splitlines()] == ["work:  5", "resuming", "work: 10"]


def test_a_terminal_is_drawn_over(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with bars.progress_bar(total=3) as bar:
        bar.update(3)
    assert capsys.readouterr().err.startswith("\r  0%")
