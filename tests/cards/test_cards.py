"""What models, samples and batches show of themselves: the right numbers, safe HTML, small pictures."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from tiny_models import charged_config, made_samples, write_checkpoint

import geotdm_fast
from geotdm_fast.cards import batch as cards_of_batches
from geotdm_fast.cards import samples as cards_of_samples
from geotdm_fast.cards.picture import HEIGHT, WIDTH, picture
from geotdm_fast.data import array_dataset, collate
from geotdm_fast.scores.evaluation import evaluate

SMALL = 60_000


def facts(shown):
    """The facts of a card by name, from its text."""
    _, *lines = repr(shown).splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def elements(html):
    """The HTML as XML: every tag is closed, and every name escaped."""
    return list(ElementTree.fromstring(html).iter())


def pictures(html):
    return [element for element in elements(html) if element.tag == "svg"]


def text_of(html):
    return [element.text for element in elements(html) if element.tag == "div" and element.text]


def test_samples_say_what_they_are():
    samples = dataclasses.replace(made_samples(graphs=3), method="dpmpp_2m", num_steps=5, seed=7)
    shown = facts(samples)
    scores = evaluate(samples, ["ade"], progress=False)["forecast"]
    assert shown.pop("scores").startswith(f"ADE {scores['ade_mean']:.4g}, FDE {scores['fde_mean']:.4g}; of the best")
    assert repr(samples).splitlines()[0] == "Samples of N-body charged"
    assert shown == {
        "task": "forecast: 4 of 12 frames are given",
        "graphs": "3, with 3 samples of each",
        "nodes": "15 nodes, 5 in each graph, in 3 dimensions",
        "model": "tiny.safetensors",
        "method": "dpmpp_2m in 5 steps",
        "seed": "7",
        "truth": "known of all 8 drawn frames",
        "samples": "[3, 15, 3, 8] float32",
    }
    html = samples._repr_html_()
    assert text_of(html)[0] == "Samples of N-body charged" and text_of(html)[1:] == [
        word for pair in facts(samples).items() for word in pair
    ]
    assert len(pictures(html)) == 1


def test_samples_of_molecules_in_boxes_and_of_many_kinds():
    boxes = {
        "cell": np.tile(9 * np.eye(3, dtype=np.float32), (2, 12, 1, 1)),
        "pbc": np.array([[True, True, False]] * 2),
    }
    told = {"conditions": np.array([[1.0], [3.5]], np.float32), "condition_names": np.array(["lag"])}
    samples = dataclasses.replace(made_samples(graphs=2, nodes=9, num_samples=1), frame_time=0.5, **boxes, **told)
    shown = facts(samples)
    assert shown["molecules"] == "C2 H6 O" and shown["time"] == "0.5 between two frames"
    assert (
        shown["unit"] == "angstrom" and shown["graphs"] == "2, with 1 sample of each" and "best" not in shown["scores"]
    )
    assert shown["boxes"] == "periodic in 2 directions, which change from frame to frame"
    assert shown["conditions"] == "lag 1 to 3.5"
    some = dataclasses.replace(samples, pbc=np.array([[True, True, True], [True, False, False]]))
    assert facts(some)["boxes"] == "periodic in 1 to 3 directions, which change from frame to frame"
    one = dataclasses.replace(samples, pbc=np.array([[True, False, False]] * 2), cell=boxes["cell"][:, :1])
    assert facts(one)["boxes"] == "periodic in 1 direction, which do not change"
    mixed = dataclasses.replace(samples, atomic_numbers=np.array([8, 1, 1] * 3 + [6] * 9))
    assert facts(mixed)["molecules"] == "H6 O3 (1 graph), C9 (1 graph)"
    uneven = dataclasses.replace(
        made_samples(graphs=3), batch=np.array([0] * 2 + [1] * 9 + [2] * 4), scored=np.array([0, 3, 12])
    )
    assert facts(uneven)["nodes"] == "15 nodes, 2 to 9 in a graph, in 3 dimensions"
    assert facts(uneven)["scored"] == "3 nodes of them" and "scores" in facts(uneven)
    assert "scores" not in facts(dataclasses.replace(uneven, scored=np.array([0, 3])))


def test_molecules_of_many_graphs_are_told_without_a_look_at_each(monkeypatch):
    looked = []
    usual = cards_of_samples.formula
    monkeypatch.setattr(cards_of_samples, "formula", lambda numbers: looked.append(0) or usual(numbers))
    samples = made_samples(graphs=1001, nodes=9, num_samples=1, frames=5)
    assert facts(samples)["molecules"] == "C2 H6 O" and len(looked) == 1
    numbers = samples.atomic_numbers.copy()
    numbers[-1] = 9
    mixed = dataclasses.replace(samples, atomic_numbers=numbers)
    assert facts(mixed)["molecules"] == "C2 H6 O and others" and len(looked) == 2


def test_what_is_large_has_no_picture_and_no_scores(monkeypatch):
    """The numbers of all frames count: given ones are copied, too."""
    samples = made_samples(graphs=2, given=11)  # 3 samples and the truth of 5 nodes, 3 axes, 12 frames
    for size, has_picture, has_scores in ((2 * 720, True, True), (2 * 720 - 1, True, False), (719, False, False)):
        monkeypatch.setattr(cards_of_samples, "MOST_NUMBERS", size)
        assert len(pictures(samples._repr_html_())) == has_picture and ("scores" in facts(samples)) == has_scores
    monkeypatch.setattr(cards_of_batches, "MOST_NUMBERS", 7 * 5 * 2)
    batch = collate([*array_dataset(np.ones((2, 7, 5, 2), np.float32), edge_index=np.array([[0], [1]]))])
    assert len(pictures(batch._repr_html_())) == 1
    monkeypatch.setattr(cards_of_batches, "MOST_NUMBERS", 7 * 5 * 2 - 1)
    assert not pictures(batch._repr_html_())


def test_what_is_not_known_is_not_said():
    samples = made_samples()
    future = dataclasses.replace(samples, target=samples.target[..., :0])
    assert facts(future)["truth"] == "not known" and "scores" not in facts(future) and "method" not in facts(future)
    target = samples.target.copy()
    target[..., 5:] = np.nan
    rolled = dataclasses.replace(samples, target=target)
    assert facts(rolled)["truth"] == "known of the first 5 of 8 drawn frames" and "nan" not in facts(rolled)["scores"]
    gaps = dataclasses.replace(samples, cond_mask=np.roll(samples.cond_mask, 3))
    assert facts(gaps)["task"] == "fill gaps: 4 of 12 frames are given"
    free = made_samples(mode="uncond")
    assert facts(free)["task"] == "trajectories of 12 frames" and "scores" not in facts(free)
    for one in (future, rolled, gaps, free):
        assert len(pictures(one._repr_html_())) == 1 and "nan" not in one._repr_html_()


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", "\x1b[31mred", '"><img src=x onerror=y>'])
def test_names_of_files_do_no_harm(name):
    samples = dataclasses.replace(made_samples(), name=name, unit=name, checkpoint=name)
    html = samples._repr_html_()
    assert {element.tag for element in elements(html)} == {"div", "svg", "title", "path"}
    assert not {key for element in elements(html) for key in dict(element.items())} & {
        "src",
        "href",
        "onerror",
        "onload",
    }
    assert "\x1b" not in html + repr(samples)
    assert text_of(html)[0].replace("\\x1b", "\x1b") == f"Samples of {name}"


def test_a_batch_says_what_it_is():
    rng = np.random.default_rng(0)
    batch = collate([*array_dataset(rng.normal(size=(4, 7, 5, 2)).astype(np.float32), edge_index=np.array([[0], [1]]))])
    assert repr(batch).splitlines()[0] == "Batch of 4 graphs"
    shown = facts(batch)
    assert shown["nodes"] == "20 nodes, 5 in each graph, in 2 dimensions" and shown["frames"] == "7"
    assert shown["edges"] == "4 edges" and shown["numbers"] == "float32 on cpu"
    assert shown["fields"].startswith("x=[20, 2, 7], h=[20, 1], edge_index=[2, 4]")
    assert len(pictures(batch._repr_html_())) == 1 and pictures(batch.to(dtype=torch.float64)._repr_html_())


def test_a_batch_shows_every_field_and_is_never_an_error():
    batch = collate([*array_dataset(np.ones((2, 7, 5, 2), np.float32), edge_index=np.array([[0], [1]]))])
    for i in range(40):
        batch[f"further_{i}"] = torch.zeros(2, i)
    assert all(f"further_{i}=[2, {i}]" in facts(batch)["fields"] for i in range(40))
    for broken in (batch.to("meta"), dataclasses.replace(batch, batch=None), dataclasses.replace(batch, x=None)):
        assert repr(broken).startswith("Batch(x=") and broken._repr_html_() is None
    assert "batch=None" in repr(dataclasses.replace(batch, batch=None))


def test_a_model_says_what_it_is(tmp_path):
    model = geotdm_fast.load(write_checkpoint(tmp_path / "a.safetensors", charged_config()), device="cpu")
    shown = facts(model.set_precision("bf16"))
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    assert repr(model).splitlines()[0] == "Model a.safetensors" and "are given" in shown["task"]
    assert shown["network"] == f"EGTN, 1 layer of width 16, {parameters:,} parameters"
    assert shown["runs"].startswith("bf16 on cpu; egcl by ") and ", temporal_attention by " in shown["runs"]
    assert "schedule" in shown["diffusion"] and "nbody" in shown["data"]
    assert shown["draws"] == "ddpm in 25 steps"
    model.config["sampling"] = {"method": "dpmpp_2m", "steps": 5}
    assert facts(model)["draws"] == "dpmpp_2m in 5 steps (recommended; ddpm in 25 by itself)"
    assert facts(model)["draws"] in text_of(model._repr_html_())
    model.config["sampling"] = {"method": "ddim", "steps": 1, "spacing": "log_snr"}
    assert facts(model)["draws"] == "ddim in 1 step by log_snr (recommended; ddpm in 25 by itself)"
    with geotdm_fast.backend("reference"):
        assert facts(model)["runs"] == "bf16 on cpu; by the reference"
    assert text_of(model._repr_html_())[0] == "Model a.safetensors" and not pictures(model._repr_html_())


def places(svg):
    """All coordinates of an SVG's lines and paths."""
    words = " ".join(e.get("d", "") for e in ElementTree.fromstring(svg).iter())
    for letter in "MLh":
        words = words.replace(letter, " ")
    return np.array([float(word) for word in words.split()])


