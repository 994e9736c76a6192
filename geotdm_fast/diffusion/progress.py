"""Progress over the steps of a chain."""

from collections.abc import Callable, Iterable, Iterator

# False, True for a bar of the steps, or what to call after every step.
Progress = bool | Callable[[], object]


def falling_steps(num_steps: int, progress: Progress) -> Iterable[int]:
    """num_steps - 1, ..., 0, with progress."""
    steps = range(num_steps - 1, -1, -1)
    if not progress:
        return steps
    if callable(progress):
        return _announced(steps, progress)
    from geotdm_fast.runtime.bars import progress_bar

    return progress_bar(steps, desc="diffusion", unit="step")


def _announced(steps: Iterable[int], after_each: Callable[[], object]) -> Iterator[int]:
    for step in steps:
        yield step
        after_each()
