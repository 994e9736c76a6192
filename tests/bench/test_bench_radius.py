"""The benchmark of radius graphs: its peers, its equal numbers of edges, its gate, and what it says of its targets."""

import importlib.util
import json
import sys

import pytest
import torch
from tolerances import assert_same

from bench.common import correctness
from bench.common.workloads import make_workload
from bench.network import agreement, contenders, memory, radius, radius_report
from bench.network.contenders import make_contender, make_truth
from bench.peers.baselines import EfficientEGTN
from bench.peers.framewise import FramewiseEGTN
from geotdm_fast import radius_graph
from geotdm_fast.graphs import Graph

TRIAL = ["--layers", "1", "--hidden-dim", "16", "--atoms", "200", "--frames", "4", "--repeats", "1", "--threads", "1"]
TRIAL += ["--no-compile", "--quiet"]
PEAKS = {"ours": 5 << 20, "ours_current": 6 << 20}


def gas(**sizes):
    return make_workload("large", **{"num_atoms": 100, "n_layers": 2, "hidden_dim": 16, "num_frames": 4} | sizes)


def measured(spec: dict, name: str, dtype: str, device: str) -> dict:
    """In the place of a fresh process: a peak for each implementation, in proportion to the atoms."""
    return {"peak_bytes": PEAKS.get(name, 100 << 20) * spec["num_atoms"], "measured": "pretended"}


