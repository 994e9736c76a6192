"""What of the GPU's paths can be tried without a GPU: `make gpu-dry`, or `python -m bench.gpu_dry`.

paths      training and sampling on tensors that say they are on CUDA: what waits, what is on the wrong device
inexact    the Triton kernels in an interpreter with a GPU's approximations
fused      the emulated CUDA kernels with fused multiply-adds
variants   every Triton launch of these tests and of the benchmarks, compiled for sm_90 as the JIT would
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from bench.gpu_steps import files_of_tests

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATHS = ("gpu_paths", "gpu_paths_ays", "gpu_paths_padding")
KERNELS = (
    "kernels_egcl",
    "egcl_cutoff",
    "egcl_periodic",
    "egcl_residual",
    "gv_ff",
    "kernels_radius_graph",
    "trajectory_noise",
    "diffusion_step",
)


class Step(NamedTuple):
    name: str
    words: list[str]


class Outcome(NamedTuple):
    """What a step printed, and what it cost with all that it started."""

    name: str
    status: int
    output: str
    seconds: float
    cpu_seconds: float


def steps(folder: pathlib.Path, arguments: Sequence[str] = ()) -> list[Step]:
    """The last one reads what the first two write. arguments: of bench.gpu_variants."""
    python = [sys.executable, "-W", "ignore", "-m"]
    tests = [*python, "pytest", "-q", "-p", "no:cacheprovider", "-rs"]
    record = lambda name: ["--record-launches", str(folder / name)]
    files = [file for name in KERNELS for file in files_of_tests(name)]
    paths = [file for name in PATHS for file in files_of_tests(name)]
    variants = [*python, "bench.gpu_variants", "--launches", str(folder / "paths"), str(folder / "inexact"), *arguments]
    return [
        Step("paths", [*tests, "-m", "dry or not gpu", *record("paths"), *paths]),
        Step("inexact", [*tests, "-m", "not gpu", "--inexact", *record("inexact"), *files]),
        Step("fused", [*tests, "-m", "dry", "tests/csrc/test_cuda_contracted.py"]),
        Step("variants", variants),
    ]


def run(step: Step, after: Sequence[Future] = ()) -> Outcome:
    """Run a step when others are done."""
    for future in after:
        future.result()
    begin = time.perf_counter()
    # Kernels are interpreted by the tests, which see to it, and compiled by the program.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""  # on a machine with a GPU too
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(step.words, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    seconds = time.perf_counter() - begin
    return Outcome(step.name, process.returncode, text, seconds, used.ru_utime + used.ru_stime)


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where a step failed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_dry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capability", nargs="+", default=["90"], metavar="SM", help="to compile for: 80 90 100")
    args = parser.parse_args(argv)
    begin, failed = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        *tests, variants = steps(pathlib.Path(folder), ["--capability", *args.capability])
        running = [pool.submit(run, step) for step in tests]
        running.append(pool.submit(run, variants, running[:2]))
        for future in running:
            outcome = future.result()
            print(f"--- {outcome.name}", outcome.output.rstrip(), sep="\n")
            cost = f"{outcome.seconds:.0f} s, {outcome.cpu_seconds:.0f} CPU s"
            print(f"{outcome.name}: {'ok' if outcome.status == 0 else 'FAILED'} ({cost})\n", flush=True)
            failed += [outcome.name] * (outcome.status != 0)
    print(
        f"gpu-dry: {'FAILED: ' + ', '.join(failed) if failed else 'all is well'} ({time.perf_counter() - begin:.0f} s)"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
