"""Sampling against its denoiser calls: what the loop around them costs."""

import argparse
import itertools
import sys

import torch

from bench import arguments, record
from bench.contenders import Contender, make_contender
from bench.gate import FLOAT32
from bench.timing import Times, interleaved, products_for, rates
from bench.workloads import Workload
from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType, backend
from geotdm_fast.checks import trusted
from geotdm_fast.tables import text_table

DESCRIPTION = """\
Draw one batch by ancestral sampling (GeoTDM.p_sample_loop, learned prior) and compare the whole loop with its denoiser
calls timed alone, and with the sum of their floors: operations at the matrix rate measured in the same rounds. The
difference of loop and calls is what noise, coefficients, the prior and Python cost. First a short chain must equal the
reference implementation's."""
EPILOG = """\
  python -m bench.sampling --threads 2
  python -m bench.sampling --hidden-dim 32 --layers 2 --graphs 2 --steps 25 --repeats 2      a trial in seconds"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result."""
    args = _parser().parse_args(argv)
    try:
        return run(args)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        return record.fail("bench.sampling", error)


def run(args: argparse.Namespace) -> int:
    """Check, time, write the line, print the table."""
    arguments.set_up(args)
    context = record.context(args.device)
    workload = arguments.workload_of(args, args.workload)
    contender = tamed(make_contender(workload, "ours", args.dtype, args.device))
    error = check(contender)
    diffusion = make_diffusion(contender, args.steps)
    products = products_for([args.dtype], args.device)
    calls = {
        "loop": lambda: draw(diffusion, contender),
        "calls": lambda: call_alone(contender, args.steps),
        **products,
    }
    times = interleaved(calls, args.repeats, args.device, progress=not args.quiet)
    row = result(workload, args, times, rates(products, times)[args.dtype], error)
    record.append(args.out, [row | context])
    print(record.describe(context), report(row), f"line added to {args.out}", sep="\n\n")
    return 0


def make_diffusion(contender: Contender, steps: int) -> GeoTDM:
    """A conditional diffusion of `steps` steps with the network's learned prior."""
    kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
    return GeoTDM(contender.network, "linear", steps, *kinds, contender.device, rescale_timesteps=steps != 1000)


def tamed(contender: Contender) -> Contender:
    """The same with gates a hundred times smaller: a chain of random weights stays finite. The work does not change."""
    with torch.no_grad():
        for name, parameter in contender.network.named_parameters():
            if "coord_mlp.actions.2" in name or "x_mlp.actions.2" in name:
                parameter.mul_(0.01)
    return contender


def draw(diffusion: GeoTDM, contender: Contender) -> torch.Tensor:
    """One batch: [N, D, T_noisy]."""
    shape, model_kwargs = loop_arguments(contender)
    return diffusion.p_sample_loop(shape, model_kwargs=model_kwargs)


def loop_arguments(contender: Contender) -> tuple[tuple[int, ...], dict]:
    """The shape and the keyword arguments of a loop over the contender's inputs."""
    model_kwargs = {name: value for name, value in contender.inputs.items() if name not in ("x", "diffusion_t")}
    return tuple(contender.inputs["x"].shape), model_kwargs


def call_alone(contender: Contender, steps: int) -> None:
    """The denoiser calls of one chain and nothing else; like the loop's, without checks of values."""
    with trusted():
        for _ in range(steps):
            contender.inference()


def check(contender: Contender, steps: int = 5) -> float:
    """The relative distance of a short chain from that of the reference. Raises ValueError if it is too large."""
    diffusion = make_diffusion(contender, 25)
    shape, model_kwargs = loop_arguments(contender)
    chains = []
    for name in ("auto", "reference"):
        with backend(name), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            chain = diffusion.p_sample_loop_progressive(shape, model_kwargs=model_kwargs)
            *_, last = itertools.islice(chain, steps)
            chains.append(last["sample"].double())
    error = float((chains[0] - chains[1]).norm() / chains[1].norm())
    bound = FLOAT32 if contender.dtype == "float32" else 1e-1
    if not error <= bound:
        raise ValueError(f"a chain of {steps} steps is wrong, so nothing is timed: {error:.1e} is over {bound:.0e}")
    return error


def result(workload: Workload, args: argparse.Namespace, times: dict[str, Times], rate: float, error: float) -> dict:
    """The record of one run."""
    floor = args.steps * workload.flop() / rate
    loop, calls = times["loop"].median, times["calls"].median
    return {
        "benchmark": "sampling",
        "workload": workload.name,
        "sizes": workload.sizes,
        "dtype": args.dtype,
        "steps": args.steps,
        "repeats": len(times["loop"].seconds),
        "loop_seconds": loop,
        "calls_seconds": calls,
        "floor_seconds": floor,
        "matrix_gflops": rate / 1e9,
        "loop_over_floor": loop / floor,
        "loop_over_calls": loop / calls,
        "beside_calls_ms_per_step": 1000 * (loop - calls) / args.steps,
        "error": error,
    }


def report(row: dict) -> str:
    """The table, and the loop's own cost in a sentence."""
    steps = row["steps"]
    sizes = ", ".join(f"{key} {value}" for key, value in row["sizes"].items())
    names = {"loop_seconds": "the whole loop", "calls_seconds": "its denoiser calls", "floor_seconds": "their floors"}
    cells = [
        [what, f"{row[key]:.3f}", f"{1000 * row[key] / steps:.2f}", f"{row[key] / row['floor_seconds']:.2f}"]
        for key, what in names.items()
    ]
    lines = [f"W-{row['workload']}: {sizes}; {steps} steps, {row['dtype']}, {row['matrix_gflops']:.0f} GFLOP/s", ""]
    lines += [text_table(["", "s", "ms a step", "x floor"], cells), ""]
    own = f"beside its calls the loop costs {row['beside_calls_ms_per_step']:.2f} ms a step"
    return "\n".join([*lines, f"{own} ({100 * (row['loop_over_calls'] - 1):.1f} % of the calls)"])


def _parser() -> argparse.ArgumentParser:
    parser = arguments.make_parser("bench.sampling", DESCRIPTION, EPILOG)
    arguments.add_workload(parser, several=False)
    parser.add_argument("--steps", type=arguments.count, default=100, metavar="S", help="default: 100")
    parser.add_argument("--dtype", choices=arguments.DTYPES, default="float32", help="default: float32")
    arguments.add_run(parser, repeats=5, out=record.RESULTS / "sampling.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
