"""`make gpu-dry`: what it runs is there, and what fails is named."""

import re
import sys

from places import ROOT

from bench import gpu_dry, gpu_variants
from bench.gpu_dry import Step


def test_its_steps_name_tests_and_options_that_there_are(tmp_path):
    *tests, variants = gpu_dry.steps(tmp_path, ["--capability", "80", "90"])
    for step in tests:
        files = [word for word in step.words if word.startswith("tests/")]
        assert files and all((ROOT / file).is_file() for file in files)
    args = gpu_variants._parser().parse_args(variants.words[variants.words.index("bench.gpu_variants") + 1 :])
    assert args.capability == [80, 90] and args.compile and not args.recorded_alone
    recorded = [step.words[step.words.index("--record-launches") + 1] for step in tests[:2]]
    assert [str(path) for path in args.launches] == recorded


def test_a_step_that_fails_is_named_and_the_rest_runs(capsys, monkeypatch):
    code = lambda text: [sys.executable, "-c", text]
    looks = "import os; print('TRITON_INTERPRET' in os.environ, repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    made = [Step("paths", code("print('one')")), Step("inexact", code("print('why'); raise SystemExit(3)"))]
    made += [Step("fused", code("sum(range(10**6))")), Step("variants", code(looks))]
    monkeypatch.setattr(gpu_dry, "steps", lambda folder, arguments: made)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert gpu_dry.main([]) == 1
    shown = capsys.readouterr().out
    assert "--- paths\none\npaths: ok (" in shown and "--- inexact\nwhy\ninexact: FAILED (" in shown
    assert "--- variants\nFalse ''\nvariants: ok (" in shown
    assert re.search(r"gpu-dry: FAILED: inexact \(\d+ s\)$", shown.rstrip())
    made[1] = Step("inexact", code("pass"))
    assert gpu_dry.main([]) == 0 and "gpu-dry: all is well" in capsys.readouterr().out
