"""What tests of the ops share."""

import pytest
import torch


@pytest.fixture
def no_gradients():
    """As in sampling; random numbers are of one seed."""
    torch.manual_seed(0)
    with torch.no_grad():
        yield
