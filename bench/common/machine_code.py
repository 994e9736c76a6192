"""Compiles a Triton kernel for a GPU that need not be there, and counts what is in its machine code."""

import collections
import pathlib
import re
import subprocess
import tempfile
from typing import NamedTuple

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", re.MULTILINE)
BYTES = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


class Counts(NamedTuple):
    """Registers, spilled bytes of a thread and shared bytes of a program; then what one warp executes.

    Of a kernel with a loop over neighbours or blocks, one turn of the loop. wgmma, mma, tcgen05: matrix instructions;
    special: all special functions, silu: tanh and exp among them; load_bytes: from global memory, a thread;
    fused: float multiply-adds in the whole code; late_fences: as `late_fences` of its PTX;
    unwritten: as `unwritten` of its code
    """

    registers: int
    spilled: int
    shared: int
    wgmma: int
    mma: int
    tcgen05: int
    special: int
    silu: int
    instructions: int
    load_bytes: int
    fused: int = 0
    late_fences: int = 0
    unwritten: int = 0


def compiled_counts(launch, capability: int) -> Counts:
    """Compile `launch` (bench.ops.codegen.Launch) for sm_<capability>."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [name for name, _ in launch.signature]
    constants = {(names.index(name),): value for name, value in launch.constants}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned}
    source = ASTSource(launch.kernel, dict(launch.signature), constants, attributes)
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options=dict(launch.options))
    usage, code = disassembled(kernel.asm["cubin"])
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    body = turn(code)

    def count(pattern):
        return sum(number for op, number in body.items() if re.match(pattern, op))

    return Counts(
        found["REG"],
        found["STACK"] + found["LOCAL"],
        kernel.metadata.shared,
        count(r"[HQ]GMMA"),
        count(r"[HQI]MMA"),
        count(r"UTC\w*MMA"),
        count("MUFU"),
        count(r"MUFU\.(TANH|EX2)"),
        sum(body.values()),
        sum(number * width(op) for op, number in body.items() if re.match(r"LDG(STS)?\b", op)),
        sum(bool(re.match("[FD]FMA", op)) for _, op, _ in code),
        late_fences(kernel.asm["ptx"]),
        unwritten(code) if capability == 90 else 0,
    )


def unwritten(code: list[tuple[int, str, str]]) -> int:
    """How often an instruction of sm_90 on uniform registers reads one that none before it wrote: the compiler's error.

    ptxas 12.8, which Triton 3.6 brings, does so with the descriptors of products whose rows in shared memory are 64
    bytes (32 of bfloat16): on an H100 such a product reads from anywhere. ptxas 12.9 and 13.0 do not.
    """
    written, found = {63}, 0  # URZ is no number
    for _, op, operands in code:
        registers = [int(number) for number in re.findall(r"\bUR(\d+)\b", operands)]
        if re.match(r"U[A-Z]|R2UR|S2UR", op) and registers and operands.strip().startswith("UR"):
            target, *sources = registers
            found += sum(source not in written for source in sources)
            written |= {target, target + 1} if re.search(r"\.64|WIDE", op) else {target}
    return found


def late_fences(ptx: str) -> int:
    """How many products of the matrix units read what threads stored in shared memory, with a fence behind the barrier.

    Every thread that stores a part of an operand must pass the fence before the barrier at which the others wait for
    it: that is what CUDA asks for. A fence behind the barrier orders a thread's own stores alone. (What cp.async copied
    needs none. No wrong result has been traced to the order.)
    """
    what = re.compile(
        r"(bar\.sync|barrier\.sync)|(fence\.proxy\.async)|(wgmma\.mma_async|tcgen05\.mma)|(st\.shared|stmatrix)|(^\$L__BB)",
        re.MULTILINE,
    )
    kinds = "".join("BFMSL"[found.lastindex - 1] for found in what.finditer(ptx))
    return sum("S" in before.split("L")[-1] and before.endswith("F") for before in re.split("M+", kinds)[:-1])


def width(op: str) -> int:
    """Bytes that a load moves for a thread."""
    return next((BYTES[part] for part in op.split(".") if part in BYTES), 4)


def disassembled(cubin: bytes) -> tuple[str, list[tuple[int, str, str]]]:
    """The resource report, and (address, operation, operands) of every instruction."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = dumped("--dump-resource-usage", file.name), dumped("-sass", file.name)
    return usage, instructions(code)


def instructions(code: str) -> list[tuple[int, str, str]]:
    """(address, operation, operands) of every line of machine code."""
    return [(int(address, 16), op, operands) for address, op, operands in LINE.findall(code)]


def dumped(option: str, cubin: str | pathlib.Path) -> str:
    """What the cuobjdump in Triton's wheel says of a file."""
    import triton

    cuobjdump = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([cuobjdump, option, cubin], check=True, capture_output=True, text=True, timeout=300).stdout


def turn(code: list[tuple[int, str, str]]) -> collections.Counter:
    """How often each operation is in one turn of the loop that holds the arithmetic; of the whole code without one."""
    loops = []
    for address, op, operands in code:
        to = re.search(r"0x([0-9a-f]+)", operands) if op.startswith("BRA") else None
        if to and int(to[1], 16) < address:
            loops.append((int(to[1], 16), address))
    bodies = [collections.Counter(op for address, op, _ in code if first <= address <= last) for first, last in loops]
    whole = collections.Counter(op for _, op, _ in code)

    def weight(body):
        return sum(number for op, number in body.items() if re.match(r"FFMA|\w*MMA|MUFU", op))

    # The smallest loop with most of the arithmetic; a loop that only waits for a barrier has none.
    heavy = [body for body in bodies if weight(body) > 0.5 * weight(whole)]
    return min(heavy, key=lambda body: sum(body.values()), default=whole)
