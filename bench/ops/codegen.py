"""What the compiler makes of every Triton kernel, without a GPU: `python -m bench.ops.codegen`.

The launchers run on tensors without data; each launch is compiled ahead of time for a capability and its machine code
is read: registers, spills, shared memory, matrix and special-function instructions, loads. The counts stand beside the
limits of codegen_limits.json and, for the kernels over edges, beside a predicted time and the floor.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator

from bench.common.limits import limit as limit_of
from bench.common.machine_code import Counts, compiled_counts
from bench.common.record import RESULTS, replace_rows
from bench.ops.launches import DEFAULT_FLAGS, AnyCase, Case, Launch, SearchCase, StepCase, TrainingCase, launches

WIDTHS = (32, 48, 64, 96, 128, 256)
PRECISIONS = ("fp32", "tf32", "bf16")
CAPABILITIES = (80, 90, 100)
LIMITS = pathlib.Path(__file__).with_name("codegen_limits.json")
# W-md: 128 graphs of 180 edges, 30 frames.
EDGE_FRAMES = 128 * 180 * 30


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    import triton

    if triton.knobs.runtime.interpret:
        sys.exit("codegen: TRITON_INTERPRET must not be set: interpreted kernels are not compiled")
    limits = json.loads(LIMITS.read_text())
    rows, broken, seen = [], [], set()
    for case in cases(args):
        for launch in launches(case):
            if (args.kernel and launch.name not in args.kernel) or (str(case), launch) in seen:
                continue
            seen.add((str(case), launch))
            counts = compiled_counts(launch, case.capability)
            rows.append(row(case, launch, counts))
            broken += [f"{rows[-1]['what']}: {problem}" for problem in problems(case, launch, counts, limits)]
            print(line(rows[-1]), flush=True)
    if args.out:
        write(args.out, rows)
    print(*broken, f"{len(rows)} kernels compiled, {len(broken)} over a limit", sep="\n")
    return 1 if broken else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ops.codegen", description=__doc__.split("\n\n")[0])
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS, metavar="H", help="default: %(default)s")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME")
    parser.add_argument("--capability", type=int, nargs="+", choices=CAPABILITIES, default=CAPABILITIES, metavar="SM")
    parser.add_argument("--kernel", nargs="+", metavar="NAME", help="these alone, e.g. egcl_edges")
    parser.add_argument("--every-variant", action="store_true", help="also D = 2, no edge term, the other distances")
    parser.add_argument("--cutoff", action="store_true", help="the layers' kernels with a cutoff")
    parser.add_argument("--shift", action="store_true", help="the layers' kernels in periodic boxes")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=RESULTS / "codegen.json",
        help="rows are replaced there (default: %(default)s)",
    )
    parser.add_argument("--no-out", action="store_const", const=None, dest="out", help="write nothing")
    return parser.parse_args(arguments)


def cases(args: argparse.Namespace) -> Iterator[AnyCase]:
    norms = ((True, False), (False, False), (True, True))
    every = [(dim, has_term, *norm) for dim in (2, 3) for has_term in (False, True) for norm in norms]
    for capability in args.capability:
        for precision in args.precision:
            for width in args.width:
                for flags in every if args.every_variant else [DEFAULT_FLAGS]:
                    yield Case(width, precision, capability, flags, args.cutoff, args.shift)
                yield TrainingCase(width, precision, capability)
        for by_cells in (False, True):
            for dim in (2, 3) if args.every_variant else (3,):
                yield SearchCase(by_cells, dim, capability)
            yield SearchCase(by_cells, 3, capability, in_boxes=True)
        for by_graph in (False, True):
            for dim in (2, 3) if args.every_variant else (3,):
                yield StepCase(by_graph, dim, capability)


def row(case: AnyCase, launch: Launch, counts: Counts) -> dict:
    """What is printed and kept of one kernel."""
    constants = dict(launch.constants)
    dtypes = {name: dtype for name, dtype in launch.signature if dtype.startswith("*")}
    variant = {name: constants[name] for name in ("IS_MOVE", "IS_FIRST", "ADDS", "HAS_STEP") if name in constants}
    if launch.name in ("egcl_edge_sum", "egcl_weight"):
        variant |= {name: dtypes[name] for name in ("p_values", "p_grad", "p_input") if name in dtypes}
    details = "".join(f" {value}" for value in variant.values())
    what = f"{launch.name}{details} {case}"
    tile = {name: constants[name] for name in ("BLOCK", "SLICE", "TILE") if name in constants} | dict(launch.options)
    found = {"what": what, **{k.lower(): v for k, v in tile.items()}, **counts._asdict()}
    if launch.name in PASSES and case.capability == 90:
        found |= predicted(case, launch, counts)
    return found


# What they decide must be the reference's to the last bit.
EXACT = ("radius_pairs", "radius_search", "radius_wrap", "radius_images", "radius_shifts", "radius_image_search")
# Products of H x H, and SiLUs of H, for an edge-frame: recomputed ones and those that the floor counts. One more where
# the kernel sums a weight's gradient (SUMS).
PASSES = {"egcl_edges": (2, 3), "egcl_edges_backward": (4, 3)}
# An H100 SXM: multiprocessors, clock, and what one of them does in a clock: instructions of a warp, special functions,
# and multiply-adds in each precision.
PROCESSORS, CLOCK, ISSUES, SPECIALS = 132, 1.755e9, 4, 16
MULTIPLY_ADDS = {"fp32": 128, "tf32": 1024, "bf16": 2048}


def predicted(case: Case, launch: Launch, counts: Counts) -> dict:
    """Clocks of a multiprocessor for an edge-frame, by unit; W-md's layer by the slowest of them, and by the floor."""
    constants, warps = dict(launch.constants), dict(launch.options)["num_warps"]
    block, padded = constants["BLOCK"], constants["PADDED"]
    products, silus = PASSES[launch.name]
    products += constants.get("SUMS", False)
    per_edge_frame = warps / block
    clocks = {
        "issue": counts.instructions * per_edge_frame / ISSUES,
        "special": counts.special * 32 * per_edge_frame / SPECIALS,
        "matrix": products * padded**2 / MULTIPLY_ADDS[case.precision],
    }

    def to_us(clock):
        return 1e6 * clock * EDGE_FRAMES / PROCESSORS / CLOCK

    return {
        **{f"{unit}_clocks": round(value, 1) for unit, value in clocks.items()},
        "load_bytes": round(counts.load_bytes * 32 * per_edge_frame),
        "special_per_silu": round(counts.silu * 32 * per_edge_frame / (silus * padded), 3),
        "predicted_us": round(to_us(max(clocks.values()))),
        "floor_us": round(to_us(products * case.width**2 / MULTIPLY_ADDS[case.precision])),
    }


