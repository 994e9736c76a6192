"""The steps of `bench.gpu_check`: which commands, with which options and budgets, in which order."""

import argparse
import importlib.util
import pathlib
import shutil
import sys
from dataclasses import dataclass, field

from geotdm_fast.provenance import commit
from tools import cuda_module

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Seconds that a tier may take, the start of the program and unpacked modules included.
TIERS = {1: 330, 2: 445, 3: 570}
# Of a step that did what its time allowed, kept it, and was not done.
MORE_TO_DO = "more to do; the same command goes on"


@dataclass
class Step:
    """A command with a budget of seconds; what became of it.

    more_to_do: the exit status by which the command says that it stopped in time with more to do; None: it has none
    after: the name of the step whose results it needs: while that has more to do, it is left out
    """

    name: str
    words: list[str]
    budget: float
    interpreted: bool = False
    tier: int = 1
    more_to_do: int | None = None
    after: str | None = None
    status: str = "left out"
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status in ("ok", MORE_TO_DO)


class Programs:
    """The words that begin each program's command."""

    def __init__(self, args: argparse.Namespace):
        python, device = [sys.executable, "-m"], ["--device", args.device]

        def rows(program, name):
            return [*python, program, *device, "--quiet", "--out", str(args.out / f"{name}.jsonl")]

        self.build = [*python, "bench.common.build_in_place"]
        self.pytest = [*python, "pytest", "-q", "-p", "no:cacheprovider"]
        self.layer = rows("bench.ops.layer_speed", "layer")
        self.temporal = [*self.layer, "--layer", "temporal"]
        self.train, self.sample = rows("bench.training.train", "train"), rows("bench.sampling.sample", "sample")
        self.mixed = rows("bench.training.mixed", "train")  # a file for all three
        self.mixed_ays = rows("bench.training.mixed_ays", "train")
        self.kernels = rows("bench.ops.kernel_times", "kernels")
        self.periodic = rows("bench.network.periodic", "layer")
        self.ays = rows("bench.network.ays", "layer")
        # A finished run of another commit would answer in the place of this one.
        folder = str(ROOT / "build" / "gpu_check" / f"charged-{commit()}")
        device = [*device, "--quiet"]
        self.reproduce = [*python, "geotdm_fast", "reproduce", "charged", *device, "--out", folder]
        self.reproduce += ["--results", str(args.out / "reproduce.jsonl"), "--set", "train.precision=bf16"]
        self.evaluate = [*python, "geotdm_fast", "evaluate", f"{folder}/train", *device]
        self.radius = [*self.pytest, "bench/ops/bench_radius_graph.py", *device, "--benchmark-sort", "name"]
        self.radius += ["--benchmark-columns", "median,iqr,rounds", "--benchmark-max-time", "0.2", "-k"]


def steps(args: argparse.Namespace) -> list[Step]:
    """In the order of their worth: what is cut off by the end of the time is what is least missed."""
    programs = Programs(args)
    if args.trial:
        return trial_steps(args, programs)
    by_tier = {1: first_tier(programs), 2: second_tier(programs), 3: third_tier(programs)}
    chosen = [step for tier in args.tier for step in by_tier[tier]]
    return [Step("build", programs.build, 240), *chosen]


def first_tier(run: Programs) -> list[Step]:
    """Is it right; milliseconds of a training and of a sampling step, captured or not; layers against their floors."""
    both = ["--workload", "nbody", "md", "--graphs", "128"]
    nbody, md = ["--workload", "nbody", "--graphs", "128"], ["--workload", "md", "--graphs", "128"]
    eager = ["--implementations", "ours", "official", "efficient", "--ours-first"]
    one = [*both, "--precision", "bf16", "--implementations", "ours", "eager", "--limit", "2", "--repeats", "10"]
    return [
        Step("tests", [*run.pytest, *in_workers(8), *gpu_tests(), "-m", "gpu", "-k", f"not ({SLOW})"], 100),
        Step("train", [*run.train, *both, "--precision", "bf16", *eager, "--repeats", "3", "--steps", "5"], 60),
        Step("sample", [*run.sample, *nbody, "--dtype", "mixed", *eager, "--repeats", "3", "--peer-steps", "3"], 40),
        Step("sample md", [*run.sample, *md, "--dtype", "mixed", "--implementations", "ours", "--repeats", "2"], 25),
        Step("kernels", [*run.kernels, *both, "--precision", "bf16"], 35),
        Step("temporal", [*run.temporal, *one], 28),
        Step("layer", [*run.layer, *one], 30),
    ]


