"""Scores of a rollout block by block, against sums written out; and the command `geotdm drift`."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import charged_config, made_samples, write_checkpoint

from geotdm_fast.cli import main
from geotdm_fast.config.files import normalise_config
from geotdm_fast.plots.drift import plot_drift
from geotdm_fast.samples.npz import write_samples
from geotdm_fast.scores.drift import drift, report

GIVEN, BLOCK = 4, 3


@pytest.fixture(scope="module")
def samples():
    """Three samples of four graphs, 8 drawn frames, of which 5 are known."""
    made = made_samples()
    target = made.target.copy()
    target[..., 5:] = np.nan
    scored = np.array([0, 1, 6, 12, 19])
    return dataclasses.replace(made, target=target, scored=scored, scale=2.0, unit="m")


def test_errors_and_speeds_are_those_of_loops(samples):
    result = drift(samples, BLOCK)
    assert [block["frames"] for block in result["blocks"]] == [[4, 6], [7, 9], [10, 11]]
    assert [block["known"] for block in result["blocks"]] == [3, 2, 0]
    x, truth = 2.0 * samples.forecasts(False) / 2.0, samples.truth(False)
    for block in result["blocks"]:
        errors, still, speeds, true_speeds = [], [], [], []
        for t in range(block["frames"][0], block["frames"][1] + 1):
            for graph in range(4):
                own = np.arange(20)[samples.nodes(graph)]
                scored = [i for i in own if i in samples.scored]
                if t < GIVEN + 5:
                    still.append(np.mean([np.linalg.norm(truth[i, :, 3] - truth[i, :, t]) for i in scored]))
                    true_speeds.append(np.mean([((truth[i, :, t] - truth[i, :, t - 1]) ** 2).sum() for i in own]))
                for k in range(3):
                    speeds.append(np.mean([((x[k, i, :, t] - x[k, i, :, t - 1]) ** 2).sum() for i in own]))
                    if t < GIVEN + 5:
                        errors.append(np.mean([np.linalg.norm(x[k, i, :, t] - truth[i, :, t]) for i in scored]))
        assert block["speed"] == pytest.approx(np.sqrt(np.mean(speeds)), rel=1e-5)
        if errors:
            assert block["ade"] == pytest.approx(np.mean(errors), rel=1e-5)
            assert block["standing_still"] == pytest.approx(np.mean(still), rel=1e-5)
            assert block["speed_true"] == pytest.approx(np.sqrt(np.mean(true_speeds)), rel=1e-5)
        else:
            assert block["ade"] is block["standing_still"] is block["speed_true"] is block["valid_true"] is None
        assert block["exploded"] == 0 and block["bond_error"] is None


def test_what_exploded_counts_in_no_mean(samples):
    broken = samples.samples.copy()
    broken[1, samples.nodes(2), :, 4:] = np.nan  # from the second frame of the second block on
    first, second, third = drift(dataclasses.replace(samples, samples=broken), BLOCK)["blocks"]
    expected = drift(samples, BLOCK)["blocks"]
    assert first == expected[0]
    assert second["exploded"] == third["exploded"] == pytest.approx(1 / 12)
    assert second["valid"] == pytest.approx(expected[1]["valid"] - 2 / 36)
    whole = np.delete(samples.samples, 1, axis=0)
    without = drift(dataclasses.replace(samples, samples=whole), BLOCK)["blocks"][1]
    others = drift(_of_graphs(samples, [0, 1, 3]), BLOCK)["blocks"][1]
    # 8 trajectories of two samples, and 3 of the sample that lost one graph.
    own = drift(dataclasses.replace(_of_graphs(samples, [0, 1, 3]), samples=_kept(samples)[1:2]), BLOCK)["blocks"][1]
    assert second["ade"] == pytest.approx((8 * without["ade"] + 3 * own["ade"]) / 11, rel=1e-5)
    assert others["known"] == 2


def _kept(samples):
    return samples.samples[:, np.r_[0:10, 15:20]]


def _of_graphs(samples, graphs):
    """Without graph 2."""
    nodes = np.r_[0:10, 15:20]
    place = np.full(20, -1)
    place[nodes] = np.arange(15)
    scored = place[samples.scored]
    return dataclasses.replace(
        samples, samples=_kept(samples), target=samples.target[nodes], x_given=samples.x_given[nodes],
        batch=np.repeat(np.arange(3), 5), scored=scored[scored >= 0], h=samples.h[nodes],
        edge_index=np.zeros((2, 0), np.int64),
    )  # fmt: skip


def test_a_step_too_far_is_not_valid(samples):
    step = np.linalg.norm(np.diff(samples.x_given, axis=-1), axis=1).max()
    calm = np.repeat(samples.x_given[None, ..., -1:], 8, axis=-1).repeat(3, axis=0)
    for factor, valid in ((2.9, 1.0), (3.1, 1 - 1 / 12 / 3)):
        jump = calm.copy()
        jump[0, 7, 0, 1:] += np.float32(factor * step)
        found = drift(dataclasses.replace(samples, samples=jump), BLOCK)["blocks"]
        assert found[0]["valid"] == pytest.approx(valid) and found[1]["valid"] == 1


def test_bonds_of_molecules():
    """Ethanol that grows by 2 % and then loses an atom: 8 bonds, the reference is their mean length when given."""
    made = made_samples(nodes=9, num_samples=2, graphs=2)
    given = made.x_given[..., :1].repeat(4, axis=-1)
    grown = 1.02 * given[None, ..., :1].repeat(8, axis=-1).repeat(2, axis=0)
    grown[1, 3, :, 6] += 1.0  # a hydrogen of graph 0, in the third block
    made = dataclasses.replace(made, x_given=given, samples=grown.astype(np.float32), target=given.repeat(2, axis=-1))
    blocks = drift(made, BLOCK)["blocks"]
    assert blocks[0]["bond_error"] == pytest.approx(0.02, rel=1e-3) and blocks[0]["valid"] == 1
    assert blocks[0]["bond_error_true"] == pytest.approx(0, abs=1e-6) and blocks[0]["valid_true"] == 1
    assert blocks[2]["valid"] == pytest.approx(1 - 1 / 8)  # of 2 samples x 2 graphs x 2 frames
    before, after = (np.linalg.norm(x[3] - x[2]) for x in (given[..., 0], grown[1, ..., 6]))
    expected = 0.02 + (abs(after / before - 1) - 0.02) / 8 / 8
    assert blocks[2]["bond_error"] == pytest.approx(expected, rel=1e-3)
    assert "bond error (%)" in report(drift(made, BLOCK)) and "2.0" in report(drift(made, BLOCK))


def test_refusals(samples):
    with pytest.raises(ValueError, match="drift: block_frames must be at least 1, got 0"):
        drift(samples, 0)
    with pytest.raises(ValueError, match=r"drift: samples must be given their first frames alone, got \[0, 0"):
        drift(made_samples(mode="uncond"), 3)
    mask = samples.cond_mask[::-1].copy()
    with pytest.raises(ValueError, match=r"drift: samples must be given their first frames alone, got \[0, 0"):
        drift(dataclasses.replace(samples, cond_mask=mask), 3)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = charged_config()
    config["diffusion"]["model_mean_type"] = "start_x"
    return write_checkpoint(tmp_path_factory.mktemp("model") / "charged.safetensors", normalise_config(config))


def test_a_checkpoint_is_rolled_out_and_scored(checkpoint, tmp_path, capsys):
    options = ["--steps", "3", "--num-graphs", "2", "--num-samples", "2", "--device", "cpu", "--quiet"]
    out = ["--json", str(tmp_path / "d.json"), "--out", str(tmp_path / "d.png")]
    assert main(["drift", checkpoint, "--blocks", "3", *options, *out]) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "d.json").read_text())
    assert [block["known"] for block in result["blocks"]] == [8, 8, 8], "simulated as long as the rollout goes"
    assert (tmp_path / "d.png").stat().st_size > 10_000
    assert said.startswith("N-body charged, charged.safetensors: 2 graphs x 2 samples, 4 frames given\n\nblock  frames")
    rolled = ["--rollout", "24", "--set", "data.num_frames=28"]
    assert main(["sample", checkpoint, *rolled, *options, "--out", str(tmp_path / "folder")]) == 0
    assert main(["sample", checkpoint, *rolled, *options, "--out", str(tmp_path / "s.npz")]) == 0
    capsys.readouterr()
    for source in ([str(tmp_path / "folder")], [str(tmp_path / "s.npz"), "--block-frames", "8"]):
        assert main(["drift", *source, "--json", str(tmp_path / "e.json")]) == 0
        assert capsys.readouterr().out.splitlines()[:6] == said.splitlines()[:6]
        again = json.loads((tmp_path / "e.json").read_text())
        for block, expected in zip(again["blocks"], result["blocks"], strict=True):
            assert block["ade"] == pytest.approx(expected["ade"], rel=1e-3)


def test_options_that_do_not_fit(checkpoint, tmp_path, capsys):
    write_samples(tmp_path / "s.npz", made_samples())
    for words, message in (
        ([str(tmp_path / "s.npz"), "--blocks", "3"], "--blocks is for a checkpoint, got samples"),
        ([str(tmp_path / "s.npz"), "--overlap", "3"], "--overlap is for a checkpoint, got samples"),
        ([checkpoint, "--block-frames", "3"], "--block-frames is for samples in a file, got a checkpoint"),
        ([checkpoint, "--out", "d.gif"], "--out must end in .png, .pdf, .svg; got 'd.gif'"),
        (["none.npz"], "none.npz: no such file"),
    ):
        assert main(["drift", *words]) == 2
        assert message in capsys.readouterr().err
    options = ["--steps", "2", "--num-graphs", "1", "--device", "cpu", "--quiet"]
    assert main(["sample", checkpoint, *options, "--out", str(tmp_path / "folder")]) == 0
    assert main(["drift", str(tmp_path / "folder")]) == 2
    assert "must hold a rollout (`geotdm sample --rollout`), got other samples" in capsys.readouterr().err


def test_several_rollouts_are_drawn_side_by_side(samples, tmp_path, capsys, monkeypatch):
    from matplotlib.axes import Axes

    write_samples(tmp_path / "s.npz", samples)
    base = ["drift", str(tmp_path / "s.npz"), "--block-frames", "3", "--json", str(tmp_path / "d.json")]
    assert main(base) == 0
    drawn, real = [], Axes.plot
    watched = lambda self, *args, **options: (drawn.append(options["color"]), real(self, *args, **options))[1]
    monkeypatch.setattr(Axes, "plot", watched)
    assert main([*base, "--out", str(tmp_path / "one.png")]) == 0
    alone = len(drawn)
    beside = ["--label", "a", "--beside", f"b={tmp_path / 'd.json'}", "--beside", f"c={tmp_path / 'd.json'}"]
    assert main([*base, *beside, "--out", str(tmp_path / "three.png")]) == 0
    assert alone == 6 and len(drawn) - alone == 12 and len(set(drawn)) == 5  # 3 scores, 3 of the data
    capsys.readouterr()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text('{"blocks": [{"block": 1, "ade": "much", "speed": 1, "valid": 1}]}')
    for text, message in (
        ("d.json", "--beside must be LABEL=FILE.json, got d.json"),
        (f"b={tmp_path / 'none.json'}", "none.json: no such file"),
        (f"b={tmp_path / 'bad.json'}", "bad.json must hold scores that `geotdm drift --json` wrote, got no JSON"),
        (f"b={tmp_path / 'list.json'}", "got no blocks"),
        (f"b={tmp_path / 'text.json'}", "got 'much' for ade"),
        (f"rollout={tmp_path / 'd.json'}", "--beside: the label 'rollout' must be used once"),
    ):
        assert main([*base, "--out", str(tmp_path / "no.png"), "--beside", text]) == 2
        assert message in capsys.readouterr().err
    twice = ["--beside", f"b={tmp_path / 'd.json'}"] * 2
    assert main([*base, "--out", str(tmp_path / "no.png"), *twice]) == 2
    assert "--beside: the label 'b' must be used once" in capsys.readouterr().err
    assert main([*base, *twice[:2]]) == 2
    assert "so --out must name the picture, got none" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()
    result = json.loads((tmp_path / "d.json").read_text())
    with pytest.raises(ValueError, match="beside must not have the label 'a'"):
        plot_drift(result, tmp_path / "no.png", label="a", beside={"a": result})


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["drift", "--help"])
    assert stop.value.code == 0 and "--blocks K" in capsys.readouterr().out
