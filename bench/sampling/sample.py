"""Sampling end to end: trajectories a second, ours against the plain loop around the peers' networks."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.common import arguments, record
from bench.common.correctness import FLOAT32, ROUNDOFF, TIMES_PLAIN
from bench.common.program import in_turn, over_workloads
from bench.common.timing import Times, interleaved, products_for, rates, synchronize
from bench.common.workloads import Workload
from bench.network.contenders import (
    ABOUT,
    IMPLEMENTATIONS,
    Contender,
    listed,
    make_contender,
    make_truth,
    split_by_memory,
)
from bench.network.step import add_ratios
from bench.sampling.plain_loop import plain_loop
from geotdm_fast import GeoTDM, LossType, ModelMeanType, ModelVarType, Sampler
from geotdm_fast.diffusion.methods import METHODS
from geotdm_fast.runtime.checks import trusted
from geotdm_fast.scores.tables import text_table

DESCRIPTION = """\
Draw one batch, learned prior and preparation included, and compare with the plain loop (bench/sampling/plain_loop.py)
around the networks of the peers (bench/peers), all with the same weights, interleaved in one process; medians count.
Peers run --peer-steps steps of the chain, without the prior, and their time is scaled to the whole chain: a little in
their favour. Our denoiser calls are timed alone too: what the loop costs beside them, and both beside the floor, the
least number of operations at the matrix rate measured in the same rounds. On CUDA `ours` replays a graph and
`ours_eager` launches every step, and what a step takes of the host is timed too (target: replayed, 30 us). First the
first steps of a chain must be those of the equations in float64."""
EPILOG = """\
  python -m bench.sampling.sample --threads 2 --dtype float32 bfloat16         W-nbody and W-md: what the notes quote
  python -m bench.sampling.sample --threads 2 --method dpmpp_2m --steps 20     few steps of ours against the peers' 100
  python -m bench.sampling.sample --device cuda --graphs 128 --dtype mixed
  python -m bench.sampling.sample --hidden-dim 32 --layers 2 --graphs 2 --timesteps 25 --repeats 2"""
CHECKED_STEPS = 5
OURS = ("ours", "ours_eager")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark: 0, or 2 for a user's error or a wrong result."""
    return over_workloads("bench.sampling.sample", _parser().parse_args(argv), measure, report)


def measure(workload: Workload, args: argparse.Namespace) -> Iterator[dict]:
    """A row for every implementation and dtype."""
    fit, refused = split_by_memory(workload, args.implementations, args.dtype, "inference", args.device)
    names = dict.fromkeys(name for name, _ in fit if args.compile or not name.endswith("_compiled"))
    torch.compiler.reset()
    on_cuda = torch.device(args.device).type == "cuda"
    truth = Draw(workload, "truth", "float64", args)
    products = products_for(args.dtype, args.device)
    chains = {}
    for together in in_turn(names, args.ours_first):
        now = [*together, *(["ours_eager"] if on_cuda and "ours" in together else [])]
        wanted = [(name, dtype) for dtype in args.dtype for name in now if name in OURS or (name, dtype) in fit]
        chains |= {key: Draw(workload, *key, args) for key in wanted if key not in chains}
        errors = check(chains, truth)
        alone = {("calls", dtype): chain.calls for (name, dtype), chain in chains.items() if name == "ours"}
        times = interleaved(chains | alone | products, args.repeats, args.device, progress=not args.quiet)
        rate = rates(products, times)
        rows = [_row(chain, times, rate[key[1]], errors[key]) for key, chain in chains.items()]
        if on_cuda:
            for row, chain in zip(rows, chains.values(), strict=True):
                row |= {"host_us_per_step": 1e6 * chain.host_seconds()} if chain.is_ours else {}
        add_ratios(rows)
        yield from rows
    about = lambda name, dtype, why: {"implementation": name, "dtype": dtype, "left_out": why}
    for key, why in refused.items():
        yield _about(workload, args) | about(*key, why)


