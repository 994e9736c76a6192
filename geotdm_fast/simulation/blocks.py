"""The stretches that a run consists of; between two of them it can be stopped and go on."""

import numpy as np

from geotdm_fast.simulation.settings import MDRun
from geotdm_fast.simulation.state import Block

# Noise is drawn anew at the border of two blocks, so the trajectory depends on this number.
BLOCK_STEPS = 2000
# The friction, 1/ps, that brings the start to its temperature soon.
_FRICTION_AT_FIRST = 5.0
# A crystal of argon melts in a few ps at this many times the temperature of the liquid, in a quarter of `equilibrate`.
_MELT, _MELT_SHARE = 2.5, 0.25


def blocks(run: MDRun) -> list[Block]:
    """All blocks of a run in their order. Frames are kept from those of the stage `simulate` alone.

    The seed of a block depends on the run's and on the block's number. So a run with more frames begins with those of
    one with fewer, but for the last block's.
    """
    steps = round(run.equilibrate / run.timestep)
    melting = round(_MELT_SHARE * steps) if run.system == "argon" else 0
    friction = max(run.friction, _FRICTION_AT_FIRST)
    barostat = run.ensemble == "npt"
    of_stage = [
        *_lengths("melt", melting, _MELT * run.temperature, friction, False),
        *_lengths("equilibrate", steps - melting, run.temperature, friction, barostat),
    ]
    in_block = max(1, BLOCK_STEPS // run.steps_per_frame)
    for first in range(0, run.num_frames, in_block):
        frames = min(in_block, run.num_frames - first)
        of_stage.append(
            Block("simulate", frames, frames * run.steps_per_frame, run.temperature, run.friction, barostat, 0)
        )
    return [block._replace(seed=block_seed(run.seed, number)) for number, block in enumerate(of_stage, start=1)]


def block_seed(seed: int, number: int) -> int:
    """The seed of a block from the run's seed and the block's number; number 0 is the start.

    It is from 1 to 2^31 - 1: OpenMM's seeds are of 32 bits with a sign, and 0 asks it for a seed that nobody knows.
    """
    return 1 + int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % (2**31 - 1)


def _lengths(stage: str, steps: int, temperature: float, friction: float, barostat: bool) -> list[Block]:
    """Blocks without frames for so many steps."""
    return [
        Block(stage, 0, min(BLOCK_STEPS, steps - first), temperature, friction, barostat, 0)
        for first in range(0, steps, BLOCK_STEPS)
    ]
