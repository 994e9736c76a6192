"""A test after which the GPU does not answer ends its process, so that pytest-xdist starts another."""

import warm_python
from places import TESTS as FOLDER

# The real conftest.py, on a machine that has a GPU whose answer is what the test says.
TESTS = """
import pytest, torch

@pytest.fixture(autouse=True, params=["answers", "is lost"])
def gpu(request):
    def synchronize():
        if request.param == "is lost":
            raise RuntimeError("CUDA error: an illegal memory access was encountered\\nmore")
    torch.cuda.is_available, torch.cuda.synchronize = lambda: True, synchronize

def test_right(): pass

@pytest.mark.gpu
def test_wrong(): assert 1 + 1 == 3

def test_wrong_without_the_gpu(): assert 1 + 1 == 4
"""


def test_the_test_that_loses_the_device_is_named_and_ends_the_process(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text((FOLDER / "conftest.py").read_text())
    words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", str(tmp_path)]
    without_triton = {"TRITON_INTERPRET": "0"}
    run = lambda which: warm_python.run(*words, str(tmp_path), "-k", which, environment=without_triton)
    answers, lost = run("answers"), run("lost or answers")
    assert answers.returncode == 1 and "2 failed, 1 passed" in answers.stdout
    assert lost.returncode == 3 and "assert (1 + 1) == 3" in lost.stderr
    last = "the device is lost after test_some.py::test_wrong[is lost]: CUDA error: an illegal memory access was"
    assert lost.stderr.strip().splitlines()[-1].startswith(last)
