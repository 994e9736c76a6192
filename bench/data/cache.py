"""Training on a file larger than memory beside training in memory: `python -m bench.data.cache`."""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import numpy as np

from bench.common import record

DESCRIPTION = """\
Makes a DCD trajectory of --gigabytes, a chain of carbon atoms that jitter, and trains on it by turns in processes of
their own, --seconds at a time: in memory on the first part of the file, with a cache on the same part, and with a cache
on the whole file. The two with a cache may have --limit GiB of memory of their own (RLIMIT_DATA, which also holds while
the cache is made; the pages of the file that the system keeps are not the process's own). Prints steps per second, the
ratio to memory of each turn's neighbours, and the memory of each process: the peak of all resident pages (VmHWM), and
of those of its own (RssAnon). The cache is put out of the system's memory first, so that windows come from the disk."""
ATOMS, SPAN, GIVEN = 200, 10, 4
BATCH = 16
BLOCK, VARIANTS = 1000, 7  # frames that are made at once, and how many such blocks differ
NAMES = ("memory", "cached part", "cached whole")
# What is made in the folder.
OWN = ("run.pdb", "run.dcd", "cache-part", "cache-whole")


def main(argv: list[str] | None = None) -> int:
    """Make the files, train in turn, print, add a line: 0, or 2 for a user's error."""
    args = _parser().parse_args(argv)
    if args.worker is not None:
        return work(args)
    try:
        return run(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return record.fail("bench.data.cache", error)


def run(args: argparse.Namespace) -> int:
    """Everything but what the processes that train do."""
    folder = pathlib.Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_own(folder)
    frames = make_file(folder, args.gigabytes)
    part = max(100, int(frames * min(1.0, args.part / args.gigabytes)))
    workers: dict[str, Worker] = {}
    ready: dict[str, dict] = {}
    try:
        for name in reversed(NAMES):  # they open their data side by side, the largest first
            workers[name] = Worker(args, name, frames if name == "cached whole" else part)
        for name in NAMES:
            ready[name] = one = workers[name].ready()
            print(f"{name}: {one['windows']} windows, opened in {one['seconds']:.1f} s", file=sys.stderr)
        if args.only_make:
            return 0
        for path in folder.glob("cache*/*/positions.npy"):
            _put_out(path)
        rates: dict[str, list[float]] = {name: [] for name in NAMES}
        for _ in range(args.rounds):
            for name in NAMES:
                rates[name].append(workers[name].train(args.seconds))
        memory = {name: worker.memory() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
        if not (args.keep or args.only_make):
            remove_own(folder)
    ratios = {name: float(np.median(np.array(rates[name]) / np.array(rates["memory"]))) for name in NAMES[1:]}
    row = {
        "benchmark": "cache",
        "gigabytes": args.gigabytes,
        "atoms": ATOMS,
        "span": SPAN,
        "batch": BATCH,
        "limit_gib": args.limit,
        "windows": {name: one["windows"] for name, one in ready.items()},
        "seconds_to_open": {name: round(one["seconds"], 2) for name, one in ready.items()},
        "steps_per_second": {name: float(np.median(own)) for name, own in rates.items()},
        "ratio_to_memory": ratios,
        "memory_mib": memory,
    }
    context = record.context("cpu")
    record.append(args.out, [row | context])
    print(record.describe(context), report(row), f"line added to {args.out}", sep="\n\n")
    return 0


def report(row: dict) -> str:
    """The table of a row."""
    lines = [f"{row['gigabytes']:g} GB, {ATOMS} atoms, windows of {SPAN} frames, batches of {BATCH}"]
    for name in NAMES:
        own = row["memory_mib"][name]
        peaks = f"at most {own['anonymous_peak']} MiB of its own, {own['resident_peak']} MiB resident"
        ratio = row["ratio_to_memory"].get(name, 1.0)
        lines.append(
            f"  {name:<13} {row['windows'][name]:>9} windows  {row['steps_per_second'][name]:6.2f} steps/s "
            f"({ratio:.3f} of memory)  {peaks}"
        )
    return "\n".join(lines)


def check_own(folder: pathlib.Path) -> None:
    """Raise ValueError where the folder has files of these names that are of something else."""
    pdb = folder / "run.pdb"
    is_ours = pdb.is_file() and pdb.read_bytes() == _topology().encode()
    others = [name for name in OWN if (folder / name).exists()]
    if others and not is_ours:
        raise ValueError(f"--folder: {folder} must have no {', '.join(others)} of something else")


def remove_own(folder: pathlib.Path) -> None:
    """Delete the files and caches of this program, and the folder if nothing else is in it."""
    for name in OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _rest() -> np.ndarray:
    """Where the atoms are at rest, [ATOMS, 3]."""
    rest = np.zeros((ATOMS, 3))
    rest[:, 0] = 1.5 * (np.arange(ATOMS) - ATOMS / 2)
    return rest


def _topology() -> str:
    """What `run.pdb` holds."""
    atom = "ATOM  {:5d}  C   GLY A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C"
    lines = [atom.format(i + 1, *place) for i, place in enumerate(_rest())]
    return "\n".join([*lines, "END", ""])


def make_file(folder: pathlib.Path, gigabytes: float) -> int:
    """`run.dcd` and `run.pdb` in the folder, if they are not there; the number of frames."""
    frames, rest = int(gigabytes * 1e9 / (12 * ATOMS)), _rest()
    (folder / "run.pdb").write_text(_topology())
    path = folder / "run.dcd"
    if path.is_file() and path.stat().st_size > 12 * ATOMS * frames:
        return frames
    header, frame = _layout(folder)
    block = np.repeat(frame, BLOCK)
    rng = np.random.default_rng(0)
    noise = (0.03 * rng.normal(size=(VARIANTS, 3, BLOCK, ATOMS)) + rest.T[:, None]).astype(np.float32)
    with open(path, "wb") as file:
        file.write(header[:8] + struct.pack("<i", frames) + header[12:])  # the number of frames is its third number
        for number in range(-(-frames // BLOCK)):
            for axis in range(3):  # no frame is an earlier one
                block[f"axis{axis}"] = noise[number % VARIANTS, axis] + np.float32(1e-4 * number)
            file.write(block[: frames - number * BLOCK].tobytes())
    return frames


def _layout(folder: pathlib.Path) -> tuple[bytes, np.ndarray]:
    """The header of a DCD file as MDTraj writes it, and one frame of it, [1], with its axes' positions."""
    from mdtraj.formats import DCDTrajectoryFile

    sizes, path = [], folder / "layout.dcd"
    for number in (1, 2):
        with DCDTrajectoryFile(str(path), "w") as file:
            file.write(np.zeros((number, ATOMS, 3), np.float32))
        sizes.append(path.stat().st_size)
    data, size = path.read_bytes(), sizes[1] - sizes[0]
    path.unlink()
    header = data[: sizes[1] - 2 * size]
    # Before the positions there may be a box; each axis is between its two lengths.
    record = 4 * ATOMS + 8
    offsets = [size - (3 - axis) * record + 4 for axis in range(3)]
    frame = np.frombuffer(bytearray(data[-size:]), np.uint8)
    axes = [(f"axis{axis}", "<f4", ATOMS) for axis in range(3)]
    kind = np.dtype(
        {"names": [n for n, *_ in axes], "formats": [(f, n) for _, f, n in axes], "offsets": offsets, "itemsize": size}
    )
    return header, frame.view(kind)


def _put_out(path: pathlib.Path) -> None:
    """Have the system forget the pages of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


class Worker:
    """A process that trains when it is told to."""

    def __init__(self, args: argparse.Namespace, name: str, frames: int):
        own = ["--worker", name, "--frames", str(frames), "--folder", args.folder, "--limit", str(args.limit)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.data.cache", *own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ready(self) -> dict:
        return self._answer()

    def train(self, seconds: float) -> float:
        """Steps per second."""
        return self._ask({"train": seconds})["rate"]

    def memory(self) -> dict:
        """Peaks in MiB."""
        return self._ask({"memory": True})

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, what: dict) -> dict:
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process that trains has ended with status {self._process.wait()}")
        return json.loads(line)


# --- in a process that trains -----------------------------------------------------------------------------------------


def work(args: argparse.Namespace) -> int:
    """Open the data, say so, then train as often as a line asks for it."""
    if args.worker != "memory":
        import resource

        limit = int(args.limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # MDTraj's DCD reader prints: answers go where standard output was, and what is printed to the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peak = Peak()
    begin = time.perf_counter()
    trainer = make_trainer(args)
    answer = lambda what: print(json.dumps(what), file=answers, flush=True)
    answer({"windows": len(trainer.source.data), "seconds": time.perf_counter() - begin})
    number = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if "memory" in asked:
            answer(peak.read())
            continue
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < asked["train"]:
            trainer(trainer.source.training(number), 1e-4, number + 1)
            done, number = done + 1, number + 1
        answer({"rate": done / (time.perf_counter() - begin)})
    return 0


def make_trainer(args: argparse.Namespace):
    """A `TrainingStep` on the data."""
    import copy

    import torch

    from geotdm_fast import EGTN, GeoTDM, LossType, ModelMeanType, ModelVarType
    from geotdm_fast.data import file_dataset
    from geotdm_fast.runtime.processes import Processes
    from geotdm_fast.task import Task
    from geotdm_fast.training.batches import BatchSource
    from geotdm_fast.training.ema import WeightAverage
    from geotdm_fast.training.flat_weights import FlatWeights
    from geotdm_fast.training.objective import Objective
    from geotdm_fast.training.step import TrainingStep
    from geotdm_fast.training.streamed_data import data_for_training

    torch.set_num_threads(1)
    folder = pathlib.Path(args.folder)
    cache = None if args.worker == "memory" else folder / f"cache-{args.worker.split()[1]}"
    about = {"topology": folder / "run.pdb", "frames": [0, args.frames], "span": SPAN, "max_hops": 1}
    dataset = file_dataset(folder / "run.dcd", cache=cache, **about, progress=True)
    item = dataset[0]
    torch.manual_seed(0)
    network = EGTN(2, item.h.shape[1], item.edge_attr.shape[1], 32, 16, "silu", True, 1, SPAN - GIVEN)
    copied, weights = copy.deepcopy(network), FlatWeights(network)
    kinds = ModelMeanType.EPSILON, ModelVarType.FIXED_LARGE, LossType.MSE
    objective = Objective(GeoTDM(network, "linear", 1000, *kinds, "cpu"), Task(given=[[0, GIVEN]]))
    source = BatchSource(
        data_for_training(dataset, "cpu"), seed=0, batch_size=BATCH, num_timesteps=1000, num_noisy=SPAN - GIVEN
    )
    settings = {"optimizer": "adam", "weight_decay": 0.0, "clip": 1.0, "accumulate": 1, "cuda_graph": False}
    average = WeightAverage(copied, weights, 0.999)
    return TrainingStep(settings, objective, weights, average, source, Processes(0, 1, torch.device("cpu")))


class Peak:
    """The most memory of this process's own, looked at twenty times a second in a thread."""

    def __init__(self):
        import threading

        self._anonymous = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._anonymous = max(self._anonymous, _status("RssAnon"))
            time.sleep(0.05)

    def read(self) -> dict:
        return {"anonymous_peak": self._anonymous // 1024, "resident_peak": _status("VmHWM") // 1024}


def _status(name: str) -> int:
    """A number of /proc/self/status, in KiB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.data.cache", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=8.0, help="of the file (default: 8)")
    parser.add_argument("--part", type=float, default=2.0, metavar="GB", help="of the file in memory (default: 2)")
    parser.add_argument("--limit", type=float, default=3.0, metavar="GIB", help="memory with a cache (default: 3)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn (default: 4)")
    parser.add_argument(
        "--folder", default="bench-cache", help="for the files, which are deleted at the end (default: bench-cache)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the files where they are")
    parser.add_argument("--only-make", action="store_true", help="make the files and the caches, and leave them there")
    parser.add_argument("--out", type=pathlib.Path, default=record.RESULTS / "cache.jsonl", help="JSON lines to add to")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
