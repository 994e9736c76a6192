"""Every Triton launch compiled as the JIT would on a GPU, without one: `python -m bench.gpu_variants`.

The launches of the benchmarks' layers and steps, at 128 graphs, are made on tensors without data; --launches reads
those that tests recorded (`pytest --record-launches FILE`). The machine code goes into Triton's cache,
TRITON_CACHE_DIR, where a process on a GPU finds it. The program fails where a launch does not compile, where a kernel
wants more shared memory than the GPU has, and where numbers or addresses alone make a second machine code of a kernel.
"""

import argparse
import collections
import json
import os
import pathlib
import sys
from functools import partial
from itertools import product

from bench.common.jit_launches import JIT, Twice, compiled_twice, launched_by
from bench.common.workloads import make_workload
from bench.ops.codegen import CAPABILITIES, LIMITS
from bench.ops.launches import (
    Case,
    SearchCase,
    StepCase,
    TrainingCase,
    call_egcl,
    call_search,
    call_step,
    call_training,
)
from geotdm_fast.scores.tables import text_table

PRECISIONS = ("bf16", "tf32", "fp32")
GRAPHS = {"nbody": 128, "md": 128, "long": 8}

# Kernel and arguments whose differences may make another machine code, and why.
MAY_DIFFER = {
    ("egcl_weight", "grad_width", "input_width", "grad_next", "input_next"): (
        "rows of an odd width H are read number by number, rows of padded H in vectors"
    ),
}


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    # Sources are for reading; the machine code alone is what a GPU's process looks for.
    os.environ.setdefault("TRITON_STORE_BINARY_ONLY", "1")
    wrong = []
    for capability in args.capability:
        wrong += check(capability, args)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_variants", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--launches", type=pathlib.Path, nargs="*", default=[], metavar="FILE", help="recorded by tests, for sm_90"
    )
    parser.add_argument("--recorded-alone", action="store_true", help="leave the benchmarks' launches out")
    parser.add_argument("--capability", type=int, nargs="+", choices=CAPABILITIES, default=[90], metavar="SM")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="these alone, e.g. egcl_edges")
    parser.add_argument("--no-compile", action="store_false", dest="compile", help="count, and compile nothing")
    return parser


def check(capability: int, args: argparse.Namespace) -> list[str]:
    """Prints a table of the variants for one capability; what is wrong with them."""
    # The interpreter takes the tiles and warps of sm_90.
    paths = args.launches if capability == 90 else []
    launches = [line for path in paths for line in path.read_text().splitlines()]
    launches += [] if args.recorded_alone else of_benchmarks(capability)
    jit = JIT(capability)
    variants = {jit.variant(launch): launch for launch in launches}
    if args.kernel:
        variants = {variant: launch for variant, launch in variants.items() if variant.kernel in args.kernel}
    wrong = [told(twice) for twice in compiled_twice(variants) if not may_differ(twice)]
    limit = json.loads(LIMITS.read_text())["shared"][str(capability)]
    table = collections.defaultdict(lambda: [0, 0.0, 0])
    for variant, launch in variants.items():
        begin = sum(os.times()[:4])  # of the programs that it starts, too
        problem, shared = compiled(jit, launch, limit) if args.compile else (None, 0)
        wrong += [f"{variant.kernel} {launch}: {problem}"] if problem else []
        count, seconds, most = table[variant.kernel]
        table[variant.kernel] = [count + 1, seconds + sum(os.times()[:4]) - begin, max(most, shared)]
    table = dict(sorted(table.items()))
    table["all"] = [sum(counts) for counts in list(zip(*table.values(), strict=True))[:2]] + [""]
    rows = [[name, count, f"{seconds:.1f}", shared] for name, (count, seconds, shared) in table.items()]
    print(text_table([f"sm_{capability}", "variants", "CPU s", "most shared bytes"], rows))
    return [f"sm_{capability}: {problem}" for problem in wrong]


def compiled(jit: JIT, launch: str, limit: int) -> tuple[str | None, int]:
    """What is wrong, or None; and the bytes of shared memory."""
    try:
        shared = jit.compiled(launch).metadata.shared
    except Exception as error:  # of the compiler, of any kind
        return f"{type(error).__name__}: {error}", 0
    return (f"{shared} bytes of shared memory, over {limit}" if shared > limit else None), shared


def of_benchmarks(capability: int) -> list[str]:
    """Layers of the workloads in both directions and every precision, what steps add to them, and searches.

    A training step and a sampling step launch the same layers, over all frames and over the given ones alone.
    """
    searches = [
        SearchCase(by_cells, 3, capability, in_boxes) for by_cells, in_boxes in product((False, True), repeat=2)
    ]
    calls = [partial(call_search, case, 3341) for case in searches]
    for name, num_graphs in GRAPHS.items():
        workload = make_workload(name, num_graphs=num_graphs)
        width, has_term = workload.arguments["hidden_dim"], workload.arguments["edge_dim"] > 0
        dim, num_noisy = workload.batch.x.shape[1], workload.num_frames - workload.num_given
        for precision, num_frames in product(PRECISIONS, (workload.num_frames, workload.num_given)):
            case = Case(width, precision, capability, (dim, has_term, True, workload.arguments["pre_norm"]))
            calls.append(partial(call_egcl, case, workload.num_nodes, num_frames, workload.num_edges))
        for precision in PRECISIONS:
            training = TrainingCase(width, precision, capability)
            calls.append(partial(call_training, training, workload.num_nodes, workload.num_edges))
        for by_graph in (False, True):
            calls.append(partial(call_step, StepCase(by_graph, dim, capability), workload.num_nodes, num_noisy))
    return list(dict.fromkeys(launch for call in calls for launch in launched_by(call)))


def may_differ(twice: Twice) -> bool:
    return any(twice.kernel == kernel and {*twice.arguments} <= {*names} for kernel, *names in MAY_DIFFER)


def told(twice: Twice) -> str:
    differences = ", ".join(f"{name} ({' or '.join(values)})" for name, values in twice.values.items())
    return f"{twice.kernel} is compiled again for other numbers or addresses: {differences}"


if __name__ == "__main__":
    sys.exit(main())
