"""Radius graphs: `auto`, and its table of fixed capacity, against all pairs, the reference and bare searches.

python -m pytest bench/ops/bench_radius_graph.py --threads 1

A library's bare search ends with its own pairs: not exact at the cutoff in the dtype of x, not sorted, some once.
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.common.timing import synchronize
from bench.common.workloads import LARGE_ATOMS, LARGE_DENSITY
from geotdm_fast import backend, radius_graph, radius_neighbours
from geotdm_fast.ops import kernels, neighbour_search


class Case(NamedTuple):
    """A gas of the density of a protein: systems x frames x nodes, and a cutoff in angstrom."""

    graphs: int
    frames: int
    nodes: int
    cutoff: float

    def make(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
        """x [N, T, 3] and batch [N]."""
        generator = torch.Generator().manual_seed(0)
        side = (self.nodes / LARGE_DENSITY) ** (1 / 3)
        x = side * torch.rand(self.graphs * self.nodes, self.frames, 3, generator=generator)
        batch = torch.arange(self.graphs).repeat_interleave(self.nodes)
        return x.to(device), batch.to(device) if self.graphs > 1 else None


CASES = {
    "5 x 5000": Case(5000, 1, 5, 3.0),
    "22 x 5000": Case(5000, 1, 22, 3.0),
    "22 x 8, 500 frames": Case(8, 500, 22, 3.0),
    "protein, 3 A": Case(1, 1, LARGE_ATOMS, 3.0),
    "protein, 5 A": Case(1, 1, LARGE_ATOMS, 5.0),
    "protein, 8 A": Case(1, 1, LARGE_ATOMS, 8.0),
    "protein, 5 A, 10 frames": Case(1, 10, LARGE_ATOMS, 5.0),
    "50000, 5 A": Case(1, 1, 50_000, 5.0),
}
SEARCHES = ("auto", "table", "all pairs", "reference", "query_pairs", "sparse_distance_matrix", "vesin")


def make_call(search: str, case: Case, device: torch.device | str = "cpu") -> Callable[[], object]:
    """The search as a function of nothing."""
    x, batch = case.make(device)
    if search in ("auto", "all pairs"):
        return lambda: radius_graph(x, case.cutoff, batch)
    if search == "table":  # its capacity is known
        capacity = int(radius_neighbours(x, case.cutoff, 0, batch).needed)
        return lambda: radius_neighbours(x, case.cutoff, capacity, batch, max_num_nodes=case.nodes)
    if search == "reference":

        def reference():
            with backend("reference"):
                return radius_graph(x, case.cutoff, batch)

        return reference
    groups = x.double().view(case.graphs, case.nodes, case.frames, 3).transpose(1, 2).flatten(0, 1)
    groups = list(groups.contiguous().numpy())
    if search == "vesin":
        from vesin import NeighborList

        find = NeighborList(cutoff=case.cutoff, full_list=False, n_threads=torch.get_num_threads())
        box = np.zeros((3, 3))
        return lambda: [find.compute(points, box, False, "ij") for points in groups]
    from scipy.spatial import cKDTree

    if search == "query_pairs":
        return lambda: [cKDTree(p, balanced_tree=False).query_pairs(case.cutoff, output_type="ndarray") for p in groups]
    trees = lambda: (cKDTree(points, balanced_tree=False) for points in groups)
    return lambda: [tree.sparse_distance_matrix(tree, case.cutoff, output_type="ndarray") for tree in trees()]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", CASES)
def test_radius_graph(benchmark, monkeypatch, name, search, device):
    case = CASES[name]
    if search == "reference" and case.graphs * case.nodes > 30_000:
        pytest.skip("looks at every pair of all graphs: a minute")
    if search == "vesin" and importlib.util.find_spec("vesin") is None:
        pytest.skip("vesin is not installed")
    if search == "all pairs":
        monkeypatch.setattr(kernels, "take_search", lambda *args: False)
        monkeypatch.setattr(neighbour_search, "has_tree", lambda: False)
        monkeypatch.setattr(neighbour_search, "_MANY", case.nodes + 1)
    benchmark.group = f"radius_graph, {name}"
    call = make_call(search, case, device)
    check(call, case, search, device)

    def run():
        call()
        synchronize(device)

    benchmark(run)
    benchmark.extra_info.update(edges=count(call(), search))


def check(call: Callable[[], object], case: Case, search: str, device: torch.device | str) -> None:
    """Raise ValueError unless the search finds as many edges as `auto` does, but for a few at the cutoff."""
    expected = count(make_call("auto", case, device)(), "auto")
    found = count(call(), search)
    if abs(found - expected) > (0 if search in SEARCHES[:4] else 1e-5 * expected + 2):
        raise ValueError(f"{search} finds {found} edges instead of {expected}, so it is not timed")


def count(found: object, search: str) -> int:
    """How many edges, both directions counted, without loops."""
    if isinstance(found, Tensor):
        return found.shape[1]
    if search == "table":
        return int(found.count.sum())
    if search == "vesin":
        return 2 * sum(len(i) for i, _ in found)
    if search == "query_pairs":
        return 2 * sum(len(pairs) for pairs in found)
    return sum(int((entries["i"] != entries["j"]).sum()) for entries in found)
