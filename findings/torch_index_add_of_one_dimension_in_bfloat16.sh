#!/usr/bin/env bash
# PyTorch 2.13.0 on the CPU: sums of bfloat16 rows by an index stop at 256, or do not, by the shape and by the spelling.
#
# `index_add` of a vector [M] adds up in bfloat16, so 300 ones make 256 (float16: 3000 make 2048); of the same numbers as
# a matrix [M, 1] it adds up exactly, and so do `scatter_add`, `sum` and `cumsum`. On the way back `x[index]` adds up in
# bfloat16 in any shape, `x.index_select(0, index)` does not. So a degree counted by ones in the features' dtype, and the
# gradient of nodes with more than 256 neighbours, are wrong without a word, while the sum of the messages is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/sums.py" <<'PYTHON'
import torch


def sums(dtype, count):
    index, one = torch.zeros(count, dtype=torch.int64), torch.ones(count, 1, dtype=dtype)
    zero = torch.zeros(1, 1, dtype=dtype)

    def gradient(take):
        value = torch.ones(2, 3, dtype=dtype, requires_grad=True)
        take(value).sum().backward()
        return value.grad[0, 0].item()

    return {
        "index_add of a vector": zero[0].index_add(0, index, one[:, 0]).item(),
        "index_add of a matrix": zero.index_add(0, index, one).item(),
        "scatter_add of a vector": zero[0].scatter_add(0, index, one[:, 0]).item(),
        "gradient of x[index]": gradient(lambda x: x[index]),
        "gradient of index_select": gradient(lambda x: x.index_select(0, index)),
    }


low, half = sums(torch.bfloat16, 300), sums(torch.float16, 3000)
for name in low:
    print(f"torch {torch.__version__}, {name}: bfloat16 {low[name]:g} of 300, float16 {half[name]:g} of 3000")
raise SystemExit([*low.values()] != [256, 300, 300, 256, 300] or [*half.values()] != [2048, 3000, 3000, 2048, 3000])
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" numpy 2> /dev/null
"$folder/venv/bin/python" -W ignore "$folder/sums.py"
echo "as seen on 2026-11-27"
