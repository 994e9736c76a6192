"""The whole table: what is scored, left out, cut in time, refused; and `geotdm evaluate --scores md`."""

import dataclasses
import json
import re
import shlex

import numpy as np
import pytest
from molecule_samples import jittered, samples_from
from places import ROOT
from tiny_models import ETHANOL, ETHANOL_POSITIONS

from geotdm_fast.cli import build_parser, main
from geotdm_fast.cli.md_options import check_md_options
from geotdm_fast.data.molecule_files.elements import formula
from geotdm_fast.samples.npz import write_samples
from geotdm_fast.scores.evaluation import evaluate, parse_scores, report
from geotdm_fast.scores.md import MD_SCORES, MDSettings, score_molecules
from geotdm_fast.scores.md.ensemble import ensembles

QUICK = MDSettings(resamples=20)


def ethanol(count: int = 12, frames: int = 10, size: float = 0.03, draws: int = 2, given: int = 0, **options):
    """Ethanol that jitters by 0.03 angstrom, and drawn ethanol that jitters by `size`."""
    truth = jittered(ETHANOL_POSITIONS, (count, given + frames), 0.03)
    drawn = jittered(ETHANOL_POSITIONS, (draws, count, frames), size, seed=1)
    return samples_from(truth, drawn, ETHANOL, given=given, **options)


def test_a_model_as_good_as_the_truth_scores_as_the_floor():
    (good,) = score_molecules(ethanol(count=40, given=2), QUICK)
    (bad,) = score_molecules(ethanol(count=40, size=0.06, given=2), QUICK)
    for right, wrong in zip(good.rows, bad.rows, strict=True):
        assert right.quantity == wrong.quantity
        if right.score in ("bonds", "angles", "torsions", "rdf", "rmsf", "msd") and right.better == "lower":
            assert right.estimate.floor_low <= right.estimate.value <= 1.2 * right.estimate.floor_high, right
            assert wrong.estimate.value > wrong.estimate.floor_high, wrong
            assert wrong.estimate.low > right.estimate.high


def test_equal_samples_give_equal_scores():
    samples = ethanol()
    a, b = (score_molecules(samples, MDSettings(resamples=20, seed=3))[0].as_json() for _ in range(2))
    assert json.dumps(a) == json.dumps(b)
    other = score_molecules(samples, MDSettings(resamples=20, seed=4))[0].as_json()
    assert a["rows"][0]["value"] != other["rows"][0]["value"]
    # Moved, turned and mirrored as a whole nothing changes but by rounding, of a molecule without a stereocentre.
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    moved = lambda x: (np.einsum("...ndt,de->...net", x, q) + 3).astype(np.float32)
    turned = dataclasses.replace(samples, **{name: moved(getattr(samples, name)) for name in ("samples", "target")})
    mirrored = score_molecules(turned, MDSettings(resamples=20, seed=3))[0].as_json()
    for one, two in zip(a["rows"], mirrored["rows"], strict=True):
        assert two["value"] == pytest.approx(one["value"], rel=0.05, abs=2e-4), one["quantity"]


def test_few_trajectories_are_cut_in_time():
    samples = ethanol(count=2, frames=43, draws=3)
    (ensemble,) = ensembles(samples)
    assert ensemble.truth.shape == (3, 9, 8, 10) and ensemble.drawn.shape == (3, 9, 24, 10) and ensemble.graphs == 2
    # Part 1 of the truth of graph 1, and of its draw 2.
    np.testing.assert_array_equal(ensemble.truth[:, :, 5], samples.target[9:, :, 10:20].swapaxes(0, 1))
    np.testing.assert_array_equal(ensemble.drawn[:, :, 5 * 3 + 2], samples.samples[2, 9:, :, 10:20].swapaxes(0, 1))
    (found,) = score_molecules(samples, QUICK)
    assert found.notes == (
        "2 true trajectories are too few to halve and to resample: each was cut in time into 4 parts of 10 frames",
    )
    assert ensembles(samples, longest_lag=9)[0].num_frames == 21  # twice the lag, and one
    cell = np.eye(3) * np.arange(1, 44)[:, None, None]
    boxed = ensembles(samples, cell=cell[None])[0].cell
    assert boxed.shape == (8, 10, 3, 3) and boxed[5, 3, 0, 0] == 14
    with pytest.raises(ValueError, match=r"the floor needs two true trajectories, .* got one of 5 frames"):
        score_molecules(ethanol(count=1, frames=5), QUICK)


