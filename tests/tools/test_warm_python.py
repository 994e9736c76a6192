"""tests/support/warm_python.py: what it runs sees and says what a Python of its own would."""

import os
import signal
import time

import pytest
import warm_python
from warm_python import WarmPython

SAY = "import os, sys; print(sys.argv, os.environ['GIVEN'], 'torch' in sys.modules); os.write(2, b'down there')"


def test_arguments_environment_output_and_status(tmp_path):
    done = warm_python.run("-c", f"{SAY}; sys.exit(3)", "a", "--b", environment={"GIVEN": "x"})
    assert done == (3, "['-c', 'a', '--b'] x True\n", "down there")
    script = tmp_path / "script.py"
    script.write_text("import sys\nif __name__ == '__main__': print(sys.argv[1:])")
    assert warm_python.run(str(script), "c") == (0, "['c']\n", "")
    assert warm_python.run("-m", "geotdm_fast", "--version").stdout.startswith("geotdm")
    assert "GIVEN" not in os.environ


def test_a_variable_can_be_left_out(monkeypatch):
    monkeypatch.setenv("GIVEN", "x")
    code = "import os; print(os.environ.get('GIVEN'))"
    assert warm_python.run("-c", code).stdout == "x\n"
    assert warm_python.run("-c", code, environment={"GIVEN": None}).stdout == "None\n"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [("raise ValueError('wrong')", 1, "ValueError: wrong"), ("raise SystemExit('no')", 1, "no"), ("", 0, "")],
)
def test_how_it_ends(code, status, said):
    done = warm_python.run("-c", code)
    assert done.returncode == status and done.stderr.rstrip().endswith(said)


def test_hooks_are_called_at_its_end_and_not_where_it_leaves_at_once():
    code = "import atexit, os; atexit.register(print, 'hook'); print('begun'); "
    assert warm_python.run("-c", f"{code}raise SystemExit(2)") == (2, "begun\nhook\n", "")
    assert warm_python.run("-c", f"{code}os._exit(3)") == (3, "begun\n", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(signum):
    run = WarmPython("-c", "import time; print('begun'); time.sleep(60)")
    while not (run.stdout.exists() and run.stdout.read_text()):
        time.sleep(0.01)
    assert run.poll() is None
    run.send_signal(signum)
    assert run.wait() == (-signum, "begun\n", "")
    run.send_signal(signum)  # of one that has ended nothing happens


def test_one_that_does_not_end_is_killed():
    with pytest.raises(TimeoutError, match=r"after 0\.5 s it had not ended and said: here"):
        warm_python.run("-c", "import time; print('here'); time.sleep(60)", timeout=0.5)


def test_processes_together_know_one_another_and_end_when_one_fails():
    code = "import os; print(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')))"
    said = [done.stdout for done in warm_python.run_together(2, "-c", code)]
    assert said == ["0 0 2 127.0.0.1\n", "1 1 2 127.0.0.1\n"]
    failing = "import os, time\nif os.environ['RANK'] == '1': raise SystemExit(4)\ntime.sleep(60)"
    assert [done.returncode for done in warm_python.run_together(2, "-c", failing)] == [-signal.SIGTERM, 4]


def test_its_work_is_counted():
    before = warm_python.cpu_seconds()
    warm_python.run("-c", "import time\nwhile time.process_time() < 0.3: pass")
    assert warm_python.cpu_seconds() - before > 0.2
