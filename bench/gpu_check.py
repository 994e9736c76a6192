"""Everything that a GPU is needed for, in one command: build, test, measure, and one table last."""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

from tools import cuda_module

ROOT = pathlib.Path(__file__).resolve().parent.parent
DESCRIPTION = """\
Build the compiled modules in place, run the tests that need a GPU, some of them under compute-sanitizer where it is
found, compile the kernels for it, measure, and print one table last: single layers, spatial and temporal, in bf16, tf32
and fp32 (ours, plain PyTorch eager and compiled), whole denoiser calls, whole chains of sampling, and time against
edges. Nothing is installed and no network is used. Every step is a process of its own with a budget of seconds: one
that fails, or is stopped at the end of its budget, is reported and the rest goes on. Results are written as they come.
The whole ends after --minutes; the steps stand in the order of their worth.

Exit status: 0, all was well; 1, a step failed; 2, there is no GPU or an option is wrong."""
EPILOG = """\
Files in DIR: gpu_check.log (what every step printed), gpu_check.jsonl (the steps), layer.jsonl, step.jsonl,
train.jsonl, sample.jsonl, gpu_codegen.json, radius_graph.json (neighbour searches, of pytest-benchmark), and
gpu_check.txt (the table).

  make gpu-check PY=python3 GPU_ARGS='--out results'
  python -m bench.gpu_check --steps tests layer                 some steps alone
  python -m bench.gpu_check --device cpu --trial --out DIR      every step on the CPU, tiny, in Triton's interpreter"""
# Imported by the steps: without the first nothing runs, without the others a step fails and says so.
NEEDED = ("torch", "numpy", "triton", "pytest", "ninja", "setuptools", "safetensors", "tqdm")
NOT_NEEDED = ("yaml", "matplotlib", "PIL", "scipy", "ase", "hypothesis")


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


