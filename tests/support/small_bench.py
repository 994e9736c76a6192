"""Workloads of the benchmarks, and options of their programs, that are done in a blink."""

from bench.common.workloads import make_workload

SMALL = ["--hidden-dim", "16", "--layers", "1", "--graphs", "2", "--threads", "1", "--quiet"]


def small(name: str, **sizes):
    return make_workload(name, **{"num_graphs": 2, "num_frames": 6, "n_layers": 2, "hidden_dim": 16} | sizes)
