"""The steps of `bench.gpu_check`: which commands, with which options and budgets, in which order."""

import argparse
import importlib.util
import pathlib
import shutil
import sys
from dataclasses import dataclass, field

from tools import cuda_module

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclass
class Step:
    """A command with a budget of seconds; what became of it."""

    name: str
    words: list[str]
    budget: float
    interpreted: bool = False
    status: str = "left out"
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.status == "ok"


def steps(args: argparse.Namespace) -> list[Step]:
    """In the order of their worth: what is cut off by the end of the time is what is least missed."""
    python = [sys.executable, "-m"]
    trial, device = args.trial, ["--device", args.device]
    layer = [*python, "bench.layer_speed", *device, "--quiet", "--out", str(args.out / "layer.jsonl")]
    whole = [*python, "bench.step", *device, "--quiet", "--out", str(args.out / "step.jsonl")]
    training = [*python, "bench.train", *device, "--quiet", "--out", str(args.out / "train.jsonl")]
    chain = [*python, "bench.sample", *device, "--quiet", "--out", str(args.out / "sample.jsonl")]
    codegen = [*python, "bench.codegen", "--out", str(args.out / "gpu_codegen.json"), "--capability", capability(args)]
    codegen += ["--kernel", "egcl_edges", "egcl_edges_backward"]
    # Not the whole folder: other tests import what a GPU machine need not have.
    found = [*(ROOT / "tests").glob("test_kernels_*.py")]
    names = ("cuda_temporal", "captured", "chain", "diffusion_step", "training_step", "training_device_data")
    names += ("node_embedding", "reference_frame", "noised_positions", "adam_step")
    found += [ROOT / "tests" / f"test_{name}.py" for name in names]
    files = sorted(str(path.relative_to(ROOT)) for path in found)
    tests = [*python, "pytest", "-q", "-p", "no:cacheprovider", "--durations=5"]
    radius = [*python, "pytest", "-q", "-p", "no:cacheprovider", "bench/bench_radius_graph.py", *device]
    radius += ["--benchmark-json", str(args.out / "radius_graph.json"), "--benchmark-columns", "median,iqr,rounds"]
    radius += ["--benchmark-sort", "name", "--benchmark-max-time", "0.2", "-k"]
    if trial:
        small = [*radius, "auto and 22"]
        return trial_steps(args, [*tests, *files], layer, whole, training, chain, codegen, small)
    temporal = [*layer, "--layer", "temporal"]
    if importlib.util.find_spec("xdist"):
        tests += ["-n", "8"]  # most of the time is compiling
    layer += ["--graphs", "128"]
    short, long = [*temporal, "--graphs", "128"], [*temporal, "--workload", "long", "--precision", "bf16", "tf32"]
    # One compiled network a step: a compilation of all layers takes a minute.
    peers = ["official", "efficient", "efficient_compiled"]
    whole += ["--graphs", "128", "--dtype", "mixed", "--repeats", "15", "--implementations", "ours", *peers]
    training += ["--graphs", "128", "--repeats", "7"]
    eager = ["--precision", "bf16", "tf32", "--implementations", "ours", "official", "efficient"]
    compiled = ["--precision", "bf16", "--implementations", "ours", "efficient_compiled"]
    chain += ["--graphs", "128", "--dtype", "mixed", "--repeats", "3", "--implementations", "ours", "official"]
    codegen += ["--width", "128"]
    return [
        Step("build", [*python, "bench.build_in_place"], 120),
        Step("tests", [*tests, *files, "-m", "gpu"], 200),
        Step("layer md", [*layer, "--workload", "md"], 100),
        Step("layer nbody", [*layer, "--workload", "nbody"], 80),
        Step("temporal md", [*short, "--workload", "md"], 110),
        Step("temporal nbody", [*short, "--workload", "nbody"], 80),
        Step("temporal long", long, 90),
        *sanitizer_steps(),
        Step("edges", [*layer, "--sweep", "edges", "--precision", "bf16", "fp32"], 60),
        Step("radius", [*radius, "(auto or table or all) and not 50000"], 40),
        Step("step md", [*whole, "--workload", "md", "--modes", "inference"], 90),
        Step("step nbody", [*whole, "--workload", "nbody", "--modes", "inference"], 90),
        Step("train nbody", [*training, "--workload", "nbody", *eager], 60),
        Step("train md", [*training, "--workload", "md", *eager], 60),
        Step("sample md", [*chain, "--workload", "md"], 60),
        Step("sample nbody", [*chain, "official_compiled", "--workload", "nbody"], 60),
        Step("codegen", codegen, 50),
        Step("step md training", [*whole, "--workload", "md", "--modes", "training"], 120),
        Step("step nbody training", [*whole, "--workload", "nbody", "--modes", "training"], 120),
        Step("train nbody compiled", [*training, "--workload", "nbody", *compiled], 150),
        Step("train md compiled", [*training, "--workload", "md", *compiled], 150),
    ]


