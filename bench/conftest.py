"""Options of the pytest-benchmark suites, and what stands in their JSON beside the times."""

import pytest
import torch

from bench.common import record


def pytest_addoption(parser):
    group = parser.getgroup("bench")
    group.addoption("--threads", type=int, default=None, help="threads of torch (default: its own choice)")
    group.addoption("--device", default="cpu", help="cpu (default) or cuda")


def pytest_configure(config):
    threads = config.getoption("--threads", default=None)
    if threads:
        torch.set_num_threads(threads)


@pytest.fixture
def device(request) -> torch.device:
    return torch.device(request.config.getoption("--device"))


def pytest_benchmark_update_machine_info(config, machine_info):
    found = record.context(config.getoption("--device", default="cpu"))
    machine_info.update({"geotdm_fast": found})
