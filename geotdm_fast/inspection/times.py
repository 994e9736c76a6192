"""Times of frames in words."""

import numpy as np

from geotdm_fast.data.times import unusual_steps


def times_in_words(times: np.ndarray, name: str = "times") -> str:
    """First, last, and how far apart; what is uneven or runs back is named with its first frame."""
    times = np.asarray(times, dtype=np.float64)
    if len(times) < 2:
        return f"{name} {', '.join(f'{t:g}' for t in times)}"
    steps = np.diff(times)
    usual, odd = unusual_steps(times)
    apart = usual if len(odd) else (times[-1] - times[0]) / len(steps)
    text = f"{name} {times[0]:g} to {times[-1]:g}, {apart:g} apart"
    if len(odd):
        back = " (runs back)" if steps[odd[0]] < 0 else ""
        more = f", and {len(odd) - 1} more such steps" if len(odd) > 1 else ""
        text += f", but from frame {odd[0]} to {odd[0] + 1} {steps[odd[0]]:g}{back}{more}"
    return text