# Of tests/test_cuda_temporal.py: a tile that is not full, padded columns, more than one block of frames.
SANITIZED = "test_sizes and (3-5-2-64-32 or 2-17-3-100-13 or 1-33-3-48-13)"


def sanitizer_steps() -> list[Step]:
    """The temporal kernels on small shapes under compute-sanitizer, where that is found."""
    folder = pathlib.Path(cuda_module.nvcc() or "nvcc").resolve().parent
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=folder)
    if program is None:
        return []
    # Without its cache torch gives every tensor memory of its own, whose ends memcheck knows.
    alone = ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", program, "--error-exitcode", "9"]
    alone += ["--kernel-regex", "kns=kernel_entry"]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda_temporal.py", "-m", "gpu"]
    return [
        Step(f"sanitizer {tool}", [*alone, "--tool", tool, *tests, "-k", SANITIZED], 90)
        for tool in ("memcheck", "racecheck")
    ]


def trial_steps(
    args: argparse.Namespace,
    tests: list[str],
    layer: list[str],
    whole: list[str],
    training: list[str],
    chain: list[str],
    codegen: list[str],
    radius: list[str],
) -> list[Step]:
    """The same programs, as small as they go."""
    import numpy as np

    gas = args.out / "trial.npz"
    np.savez(gas, R=np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32), z=np.ones(6, dtype=np.int64))
    layer += ["--trial", "--repeats", "1", "--limit", "1", "--threads", "1", "--precision", "bf16", "--sheet", "H100"]
    layer += ["--compiler", "aot_eager"]
    small = ["--graphs", "1", "--frames", "3", "--layers", "1", "--hidden-dim", "16", "--threads", "1"]
    small += ["--workload", "nbody", "--no-compile"]
    edges = ["--sweep", "edges", "--cutoffs", "1", "2", "--large", str(gas), "--directions", "forward"]
    return [
        Step("build", [sys.executable, "-m", "bench.build_in_place", "--dry-run"], 60),
        Step("tests", [*tests, "-k", "test_another_stream"], 60, interpreted=True),
        Step("layer nbody", [*layer, "--workload", "nbody"], 90, interpreted=True),
        Step("temporal nbody", [*layer, "--layer", "temporal", "--workload", "nbody"], 60, interpreted=True),
        Step("edges", [*layer, *edges], 60, interpreted=True),
        Step("radius", radius, 60),
        Step("step nbody", [*whole, *small, "--modes", "inference"], 60),
        Step("train nbody", [*training, *small, "--repeats", "1"], 60),
        Step("sample nbody", [*chain, *small, "--timesteps", "25", "--repeats", "1"], 60),
        Step("codegen", [*codegen, "--width", "32", "--precision", "bf16"], 60),
    ]


def capability(args: argparse.Namespace) -> str:
    """80, 90 or 100: the one of the GPU, or the nearest below that is known."""
    if not args.device.startswith("cuda"):
        return "90"
    import torch

    major, _ = torch.cuda.get_device_capability(args.device)
    return {8: "80", 9: "90"}.get(major, "100")
