"""What every test starts from: one thread, a known seed, torch's default dtype."""

import gc
import os
import pathlib
import signal
import sys

import interpreter
import pytest
import torch
from cpu_seconds import CPUSeconds
from lost_device import stop_where_the_device_is_lost
from places import ROOT

# bench/ and tools/ are no part of the installed package, which comes first.
sys.path.append(str(ROOT))
from recorded import Recorded

# Before anything imports triton: where no GPU is in sight, its interpreter runs the kernels on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Before cuBLAS starts: what it wants for tests under `torch.use_deterministic_algorithms`.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

DEVICES = [
    pytest.param(
        "cpu",
        marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="Triton's interpreter runs where no GPU is in sight"
        ),
    ),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no usable GPU"),
        ],
    ),
]


def pytest_addoption(parser):
    parser.addoption("--inexact", action="store_true", help="Triton's interpreter with approximations as on a GPU")
    parser.addoption(
        "--record-launches", metavar="FILE", help="write every Triton launch there, for bench.gpu_variants"
    )
    parser.addoption(
        "--recorded",
        choices=["skip", "run", "write"],
        default="skip",
        help="tests that passed with the same files and versions: skip, run, or run them alone and record what passes",
    )
    parser.addoption("--cpu-seconds", metavar="FILE", help="write what each test costs there, and show what costs most")


def pytest_configure(config):
    # Started in the background or by nohup, Python ignores signals that tests of stops send.
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, usual)
    # Tiny tensors are fastest on one thread, and the tests share the machine; so do the programs that they start.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gathers = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not gathers:  # the process that others run the tests for needs no triton
        interpreter.spare_work()
    why = interpreter.why_broken()
    if why:
        interpreter.skip_launches(why)
    if config.option.inexact:
        from inexact_interpreter import install

        install()
    if config.option.record_launches:
        from launch_recorder import LaunchRecorder

        config.pluginmanager.register(LaunchRecorder(pathlib.Path(config.option.record_launches)))
    as_asked = not config.option.inexact and not config.option.record_launches
    config.pluginmanager.register(Recorded(config.option.recorded if as_asked else "run"))
    if config.option.cpu_seconds:
        path = pathlib.Path(config.option.cpu_seconds).absolute()
        if not hasattr(config, "workerinput"):
            path.write_text("")  # before the processes that share the tests add their lines
        config.pluginmanager.register(CPUSeconds(path))


def pytest_collection_finish():
    # What is there by now stays. Looking at all of it took each collection within a test a third of a second.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed and item.get_closest_marker("gpu") and torch.cuda.is_available():
        stop_where_the_device_is_lost(report)
    return report


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """Where Triton kernels run: on the GPU (`pytest -m gpu`), or in Triton's interpreter."""
    return request.param


@pytest.fixture(scope="session", autouse=True)
def no_waits_for_the_disk():
    """No machine loses its power in a test: what a killed process wrote is there without."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def real_curves():
    """The picture of a training takes a second: its file is left empty, but where a test asks for `curves`."""
    from geotdm_fast.training.output import Output

    def leave_empty(output):
        if output.writes:
            (output.directory / "loss.png").touch()

    with pytest.MonkeyPatch.context() as patched:
        draw = Output._draw
        patched.setattr(Output, "_draw", leave_empty)
        yield draw


@pytest.fixture
def curves(real_curves, monkeypatch):
    """Trainings draw their picture."""
    monkeypatch.setattr("geotdm_fast.training.output.Output._draw", real_curves)


@pytest.fixture(autouse=True)
def known_seed():
    """The order of the tests changes no number."""
    torch.manual_seed(0)
