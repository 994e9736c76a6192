"""Pictures of the scores of molecules: truth and samples are both in them."""

import numpy as np
import pytest
from PIL import Image

from geotdm_fast.plots.molecule_scores import draw
from geotdm_fast.scores.md.decorrelation import Correlations
from geotdm_fast.scores.md.rdf import Curves
from geotdm_fast.scores.md.scoring import Plane

TRUTH, DRAWN = "#202124", "#0072B2"


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count(image: np.ndarray, colour: str) -> int:
    """Pixels of a colour, up to anti-aliasing."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(-1) < 12).sum())


@pytest.mark.parametrize("panels", [1, 14])
def test_lines(tmp_path, panels):
    r = np.linspace(0, 10, 50)
    names = [f"{k}-{k}" for k in range(panels)]
    curves = Curves(r, {name: np.sin(r) for name in names}, {name: np.cos(r) for name in names}, True)
    draw("rdf", curves, tmp_path / "rdf.png", "C2 H6 O")
    lags, atoms = np.arange(20), np.arange(4 * panels).reshape(-1, 4)
    found = Correlations(lags, np.exp(-lags / 5 + 0 * atoms[:, :1]), np.exp(-lags / 2 + 0 * atoms[:, :1]), atoms)
    draw("decorrelation", found, tmp_path / "decorrelation.png", "C2 H6 O")
    for name in ("rdf", "decorrelation"):
        image = pixels(tmp_path / f"{name}.png")
        assert count(image, TRUTH) > 200 * min(panels, 12) and count(image, DRAWN) > 100 * min(panels, 12)
        assert image.shape[0] < 1300  # at most twelve panels


@pytest.mark.parametrize("kind", ["ramachandran", "tica"])
def test_planes(tmp_path, kind):
    rng = np.random.default_rng(0)
    plane = Plane(rng.normal(size=(2, 4000)) * 0.5, rng.normal(size=(2, 4000)) * 0.5 + 1, ("one", "two"))
    draw(kind, plane, tmp_path / "a.png", "C2 H6 O")
    image = pixels(tmp_path / "a.png")
    coloured = (image.max(-1) - image.min(-1) > 40).any(axis=0)
    assert coloured[: len(coloured) // 2].any() and coloured[len(coloured) // 2 :].any()


def test_another_suffix(tmp_path):
    plane = Plane(np.zeros((2, 3)), np.ones((2, 3)), ("one", "two"))
    with pytest.raises(ValueError, match=r"must end in \.png, \.pdf, \.svg"):
        draw("tica", plane, tmp_path / "a.jpg", "H2")
