#!/usr/bin/env bash
# PyTorch 2.13.0: the first `backward(gradient)` or `autograd.grad(..., grad_outputs)` of a process imports sympy, on the
# CPU and without any compiler in use. A gradient that torch makes itself, of a number, does not.
#
# autograd compares the shape of a gradient that it is given with the shape of the output by a function of the compiler's
# module of symbolic shapes, and that module imports sympy. The first such call takes half a second (.9 s on a busy core),
# where the backward itself takes .2 ms. `(output * gradient).sum().backward()` gives the same gradients, bit for bit, and
# imports nothing. Short programs pay it unseen, and so does an `autograd.Function` whose backward differentiates a formula.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/first.py" <<'PYTHON'
import sys
import time

import torch

x = torch.linspace(0.1, 3, 50, requires_grad=True)
gradient = torch.linspace(-1, 1, 50)
torch.sin(x).sum().backward()  # autograd's own start
x.grad = None


def first(differentiate):
    begin = time.perf_counter()
    found = differentiate()
    return found, "sympy" in sys.modules, time.perf_counter() - begin


summed, before, quick = first(lambda: torch.autograd.grad((torch.sin(x) * gradient).sum(), x)[0])
given, after, slow = first(lambda: torch.autograd.grad(torch.sin(x), x, gradient)[0])
same = torch.equal(summed, given)
print(f"torch {torch.__version__}: sum imports sympy: {before}; given gradient: {after}; same bits: {same}")
print(f"first calls: {1e3 * quick:.2f} ms and {1e3 * slow:.0f} ms")
raise SystemExit((before, after, same) != (False, True, True))
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" numpy 2> /dev/null
"$folder/venv/bin/python" -W ignore "$folder/first.py"
echo "as seen on 2026-11-29"