def problems(case: AnyCase, launch: Launch, counts: Counts, limits: dict) -> list[str]:
    """Which limits the kernel breaks."""
    found = []
    limit = lambda name: limit_of(limits, name, lambda where: is_about(where, case, launch))
    spilled = limit("spilled")
    if counts.spilled > spilled:
        found.append(f"{counts.spilled} bytes a thread are spilled, over {spilled}")
    shared = limits["shared"][str(case.capability)]
    if counts.shared > shared:
        found.append(f"{counts.shared} bytes of shared memory, over {shared}")
    if counts.late_fences:
        found.append(f"{counts.late_fences} products read shared memory without a barrier after its fence")
    if counts.unwritten:
        found.append(f"{counts.unwritten} reads of uniform registers that nothing wrote")
    if launch.name in EXACT and counts.fused:
        found.append(f"{counts.fused} fused multiply-adds: squared distances are not rounded as they should be")
    if launch.name in PASSES:
        if case.precision == "bf16" and case.capability == 90 and case.width > 32 and not counts.wgmma:
            found.append("no wgmma")
        if case.precision != "fp32" and not counts.wgmma + counts.mma + counts.tcgen05:
            found.append("no matrix instruction")
        if case.precision == "bf16" and case.capability == 90:
            special = predicted(case, launch, counts)["special_per_silu"]
            if special > limit("special_per_silu"):
                found.append(f"{special} special functions for a SiLU, over {limit('special_per_silu')}")
    return found


def is_about(where: dict, case: AnyCase, launch: Launch) -> bool:
    known = case._asdict() | {"kernel": launch.name}
    return all(known.get(key) in values for key, values in where.items())


COLUMNS = (
    "registers", "spilled", "shared", "wgmma", "mma", "tcgen05", "special", "instructions", "load_bytes",
    "special_per_silu", "predicted_us", "floor_us",
)  # fmt: skip


def line(found: dict) -> str:
    tile = " ".join(f"{key}={found[key]}" for key in ("block", "slice", "tile", "num_warps") if key in found)
    numbers = " ".join(f"{key}={found[key]}" for key in COLUMNS if key in found)
    return f"{found['what']:58} {tile:34} {numbers}"


def write(path: pathlib.Path, rows: list[dict]) -> None:
    """Rows of this run replace those of the same kernels; the rest stays."""
    import triton

    replace_rows(path, rows, {"triton": triton.__version__})


if __name__ == "__main__":
    sys.exit(main())
