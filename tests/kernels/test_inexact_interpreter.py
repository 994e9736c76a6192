"""`pytest --inexact`: what it changes, and that kernels which must be exact do without what it changes."""

import interpreter
import pytest
import warm_python

pytestmark = pytest.mark.skipif(interpreter.why_broken() is not None, reason=f"{interpreter.why_broken()}")

CODE = """
import numpy as np, torch, triton, triton.language as tl

@triton.jit
def kernel(p_x, p_out, KIND: tl.constexpr):
    i = tl.arange(0, 256)
    x = tl.load(p_x + i)
    if KIND == 0:
        y = tl.exp(x)
    elif KIND == 1:
        y = 1 / x
    elif KIND == 2:
        y = tl.sqrt(tl.abs(x))
    elif KIND == 3:
        y = x * 3 + 1
    else:
        y = inexact_interpreter._tanh(x)
    tl.store(p_out + i, y)

import inexact_interpreter
inexact_interpreter.install()
x = torch.cat([torch.zeros(1), torch.randn(255, generator=torch.Generator().manual_seed(0))])
x[1:9] *= torch.logspace(-8, -1, 8)
exact = [torch.exp(x), 1 / x, x.abs().sqrt(), x * 3 + 1, x.tanh()]
for kind, expected in enumerate(exact):
    out, again = torch.empty(256), torch.empty(256)
    kernel[(1,)](x, out, kind)
    kernel[(1,)](x, again, kind)
    error = ((out - expected).abs() / expected.abs())[1:]
    print(float(error.max() * 2**24), int((error > 0).sum()), float(out[0]), bool(torch.equal(out, again)))
"""


def test_functions_are_off_by_an_ulp_and_sums_and_zeros_are_not(tmp_path):
    file = tmp_path / "inexact_case.py"  # triton reads a kernel's source from its file
    file.write_text(CODE)
    done = warm_python.run(file, environment={"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    exp, division, root, line, tanh = (row.split() for row in done.stdout.splitlines())
    for (error, changed, at_zero, same), value in ((exp, 1), (division, float("inf")), (root, 0)):
        assert 0.5 < float(error) < 4 and 100 < int(changed) <= 255 and same == "True"
        assert float(at_zero) == pytest.approx(value, rel=1e-6)
    assert float(line[0]) < 1.5
    assert 2**10 < float(tanh[0]) < 2**13 + 8 and float(tanh[2]) == 0