def second_tier(run: Programs) -> list[Step]:
    """Memory errors and races; compiled peers; Align Your Structures; mixed molecules of both; the other precisions;
    long trajectories; many edges and boxes."""
    nbody = ["--workload", "nbody", "--graphs", "128"]
    names = ["ours", "official", "official_compiled", "efficient_compiled", *message_passing()]
    compiled = ["--implementations", *names, "--ours-first"]
    layers = [*nbody, "--precision", "bf16", "tf32", "--limit", "2", "--repeats", "10"]
    long = ["--workload", "long", "--precision", "bf16", "--limit", "2", "--repeats", "10"]
    return [
        *sanitizer_steps(run),
        Step("sample compiled", [*run.sample, *nbody, "--dtype", "mixed", *compiled, "--repeats", "3"], 105, tier=2),
        Step("ays", [*run.ays, "--implementations", "ours", "ours_recompute", "official"], 45, tier=2),
        Step("train mixed", [*run.mixed, "--graphs", "128", "--precision", "bf16"], 25, tier=2),
        Step("mixed ays", run.mixed_ays, 25, tier=2),
        Step("tests alone", [*run.pytest, *gpu_tests(), "-m", "gpu", "-k", SLOW], 25, tier=2),
        Step("layers", [*run.layer, *layers], 35, tier=2),
        Step("temporal layers", [*run.temporal, *layers], 30, tier=2),
        Step("temporal long", [*run.temporal, *long], 20, tier=2),
        Step("edges", [*run.layer, "--sweep", "edges", "--precision", "bf16"], 20, tier=2),
        Step("radius", [*run.radius, "(auto or table or all) and not 50000 and not box"], 12, tier=2),
        Step("radius in boxes", [*run.radius, "box and (table or auto) and (21 or 4096)"], 8, tier=2),
        Step("boxes", [*run.periodic, "--atoms", "100", "4096", "50000", "--ours-alone"], 15, tier=2),
    ]


def third_tier(run: Programs) -> list[Step]:
    """The paper's model of charged particles at the paper's settings, by 100 steps and by 5; compiled training."""
    nbody = ["--workload", "nbody", "--graphs", "128", "--precision", "tf32", "--repeats", "3", "--ours-first"]
    compiled = ["--implementations", "ours", "official", "official_compiled", "efficient_compiled"]
    few = ["--method", "dpmpp_2m", "--steps", "5", "--num-samples", "5", "--precision", "bf16"]
    return [
        Step("charged", [*run.reproduce, "--budget", "7"], 430, tier=3, more_to_do=3),
        Step("charged in 5 steps", [*run.evaluate, *few], 25, tier=3, after="charged"),
        Step("train tf32", [*run.train, *nbody, *compiled], 105, tier=3),
    ]


def message_passing() -> list[str]:
    """The peers made of torch_geometric, where it is installed."""
    return ["pyg", "pyg_compiled"] if importlib.util.find_spec("torch_geometric") else []


# Tests that want the GPU for themselves: gigabytes, or time.
SLOW = "2_to_the_31 or most_frames or microseconds"
# Those with the mark gpu, beside test_kernels_*.py. Not the whole folder: other tests import what a GPU machine need
# not have.
TESTED = (
    "adam_step",
    "ays_kabsch",
    "captured",
    "chain",
    "cuda_native",
    "cuda_temporal",
    "diffusion_step",
    "egcl_capacity",
    "egcl_cutoff",
    "egcl_periodic",
    "egcl_residual",
    "graphs_padding",
    "gv_ff",
    "node_embedding",
    "noised_positions",
    "optimizer",
    "reference_frame",
    "sampling_ays_padding",
    "sampling_batches",
    "sampling_padding",
    "training_ays_captured",
    "training_device_data",
    "training_padding",
    "training_step",
    "trajectory_noise",
)


