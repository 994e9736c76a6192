#!/usr/bin/env bash
# Triton 3.6.0 and 3.9.0, sm_90: between an operand's store to shared memory and the product that reads it, the proxy
# fence can come out behind the barrier.
#
# A product on sm_90 (wgmma) reads operands from shared memory through another proxy than the one that threads store
# with. CUDA asks every thread that stored to pass `fence.proxy.async` and then the barrier. Triton's compiler puts the
# fence right before the product, and a barrier only where none has come since the store. So the usual order is
#
#     store, fence, barrier, product        of an operand that is used right after it is made
#
# and where the kernel also stores the same numbers to global memory before the product, whose layout is changed through
# shared memory with barriers of its own, it is
#
#     store, barrier, fence, product
#
# Seen on an H100 with a kernel of four such products: results differed from run to run and were off by several percent;
# with the operands made right before their products, and nothing else changed, they were right and the same every time.
# Nothing is reported at compile time. This script needs no GPU: it compiles both orders and looks at the PTX.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/order.py" <<'PYTHON'
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def chained(p_weight, p_input, p_middle, p_output, STORES_BEFORE: tl.constexpr):
    o_out, o_row = tl.arange(0, 128)[:, None], tl.arange(0, 32)[None, :]
    weight = tl.load(p_weight + o_out * 128 + tl.arange(0, 128)[None, :])
    first = tl.dot(weight, tl.load(p_input + o_row * 128 + o_out))
    middle = (first * tl.sigmoid(first)).to(tl.bfloat16)
    if STORES_BEFORE:
        tl.store(p_middle + o_row * 128 + o_out, middle)
    second = tl.dot(weight, middle)
    tl.store(p_output + o_row * 128 + o_out, second)
    if not STORES_BEFORE:
        tl.store(p_middle + o_row * 128 + o_out, middle)


def order(stores_before):
    kinds = dict.fromkeys(("p_weight", "p_input", "p_middle"), "*bf16")
    source = ASTSource(chained, kinds | {"p_output": "*fp32", "STORES_BEFORE": "constexpr"}, {(4,): stores_before},
                       {(i,): [["tt.divisibility", 16]] for i in range(4)})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8, "num_stages": 1}).asm["ptx"]
    words = {"st.shared": "store", "stmatrix": "store", "bar.sync": "barrier", "fence.proxy.async": "fence",
             "wgmma.mma_async": "product"}
    found = [words[m[0]] for m in re.finditer("|".join(map(re.escape, words)), ptx)]
    found = [one for one, before in zip(found, [None, *found]) if one != before]
    end = len(found) - found[::-1].index("product")  # the second product
    return found[end - 3 : end]


came = {stores_before: order(stores_before) for stores_before in (False, True)}
print("triton", triton.__version__, *(f"stores before: {k}: ... {', '.join(v)}" for k, v in came.items()), sep="\n  ")
sys.exit(came != {False: ["fence", "barrier", "product"], True: ["barrier", "fence", "product"]})
PYTHON
for version in 3.6.0 3.9.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q "triton==$version" 2> /dev/null
  TRITON_CACHE_DIR="$folder/cache-$version" "$folder/$version/bin/python" -W ignore "$folder/order.py"
done
echo "as seen on 2026-11-27"