def main(argv: list[str] | None = None) -> int:
    """Run the steps; the exit status of DESCRIPTION."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.trial and args.device != "cpu":
        parser.error("--trial is for --device cpu")
    why_not = why_no_device(args.device, args.trial)
    if why_not:
        print(f"gpu_check: error: {why_not}", file=sys.stderr)
        return 2
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    done = [environment_step(args)]
    write(args.out, done[0])
    lines = ("layer.jsonl", "step.jsonl", "train.jsonl", "sample.jsonl")
    starts = {name: _size(args.out / name) for name in lines}
    stop = time.monotonic() + args.minutes * 60
    for step in steps(args):
        if args.steps and step.name.split()[0] not in args.steps:
            continue
        step.budget = min(step.budget, stop - time.monotonic())
        if step.budget > 5:
            run(step, args.out / "gpu_check.log")
        write(args.out, step)
        print(f"{step.name}: {step.status}, {step.seconds:.0f} s", flush=True)
        done.append(step)
    text = table(done, read_from(args.out, starts))
    (args.out / "gpu_check.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(step.ok for step in done) else 1


def why_no_device(device: str, trial: bool) -> str | None:
    """Why nothing can run, in one line."""
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch"
    import torch

    if trial:
        return None
    if not device.startswith("cuda"):
        return f"--device {device} measures nothing worth keeping; with --trial it is a trial of this program"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} finds no usable GPU; --device cpu --trial tries this program without one "
            "(tiny, in Triton's interpreter)"
        )
    return None


def environment_step(args: argparse.Namespace) -> Step:
    """What there is: versions, the GPU, and packages that are missing."""
    start = time.monotonic()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    without = [name for name in NOT_NEEDED if importlib.util.find_spec(name) is None]
    step = Step("environment", [], 0, status="ok" if not missing else f"missing: {' '.join(missing)}")
    step.lines = gpu_lines(args.device)
    if without:
        step.lines.append(f"not there and not needed: {' '.join(without)}")
    print(*step.lines, f"environment: {step.status}", sep="\n", flush=True)
    step.seconds = time.monotonic() - start
    return step


def gpu_lines(device: str) -> list[str]:
    """Versions, and the GPU where there is one."""
    import torch

    versions = [f"Python {sys.version.split()[0]}", f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    for name in ("triton", "numpy"):
        if importlib.util.find_spec(name) is not None:
            versions.append(f"{name} {importlib.import_module(name).__version__}")
    lines = [", ".join(versions)]
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        lines.insert(
            0,
            f"{about.name}, compute capability {about.major}.{about.minor}, {about.multi_processor_count} "
            f"multiprocessors, {about.total_memory / 2**30:.0f} GiB; {torch.cuda.device_count()} in sight",
        )
    return lines


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


def run(step: Step, log: pathlib.Path) -> None:
    """Run the step's command until it ends or its budget does; its output goes to the log and into `step.lines`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONUNBUFFERED"] = "1"
    if step.interpreted:
        environment["TRITON_INTERPRET"] = "1"
    start = time.monotonic()
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n=== {step.name}: {' '.join(step.words)}\n")
        file.flush()
        begin = file.tell()
        process = subprocess.Popen(
            step.words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        # Whoever ends this program ends the step too.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            code = process.wait(step.budget)
            step.status = "ok" if code == 0 else f"failed, exit status {code}"
        except subprocess.TimeoutExpired:
            step.status = f"stopped after its {step.budget:.0f} s"
        finally:
            end(process)
            signal.signal(signal.SIGTERM, before)
    step.seconds = time.monotonic() - start
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(begin)
        step.lines = [line for line in file.read().splitlines() if line.strip()][-12:]


def end(process: subprocess.Popen) -> None:
    """End the process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def write(out: pathlib.Path, step: Step) -> None:
    """One line of gpu_check.jsonl."""
    from bench.record import append, commit, now

    row = {"benchmark": "gpu_check", "step": step.name, "status": step.status, "seconds": round(step.seconds, 1)}
    append(out / "gpu_check.jsonl", [row | {"lines": step.lines, "commit": commit(), "date": now()}])


def read_from(out: pathlib.Path, starts: dict[str, int]) -> list[dict]:
    """The rows that this run added."""
    rows = []
    for name, start in starts.items():
        if _size(out / name) > start:
            text = (out / name).read_bytes()[start:].decode()
            rows += [json.loads(line) for line in text.splitlines()]
    return rows


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def table(done: list[Step], rows: list[dict]) -> str:
    """The steps, what failed, and one table of every time."""
    from bench import layer_speed
    from bench.record import commit, now
    from geotdm_fast.tables import text_table

    parts = ["\n".join([*done[0].lines, f"commit {commit()}, {now()}"])]
    for step in done:
        if not step.ok:
            parts.append("\n".join([f"{step.name}: {step.status}", *(f"  {line}" for line in step.lines)]))
    layers = [row for row in rows if row["benchmark"] == "layer"]
    edges = [row for row in rows if row["benchmark"] == "edges"]
    if edges:
        parts.append(layer_speed.report_sweep(edges))
    calls = [step_cells(row) for row in rows if row["benchmark"] == "step" and "seconds" in row]
    if calls:
        columns = ["whole call", "mode", "dtype", "who", "ms", "x floor", "x best peer", "x official", "error"]
        parts.append(text_table(columns, calls))
    trained = [train_cells(row) for row in rows if row["benchmark"] == "train" and "seconds" in row]
    if trained:
        columns = ["training step", "precision", "who", "captured", "ms", "steps/s", "x best peer", "error"]
        parts.append(text_table(columns, trained))
    chains = [chain_cells(row) for row in rows if row["benchmark"] == "sample" and "seconds" in row]
    if chains:
        columns = [
            "sampling",
            "dtype",
            "who",
            "steps",
            "trajectories/s",
            "ms a step",
            "x best peer",
            "x official",
            "error",
        ]
        parts.append(text_table(columns, chains))
    parts.append("  ".join(f"{step.name} {step.seconds:.0f} s" for step in done))
    if layers:
        parts.append(layer_speed.report(layers))
    failed = [step.name for step in done if not step.ok]
    parts.append(f"NOT WELL: {', '.join(failed)}" if failed else "all was well")
    return "\n\n".join(parts)


def chain_cells(row: dict) -> list[str]:
    """A row of bench.sample for the table."""
    ratio = lambda key: f"{row[key]:.2f}" if key in row else ""
    return [
        f"W-{row['workload']}",
        row["dtype"],
        row["implementation"].replace("_", " "),
        str(row["steps"]),
        f"{row['trajectories_per_second']:.1f}",
        f"{row['ms_per_step']:.3f}",
        ratio("times_best_peer"),
        ratio("times_official"),
        f"{row['error']:.0e}",
    ]


def step_cells(row: dict) -> list[str]:
    """A row of bench.step for the table."""
    ratio = lambda key: f"{row[key]:.2f}" if key in row else ""
    return [
        f"W-{row['workload']}",
        row["mode"],
        row["dtype"],
        row["implementation"].replace("_", " "),
        f"{1e3 * row['seconds']:.3f}",
        f"{row['seconds'] / row['floor_seconds']:.2f}",
        ratio("times_best_peer"),
        ratio("times_official"),
        f"{row['error']:.0e}",
    ]


def train_cells(row: dict) -> list[str]:
    """A row of bench.train for the table."""
    return [
        f"W-{row['workload']}",
        row["precision"],
        row["implementation"].replace("_", " "),
        "yes" if row["captured"] else "",
        f"{1e3 * row['seconds']:.3f}",
        f"{row['steps_per_second']:.1f}",
        f"{row['times_best_peer']:.2f}" if "times_best_peer" in row else "",
        f"{row['error']:.0e}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = (
        "build",
        "tests",
        "layer",
        "temporal",
        "sanitizer",
        "edges",
        "radius",
        "step",
        "train",
        "sample",
        "codegen",
    )
    parser.add_argument("--steps", nargs="+", choices=names, metavar="NAME", help=f"these alone, of {' '.join(names)}")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ..., or cpu with --trial")
    parser.add_argument("--trial", action="store_true", help="tiny sizes on the CPU: a trial of this program")
    parser.add_argument("--minutes", type=float, default=8.5, help="the whole ends by then (default: %(default)s)")
    parser.add_argument(
        "--out", type=pathlib.Path, default=ROOT / "bench" / "results", metavar="DIR", help="default: bench/results"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