@pytest.mark.parametrize("shape", [(1, 2, 1), (3, 3, 1), (50, 3, 2000), (1, 3, 2), (4, 2, 9)])
def test_pictures_of_paths_are_small_and_within_their_frame(shape):
    rng = np.random.default_rng(0)
    x, given = rng.normal(size=shape).cumsum(-1), np.arange(shape[-1]) < shape[-1] // 2
    svg = picture(x, given, x + rng.normal(size=(6, *shape)))
    assert 0 < len(svg) < SMALL
    assert places(svg).min() >= 0 and places(svg).max() <= max(WIDTH, HEIGHT)


def test_drawn_frames_between_given_ones_are_shown():
    """A straight path in even steps, given at both ends: every frame has its place from left to right."""
    x = np.stack([np.arange(12.0), np.zeros(12)])[None]
    given = np.ones(12, bool)
    given[4:9] = False
    truth, sample = x + np.array([[0], [1]]), x[None]
    lines = [e for e in ElementTree.fromstring(picture(truth, given, sample)).iter() if "L" in e.get("d", "")]
    frames = [[np.array([float(word) for word in run.replace("L", " ").split()][::2]) for run in runs]
              for runs in (line.get("d").split("M")[1:] for line in lines)]  # fmt: skip
    frames = [[((run - 8) / (WIDTH - 16) * 11).round(1).tolist() for run in runs] for runs in frames]
    drawn, known = [list(range(3, 10))], [list(range(4)), [9, 10, 11]]
    assert frames == [drawn, known, drawn]
    assert [line.get("stroke") == "currentColor" for line in lines] == [False, True, False]
    alternating = picture(np.tile(x, (20, 1, 100)), np.arange(1200) % 3 > 0, np.tile(x, (6, 20, 1, 100)))
    assert 0 < len(alternating) < SMALL


