"""What `torch.compile` is told about functions that it cannot trace."""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def constant_in_graphs(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, without its import of all of dynamo: that costs as much as torch itself.

    A graph that `torch.compile` traces keeps what `function` returned while it was traced.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # what dynamo itself sets
    return function
