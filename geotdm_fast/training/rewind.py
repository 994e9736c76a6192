"""Captured steps that found no room for all edges of a graph by distance are undone, and done again with more."""

import torch

from geotdm_fast.runtime.processes import Processes
from geotdm_fast.training.state import Progress
from geotdm_fast.training.step import TrainingStep


class Rewind:
    """Where a run goes back to: the last step at which all edges had room.

    A step that is a CUDA graph cannot make room, and reading at once whether there was any would make the host wait. So
    `settle` is asked wherever the run reads its sums or weights anyway: before a line of the log, a validation, a
    checkpoint. Costs nothing where the network has no graph by distance, or steps are not captured: rules grow then.
    """

    def __init__(self, step: TrainingStep, ours: Processes, progress: Progress):
        self._step, self._ours = step, ours
        self.keep(progress)

    def settle(self, progress: Progress) -> bool:
        """Whether all edges had room since the last time; where not, `progress` and the weights go back to it."""
        if not self._step.may_overflow:
            return True
        (overflowed,) = self._ours.agree(int(self._step.objective.overflowed()))
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
        """Go back to here, where it must be: all edges had room so far."""
        if self._step.may_overflow:
            self._state = [tensor.detach().clone() for tensor in self._step.state]
            self._steps = progress.step, progress.summed_steps
