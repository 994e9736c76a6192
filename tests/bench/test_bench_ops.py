"""The benchmarks of single operations and of neighbour searches: nothing wrong is timed."""

import importlib

import pytest
import torch
from small_bench import small

from bench.ops import bench_radius_graph, periodic, single_op
from geotdm_fast.graphs import Graph
from geotdm_fast.ops.backend import current_backend


def test_boxes_are_timed_in_turn_once_they_compute_the_same(capsys, monkeypatch):
    trial = ["--graphs", "1", "--frames", "2", "--hidden-dim", "16", "--repeats", "1", "--quiet"]
    assert periodic.main(trial) == 0
    forward, backward = capsys.readouterr().out.splitlines()[-2:]
    assert "20 edges, forward: no box" in forward and "box with its gradient" in backward
    assert periodic.main(["--workload", "ped"]) == 2
    assert "workload ped: a box must come with positions in 3 dimensions" in capsys.readouterr().err
    monkeypatch.setattr(Graph, "shift", lambda self, num_frames: None)
    assert periodic.main(trial) == 2
    assert "egcl in a box is wrong, so it is not timed: error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("search", "in_box"),
    [
        *((search, False) for search in ("auto", "all pairs", "reference", "query_pairs", "sparse_distance_matrix")),
        *((search, True) for search in ("auto", "table", "all pairs", "reference")),
    ],
)
def test_radius_graph_searches_are_checked_before_they_are_timed(search, in_box):
    case = bench_radius_graph.Case(3, 2, 40, 3.0, in_box=in_box)
    call = bench_radius_graph.make_call(search, case)
    bench_radius_graph.check(call, case, search, "cpu")
    wrong = bench_radius_graph.make_call(search, case._replace(cutoff=3.2))
    with pytest.raises(ValueError, match=f"{search} finds [0-9]+ edges instead of [0-9]+, so it is not timed"):
        bench_radius_graph.check(wrong, case, search, "cpu")


def test_every_search_in_a_box_is_timed_or_told_why_not():
    case = bench_radius_graph.CASES["4096 in a box"]
    told = {search: bench_radius_graph.why_not(search, case) for search in bench_radius_graph.SEARCHES[:6]}
    assert told["auto"] is told["table"] is None
    assert all("images" in told[search] for search in bench_radius_graph.SEARCHES[2:6])


@pytest.mark.parametrize("suite", ["bench_egcl", "bench_temporal_attention"])
@pytest.mark.parametrize("direction", single_op.DIRECTIONS)
def test_single_ops_are_checked_before_they_are_timed(suite, direction, monkeypatch):
    module = importlib.import_module(f"bench.ops.{suite}")
    monkeypatch.setattr(module, "make_workload", small)
    op = module.make_op("nbody", torch.device("cpu"))
    assert len(op.run("backward")) == len(op.leaves)
    single_op.check(op, direction)
    exact = op.call
    op.call = lambda: tuple(out * (1 if current_backend() == "reference" else 1.001) for out in exact())
    with pytest.raises(ValueError, match=f"{op.name} {direction} is wrong, so it is not timed: error 1.0e-03"):
        single_op.check(op, direction)
