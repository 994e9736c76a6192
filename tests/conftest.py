"""What every test starts from: one thread, a known seed, torch's default dtype."""

import os

import pytest
import torch

# Before anything imports triton: where no GPU is in sight, its interpreter runs the kernels on CPU tensors.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config):
    # Tiny tensors are fastest on one thread, and the tests share the machine.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def known_seed():
    """The order of the tests changes no number."""
    torch.manual_seed(0)
