"""Samples as one HTML page that needs nothing else: play, step through time, turn in three dimensions."""

import base64
import functools
import hashlib
import json
import pathlib
import re
import warnings

from geotdm_fast.plots.page_content import content_of
from geotdm_fast.plots.topology import read_topology
from geotdm_fast.runtime.files import PathLike, atomic_path
from geotdm_fast.runtime.shown import plain
from geotdm_fast.samples.record import Samples

VIEWER = pathlib.Path(__file__).parent / "viewer"
# In this order they are one script.
SCRIPTS = ("tracks.js", "colours.js", "camera.js", "scene.js", "panels.js", "controls.js", "keys.js")


def write_page(
    samples: Samples,
    path: PathLike,
    *,
    num_systems: int = 12,
    title: str | None = None,
    topology: PathLike | None = None,
    selection: str | None = None,
) -> None:
    """Write `num_systems` systems with their truth and at most 20 samples each into a self-contained HTML page.

    Positions are rounded to a 65534th of the largest distance that a trajectory has from the middle of its system. The
    page shows bonds, periodic boxes with whole molecules, and, of frames that nobody knows the truth of, the samples
    alone. A page holds at most 48 MB of positions: of more, fewer samples of every system are in it, then fewer
    systems, which a warning and the page say.

    topology, selection: a file that names the atoms of every system that is drawn, residues, chains and bonds, and
        which of its atoms these are; see `plots.topology.read_topology`
    Raises ValueError for num_systems < 1, and for a topology that cannot be read or is of other atoms.
    """
    if num_systems < 1:
        raise ValueError(f"plot: num_systems must be at least 1, got {num_systems}")
    if selection is not None and topology is None:
        raise ValueError(f"plot: selection must come with a topology, got {selection!r} alone")
    atoms = None if topology is None else read_topology(topology, selection)
    what = "Generated trajectories" if samples.mode == "uncond" else "Forecasts"
    content, left_out = content_of(samples, num_systems, atoms)
    if left_out:
        warnings.warn(f"plot: {left_out}", stacklevel=2)
    content |= {
        "title": title or f"{what}: {plain(samples.name)}",
        "file": re.sub(r"[^\w.-]+", "-", pathlib.Path(path).stem) or "geotdm",
    }
    # `<` never reaches the page as such: a name in the data cannot end the script.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    with atomic_path(path) as aside:
        aside.write_text(page_around(text), encoding="utf-8")


def page_around(content: str) -> str:
    """The page with its content, a text of JSON. Its policy lets no other script run, and nothing be fetched."""
    style, script = _style(), _script()
    hashes = {"script-src": script, "style-src": style}
    policy = "".join(f"{name} '{_hash(text)}'; " for name, text in hashes.items())
    parts = {
        "POLICY": f"default-src 'none'; {policy}img-src data: blob:; base-uri 'none'; form-action 'none'",
        "STYLE": style,
        "SCRIPT": script,
        "CONTENT": content,
    }
    return re.sub(r"__([A-Z]+)__", lambda match: parts[match[1]], (VIEWER / "page.html").read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@functools.cache
def _style() -> str:
    return (VIEWER / "style.css").read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    texts = [(VIEWER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['"use strict";', *texts])