def test_several_molecules_are_scored_apart():
    a, b = ethanol(count=8), ethanol(count=8)
    water = samples_from(
        b.target.reshape(8, 9, 3, -1).transpose(0, 3, 1, 2)[:, :, [2, 3, 0]],
        np.zeros((2, 8, 10, 3, 3)),
        np.array([8, 1, 6]),
    )
    both = dataclasses.replace(
        a,
        **{name: np.concatenate([getattr(a, name), getattr(water, name)], axis=axis)
           for name, axis in (("samples", 1), ("target", 0), ("x_given", 0), ("h", 0), ("atomic_numbers", 0))},
        batch=np.concatenate([a.batch, water.batch + 8]),
        scored=np.arange(len(a.batch) + len(water.batch)),
    )  # fmt: skip
    first, second = score_molecules(both, QUICK)
    assert (first.formula, second.formula) == ("C2 H6 O", "C H O") and first.graphs == second.graphs == 8
    alone = score_molecules(a, QUICK)[0]
    assert first.as_json() == alone.as_json()
    with pytest.raises(ValueError, match="bonds must come with samples of one molecule, got 2 molecules"):
        score_molecules(both, QUICK, bonds=np.array([[0, 1]]))


def test_atoms_without_elements():
    truth = np.random.default_rng(0).normal(size=(8, 6, 5, 3))
    samples = samples_from(truth, truth[None], unit="")
    (found,) = score_molecules(samples, QUICK)
    assert found.formula == "5 nodes"
    assert {row.score for row in found.rows} >= {"rdf", "rg", "rmsd", "rmsf", "msd"}
    assert "must be in angstrom, got ''" in found.left_out["bonds"]
    chain = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    by_argument = score_molecules(samples, QUICK, bonds=chain)[0]
    edges = dataclasses.replace(QUICK, bonds="edges")
    by_edges = score_molecules(samples_from(truth, truth[None], bonds=chain, unit=""), edges)[0]
    assert by_argument.as_json() == by_edges.as_json()
    assert by_edges.rows[0].quantity == "JSD of 4 bond lengths"
    assert next(row for row in by_edges.rows if row.score == "torsions").quantity == "JSD of 2 torsions"


def test_frames_that_do_not_follow_each_other():
    samples = ethanol(frames=9, given=1)
    mask = np.arange(10) == 4
    (found,) = score_molecules(dataclasses.replace(samples, cond_mask=mask), QUICK)
    assert found.left_out["msd"] == "the drawn frames do not follow each other: given frames lie between them"
    assert any(row.score == "bonds" for row in found.rows)


