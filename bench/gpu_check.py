"""Everything that a GPU is needed for, in one command: build, test, measure, and one table last."""

import argparse
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from bench import gpu_pack
from bench.gpu_steps import MORE_TO_DO, ROOT, TIERS, Step, steps

DESCRIPTION = """\
Build the compiled modules in place (or unpack them: `make gpu-pack`), run the tests that need a GPU, measure, and print
one table last, which ends with what was aimed at and what came. Nothing is installed and no network is used. Every step
is a process of its own with a budget of seconds: one that fails, or is stopped at the end of its budget, is reported
and the rest goes on. Each result is written as it is known. Steps stand in the order of their worth:

  tier 1   the tests, in workers; whole training and sampling steps of W-nbody and W-md in bf16, ours first, then the
           eager peers; their spatial and temporal layers (330 s at most)
  tier 2   temporal kernels under compute-sanitizer where that is found; sampling against compiled peers, and against
           torch_geometric where that is installed; Align Your Structures, time and memory; steps on mixed molecules of
           both families, captured and not; tests that want the GPU for themselves; other precisions, long trajectories,
           many edges, boxes (445 s at most)
  tier 3   the paper's model of charged particles in bf16, trained and sampled; compiled training (570 s at most; when
           it is asked for)

Exit status: 0, all was well; 1, a step failed, or one of ours was no CUDA graph; 2, no GPU, or an option is wrong."""
EPILOG = """\
At most seven files in DIR with the default tiers: gpu_check.log (what every step printed), gpu_check.jsonl (the
steps), train.jsonl, sample.jsonl, kernels.jsonl, layer.jsonl, and gpu_check.txt (the table). Tier 3 has
reproduce.jsonl besides.

  make gpu-check PY=python3 GPU_ARGS='--tier 1 --out results'
  python -m bench.gpu_check --steps tests layer                 some steps alone
  python -m bench.gpu_check --device cpu --trial --out DIR      every step on the CPU, tiny, in Triton's interpreter"""
# Imported by the steps: without the first nothing runs, without the others a step fails and says so.
NEEDED = ("torch", "numpy", "triton", "pytest", "ninja", "setuptools", "safetensors", "tqdm")
NOT_NEEDED = ("yaml", "matplotlib", "PIL", "scipy", "ase", "hypothesis")


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
    chosen = chosen_steps(parser, args)
    os.environ.update(surroundings(args))
    done = [environment_step(args)]
    write(args.out, done[0])
    starts = {name: _size(args.out / name) for name in ("train.jsonl", "sample.jsonl", "layer.jsonl")}
    stop = time.monotonic() + (
        60 * args.minutes if args.minutes is not None else sum(TIERS[tier] for tier in args.tier)
    )
    for step in chosen:
        if step.after and any(one.name == step.after and one.status == MORE_TO_DO for one in done):
            print(f"{step.name}: left out, {step.after} has more to do", flush=True)
            continue
        step.budget = min(step.budget, stop - time.monotonic())
        if step.budget > 5:
            run(step, args.out / "gpu_check.log")
        write(args.out, step)
        print(f"{step.name}: {step.status}, {step.seconds:.0f} s", flush=True)
        done.append(step)
    from bench.gpu_table import table, uncaptured  # it needs torch, whose absence is said above

    rows = read_from(args.out, starts)
    text = table(done, rows)
    (args.out / "gpu_check.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(step.ok for step in done) and not uncaptured(rows) else 1


def chosen_steps(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Step]:
    """The steps of the chosen tiers, of --steps those alone; a name that none of them has is an error of `parser`."""
    found = steps(args)
    there = {step.name.split()[0] for step in found}
    missing = [name for name in args.steps or () if name not in there]
    if missing:
        tiers = " ".join(map(str, args.tier))
        parser.error(f"--steps must be of the chosen tiers ({tiers}) and possible here, got {' '.join(missing)}")
    return [step for step in found if not args.steps or step.name.split()[0] in args.steps]


def surroundings(args: argparse.Namespace) -> dict[str, str]:
    """Variables of the steps that are not set: the GPU's architecture, Triton's packed cache, the packed commit."""
    found = {}
    if args.device.startswith("cuda"):
        import torch

        major, minor = torch.cuda.get_device_capability(args.device)
        found["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}" + ("a" if major == 9 else "")
    packed = gpu_pack.manifest()
    if packed:
        found |= {"TRITON_CACHE_DIR": str(gpu_pack.PACK / gpu_pack.CACHE), "GEOTDM_COMMIT": packed["commit"]}
    return {name: value for name, value in found.items() if name not in os.environ}


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
            if code == step.more_to_do:
                step.status = MORE_TO_DO
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
    from bench.common.record import append, commit, now

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
        "train",
        "sample",
        "kernels",
        "temporal",
        "layer",
        "sanitizer",
        "layers",
        "ays",
        "edges",
        "radius",
        "boxes",
        "charged",
    )
    parser.add_argument("--tier", nargs="+", type=int, choices=TIERS, default=(1, 2), help="default: 1 2")
    parser.add_argument("--steps", nargs="+", choices=names, metavar="NAME", help=f"these alone, of {' '.join(names)}")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ..., or cpu with --trial")
    parser.add_argument("--trial", action="store_true", help="tiny sizes on the CPU: a trial of this program")
    parser.add_argument("--minutes", type=float, help="the whole ends by then (default: what the tiers may take)")
    out = pathlib.Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    parser.add_argument("--out", type=pathlib.Path, default=out, metavar="DIR", help="default: $OUT, or bench/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
