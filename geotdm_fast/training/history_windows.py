"""Windows of data that are longer than the model's: blocks of history, and the block that is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from geotdm_fast.data import Batch
from geotdm_fast.task import Task


@dataclass(frozen=True)
class HistoryWindows:
    """How windows of data are cut into blocks, as a rollout cuts a trajectory.

    num_blocks: K - blocks of history before the one that is trained on
    num_given, num_frames: G and T of the model, whose first G frames are given

    A window has G + (K + 1) (T - G) frames. Block b = 0 ... K has its frames b (T - G) ... b (T - G) + T - 1.
    """

    num_blocks: int
    num_given: int
    num_frames: int

    @classmethod
    def of(cls, config: Mapping, length: int, name: str) -> "HistoryWindows":
        """Of data `name` whose windows have `length` frames, for `train.block_history`; one block where that is 0.

        Raises ValueError where `length` is not that of such a window.
        """
        blocks, network = config["train"].get("block_history", 0), config["denoise_model"]
        given = len(Task.of_config(config).given_frames)
        if blocks == 0:
            return cls(0, given, length)
        drawn, rest = divmod(length - given, blocks + 1)
        is_learned = network["learn_ref_frame"] and config["diffusion"].get("prior") in (None, "learned")
        wanted = network["num_w"] if is_learned else drawn
        if rest or drawn < 1 or drawn != wanted:
            each, total = "n", f"{given} + n x {blocks + 1} frames, n >= 1,"
            if is_learned:
                each, total = str(wanted), f"{given + (blocks + 1) * wanted} frames"
            raise ValueError(
                f"train.block_history {blocks} needs {total} of data.train ({name}): {given} given ones and {each} to "
                f"draw in each of {blocks + 1} blocks, got {length}; data.train.span or data.train.num_frames says how "
                "long windows are"
            )
        return cls(blocks, given, given + drawn)

    @property
    def step(self) -> int:
        """T - G: frames from the beginning of a block to that of the next one."""
        return self.num_frames - self.num_given

    def block(self, batch: Batch, number: int) -> Batch:
        """The frames of block `number` of a batch of whole windows. Launches alone: a CUDA graph may capture it."""
        return cut_frames(batch, number * self.step, self.num_frames)


def cut_frames(batch: Batch, first: int, count: int) -> Batch:
    """`batch` with `count` frames from `first` on: of x, and of what changes from frame to frame."""
    changes: dict[str, Any] = {"x": batch.x.narrow(-1, first, count).contiguous()}
    for name in ("h", "edge_attr"):
        value = getattr(batch, name)
        if value is not None and value.dim() == 3:
            changes[name] = value.narrow(-1, first, count).contiguous()
    if batch.cell is not None and batch.cell.shape[1] > 1:
        changes["cell"] = batch.cell.narrow(1, first, count).contiguous()
    return replace(batch, **changes)
