"""What the tests of the page of samples read from it: its content, its clock, its switches, its pictures."""

import base64
import io
import json
import pathlib
import re

import numpy as np
from browser import Browser
from PIL import Image

from geotdm_fast.plots.page import write_page
from geotdm_fast.samples.record import Samples

GIVEN, BLUE = (154, 160, 166), (0, 114, 178)


def written(path: pathlib.Path, samples: Samples, **options) -> dict:
    """The content of a page that is written to `path`."""
    write_page(samples, path, **options)
    text = path.read_text()
    assert "http:" not in text and "https:" not in text  # nothing is fetched
    return json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.S).group(1))


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