class Draw:
    """One batch by one implementation: `draw()` is what is timed, `calls()` its denoiser calls alone."""

    def __init__(self, workload: Workload, name: str, dtype: str, args: argparse.Namespace):
        self.workload, self.name, self.dtype, self.args = workload, name, dtype, args
        if name == "truth":
            self.contender = make_truth(workload, args.device)
        else:
            self.contender = make_contender(workload, "ours" if name in OURS else name, dtype, args.device)
        tame(self.contender)
        inputs = self.contender.inputs
        self.model_kwargs = {key: value for key, value in inputs.items() if key not in ("x", "diffusion_t")}
        self.shape = tuple(inputs["x"].shape)
        kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
        self.diffusion = GeoTDM(
            self.contender.network, "linear", args.timesteps, *kinds, args.device, rescale_timesteps=True
        )
        if name == "ours_eager":
            self.diffusion.captures = None
        self.is_ours = name in OURS
        self.sampler = Sampler(self.diffusion, args.method, args.steps) if self.is_ours else None
        self.num_steps = self.sampler.num_steps if self.is_ours else args.timesteps
        # What is run of them.
        self.timed_steps = self.num_steps if self.is_ours else min(args.peer_steps or args.timesteps, args.timesteps)
        with torch.no_grad(), self.contender._autocast():
            self.x_ref = self.diffusion.get_ref_frame(self.model_kwargs)

    @torch.no_grad()
    def __call__(self) -> Tensor:
        if self.is_ours:
            return self.sampler.draw(self.shape, self.model_kwargs)
        x = torch.randn(self.shape, device=self.x_ref.device, dtype=self.contender.inputs["x"].dtype)
        return self._plain(x, range(self.timed_steps - 1, -1, -1))

    @torch.no_grad()
    def calls(self) -> None:
        """Like the loop's, without checks of values."""
        with trusted():
            for _ in range(self.timed_steps):
                self.contender.inference()

    @torch.no_grad()
    def host_seconds(self, rounds: int = 5) -> float:
        """What a step costs the host on CUDA: of chains of all steps and of half, timed until the last launch."""
        half = Sampler(self.diffusion, self.args.method, max(1, self.num_steps // 2))
        more = self._launch_seconds(self.sampler, rounds) - self._launch_seconds(half, rounds)
        return more / max(1, self.num_steps - half.num_steps)

    def _launch_seconds(self, sampler: Sampler, rounds: int) -> float:
        """The least of some."""
        took = []
        for _ in range(rounds):
            synchronize(torch.device(self.args.device))
            began = time.perf_counter()
            sampler.draw(self.shape, self.model_kwargs)
            took.append(time.perf_counter() - began)
        return min(took)

    @torch.no_grad()
    def begin(self, noise: Callable[[int], Tensor]) -> Tensor:
        """The end of a chain of `CHECKED_STEPS` steps, the last of the model's, from noise(0)."""
        x = self.contender.inputs["x"]
        put = lambda k: noise(k).to(x)
        if not self.is_ours:
            return self._plain(put(0), range(CHECKED_STEPS - 1, -1, -1), put)
        # refine() noises a start by as many steps: this one becomes noise(0).
        kept = self.diffusion.alphas_cumprod[CHECKED_STEPS - 1]
        added = put(0) * float((1 - (1 - kept) ** 0.5) / kept**0.5)
        sampler = Sampler(self.diffusion)
        return sampler.refine(added + self.x_ref, CHECKED_STEPS, self.model_kwargs, noise=put)

    def _plain(self, x: Tensor, steps: range, noise: Callable[[int], Tensor] | None = None) -> Tensor:
        with self.contender._autocast():
            return plain_loop(self.contender.network, self.diffusion, x, self.x_ref, self.model_kwargs, steps, noise)


def tame(contender: Contender) -> None:
    """Gates a hundred times smaller: a chain of random weights stays finite. The work does not change."""
    with torch.no_grad():
        for name, parameter in contender.network.named_parameters():
            if "coord_mlp.actions.2" in name or "x_mlp.actions.2" in name:
                parameter.mul_(0.01)


def check(chains: dict, truth: Draw) -> dict:
    """The relative error of every one's first steps. Raises ValueError if one is not correct."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(CHECKED_STEPS + 1, *truth.shape, generator=generator)
    expected = truth.begin(lambda k: draws[k]).double()
    found = {key: chain.begin(lambda k: draws[k]).double() for key, chain in chains.items()}
    errors = {key: float((value - expected).norm() / expected.norm()) for key, value in found.items()}
    for (name, dtype), error in errors.items():
        plain = errors.get(("efficient", dtype), 16 * ROUNDOFF)
        bound = FLOAT32 if dtype == "float32" else TIMES_PLAIN * plain + ROUNDOFF
        if not error <= bound:
            raise ValueError(
                f"{name} in {dtype} is wrong, so nothing is timed: a chain of {CHECKED_STEPS} steps must be within "
                f"{bound:.1e} of the truth, got {error:.1e}"
            )
    return errors


def report(workload: Workload, rows: list[dict]) -> str:
    """The table of one workload, and what it comes to in sentences."""
    sizes = ", ".join(f"{key} {value}" for key, value in workload.sizes.items())
    columns = ["dtype", "implementation", "steps", "trajectories/s", "s", "ms a step", "x floor", "error"]
    timed = [row for row in rows if "seconds" in row]
    cells = [
        [
            row["dtype"],
            row["implementation"].replace("_", " "),
            str(row["steps"]),
            f"{row['trajectories_per_second']:.2f}",
            f"{row['seconds']:.3f}",
            f"{row['ms_per_step']:.3f}",
            f"{row['seconds'] / row['floor_seconds']:.2f}",
            f"{row['error']:.0e}",
        ]
        for row in timed
    ]
    lines = [f"W-{workload.name}: {sizes}", "", text_table(columns, cells), ""]
    for row in timed:
        if row["implementation"] in OURS:
            lines.append(sentence(row))
    lines += [
        f"left out: {row['implementation']} in {row['dtype']}, {row['left_out']}" for row in rows if row not in timed
    ]
    return "\n".join(lines)


def sentence(row: dict) -> str:
    """What our row says of the peers and of the loop."""
    said = f"{row['implementation'].replace('_', ' ')}, {row['dtype']}, {row['method']} in {row['steps']} steps:"
    for key, what in (("times_official", "official eager"), ("times_best_peer", "the best peer")):
        for suffix, dtype in (("", row["dtype"]), ("_float32", "float32")):
            if key + suffix in row and (not suffix or row["dtype"] != "float32"):
                said += f" {row[key + suffix]:.2f} times {what} in {dtype},"
    said += f" beside its calls the loop costs {row['beside_calls_ms_per_step']:.3f} ms a step"
    return said + (f", the host {row['host_us_per_step']:.1f} us" if "host_us_per_step" in row else "")


def _row(chain: Draw, times: dict, rate: float, error: float) -> dict:
    took: Times = times[chain.name, chain.dtype]
    scale = chain.num_steps / chain.timed_steps
    flop = chain.num_steps * chain.workload.flop()
    row = _about(chain.workload, chain.args) | {"implementation": chain.name, "dtype": chain.dtype}
    row |= {key: value * scale for key, value in took.row(flop, rate).items() if key.startswith("seconds")}
    row |= {"repeats": len(took.seconds), "steps": chain.num_steps, "timed_steps": chain.timed_steps, "error": error}
    row |= {"method": chain.args.method if chain.is_ours else "ddpm", "floor_seconds": flop / rate}
    row |= {"matrix_gflops": rate / 1e9, "ms_per_step": 1000 * row["seconds"] / chain.num_steps}
    row["trajectories_per_second"] = chain.workload.batch.num_graphs / row["seconds"]
    if chain.is_ours:
        alone = times["calls", chain.dtype].median
        row |= {"calls_seconds": alone, "beside_calls_ms_per_step": 1000 * (row["seconds"] - alone) / chain.num_steps}
    return row


def _about(workload: Workload, args: argparse.Namespace) -> dict:
    return {
        "benchmark": "sample",
        "workload": workload.name,
        "sizes": workload.sizes,
        "timesteps": args.timesteps,
    }


def _parser() -> argparse.ArgumentParser:
    epilog = f"{EPILOG}\n\n{listed(ABOUT)}"
    parser = arguments.make_parser("bench.sampling.sample", DESCRIPTION, epilog)
    arguments.add_workload(parser, several=True)
    parser.add_argument(
        "--timesteps", type=arguments.count, default=100, metavar="S", help="the model's (default: 100)"
    )
    parser.add_argument("--method", choices=METHODS, default="ddpm", help="ours; the peers' is ddpm (default: ddpm)")
    parser.add_argument("--steps", type=arguments.count, metavar="K", help="ours (default: all S); the peers' are S")
    parser.add_argument(
        "--peer-steps",
        type=arguments.count,
        default=10,
        metavar="K",
        help="steps that peers are timed on (default: 10)",
    )
    arguments.add_dtypes(parser)
    everyone = {"choices": ABOUT, "default": list(IMPLEMENTATIONS), "metavar": "NAME"}
    parser.add_argument("--implementations", nargs="+", help="default: all but those of torch_geometric", **everyone)
    parser.add_argument("--no-compile", action="store_false", dest="compile", help="leave the compiled peers out")
    arguments.add_ours_first(parser)
    arguments.add_run(parser, repeats=5, out=record.RESULTS / "sample.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
