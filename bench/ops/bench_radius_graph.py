"""Radius graphs: `auto`, and its table of fixed capacity, against all pairs, the reference and bare searches.

python -m pytest bench/ops/bench_radius_graph.py --threads 1
python -m bench.ops.bench_radius_graph --threads 1 --npz FILE    # in turns; median CPU seconds and wall seconds

A library's bare search ends with its own pairs: not exact at the cutoff in the dtype of x, not sorted, some once. vesin
and matscipy are timed where they are installed.
"""

import argparse
import importlib.util
import pathlib
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.common.timing import synchronize
from bench.common.workloads import LARGE_ATOMS, LARGE_DENSITY
from geotdm_fast import backend, radius_graph, radius_neighbors
from geotdm_fast.ops import kernels, neighbour_search
from geotdm_fast.reference import CellSearch


class Case(NamedTuple):
    """A gas of the density of a protein and of water: systems x frames x nodes, and a cutoff in angstrom.

    positions: [N, T, 3] instead of the gas; in_box: whether the gas is in a periodic cube
    """

    graphs: int
    frames: int
    nodes: int
    cutoff: float
    positions: Tensor | None = None
    in_box: bool = False

    @property
    def side(self) -> float:
        """Of the cube that holds the gas."""
        return (self.nodes / LARGE_DENSITY) ** (1 / 3)

    def make(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
        """x [N, T, 3] and batch [N]."""
        if self.positions is not None:
            return self.positions.to(device), None
        generator = torch.Generator().manual_seed(0)
        x = self.side * torch.rand(self.graphs * self.nodes, self.frames, 3, generator=generator)
        batch = torch.arange(self.graphs).repeat_interleave(self.nodes)
        return x.to(device), batch.to(device) if self.graphs > 1 else None

    def boxes(self, device: torch.device | str = "cpu") -> CellSearch | None:
        """As a search takes them: made once, so that nothing waits for the device."""
        return CellSearch.within("bench", self.side * torch.eye(3, device=device), self.cutoff) if self.in_box else None


CASES = {
    "5 x 5000": Case(5000, 1, 5, 3.0),
    "22 x 5000": Case(5000, 1, 22, 3.0),
    "22 x 8, 500 frames": Case(8, 500, 22, 3.0),
    "21, 3840 frames": Case(1, 3840, 21, 3.0),
    "protein, 3 A": Case(1, 1, LARGE_ATOMS, 3.0),
    "protein, 5 A": Case(1, 1, LARGE_ATOMS, 5.0),
    "protein, 8 A": Case(1, 1, LARGE_ATOMS, 8.0),
    "protein, 5 A, 10 frames": Case(1, 10, LARGE_ATOMS, 5.0),
    "50000, 5 A": Case(1, 1, 50_000, 5.0),
    "21 in boxes, 3840 frames": Case(1, 3840, 21, 3.0, in_box=True),
    "100 in a box, 10 frames": Case(1, 10, 100, 5.0, in_box=True),
    "300 in a box, 10 frames": Case(1, 10, 300, 5.0, in_box=True),
    "1000 in a box, 10 frames": Case(1, 10, 1000, 5.0, in_box=True),
    "4096 in a box": Case(1, 1, 4096, 5.0, in_box=True),
    "50000 in a box": Case(1, 1, 50_000, 5.0, in_box=True),
}
SEARCHES = ("auto", "table", "all pairs", "reference", "query_pairs", "sparse_distance_matrix", "vesin", "matscipy")


def make_call(search: str, case: Case, device: torch.device | str = "cpu") -> Callable[[], object]:
    """The search as a function of nothing."""
    (x, batch), boxes = case.make(device), case.boxes(device)
    if search == "auto":
        return lambda: radius_graph(x, case.cutoff, batch, cell=boxes)
    if search == "all pairs":

        def all_pairs():
            with (
                mock.patch.object(kernels, "take_search", lambda *args: False),
                mock.patch.object(neighbour_search, "is_compiled", lambda x: False),
                mock.patch.object(neighbour_search, "_MANY", case.nodes + 1),
            ):
                return radius_graph(x, case.cutoff, batch, cell=boxes)

        return all_pairs
    if search == "table":  # its capacity is known
        capacity = int(radius_neighbors(x, case.cutoff, 0, batch, cell=boxes).needed)
        return lambda: radius_neighbors(x, case.cutoff, capacity, batch, max_num_nodes=case.nodes, cell=boxes)
    if search == "reference":

        def reference():
            with backend("reference"):
                return radius_graph(x, case.cutoff, batch, cell=boxes)

        return reference
    groups = x.double().view(case.graphs, case.nodes, case.frames, 3).transpose(1, 2).flatten(0, 1)
    groups = list(groups.contiguous().numpy())
    if search == "vesin":
        from vesin import NeighborList

        find = NeighborList(cutoff=case.cutoff, full_list=False, n_threads=torch.get_num_threads())
        box, wanted = case.side * np.eye(3) * case.in_box, "ijS" if case.in_box else "ij"
        return lambda: [find.compute(points, box, case.in_box, wanted) for points in groups]
    if search == "matscipy":
        from matscipy.neighbours import neighbour_list

        given = {"cell": case.side * np.eye(3), "pbc": True} if case.in_box else {}
        wanted = "ijS" if case.in_box else "ij"
        return lambda: [neighbour_list(wanted, positions=points, cutoff=case.cutoff, **given) for points in groups]
    from scipy.spatial import cKDTree

    if search == "query_pairs":
        return lambda: [cKDTree(p, balanced_tree=False).query_pairs(case.cutoff, output_type="ndarray") for p in groups]
    trees = lambda: (cKDTree(points, balanced_tree=False) for points in groups)
    return lambda: [tree.sparse_distance_matrix(tree, case.cutoff, output_type="ndarray") for tree in trees()]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", CASES)
def test_radius_graph(benchmark, name, search, device):
    case = CASES[name]
    if why := why_not(search, case):
        pytest.skip(why)
    benchmark.group = f"radius_graph, {name}"
    call = make_call(search, case, device)
    check(call, case, search, device)

    def run():
        call()
        synchronize(device)

    benchmark(run)
    benchmark.extra_info.update(edges=count(call(), search))


def why_not(search: str, case: Case) -> str | None:
    """Why the search is left out, or None."""
    if search == "reference" and case.graphs * case.nodes > 30_000:
        return "looks at every pair of all graphs: a minute"
    if case.in_box and search in ("query_pairs", "sparse_distance_matrix"):
        return "knows no images beyond half a box"
    if case.in_box and search in ("all pairs", "reference") and case.nodes > 1000:
        return "looks at all images of every pair: tens of seconds"
    if search in ("vesin", "matscipy") and importlib.util.find_spec(search) is None:
        return f"{search} is not installed"
    return None


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
    if search in ("auto", "all pairs", "reference"):  # in a box: edges and images
        return found[0].shape[1]
    if search == "table":
        return int(found.count.sum())
    if search == "vesin":
        return 2 * sum(len(i) for i, *_ in found)
    if search == "matscipy":
        return sum(len(i) for i, *_ in found)
    if search == "query_pairs":
        return 2 * sum(len(pairs) for pairs in found)
    return sum(int((entries["i"] != entries["j"]).sum()) for entries in found)


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median CPU seconds, of all threads, and wall seconds of calls that take turns: A B C A B C ..."""
    took = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            took[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: tuple(map(median, zip(*pairs, strict=True))) for name, pairs in took.items()}


def cases_of_file(path: pathlib.Path, num_frames: int, cutoff: float) -> dict[str, Case]:
    """The first frames of R [frames, atoms, 3] in an .npz file."""
    with np.load(path) as file:
        x = torch.from_numpy(file["R"][:num_frames]).float().transpose(0, 1).contiguous()
    return {f"{path.stem}, {x.shape[1]} frames, {cutoff:g} A": Case(1, x.shape[1], x.shape[0], cutoff, x)}


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(prog="python -m bench.ops.bench_radius_graph", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: %(default)s)")
    parser.add_argument("--cases", nargs="*", default=[*CASES], metavar="NAME", help="default: all of CASES")
    parser.add_argument("--searches", nargs="+", default=["auto", "table", *SEARCHES[4:]], metavar="NAME")
    parser.add_argument(
        "--npz", type=pathlib.Path, metavar="FILE", help="its first frames instead: R [frames, atoms, 3]"
    )
    parser.add_argument("--frames", type=int, default=10, help="of the file (default: %(default)s)")
    parser.add_argument("--cutoff", type=float, default=5.0, help="for the file, in angstrom (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = (
        cases_of_file(args.npz, args.frames, args.cutoff) if args.npz else {name: CASES[name] for name in args.cases}
    )
    for name, case in cases.items():
        calls = {search: make_call(search, case) for search in args.searches if not why_not(search, case)}
        for search, call in calls.items():
            check(call, case, search, "cpu")
        print(f"{name}: {count(calls[args.searches[0]](), args.searches[0])} edges, {args.threads} threads")
        for search, (cpu, wall) in interleaved(calls, args.repeats).items():
            print(f"  {search:24} {1e3 * cpu:9.2f} ms of CPU {1e3 * wall:9.2f} ms of wall", flush=True)


if __name__ == "__main__":
    main()
