"""What nvcc makes of every CUDA kernel, without a GPU: `make cubins`, or `python -m bench.ops.cuda_codegen`.

Compiles csrc/cuda/*.cu for sm_80, sm_90a and sm_100, with warnings as errors, what has changed alone,
into build/cubin; then reads what ptxas said of each kernel and its machine code, and holds them to the limits of
cuda_codegen_limits.json. A run over all of them is recorded with what it was made from, so that the tests compile
nothing again before a source or the compiler changes.
"""

import argparse
import collections
import ctypes
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.common.limits import limit
from bench.common.machine_code import dumped, instructions
from bench.common.record import RESULTS, write_rows
from tools import cuda_module, ninja_build

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPABILITIES = ("80", "90a", "100")
LIMITS = pathlib.Path(__file__).with_name("cuda_codegen_limits.json")
RECORD = RESULTS / "cuda_codegen.json"
WARNINGS = "-Werror all-warnings -Xcompiler -Werror -Xptxas -v"
# Counted in the machine code: matrix products of warps and warpgroups, special functions, and accesses to shared and
# local memory.
COUNTED = ("HMMA", "HGMMA", "MUFU", "LDSM", "LDGSTS", "LDL", "STL")


class Usage(NamedTuple):
    """What ptxas says of a kernel, bytes and registers of a thread; shared: bytes of a block fixed at compile time."""

    registers: int
    spilled: int
    stack: int
    shared: int


def main(arguments: list[str] | None = None) -> int:
    """Compile and hold to the limits: 0; 1 where a limit is broken or nothing can be compiled."""
    args = parse(arguments)
    missing = cuda_module.what_is_missing()
    if missing:
        sys.exit(f"cuda_codegen: {missing}")
    try:
        rows = list(compiled(args.folder, args.file, args.capability))
    except subprocess.CalledProcessError as error:
        sys.exit(f"cuda_codegen: {error}")
    broken = over_limits(rows)
    print(*map(line, rows), sep="\n")
    if args.out and not args.file and set(args.capability) == set(CAPABILITIES):
        write_rows(args.out, rows, {"cuda": release(), "sources": sources_sha256()})
    print(*broken, f"{len(rows)} kernels compiled, {len(broken)} over a limit", sep="\n")
    return 1 if broken else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ops.cuda_codegen", description=__doc__.split("\n\n")[0])
    parser.add_argument("--capability", nargs="+", choices=CAPABILITIES, default=CAPABILITIES, metavar="SM")
    parser.add_argument("--file", default="", metavar="TEXT", help="the files alone whose names have it, e.g. bf16")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build" / "cubin", help=argparse.SUPPRESS)
    parser.add_argument(
        "--out", type=pathlib.Path, default=RECORD, help="written by a run over all kernels (default: %(default)s)"
    )
    parser.add_argument("--no-out", action="store_const", const=None, dest="out", help="write nothing")
    return parser.parse_args(arguments)


def recorded(path: pathlib.Path = RECORD) -> list[dict] | None:
    """The rows of the last run over all kernels; None where the sources, the options or this machine's nvcc are others.

    Without an nvcc the sources and the options decide alone.
    """
    table = json.loads(path.read_text())
    about = table["about"]
    same = about.get("sources") == sources_sha256() and about["cuda"] == (release() or about["cuda"])
    return table["rows"] if same else None


def sources_sha256() -> str:
    """Of all that the machine code is made from, beside the compiler: the device sources and the options."""
    sources = {path for suffix in ("cu", "cuh", "h") for path in cuda_module.FOLDER.rglob(f"*.{suffix}")}
    found = hashlib.sha256(repr((cuda_module.FLAGS, WARNINGS, CAPABILITIES)).encode())
    for path in sorted(path for path in sources if path.parent.name != "emulation"):
        found.update(repr((path.relative_to(cuda_module.FOLDER).as_posix(), path.read_text())).encode())
    return found.hexdigest()


def release() -> str | None:
    """`13.0.88` of this machine's nvcc, None without one."""
    program = cuda_module.nvcc()
    said = program and subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    number = re.search(r", V([\d.]+)", said or "")
    return number and number[1]


