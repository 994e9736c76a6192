"""Undoes captured training steps that had no room for all edges of a graph by distance, and has them done again."""

import torch

from geotdm_fast.runtime.processes import Processes
from geotdm_fast.training.state import Progress
from geotdm_fast.training.step import TrainingStep


class Rewind:
    """Keeps the last point of a training at which no edge was missing, and goes back to it.

    A step in a CUDA graph cannot make room for more edges, and asking after every step whether there was room would
    make the host wait. So `settle` asks wherever the run reads sums or weights anyway: before a line of the log, a
    validation and a checkpoint. It costs nothing where edges do not go by distance, or where no process captures
    steps: then the room grows by itself. A process that gave captures up asks with the others, and goes back with them.
    """

    def __init__(self, step: TrainingStep, ours: Processes, progress: Progress):
        self._step, self._ours = step, ours
        self.keep(progress)

    def settle(self, progress: Progress) -> bool:
        """True if no edge was missing since the last call. Else weights and `progress` go back there: False."""
        if not self._step.may_overflow:
            return True
        (overflowed,) = self._ours.agree(int(self._step.overflowed()))
        if not overflowed:
            self.keep(progress)
            return True
        with torch.no_grad():
            for tensor, kept in zip(self._step.state, self._state, strict=True):
                tensor.copy_(kept)
        progress.step, progress.summed_steps = self._steps
        self._step.enlarge()
        return False

    def keep(self, progress: Progress) -> None:
        """Make the current weights and progress the point to go back to. No edge may be missing by now."""
        if self._step.may_overflow:
            self._state = [tensor.detach().clone() for tensor in self._step.state]
            self._steps = progress.step, progress.summed_steps