def gpu_tests() -> list[str]:
    """The files of tests that need a GPU."""
    return sorted(path for name in ("kernels_*", *TESTED) for path in files_of_tests(name))


def files_of_tests(name: str) -> list[str]:
    """The files test_<name>.py, wherever they are."""
    found = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob(f"test_{name}.py")]
    if not found:
        raise ValueError(f"tests must have a file test_{name}.py, got none")
    return sorted(found)


def in_workers(count: int) -> list[str]:
    """Options of pytest for what is installed: workers, each with a share of the tests, and an end to what hangs."""
    workers = ["-n", str(count)] if importlib.util.find_spec("xdist") else []
    timeout = ["--timeout", "60", "--timeout-method", "thread"] if importlib.util.find_spec("pytest_timeout") else []
    return workers + timeout


# Of tests/csrc/test_cuda_temporal.py: a tile that is not full, padded columns, more than one block of frames.
SANITIZED = "test_sizes and (3-5-2-64-32 or 2-17-3-100-13 or 1-33-3-48-13)"


def sanitizer_steps(run: Programs) -> list[Step]:
    """The temporal kernels on small shapes under compute-sanitizer, where that is found."""
    folder = pathlib.Path(cuda_module.nvcc() or "nvcc").resolve().parent
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=folder)
    if program is None:
        return []
    # Without its cache torch gives every tensor memory of its own, whose ends memcheck knows.
    alone = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", program, "--error-exitcode", "9"]
    alone += ["--kernel-regex", "kns=kernel_entry"]
    tests = [*run.pytest, "tests/csrc/test_cuda_temporal.py", "-m", "gpu", "-k", SANITIZED]
    return [
        Step(f"sanitizer {tool}", [*alone, "--tool", tool, *tests], 35, tier=2) for tool in ("memcheck", "racecheck")
    ]


def trial_steps(args: argparse.Namespace, run: Programs) -> list[Step]:
    """The same programs, as small as they go."""
    import numpy as np

    gas = args.out / "trial.npz"
    np.savez(gas, R=np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32), z=np.ones(6, dtype=np.int64))
    layer = ["--trial", "--repeats", "1", "--limit", "1", "--threads", "1", "--precision", "bf16", "--sheet", "H100"]
    layer += ["--compiler", "aot_eager"]
    tiny = ["--graphs", "1", "--frames", "3", "--layers", "1", "--hidden-dim", "16", "--threads", "1"]
    tiny += ["--repeats", "1"]
    small = [*tiny, "--workload", "nbody", "--no-compile", "--ours-first"]
    edges = ["--sweep", "edges", "--cutoffs", "1", "2", "--large", str(gas), "--directions", "forward"]
    kernels = files_of_tests("kernels_*")
    return [
        Step("build", [*run.build, "--dry-run"], 60),
        Step("tests", [*run.pytest, *kernels, "-k", "test_another_stream"], 60, interpreted=True),
        Step("train nbody", [*run.train, *small], 60),
        Step("train mixed", [*run.mixed, *tiny], 60),
        Step("mixed ays", [*run.mixed_ays, *tiny], 60),
        Step("sample nbody", [*run.sample, *small, "--timesteps", "25"], 60),
        Step("temporal nbody", [*run.temporal, *layer, "--workload", "nbody"], 60, interpreted=True),
        Step("layer nbody", [*run.layer, *layer, "--workload", "nbody"], 90, interpreted=True),
        Step("edges", [*run.layer, *layer, *edges], 60, interpreted=True),
        Step("radius", [*run.radius, "auto and 22"], 60),
    ]
