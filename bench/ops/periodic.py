"""What periodic boxes cost the spatial op: one layer without, in a box, and with the gradient of the box, in turn.

python -m bench.ops.periodic --workload large --threads 2
"""

import argparse
import sys
from collections.abc import Callable

import torch

from bench.common import arguments, correctness, record
from bench.common.timing import interleaved
from bench.common.workloads import Workload
from bench.ops.layer import DIRECTIONS, params_of
from geotdm_fast.graphs import EdgeImages, Graph
from geotdm_fast.ops import egcl
from geotdm_fast.reference import Cell

NAMES = ("no box", "box", "box with its gradient")
EDGE = 32.0  # of the box, which wraps without rounding much


def main(argv: list[str] | None = None) -> int:
    """Run: 0, or 2 for an error."""
    args = _parser().parse_args(argv)
    try:
        arguments.set_up(args)
        print(record.describe(record.context(args.device)))
        workload = arguments.workload_of(args, args.workload)
        for direction in DIRECTIONS:
            calls = make_calls(workload, direction, args.device)
            times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
            plain = times[NAMES[0]].median
            shown = [f"{name} {1e3 * t.median:.2f} ms ({t.median / plain:.3f})" for name, t in times.items()]
            print(f"egcl, {workload.name}, {workload.num_edges} edges, {direction}: {', '.join(shown)}", flush=True)
        return 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.ops.periodic", error)


def make_calls(workload: Workload, direction: str, device: str) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """The layer by the names that are compared; `backward` is forward + backward.

    In the box every node is wrapped by its own lattice vector and the images of edges undo it, so that all compute the
    same. Raises ValueError where they do not.
    """
    generator = torch.Generator().manual_seed(0)
    module = workload.network().s_modules[0].to(device)
    batch = workload.batch.to(device, torch.float32)
    if batch.x.shape[1] != 3:
        raise ValueError(f"workload {workload.name}: a box must come with positions in 3 dimensions")
    x = batch.x.transpose(1, 2).contiguous()
    h = torch.randn(*x.shape[:2], workload.arguments["hidden_dim"], generator=generator).to(device)
    turns = torch.randint(-1, 2, (len(x), 3), generator=generator).to(device)
    row, col = batch.edge_index
    pbc = torch.ones(1, 3, dtype=torch.bool, device=device)
    vectors = EDGE * torch.eye(3, device=device)[None, None]
    params = params_of(module)
    cotangents = [torch.randn(v.shape, generator=generator).to(device) for v in (x, h)]

    def call(name: str) -> Callable[[], list[torch.Tensor]]:
        boxed, wants_box = name != NAMES[0], name == NAMES[2]
        own = vectors.clone().requires_grad_(wants_box)
        images = EdgeImages((turns[row] - turns[col]).to(torch.int8), Cell(own, pbc), None)
        graph = Graph.static(batch.edge_index, len(x), images=images if boxed else None)
        positions = (x + EDGE * turns[:, None] if boxed else x).requires_grad_()
        leaves = [positions, h.detach().clone().requires_grad_(), *params, *([own] if wants_box else [])]

        def run() -> list[torch.Tensor]:
            with torch.set_grad_enabled(direction == "backward"):
                outputs = egcl(*leaves[:2], graph, batch.edge_attr, params, pre_norm=module.pre_norm)
            if direction == "forward":
                return [outputs[0] - positions.detach(), outputs[1]]
            return list(torch.autograd.grad(outputs, leaves, cotangents))

        return run

    calls = {name: call(name) for name in NAMES}
    expected = calls[NAMES[0]]()
    whole = max(float(value.norm()) for value in expected)
    for name in NAMES[1:]:
        for ours, theirs in zip(calls[name](), expected, strict=False):
            error = float((ours - theirs).norm()) / max(float(theirs.norm()), 1e-3 * whole)
            if not error <= correctness.FLOAT32:
                raise ValueError(f"egcl in a {name} is wrong, so it is not timed: error {error:.1e}")
    return calls


def _parser() -> argparse.ArgumentParser:
    about = __doc__.split("\n")[0]
    parser = arguments.make_parser("bench.ops.periodic", about, "")
    arguments.add_workload(parser, several=False)
    parser.add_argument("--repeats", type=arguments.count, default=20, metavar="K", help="rounds (default: 20)")
    parser.add_argument("--threads", type=arguments.count, metavar="N", help="default: torch's own choice, every core")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
