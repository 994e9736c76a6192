#!/usr/bin/env bash
# Triton 3.9.0's interpreter refuses a store whose mask is a block of truths and a scalar truth: `mask & (number == 0)`
# raises ValueError('mask has unsupported dtype'). Triton 3.6.0's interpreter stores. (3.7 and 3.8 were not tried.)
#
# In both releases the mask's type is int1, and its data in numpy are int32 with the scalar, bool with a block: see the
# lines that are printed. 3.9.0 checks the data's type in a masked store, 3.6.0 does not.
# `mask & (tl.zeros([SIZE], tl.int32) + number == 0)`, where the scalar becomes a block before it is compared, passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/mask.py" <<'PYTHON'
import sys

import numpy
import torch
import triton
import triton.language as tl


told = []


@triton.jit
def mark(p_out, number, SIZE: tl.constexpr, IS_BLOCK: tl.constexpr):
    place = tl.arange(0, SIZE)
    if IS_BLOCK:
        mask = (place < 3) & (tl.zeros([SIZE], tl.int32) + number == 0)
    else:
        mask = (place < 3) & (number == 0)
    told.append(f"{mask.dtype} as {mask.handle.data.dtype}")
    tl.store(p_out + place, place, mask=mask)


def outcome(is_block):
    out = torch.full((4,), -1, dtype=torch.int32)
    try:
        mark[(1,)](out, 0, SIZE=4, IS_BLOCK=is_block)
        return f"mask {told[-1]}: {out.tolist()}"
    except Exception as error:
        return f"mask {told[-1]}: {error}"


scalar, block = outcome(False), outcome(True)
print(f"triton {triton.__version__}, numpy {numpy.__version__}: scalar {scalar}; block {block}")
sys.exit("[0, 1, 2, -1]" not in block or sys.argv[1] not in scalar)
PYTHON
python3 -m venv "$folder/venv"
try() {
  "$folder/venv/bin/pip" install -q torch==2.13.0 "triton==$1" numpy==2.3.5 2> /dev/null
  TRITON_INTERPRET=1 "$folder/venv/bin/python" -W ignore "$folder/mask.py" "$2"
}
try 3.6.0 "[0, 1, 2, -1]"
try 3.9.0 "mask has unsupported dtype"
echo "as seen on 2026-11-28"