def test_every_part_has_rows_and_targets_come_last(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(radius, "measure", measured)
    out = tmp_path / "radius.jsonl"
    assert radius.main([*TRIAL, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    has_pyg = importlib.util.find_spec("torch_geometric") is not None
    assert [sum(row["part"] == part for row in rows) for part in radius.PARTS] == [2 * 4, 5, 2 * 2, 3 * 8]
    assert {row["part"] for row in rows if "left_out" in row} == (set() if has_pyg else {"speed", "memory"})
    assert all(row["error"] < 1e-4 for row in rows if "seconds" in row) and all(row["commit"] for row in rows)
    assert [row["sizes"]["nodes"] for row in rows if row["part"] == "sizes"][:8:2] == [25, 50, 100, 200]
    fixed, current = (row["edge_frames"] for row in rows if row["part"] == "rule" and row["mode"] == "inference")
    assert abs(fixed - current) <= 4 * 2, "the same number, but for half a pair a frame"

    shown = capsys.readouterr().out
    assert ("torch_geometric is not installed" in shown) is not has_pyg
    assert (
        shown.index("speed: ") < shown.index("sizes: ") < shown.index("what was asked for") < shown.index("lines added")
    )
    said = {what: (asked, came, met) for what, asked, came, met in radius_report.verdicts(rows)}
    assert said["peak memory: share of the least peer's (official)"] == ("at most 0.1", "0.050", "yes")
    assert said["atoms of the largest gas that ran"] == ("50000", "200", "no")
    speed = {
        r["implementation"]: r["seconds"]
        for r in rows
        if (r["part"], r["mode"]) == ("speed", "training") and "seconds" in r
    }
    ours = speed.pop("ours")
    best = min(speed, key=speed.get)
    ratio = speed[best] / ours
    verdict = said[f"forward + backward: times as fast as the best peer ({best})"]
    assert verdict == ("at least 3", f"{ratio:.3f}", "yes" if ratio >= 3 else "no")


@pytest.mark.parametrize("part", ["speed", "rule", "sizes"])
def test_a_wrong_contender_is_not_timed(part, tmp_path, capsys, monkeypatch):
    wrong = "ours" if part == "speed" else "ours_current"

    def spoiled(workload, name, *args):
        contender = make_contender(workload, name, *args)
        if name == wrong:
            with torch.no_grad():
                contender.network.s_modules[0].coord_mlp.actions[0].weight[0, 0] += 0.5
        return contender

    for module in (radius, agreement):
        monkeypatch.setattr(module, "make_contender", spoiled)
    monkeypatch.setattr(radius, "interleaved", lambda *args, **about: pytest.fail("timed"))
    assert radius.main([*TRIAL, "--parts", part, "--out", str(tmp_path / "x.jsonl")]) == 2
    assert f"{wrong} in float32 is wrong, so nothing is timed: inference" in capsys.readouterr().err


def test_peers_that_do_not_fit_are_named_and_run_with_layers_recomputed(monkeypatch):
    monkeypatch.setattr(radius.importlib.util, "find_spec", lambda name: None)
    workload = gas()
    args = radius._parser().parse_args(TRIAL)
    whole = contenders.bytes_needed(workload, "official", "float32", "training")
    monkeypatch.setattr(contenders, "free_memory", lambda device: whole)  # a fifth is kept free
    fit, left_out = radius.choose(workload, "training", args)
    assert fit == ["official_recompute", "efficient_recompute"]
    assert left_out["official"].startswith("needs about") and left_out["pyg"] == "torch_geometric is not installed"
    assert radius.choose(workload, "inference", args) == (["official", "efficient"], {"pyg": left_out["pyg"]})


def test_message_passing_equals_the_equations():
    pytest.importorskip("torch_geometric")
    workload = gas()
    rivals = [make_contender(workload, name) for name in ("pyg", "pyg_recompute")]
    assert max(correctness.check(rivals, make_truth(workload), "training").values()) < 5e-5
    md = make_workload("md", num_graphs=2, num_frames=4, n_layers=1, hidden_dim=16)  # with features of edges
    assert max(correctness.check([make_contender(md, "pyg")], make_truth(md), "training").values()) < 5e-5


def test_framewise_edges_that_are_the_same_in_all_frames_are_those_of_the_batch():
    workload = gas()
    plain, framewise = (structure(**workload.arguments).double() for structure in (EfficientEGTN, FramewiseEGTN))
    framewise.load_state_dict(plain.state_dict())
    inputs = workload.inputs(dtype=torch.float64)
    of_frames = Graph.static(inputs["edge_index"], workload.num_nodes).of_frames(workload.num_frames).edge_index
    with torch.no_grad():
        for found, expected in zip(framewise(**inputs | {"edge_index": of_frames}), plain(**inputs), strict=True):
            assert_same(found, expected)


def test_edges_of_frames_are_those_of_the_positions_that_the_network_sees():
    workload = gas()
    inputs, edges = workload.inputs(), workload.graph_of_frames().edge_index
    for t in range(workload.num_frames):
        x = inputs["x_given"][..., t] if t < workload.num_given else inputs["x"][..., t - workload.num_given]
        own = edges[:, edges[0] % workload.num_frames == t] // workload.num_frames
        assert own.tolist() == radius_graph(x, workload.cutoff).tolist()


def test_the_closest_pairs_are_as_many_as_wanted():
    workload = gas()
    distance = torch.cdist(*[workload.batch.x[..., 0].double()] * 2).fill_diagonal_(torch.inf)
    for num_pairs in (7, workload.num_edges // 2 + 20):  # fewer, and more than are within the cutoff
        row, col = radius.with_closest_pairs(workload, num_pairs).batch.edge_index
        assert len(row) == 2 * num_pairs and (row.diff() >= 0).all()
        assert set(zip(row.tolist(), col.tolist(), strict=True)) == set(zip(col.tolist(), row.tolist(), strict=True))
        limit = distance.flatten().sort().values[2 * num_pairs - 1]
        assert (distance[row, col] <= limit + 1e-5).all() and len(
            set(zip(row.tolist(), col.tolist(), strict=True))
        ) == len(row)


def test_a_gas_has_the_density_of_water_and_one_frame_is_not_conditional():
    for num_atoms in (50, 400):
        workload = gas(num_atoms=num_atoms, num_frames=1)
        side = float(workload.batch.x.amax() - workload.batch.x.amin())
        assert 0.8 < num_atoms / side**3 / 0.1 < 2 and workload.num_given == 0
    assert "cond_mask" not in workload.inputs() and workload.inputs()["x"].shape == (400, 3, 1)
    with pytest.raises(ValueError, match="num_atoms must be at least 1, got 0"):
        gas(num_atoms=0)


def test_memory_of_edges_of_every_frame_is_measured_in_a_process():
    spec = {"name": "large", "num_atoms": 2000, "num_frames": 1, "n_layers": 1, "hidden_dim": 32}
    assert memory.measure(spec, "ours_current", "float32")["peak_bytes"] > 2000 * 40 * 2 * 8, "the edges at least"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a call is read from /proc")
def test_what_was_freed_before_a_call_is_not_taken_off_its_peak():
    """80 MB in pieces that malloc keeps, since the last one is in use."""
    take = lambda: [torch.ones(25_000) for _ in range(800)]
    held = take()
    del held[:-1]
    peak, measured = memory.peak_of(take, torch.device("cpu"))
    assert measured == "ru_maxrss" or 75e6 < peak < 120e6


def test_the_exponent_is_that_of_a_power():
    rows = [{"edge_frames": edges, "seconds": 3e-6 * edges**1.25} for edges in (100, 1000, 5000)]
    assert radius_report.exponent(rows, "seconds") == pytest.approx(1.25)
    assert radius_report.exponent(rows[:1], "seconds") is None
    assert radius_report.exponent([*rows, rows[0] | {"seconds": 0}], "seconds") is None


def test_peers_that_compute_layers_again_are_no_measure_of_memory():
    about = {"part": "memory", "mode": "training"}
    rows = [about | {"implementation": name, "peak_bytes": peak} for name, peak in (("ours", 1), ("pyg_recompute", 5))]
    assert radius_report.verdicts(rows)[2][2:] == ["not measured", ""]
    rows.append(about | {"implementation": "efficient", "peak_bytes": 20})
    assert radius_report.verdicts(rows)[2][2:] == ["0.050", "yes"]


def test_the_rounding_of_large_positions_is_no_error():
    workload = gas(num_atoms=800, num_frames=1, n_layers=1, hidden_dim=128)  # moved by a four-thousandth of their norm
    ours, truth = make_contender(workload, "ours"), make_truth(workload)
    assert correctness.check([ours], truth, "inference")["ours", "float32"] < 1e-4
    with torch.no_grad():
        ours.network.s_modules[0].coord_mlp.actions[0].weight *= 1.01
    with pytest.raises(ValueError, match="ours in float32 is wrong"):
        correctness.check([ours], truth, "inference")


def test_a_target_without_a_figure_is_not_met():
    rows = [{"part": "speed", "mode": "inference", "implementation": "official", "left_out": "needs about 40 GiB"}]
    verdicts = radius_report.verdicts(rows)
    assert len(verdicts) == 12 and all(came == "not measured" and met == "" for _, _, came, met in verdicts)


@pytest.mark.parametrize("part", ["rule", "sizes"])
def test_the_equations_are_asked_for_few_atoms_and_frames(part, tmp_path, capsys, monkeypatch):
    """In float64 a protein of 3341 atoms with six layers takes minutes."""
    seen = []

    def truth(workload, *args):
        seen.append((workload.num_nodes, workload.num_frames, workload.arguments["n_layers"]))
        return make_truth(workload, *args)

    monkeypatch.setattr(agreement, "MOST_ATOMS", 60)
    monkeypatch.setattr(agreement, "MOST_FRAMES", 2)
    monkeypatch.setattr(agreement, "make_truth", truth)
    monkeypatch.setattr(radius, "measure", measured)
    told = [word for word in TRIAL if word != "--quiet"]
    assert radius.main([*told, "--parts", part, "--out", str(tmp_path / "x.jsonl")]) == 0
    frames = 2 if part == "rule" else 1
    assert set(seen) == {(60, frames, 1)} and len(seen) == 4  # two kinds of graph, in both modes
    shown = capsys.readouterr()
    assert f"{part}: errors are of a gas of 60 atoms, {frames} frames" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("radius: ")]
    assert f"radius: {part}: comparing inference with the equations, on num_frames {frames} and num_atoms 60" in lines
    assert sum(": timing training of " in line for line in lines) == 1
    assert sum("in a process of its own" in line for line in lines) == (8 if part == "sizes" else 0)


def test_a_largest_gas_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        radius.main(["--atoms", "3"])
    assert "must be at least 16, got 3" in capsys.readouterr().err
