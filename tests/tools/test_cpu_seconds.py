"""`pytest --cpu-seconds`: the costs of tests and of the programs that they start, added up by file."""

import os
import subprocess
import sys

import cpu_seconds
from places import TESTS

COSTS = """
import subprocess, sys, time
WORK = "import time; start = time.process_time()\\nwhile time.process_time() < start + 0.3: pass"
def test_itself(): exec(WORK)
def test_a_program_that_it_starts(): subprocess.run([sys.executable, "-c", WORK], check=True)
def test_that_waits(): time.sleep(0.5)
"""
PLUGIN = """
import pathlib, sys, pytest, cpu_seconds
sys.exit(pytest.main(sys.argv[2:], plugins=[cpu_seconds.CPUSeconds(pathlib.Path(sys.argv[1]))]))
"""


def test_work_counts_wherever_it_is_done_and_waiting_does_not(tmp_path):
    (tmp_path / "test_costs.py").write_text(COSTS)
    words = [sys.executable, "-c", PLUGIN, tmp_path / "costs", "-q", "-p", "no:cacheprovider", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(TESTS / "support")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("\t") for line in (tmp_path / "costs").read_text().splitlines()]
    costs = {test.partition("::")[2]: float(cost) for cost, test in lines}
    # A system that counts in ticks misses a few of them.
    assert costs["test_itself"] > 0.25 and costs["test_a_program_that_it_starts"] > 0.25
    assert costs["test_that_waits"] < 0.15
    assert "= CPU seconds =" in done.stdout and " 3 tests" in done.stdout


def test_the_table_adds_up_files():
    shown = cpu_seconds.table("1.50\ta.py::one\n2.00\tb.py::two\n0.75\ta.py::three[x::y]\n")
    assert [line.split() for line in shown] == [
        ["4.25", "3", "tests"],
        ["2.25", "a.py"],
        ["2.00", "b.py"],
        ["2.00", "b.py::two"],
        ["1.50", "a.py::one"],
        ["0.75", "a.py::three[x::y]"],
    ]
