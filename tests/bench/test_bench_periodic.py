"""What a periodic box costs: the program on tiny gases."""

import json

import pytest
import torch

from bench.common import correctness
from bench.common.timing import interleaved
from bench.common.workloads import make_workload
from bench.network import periodic
from bench.network.contenders import make_contender, make_truth
from geotdm_fast.graphs import Graph

TRIAL = ["--layers", "1", "--hidden-dim", "16", "--frames", "3", "--repeats", "1", "--threads", "1", "--quiet"]


def test_rows_of_every_size_and_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(periodic, "measure", lambda spec, *others: {"peak_bytes": 2**20 * spec["num_atoms"]})
    monkeypatch.setattr(periodic, "bytes_needed", lambda w, name, *others: 2**40 if name == "official" else 0)
    out = tmp_path / "rows.jsonl"
    assert periodic.main([*TRIAL, "--atoms", "40", "60", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    timed = [row for row in rows if "seconds" in row]
    # ours with and without the box, of both kinds of graph, and the peer that fits, in both modes
    assert len(timed) == 2 * 2 * 5 and all(row["error"] < 1e-4 for row in timed)
    assert {(row["implementation"], row["mode"]) for row in rows if "left_out" in row} == {
        ("official", "inference"), ("official", "training"),
    }  # fmt: skip
    boxed, free = (next(r["sizes"]["edges"] for r in rows if r["periodic"] is box) for box in (True, False))
    assert boxed > free, "a box has no surface"
    shown = capsys.readouterr().out
    assert "box: ours" in shown and "official, training, 60 atoms: needs about 1024 GiB, over 20 GiB" in shown


def test_time_and_memory_can_be_had_apart(tmp_path, capsys, monkeypatch):
    rounds = []
    monkeypatch.setattr(periodic, "measure", lambda *others: {"peak_bytes": 2**20})
    monkeypatch.setattr(
        periodic, "interleaved", lambda *args, warm_up, **kwargs: rounds.append(warm_up) or interleaved(*args, **kwargs)
    )
    out = tmp_path / "rows.jsonl"
    trial = [*TRIAL, "--ours-alone", "--atoms", "40", "--out", str(out)]
    assert periodic.main([*trial, "--parts", "time", "--no-warm-up"]) == 0
    assert {json.loads(line)["mode"] for line in out.read_text().splitlines()} == {"inference", "training"}
    assert not any(rounds) and len(rounds) == 2
    out.unlink()
    assert periodic.main([*trial, "--parts", "memory"]) == 0
    assert [json.loads(line)["mode"] for line in out.read_text().splitlines()] == ["memory"] * 4
    assert "40  " in capsys.readouterr().out


def test_peers_see_the_images():
    workload = make_workload("large", num_atoms=30, num_frames=3, n_layers=1, hidden_dim=16, periodic=True)
    assert (workload.images.number != 0).any()
    names = ("ours", "official", "efficient")
    errors = correctness.check([make_contender(workload, name) for name in names], make_truth(workload), "training")
    assert max(errors.values()) < 5e-5
    with_images, workload_without = make_contender(workload, "ours"), make_contender(workload, "ours")
    workload_without.inputs["graph"] = Graph.static(workload.batch.edge_index, workload.num_nodes)
    with torch.no_grad():
        assert not torch.allclose(with_images.inference()[0], workload_without.inference()[0], atol=1e-3)


def test_a_box_is_of_one_gas():
    with pytest.raises(ValueError, match="periodic must be of one gas, the workload large without a file"):
        make_workload("md", periodic=True)
