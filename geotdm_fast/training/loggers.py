"""The records of log.jsonl in TensorBoard or Weights & Biases: every number once, over all restarts of a run."""

import contextlib
import importlib
import pathlib
import secrets
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from geotdm_fast.runtime.packages import how_to_install
from geotdm_fast.training.log import JsonLines, cut_log

# What each logger imports; the extra of this package that brings it has the logger's name.
_IMPORTS = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}
EVENTS = "tensorboard"
SENT = "logger.jsonl"


def check_logger(name: str) -> None:
    """ImportError that names the package and the extra, where the package of `train.logger` cannot be imported."""
    if name == "none":
        return
    try:
        importlib.import_module(_IMPORTS[name])
    except Exception as error:  # of a damaged or ill-matched installation anything
        raise ImportError(
            f"train.logger: {name} needs the package {name}, which cannot be imported ({_told(error)}): "
            f"{how_to_install(name)}"
        ) from error


class Sink(Protocol):
    """Where numbers go."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run; a restart adds a file, and TensorBoard reads all of them.

    text: the configuration, at the start of a new run; None later
    """

    def __init__(self, directory: pathlib.Path, text: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory / EVENTS))
        if text is not None:
            # Markdown shows indented lines as they are.
            self._writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a kill must not cost what is waiting

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases with the id `run_id`, which a restart goes on with; its files are in `wandb`.

    Project and account are those of the variables WANDB_PROJECT, WANDB_ENTITY, ..., which the package reads itself.
    """

    def __init__(self, directory: pathlib.Path, config: Mapping, run_id: str):
        import wandb

        self._run = wandb.init(
            id=run_id,
            resume="allow",
            name=str(config["train"]["exp_name"]),
            dir=str(directory),
            config=dict(config),
            allow_val_change=True,  # a restart may go on for longer
            reinit="create_new",  # a run of the caller's is not ours
            settings=wandb.Settings(console="off"),  # what we print is for a terminal
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # The step is a number among the others: the service drops a record whose own step is not its next one, and a
        # run that was resumed may still lack the validation of the step at which it had stopped.
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class Logger:
    """Sends records to the logger of `train.logger`; a failure after the start is a warning, and the run goes on.

    directory: the output folder of the run, with its config.yaml; its file logger.jsonl says what was sent, step by
        step
    config: the run's configuration in normal form
    is_new: whether the run begins now. Then an error of the logger's start is raised; of a restart it is a warning

    A restart is given all records that the checkpoint knows of, and repeats the steps behind it. A record is noted in
    logger.jsonl before it is sent, and what is noted is not sent again, so no number is there twice. What is not
    noted, because the logger had failed before or was another one, is sent then. What is noted and did not arrive
    stays missing: the record at which the logger failed or the run was killed, and of Weights & Biases also what its
    own process had not yet written to the disk when it was killed with the run.
    """

    def __init__(self, directory: pathlib.Path, config: Mapping, *, is_new: bool):
        self._name = str(config["train"]["logger"])
        self._sink: Sink | None = None
        self._sent: set[tuple[int, str]] = set()
        self._id = secrets.token_hex(4)
        self._ledger = JsonLines(directory / SENT)
        if is_new:
            _forget(directory)
        try:
            self._sink = self._open(directory, config, is_first=not self._read_ledger())
        except Exception as error:
            if is_new:
                raise ValueError(f"train.logger: {self._name} must start, got {_told(error)}") from error
            self._give_up(f"did not start ({_told(error)})")

    def _read_ledger(self) -> bool:
        """Take up what was sent by this logger before; whether it was anything.

        The file is written anew, since the next record would be lost behind a line that a kill left half-written.
        """
        earlier = [record for record in cut_log(self._ledger.path) if record.get("logger") == self._name]
        self._sent = {(record["step"], name) for record in earlier for name in record.get("names", ())}
        self._id = str(earlier[-1].get("id")) if earlier else self._id
        return bool(earlier)

    def _open(self, directory: pathlib.Path, config: Mapping, *, is_first: bool) -> Sink | None:
        if self._name == "tensorboard":
            text = (directory / "config.yaml").read_text(encoding="utf-8") if is_first else None
            return TensorBoard(directory, text)
        return WeightsAndBiases(directory, config, self._id) if self._name == "wandb" else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of a record that were not sent before."""
        if self._sink is None:
            return
        step = record["step"]
        numbers = {name: value for name, value in record.items() if type(value) in (int, float) and name != "step"}
        values = {name: value for name, value in numbers.items() if (step, name) not in self._sent}
        if not values:
            return
        try:
            self._ledger.write({"step": step, "names": list(values), "logger": self._name, "id": self._id})
            self._sent.update((step, name) for name in values)
            self._sink.write(step, values)
        except Exception as error:  # whatever it is, a run of days does not end for it
            self._give_up(f"failed at step {step} ({_told(error)})")

    def close(self) -> None:
        """Finish what is sent. Later records are passed over."""
        sink, self._sink = self._sink, None
        try:
            self._ledger.close()
            if sink is not None:
                sink.close()
        except Exception as error:
            self._give_up(f"failed in the end ({_told(error)})")

    def _give_up(self, how: str) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            # A run of Weights & Biases that is left open holds its id until the process ends.
            with contextlib.suppress(Exception):
                sink.close()
        warnings.warn(
            f"train.logger: {self._name} {how}; the training goes on without it, and log.jsonl has every number",
            stacklevel=4,
        )


def _forget(directory: pathlib.Path) -> None:
    """Remove what an earlier run left in the folder. Runs of Weights & Biases stay: each has its own id."""
    for path in [directory / SENT, *(directory / EVENTS).glob("events.out.tfevents.*")]:
        path.unlink(missing_ok=True)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