def compiled(folder: pathlib.Path, text: str, capabilities: Sequence[str]) -> Iterator[dict]:
    """A row for every kernel of the files whose names have `text`."""
    made = [(c, path) for c in capabilities for path in cuda_module.sources() if text in path.stem]
    name = lambda capability, path: f"sm_{capability}/{path.stem}.cubin"
    nvcc = f"{cuda_module.command()} -cubin {cuda_module.FLAGS} {WARNINGS} $more -MD -MF $out.d $in -o $out"
    # What ptxas says is kept beside what it made; of a file that does not compile it is shown.
    lines = ninja_build.rule("compile", f"{nvcc} > $out.txt 2>&1 || {{ cat $out.txt; exit 1; }}")
    for capability, path in made:
        options = f"-gencode=arch=compute_{capability},code=sm_{capability}"
        lines += ninja_build.edge(name(capability, path), "compile", [os.path.relpath(path, folder)], more=options)
    ninja_build.build(folder, lines, quiet=True)
    seconds = compile_seconds((folder / ".ninja_log").read_text())
    for capability, path in made:
        cubin = folder / name(capability, path)
        counts = counted(dumped("-sass", cubin))
        said = cubin.with_name(f"{cubin.name}.txt").read_text()
        serialized = said_to_be_serialized(said)
        for kernel, usage in said_of_kernels(said).items():
            called = readable(kernel)
            about = {"what": f"{path.stem} sm_{capability} {called}", "file": path.stem, "capability": capability}
            took = {"seconds": seconds[name(capability, path)]}
            yield (
                about
                | {"kernel": called, **usage._asdict(), **counts[kernel], "serialized": kernel in serialized}
                | took
            )


def said_of_kernels(text: str) -> dict[str, Usage]:
    """What `ptxas -v` printed of each kernel, by its mangled name."""
    found = {}
    for part in text.split("Compiling entry function '")[1:]:

        def number(pattern, part=part):
            return int((re.search(rf"(\d+) {pattern}", part) or [0, 0])[1])

        used = number("registers"), number("bytes spill stores"), number("bytes stack frame"), number("bytes smem")
        found[part.split("'")[0]] = Usage(*used)
    return found


def said_to_be_serialized(text: str) -> set[str]:
    """The kernels whose wgmma, as ptxas says, wait for one another: each for the registers of the one before."""
    return set(re.findall(r"wgmma\.mma_async instructions are serialized .* function '(\w+)'", text))


def counted(code: str) -> dict[str, dict[str, int]]:
    """How often each of COUNTED stands in the machine code of each kernel."""
    found = {}
    for part in re.split(r"^\s*Function : ", code, flags=re.MULTILINE)[1:]:
        body = collections.Counter(op.split(".")[0] for _, op, _ in instructions(part))
        found[part.split()[0]] = {op.lower(): body[op] for op in COUNTED} | {"instructions": body.total()}
    return found


def compile_seconds(log: str) -> dict[str, float]:
    """How long each output took when it was last made, of ninja's log."""
    lines = [line.split("\t") for line in log.splitlines() if not line.startswith("#")]
    return {name: (int(end) - int(start)) / 1000 for start, end, _, name, _ in lines}


def readable(mangled: str) -> str:
    """`Forward<128, true>` of a kernel, in the words of its source."""
    demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    demangle.restype = ctypes.c_char_p
    name = (demangle(mangled.encode(), None, None, None) or mangled.encode()).decode()
    kernel = re.search(r"kernel_entry<(.*)>\(", name)
    name = kernel[1] if kernel else re.sub(r"\(.*|^void ", "", name)
    return re.sub(r" $|geotdm::cuda::|\(anonymous namespace\)::|\([\w:]+\)(?=\d|true|false)", "", name)


def over_limits(rows: list[dict]) -> list[str]:
    """A line for each limit that a kernel breaks."""
    limits = json.loads(LIMITS.read_text())
    return [f"{row['what']}: {problem}" for row in rows for problem in problems(row, limits)] + wrong_units(rows)


def problems(row: dict, limits: dict) -> list[str]:
    """Which limits the kernel breaks. An exception's `where` has patterns: of `file`, `capability`, `kernel`."""

    def is_about(where):
        return all(re.search(pattern, row[key]) for key, pattern in where.items())

    found = []
    for name, about in (("spilled", "bytes a thread are spilled"), ("stack", "bytes a thread are on the stack")):
        allowed = limit(limits, name, is_about)
        if row[name] > allowed:
            found.append(f"{row[name]} {about}, over {allowed}")
    if row["serialized"]:
        found.append("its wgmma wait for one another")
    return found


def wrong_units(rows: list[dict]) -> list[str]:
    """Files of a precision whose kernels use no matrix units, and kernels of warpgroups without their products.

    Those of fp32 do use them, six products of bfloat16 for one.
    """
    matrix = collections.Counter()
    for row in rows:
        matrix[f"{row['file']} sm_{row['capability']}"] += row["hmma"]
    lacking = (what for what, count in matrix.items() if re.search("_(fp32|tf32|bf16)", what) and not count)
    of_warpgroups = (row for row in rows if row["kernel"].startswith("Warpgroup") and row["capability"] == "90a")
    without = [f"{row['what']}: no wgmma" for row in of_warpgroups if not row["hgmma"]]
    return [f"{what}: no matrix instruction" for what in lacking] + without


def line(row: dict) -> str:
    names = [*Usage._fields, *(op.lower() for op in COUNTED), "instructions", "seconds"]
    return f"{row['what']:70} " + " ".join(f"{name}={row[name]}" for name in names)


if __name__ == "__main__":
    sys.exit(main())
