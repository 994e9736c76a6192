"""How the process of a stopped command ends: everything written, its own exit status, and at once."""

import os
import signal
import subprocess
import sys

import pytest
import warm_python
from tiny_training import log_of, tiny_config

from geotdm_fast.checkpoint import load_tensors
from geotdm_fast.config.files import write_yaml

# A hook of `atexit` is called where the interpreter is taken down.
HOOK = """
import atexit, os, pathlib, signal, sys, time
def hook():
    pathlib.Path({mark!r}).touch()
    time.sleep({seconds})
atexit.register(hook)
from geotdm_fast.cli import command
"""
# What is printed into a pipe is written when its buffer is full, or at the end.
DOCTOR = """
import geotdm_fast.doctor
def report():
    print("half a report")
    {act}
geotdm_fast.doctor.report = report
sys.argv = ["geotdm", "doctor"]
command()
"""
# The run is stopped within its validation; the CPU time by then goes into a file.
TRAINING = """
from geotdm_fast.training import loop
validate = loop.Validation.__call__
def stopped(*arguments, **more):
    pathlib.Path({mark!r} + ".cpu").write_text(str(time.process_time()))
    os.kill(os.getpid(), signal.{name})
    return validate(*arguments, **more)
loop.Validation.__call__ = stopped
sys.argv = ["geotdm", "train", {config!r}, "--out", {out!r}, "--threads", "1", "--device", "cpu", "--quiet"]
command()
"""


def _run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("act", "status", "said"),
    [
        ("signal.raise_signal(signal.SIGTERM)", 143, "geotdm doctor: stopped by SIGTERM\n"),
        ("signal.raise_signal(signal.SIGHUP)", 129, "geotdm doctor: stopped by SIGHUP\n"),
        ("raise KeyboardInterrupt", 130, "geotdm doctor: interrupted\n"),
        ("raise SystemExit(143)", 143, ""),  # as a training says that it was stopped
    ],
)
def test_a_stopped_process_ends_at_once_with_what_it_printed(tmp_path, act, status, said):
    mark = tmp_path / "taken_down"
    done = _run(HOOK.format(mark=str(mark), seconds=100) + DOCTOR.format(act=act))
    assert (done.returncode, done.stdout, done.stderr) == (status, "half a report\n", said)
    assert not mark.exists()


@pytest.mark.parametrize(("act", "status"), [("return 'all'", 0), ("raise ValueError('x')", 2)])
def test_a_process_that_nobody_stopped_is_taken_down_as_ever(tmp_path, act, status):
    mark = tmp_path / "taken_down"
    done = _run(HOOK.format(mark=str(mark), seconds=0) + DOCTOR.format(act=act))
    assert done.returncode == status and done.stdout.startswith("half a report\n")
    assert mark.exists()


def test_a_reader_that_has_gone_changes_no_exit_status(tmp_path):
    code = HOOK.format(mark=str(tmp_path / "mark"), seconds=100)
    code += DOCTOR.format(act="os.close(1); signal.raise_signal(signal.SIGTERM)")
    assert _run(code).returncode == 143


def test_a_key_pressed_before_the_command_is_known_is_a_line():
    done = _run("import geotdm_fast.cli as cli\ndef main(): raise KeyboardInterrupt\ncli.main = main\ncli.command()")
    assert (done.returncode, done.stderr) == (130, "geotdm: interrupted\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_training_stopped_within_a_validation_writes_its_checkpoint_and_ends(tmp_path, name):
    # One of them in an interpreter of its own, where it is known what its end costs.
    config, out, mark = tmp_path / "tiny.yaml", tmp_path / "out", tmp_path / "taken_down"
    write_yaml(config, tiny_config(checkpoint_every_steps=None))
    code = HOOK.format(mark=str(mark), seconds=100)
    code += TRAINING.format(mark=str(mark), name=name, config=str(config), out=str(out))
    if name == "SIGTERM":
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True) as run:
            _, status, used = os.wait4(run.pid, 0)
            run.returncode = returncode = os.waitstatus_to_exitcode(status)
            said = run.stderr.read().decode()
        by_the_signal = float(mark.with_suffix(".cpu").read_text())
        assert used.ru_utime + used.ru_stime - by_the_signal < 2.0
    else:
        returncode, _, said = warm_python.run("-c", code)
    assert returncode == 128 + getattr(signal, name), said
    assert "at step 4 in its validation by the loss, which was dropped, checkpoint written" in said
    assert not mark.exists()
    load_tensors(out / "state.safetensors")
    assert [record["step"] for record in log_of(out)] == [3]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml", "last.safetensors", "log.jsonl", "state.safetensors",
    ]  # fmt: skip