def test_a_box_of_the_samples_is_scaled_with_them():
    truth = np.random.default_rng(1).random((8, 4, 12, 3))
    free = dataclasses.replace(samples_from(truth, truth[None], np.full(12, 18)), scale=5.0)
    cell, pbc = np.tile(np.eye(3, dtype=np.float32), (8, 1, 1, 1)), np.ones((8, 3), dtype=bool)
    boxed = dataclasses.replace(free, cell=cell, pbc=pbc)
    (ensemble,) = ensembles(boxed)
    for drawn in (False, True):
        np.testing.assert_array_equal(ensemble.cell_of(drawn), np.broadcast_to(5 * np.eye(3), (8, 1, 3, 3)))
    settings = MDSettings(scores=("rdf",), r_max=2.4, resamples=10)
    found = score_molecules(boxed, settings)[0].as_json()
    assert found == score_molecules(free, settings, cell=5 * np.eye(3))[0].as_json()
    pbc[0, 2] = False
    with pytest.raises(ValueError, match="cell must be periodic in all three directions"):
        ensembles(boxed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("bnds",)}, "did you mean 'bonds'"),
        ({"scores": ()}, "scores must name at least one"),
        ({"scores": ("energy",)}, "'energy' needs a calculator"),
        ({"bonds": "guess"}, "bonds must be one of distance, edges"),
        ({"lag": 0}, "lag must be at least 1"),
        ({"states": 1}, "states must be at least 2"),
        ({"bins": 1}, "bins must be at least 2"),
        ({"resamples": 0}, "resamples must be at least 1"),
        ({"r_max": -1.0}, "r_max must be positive"),
        ({"contact": float("nan")}, "contact must be positive"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        MDSettings(**options)


def test_samples_that_cannot_be_scored():
    good = ethanol()
    for change, message in (
        ({"target": good.target[..., :0]}, "there is no truth in these samples"),
        ({"samples": np.where(np.arange(10) == 3, np.nan, good.samples).astype(np.float32)}, "samples must be finite"),
        ({"target": np.where(np.arange(10) == 3, np.inf, good.target).astype(np.float32)}, "target must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            score_molecules(dataclasses.replace(good, **change), QUICK)
    flat = samples_from(np.zeros((8, 4, 5, 2)), np.zeros((1, 8, 4, 5, 2)))
    with pytest.raises(ValueError, match="positions must be in 3 dimensions, got 2"):
        score_molecules(flat, QUICK)


def test_formulas():
    assert formula(ETHANOL.tolist()) == "C2 H6 O" and formula([0, 8, 0, 119]) == "O [0]2 [119]"


def test_names_of_scores():
    assert parse_scores("md", "cond") == ("md",) and parse_scores("all", "uncond")[-1] == "nll"
    assert parse_scores("all,md", "cond") == ("ade", "nll", "md") and parse_scores("md,marginal", "uncond")[0] == "md"
    with pytest.raises(ValueError, match=r"scores must be one of all, .*, md; got 'mdd'"):
        parse_scores("mdd", "cond")


def test_evaluate_holds_them():
    samples = ethanol(given=2)
    result = evaluate(samples, ("md",), md=score_molecules(samples, QUICK), progress=False)
    text = report(result)
    assert "C2 H6 O: 12 true trajectories" in text and "JSD of 8 bond lengths" in text
    assert "left out: energy" not in text  # nobody asked for it
    json.dumps(result, allow_nan=False)
    assert {row["score"] for row in result["md"][0]["rows"]} <= set(MD_SCORES)


def test_the_command(tmp_path, capsys):
    write_samples(tmp_path / "s.npz", ethanol(given=2))
    about = [str(tmp_path / "s.npz"), "--scores", "all,md", "--quiet", "--resamples", "20"]
    made = ["--json", str(tmp_path / "a.json"), "--pictures", str(tmp_path / "pictures")]
    assert main(["evaluate", *about, *made]) == 0
    said = capsys.readouterr().out
    assert "standing still" in said and "mean |MSD - MSD true| / MSD true" in said and "floor" in said
    (molecule,) = json.loads((tmp_path / "a.json").read_text())["md"]
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [path.stem for path in drawn] == ["decorrelation", "ramachandran", "rdf", "tica"]
    assert all(path.stat().st_size > 10_000 for path in drawn)
    wanted = score_molecules(ethanol(given=2), QUICK)[0].as_json()
    assert [row["value"] for row in molecule["rows"]] == [row["value"] for row in wanted["rows"]]
    options = ["--md", "rdf,bonds", "--cell", "30", "30", "30", "--r-max", "5", "--seed", "2"]
    assert main(["evaluate", *about, *options, "--json", str(tmp_path / "b.json")]) == 0
    (molecule,) = json.loads((tmp_path / "b.json").read_text())["md"]
    assert [row["score"] for row in molecule["rows"]] == ["bonds", "rdf"]
    assert molecule["rows"][1]["quantity"] == "mean |g - g true| of RDFs"


def test_errors_of_the_command(tmp_path, capsys):
    write_samples(tmp_path / "s.npz", ethanol())
    for words, message in (
        (["--scores", "ade", "--lag", "3"], "--lag is of the scores of molecules: --scores md asks for them"),
        (["--scores", "md", "--cell", "1", "2"], "--cell must be three lengths or nine numbers, got 2 numbers"),
        (["--scores", "md", "--md", "bnds"], "did you mean 'bonds'"),
        (["--scores", "md", "--states", "1"], "states must be at least 2, got 1"),
        (["--scores", "md", "--pictures", str(tmp_path / "s.npz")], "--pictures must be a folder, got the file"),
    ):
        assert main(["evaluate", str(tmp_path / "s.npz"), *words, "--quiet"]) == 2
        assert message in capsys.readouterr().err


def test_the_page_names_every_score_and_its_commands_parse(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(re.search(rf"\b{name}\b", told[told.index("which of them:") :]) for name in MD_SCORES)
    page = (ROOT / "docs" / "scores.md").read_text(encoding="utf-8")
    for name in MD_SCORES:
        assert re.search(rf"^\|[^|]*`{name}`[^|]*\|", page, re.M), name
    lines = re.search(r"```bash\n(.*?)```", page, re.S).group(1).splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "geotdm"
        args = build_parser().parse_args(words[1:])
        check_md_options(args)
