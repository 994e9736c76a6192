#!/usr/bin/env bash
# PyTorch 2.13.0: `once_differentiable` does not keep `torch.autograd.grad` from second derivatives. They are wrong,
# without an error, wherever the result also depends on the input by another path, as a residual does.
#
# The decorator is meant to raise when a backward that has no graph is differentiated. It hangs the error on a node
# behind the gradients, but that node leads to no input. `Tensor.backward()` visits every node and raises;
# `torch.autograd.grad(outputs, inputs)` visits those alone that lead to `inputs`, passes the node over, and returns the
# part of the second derivative that the other paths give. In a residual y = x + f(x) with f(x) = x^3, the gradient of
# |grad y^2|^2 at x = 1 should be 1792; what comes back is 256.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/twice.py" <<'PYTHON'
import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


def first_and_input(cube):
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    y = x + cube(x)
    return torch.autograd.grad(y.square(), x, create_graph=True)[0], x


def second(cube):
    first, x = first_and_input(cube)
    return torch.autograd.grad(first.square(), x)[0].item()


right, came = second(lambda x: x**3), second(Cube.apply)
try:
    first_and_input(Cube.apply)[0].square().backward()
    told = "nothing"
except RuntimeError as error:
    told = "the error" if "once_differentiable" in str(error) else str(error)
print(f"torch {torch.__version__}: right {right:g}, autograd.grad gives {came:g}, backward() raises {told}")
raise SystemExit((right, told) != (1792.0, "the error") or came != 256.0)
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" numpy 2> /dev/null
"$folder/venv/bin/python" -W ignore "$folder/twice.py"
echo "as seen on 2026-11-27"