def test_one_point_in_space_and_samples_of_which_the_first_is_lost():
    one = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    assert "h0" in picture(one, np.array([True])) and "h0" in picture(one, np.array([False]), one[None] + 1)
    unknown = np.full((2, 3, 5), np.nan)
    drawn = np.random.default_rng(0).normal(size=(2, 2, 3, 5))
    drawn[0] = np.nan
    for numbers in (None, np.array([6, 6])):
        svg = picture(unknown, np.zeros(5, bool), drawn, numbers)
        assert "nan" not in svg and len(places(svg)) > 0
    assert picture(drawn[0], np.zeros(5, bool), None, np.array([6, 6])) == ""


def test_the_title_says_what_is_grey():
    title = lambda samples: next(e.text for e in pictures(samples._repr_html_())[0] if e.tag == "title")
    given = made_samples(nodes=9)
    assert title(given) == "The last frame of the first graph; grey: the last that is known; thin: samples"
    free = made_samples(nodes=9, mode="uncond")
    free = dataclasses.replace(free, samples=free.target[None])
    assert title(free) == "The last frame of the first graph; thin: samples"
    svg = pictures(free._repr_html_())[0]
    assert not [e for e in svg if e.get("stroke") == "currentColor"]
    (bonds,) = [e for e in svg if "L" in e.get("d", "")]
    assert bonds.get("d").count("M") == 8  # of ethanol


