#!/usr/bin/env bash
# The ptxas that Triton 3.6.0 brings (12.8.93), sm_90: where an operand's rows are 64 bytes in shared memory, a chain of
# matrix products comes out with descriptors made from a uniform register that nothing wrote.
#
# A product on sm_90 (wgmma) finds its operands in shared memory by 64-bit descriptors, whose upper half says how rows are
# swizzled. Triton adds a constant to a base for every step of 16. For rows of 64 bytes (32 numbers of bfloat16) the
# constant has its highest bit set, and this ptxas takes both halves of the sum from a register that is written nowhere
# before. The PTX is right: ptxas 12.9.86, which Triton 3.9.0 brings, makes right code of the same kernel.
#
# Seen on an H100 with larger kernels of that kind: gradients off by a few percent up to a factor of two, other bits in
# every run, and now and then an illegal memory access. Twice as many rows a program, or half as many channels a step,
# and all was right. Nothing is reported at compile time. This script needs no GPU: it reads the machine code.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/registers.py" <<'PYTHON'
import pathlib
import re
import subprocess
import sys
import tempfile

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def chained(p_weight, p_input, p_output, ROWS: tl.constexpr):
    o_out, o_row = tl.arange(0, 128)[:, None], tl.arange(0, ROWS)[None, :]
    weight = tl.load(p_weight + o_out * 128 + tl.arange(0, 128)[None, :])
    first = tl.dot(weight, tl.load(p_input + o_row * 128 + o_out))
    middle = (first * tl.sigmoid(first)).to(tl.bfloat16)
    tl.store(p_output + o_row * 128 + o_out, tl.dot(weight, middle))


def unwritten(rows):
    kinds = {"p_weight": "*bf16", "p_input": "*bf16", "p_output": "*fp32", "ROWS": "constexpr"}
    source = ASTSource(chained, kinds, {(3,): rows}, {(i,): [["tt.divisibility", 16]] for i in range(3)})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8, "num_stages": 1})
    tools = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        code = subprocess.run([tools / "cuobjdump", "-sass", file.name], capture_output=True, text=True).stdout
    written, found = {63}, 0
    for operation, operands in re.findall(r"\*/\s+((?:U[A-Z]|R2UR|S2UR)[\w.]*)\s+(UR[^;]*);", code):
        target, *sources = map(int, re.findall(r"\bUR(\d+)\b", operands))
        found += sum(register not in written for register in sources)
        written |= {target, target + 1} if ".64" in operation or "WIDE" in operation else {target}
    version = subprocess.run([tools / "ptxas", "--version"], capture_output=True, text=True).stdout
    print(f"triton {triton.__version__}, ptxas {re.search(r'V([0-9.]+)', version)[1]}, {2 * rows} bytes a row: "
          f"{found} reads of uniform registers that nothing wrote")
    return found


expected = {"3.6.0": (True, False), "3.9.0": (False, False)}[triton.__version__]
sys.exit(tuple(unwritten(rows) > 0 for rows in (32, 64)) != expected)
PYTHON
for version in 3.6.0 3.9.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q "triton==$version" 2> /dev/null
  TRITON_CACHE_DIR="$folder/cache-$version" "$folder/$version/bin/python" -W ignore "$folder/registers.py"
done
echo "as seen on 2026-11-27"
