#!/usr/bin/env bash
# Triton 3.6.0's interpreter and numpy 2.4 or newer: a kernel whose loop ends at a number that it loaded raises
# TypeError; with numpy 2.3, or from Triton 3.9 on, it runs.
#
# The interpreter (TRITON_INTERPRET=1) holds scalars as arrays of one element and calls int() on them for the bounds of
# `tl.range`. numpy made that an error in 2.4 where the array has a dimension; before, it was a warning. Neither package
# states a bound for the other, so `pip install triton==3.6.0 numpy` gives a pair in which interpreted tests of kernels
# with such loops fail and all others pass.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/loop.py" <<'PYTHON'
import sys

import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def total(p_count, p_values, p_out):
    found = 0.0
    for i in tl.range(0, tl.load(p_count)):
        found += tl.load(p_values + i)
    tl.store(p_out, found)


out = torch.zeros(1)
try:
    total[(1,)](torch.tensor([3]), torch.arange(5.0), out)
    came = f"{out.item():g}"
except Exception as error:
    came = type(error).__name__ if "TypeError" not in str(error) and not isinstance(error, TypeError) else "TypeError"
    came = "TypeError" if isinstance(error.__cause__, TypeError) else came
print(f"triton {triton.__version__}, numpy {numpy.__version__}: {came}")
sys.exit(came != sys.argv[1])
PYTHON
try() {
  python3 -m venv "$folder/$1-$2"
  "$folder/$1-$2/bin/pip" install -q "torch==2.13.0" "triton==$1" "numpy==$2" 2> /dev/null
  TRITON_INTERPRET=1 "$folder/$1-$2/bin/python" -W ignore "$folder/loop.py" "$3"
}
try 3.6.0 2.3.5 3
try 3.6.0 2.4.2 TypeError
try 3.9.0 2.4.2 3
echo "as seen on 2026-11-27"