def test_many_nodes_take_no_more_time_than_they_are():
    first = np.arange(0, 200_000, 2)
    assert 0 < len(picture(np.zeros((200_000, 2, 2)), np.zeros(2, bool), None, None, first)) < SMALL


@pytest.mark.parametrize("count", [1, 9, 3000])
def test_pictures_of_molecules_are_small(count):
    rng = np.random.default_rng(0)
    # a chain of carbons with a hydrogen each
    x = np.stack([1.5 * np.arange(count), rng.normal(size=count) / 9, rng.normal(size=count) / 9], axis=1)[..., None]
    x = np.concatenate([x, x + np.array([[0], [1.0], [0]])])
    numbers = np.repeat([6, 1], count)
    svg = picture(x, np.array([True]), x[None] + 0.1, numbers)
    assert 0 < len(svg) < SMALL and "<path" in svg
    argon = picture(x, np.array([True]), None, np.full(len(x), 18))
    assert 0 < len(argon) < SMALL and "<path" in argon


def test_where_nothing_is_finite_there_is_no_picture():
    x = np.full((3, 3, 4), np.nan)
    assert picture(x, np.zeros(4, bool)) == picture(x, np.zeros(4, bool), x[None]) == ""
    assert "L" in picture(x, np.zeros(4, bool), np.random.default_rng(0).normal(size=(2, 3, 3, 4)))
    numbers = np.array([6, 1, 1])
    assert "<path" in picture(x, np.zeros(4, bool), np.random.default_rng(0).normal(size=(2, 3, 3, 4)), numbers)
    partly = np.random.default_rng(0).normal(size=(3, 3, 4))
    partly[1] = np.nan
    assert "nan" not in picture(partly, np.arange(4) < 2, partly[None])
