"""Pictures: whole files of the expected size, showing what they should."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from tiny_models import made_samples

from geotdm_fast.cli import main
from geotdm_fast.plots.animation import animate
from geotdm_fast.plots.bonds import lengths, plot_bond_lengths
from geotdm_fast.plots.forecast import plot_forecast, spread
from geotdm_fast.plots.frame_runs import runs
from geotdm_fast.plots.loss import plot_loss, running_mean
from geotdm_fast.plots.molecule import bond_name, bonds
from geotdm_fast.plots.projection import principal_plane, project
from geotdm_fast.samples.npz import write_samples


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        return np.asarray(image.convert("RGB")).astype(int)


def has_colour(image: np.ndarray, colour: str) -> bool:
    """Whether at least 20 pixels are of `colour` (#RRGGBB), up to anti-aliasing."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image - wanted).max(-1) < 12).sum()) >= 20


@pytest.mark.parametrize("mode", ["cond", "uncond"])
def test_particles(tmp_path, mode):
    plot_forecast(made_samples(mode=mode), tmp_path / "a.png", num_systems=3)
    image = pixels(tmp_path / "a.png")
    rows = 1 if mode == "cond" else 2  # data and generated
    assert image.shape == (465 * rows + 135, 1395, 3)  # panels of 3.1 inches at 150 dots, 0.9 inches of header
    assert has_colour(image, "#0072B2") and has_colour(image, "#D55E00")
    if mode == "cond":
        assert has_colour(image, "#9AA0A6")  # given frames


def test_people_in_two_dimensions_have_grey_neighbours(tmp_path):
    samples = made_samples(dims=2, nodes=3)
    samples = dataclasses.replace(samples, scored=np.arange(0, 12, 3), unit="m", name="pedestrians eth")
    plot_forecast(samples, tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert has_colour(image, "#0072B2") and has_colour(image, "#DADCE0") and not has_colour(image, "#D55E00")


@pytest.mark.parametrize("mode", ["cond", "uncond"])
def test_molecules(tmp_path, mode):
    plot_forecast(made_samples(nodes=9, mode=mode), tmp_path / "a.png", num_systems=2)
    assert has_colour(pixels(tmp_path / "a.png"), "#D93025")  # oxygen


def test_vector_formats_and_the_caller_s_settings(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_forecast(made_samples(), tmp_path / "a.svg", num_systems=1)
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match=r"must end in \.png, \.pdf, \.svg, got .*a\.jpg"):
        plot_forecast(made_samples(), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="num_systems must be at least 1, got 0"):
        plot_forecast(made_samples(), tmp_path / "a.png", num_systems=0)


@pytest.mark.parametrize(("nodes", "mode"), [(5, "cond"), (5, "uncond"), (9, "cond")])
def test_animation_moves(tmp_path, nodes, mode):
    samples = made_samples(graphs=2, nodes=nodes, frames=6, given=2, mode=mode)
    animate(samples, tmp_path / "a.gif", num_systems=2, progress=False)
    with Image.open(tmp_path / "a.gif") as movie:
        assert movie.n_frames == 6 and movie.info["loop"] == 0
        assert movie.size == (int(6.2 * 84), int((3.1 * (2 if mode == "uncond" else 1) + 0.9) * 84))
        frames = []
        for t in range(6):
            movie.seek(t)
            frames.append(np.asarray(movie.convert("RGB")).astype(int))
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(frames))
    with pytest.raises(ValueError, match="num_systems must be at least 1"):
        animate(samples, tmp_path / "a.gif", num_systems=0)


def test_loss_curve(tmp_path):
    records = [{"step": i, "loss": 1 / (i + 1), "lr": 1e-3} for i in range(50)]
    records += [{"step": 25, "val_loss": 0.1, "val_nll": -5.0}, {"step": 49, "val_nll": -7.0, "val_loss": None}]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"step": 50, "lo']))  # the last line cut by a kill
    plot_loss(tmp_path / "log.jsonl", tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert image.shape == (int(6.8 * 150), 1200, 3)
    assert has_colour(image, "#0072B2") and has_colour(image, "#D55E00")


def test_loss_curve_needs_losses(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        plot_loss(tmp_path / "log.jsonl", tmp_path / "a.png")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(ValueError, match="must hold training records with a loss"):
        plot_loss(tmp_path / "log.jsonl", tmp_path / "a.png")


def test_running_mean_does_not_lag():
    assert running_mean([2.0] * 4) == pytest.approx([2.0] * 4)
    line = [float(i) for i in range(200)]
    assert running_mean(line)[5:-5] == pytest.approx(line[5:-5])


def test_bond_lengths(tmp_path):
    plot_bond_lengths(made_samples(nodes=9), tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape[1] == int(3 * 2.7 * 150)
    x = np.zeros((1, 4, 3, 2))
    x[0, 1, 0] = 3.0  # atom 1 of the first of two molecules of two atoms
    assert lengths(x, [(0, 1)], 2).tolist() == [3.0, 3.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="bond lengths need molecules, the samples are of 'N-body charged'"):
        plot_bond_lengths(made_samples(), tmp_path / "a.png")


def test_bonds_of_ethanol():
    samples = made_samples(nodes=9)
    pairs = bonds(samples.truth()[:9, :, 0], samples.atomic_numbers[:9])
    assert pairs.tolist() == [[0, 1], [0, 4], [0, 5], [0, 6], [1, 2], [1, 7], [1, 8], [2, 3]]
    assert bond_name(1, 6) == "C-H" and bond_name(8, 6) == "C-O" and bond_name(79, 6) == "C-79"


def test_projection_keeps_distances_in_a_plane():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2]
    flat = rng.normal(size=(7, 2, 5)) * [[3.0], [1.0]]
    x = np.einsum("npt,dp->ndt", flat, axes) + 4.0
    shown = project(x, *principal_plane(np.moveaxis(x, 1, 2).reshape(-1, 3)))
    distance = lambda y: np.linalg.norm(y[:, None] - y[None], axis=2)
    assert np.allclose(distance(shown), distance(flat))
    two = rng.normal(size=(7, 2, 5))
    assert np.array_equal(project(two, *principal_plane(two[..., 0])), two)


def test_choice_of_systems_and_runs():
    assert spread(10, 4) == [0, 2, 5, 7] and spread(2, 6) == [0, 1]
    mask = np.array([1, 1, 0, 1, 0, 0], bool)
    assert [r.tolist() for r in runs(mask)] == [[0, 1], [3]]
    assert runs(np.zeros(3, bool)) == []


def test_names_that_look_like_formulas(tmp_path):
    from geotdm_fast.plots import style

    for text in ("$x^^$", r"$\frac{$", "a\x1b[7m\n\x00b", "x" * 10**6, "1 $"):
        figure, _ = style.panels(1, 1)
        style.head(figure, f"Samples: {style.literal(text)}", style.with_unit("x", text), [])
        style.save(figure, tmp_path / "p.png")
    assert style.literal("$x$") == r"\$x\$" and len(style.literal("x" * 10**6)) <= 80


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_samples_that_are_not_drawn_are_told(tmp_path, capsys, suffix):
    whole = made_samples(num_samples=3)
    samples = whole.samples.copy()
    samples[1, :, :, 5:] = np.nan
    for name, part in (("whole", whole), ("broken", dataclasses.replace(whole, samples=samples))):
        write_samples(tmp_path / f"{name}.npz", part)
        assert main(["plot", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / f"a.{suffix}"), "--quiet"]) == 0
        said = capsys.readouterr().err
        told = "broken.npz: 1 of 3 samples hold positions that are not finite, which are not drawn"
        assert (told in said) == (name == "broken"), said
