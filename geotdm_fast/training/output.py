"""The files of a run, and when they are due. Only the writing process touches the disk."""

import contextlib
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping

from torch import nn

from geotdm_fast.checkpoint import replace_section, save_checkpoint
from geotdm_fast.config.files import RECOMMENDED, write_yaml
from geotdm_fast.runtime.files import remove_leftovers
from geotdm_fast.runtime.folder_lock import locked
from geotdm_fast.runtime.processes import Processes
from geotdm_fast.training.log import JsonLines, cut_log
from geotdm_fast.training.loggers import Logger
from geotdm_fast.training.state import STATE_FILE, Progress

SECONDS_BETWEEN_CURVES = 60.0
# Everything that a run writes, each aside first.
_NAMES = (
    *(f"{stem}.safetensors" for stem in ("state", "last", "best", "epoch_*")),
    *("config.yaml", "log.jsonl", "logger.jsonl", "loss.png"),
)


@contextlib.contextmanager
def held(directory: pathlib.Path, ours: Processes) -> Iterator[None]:
    """Make the output folder and hold it for a run, with all its processes, against other runs.

    What killed runs left half-written is removed. Raises OSError on every process when another run is in it.
    """
    with contextlib.ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(locked(directory, "training into"))
            remove_leftovers(directory, _NAMES)

        ours.from_first(hold)
        yield


class Output:
    """The output folder of a run.

    directory: where the files go
    config: the run's configuration in normal form; it also goes into every checkpoint
    writes: False on all processes but one
    checkpoint_step: the step of the last checkpoint, 0 before the first
    """

    def __init__(self, directory: pathlib.Path, config: Mapping, *, writes: bool):
        self.directory = directory
        self.config = config
        self.writes = writes
        self.state_path = directory / STATE_FILE
        self.last_path = directory / "last.safetensors"
        self.best_path = directory / "best.safetensors"
        self.log_path = directory / "log.jsonl"
        self._log = JsonLines(self.log_path)
        self._logger: Logger | None = None
        self._checkpoint_time = time.monotonic()
        self.checkpoint_step = 0
        self._curve_time = self._checkpoint_time

    def start_anew(self) -> None:
        """Make the folder and take away what an earlier run left there under our names."""
        if not self.writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in (self.state_path, self.log_path, self.last_path, self.best_path):
            path.unlink(missing_ok=True)
        write_yaml(self.directory / "config.yaml", self.config)
        self._logger = Logger(self.directory, self.config, is_new=True)

    def continue_from(self, progress: Progress) -> None:
        """Cut the log back to what the checkpoint knows, and send the logger what it lacks of that."""
        self.checkpoint_step = progress.step
        if self.writes:
            kept = cut_log(self.log_path, progress.log_records)
            write_yaml(self.directory / "config.yaml", self.config)
            self._logger = Logger(self.directory, self.config, is_new=False)
            for record in kept:
                self._logger.write(record)

    def recommend(self) -> bool:
        """Have best.safetensors of the earlier run recommend what the configuration does; True where it did not.

        No better validation may come, after which it would be written anew. A damaged file stays, with a warning.
        """
        if not self.writes or not self.best_path.is_file():
            return False
        try:
            return replace_section(self.best_path, RECOMMENDED, self.config.get(RECOMMENDED))
        except ValueError as error:
            warnings.warn(f"its section {RECOMMENDED} stays as it is: {error}", stacklevel=2)
            return False

    def log(self, progress: Progress, record: Mapping) -> None:
        """Append a record to log.jsonl, send it to the logger, and count it."""
        progress.log_records += 1
        if self.writes:
            self._log.write(record)
        if self._logger is not None:
            self._logger.write(record)

    def save_weights(self, stem: str, network: nn.Module) -> None:
        """Write `<stem>.safetensors`: weights for use with the configuration inside."""
        if self.writes:
            save_checkpoint(self.directory / f"{stem}.safetensors", network, self.config)

    def checkpoint_due(self, step: int) -> bool:
        """Whether steps or minutes since the last checkpoint ask for one. The clock is the writing process's."""
        train = self.config["train"]
        every, minutes = train["checkpoint_every_steps"], train["checkpoint_every_minutes"]
        if step == self.checkpoint_step:
            return False
        by_steps = every is not None and step % every == 0
        return by_steps or (
            self.writes and minutes is not None and time.monotonic() - self._checkpoint_time >= 60 * minutes
        )

    def checkpointed(self, step: int) -> None:
        """Note that a checkpoint was written."""
        self._checkpoint_time = time.monotonic()
        self.checkpoint_step = step

    def draw_if_old(self) -> None:
        """Draw the curve after a checkpoint if the last one is old."""
        if self._checkpoint_time - self._curve_time >= SECONDS_BETWEEN_CURVES:
            self._draw()

    def close(self) -> None:
        """Close the log and the logger."""
        try:
            if self._logger is not None:
                self._logger.close()
        finally:
            self._log.close()

    def finish(self) -> None:
        """Draw the last curve."""
        self._draw()

    def _draw(self) -> None:
        if self.writes and self.log_path.is_file() and self.log_path.stat().st_size > 0:
            from geotdm_fast.plots.loss import plot_loss
            from geotdm_fast.plots.style import literal

            title = f"Training: {literal(self.config['train']['exp_name'])}"
            self._curve_time = time.monotonic()
            try:
                plot_loss(self.log_path, self.directory / "loss.png", title=title)
            except (OSError, ValueError) as error:  # no reason to stop a run: the curve is in the log
                warnings.warn(f"no loss curve: {error}", stacklevel=2)
