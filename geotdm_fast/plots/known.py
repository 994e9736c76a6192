"""The part of a rollout beside which the data stand."""

import warnings

from geotdm_fast.samples.record import Samples


def known_part(samples: Samples) -> Samples:
    """`samples` without the last frames of a rollout that goes on where the data end; a warning says how many.

    Raises ValueError where no frame that was drawn is known.
    """
    samples.check_target("plot")
    known = samples.until_known()
    left_out = samples.samples.shape[-1] - known.samples.shape[-1]
    if left_out:
        warnings.warn(f"plot: the last {left_out} frames, of which there is no truth, are left out", stacklevel=3)
    return known
