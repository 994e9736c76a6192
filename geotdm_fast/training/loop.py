"""The training loop."""

import copy
import math
import pathlib
import time
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from geotdm_fast.config.ays_files import free_share
from geotdm_fast.config.diffusion_rules import time_power
from geotdm_fast.config.files import RECOMMENDED, normalise_config
from geotdm_fast.data.sections import open_datasets
from geotdm_fast.data.trajectory import TrajectoryDataset
from geotdm_fast.families import build_diffusion, is_ays
from geotdm_fast.runtime.bars import progress_bar, say
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.runtime.processes import ProcessDied, Processes, processes
from geotdm_fast.task import Task
from geotdm_fast.training.batches import BatchSource
from geotdm_fast.training.block_history import BlockHistory
from geotdm_fast.training.conditions import take_conditions
from geotdm_fast.training.context_noise import ContextNoise
from geotdm_fast.training.device_data import DeviceData
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.epochs import windows_of_epoch
from geotdm_fast.training.flat_weights import FlatWeights
from geotdm_fast.training.history_windows import HistoryWindows
from geotdm_fast.training.initial_weights import initial_network, load_initial_weights, load_structure_model
from geotdm_fast.training.loggers import check_logger
from geotdm_fast.training.objective import Objective, check_fits
from geotdm_fast.training.output import Output, held
from geotdm_fast.training.pairs import Pairs, pairs_of
from geotdm_fast.training.rewind import Rewind
from geotdm_fast.training.schedule import learning_rate, total_steps
from geotdm_fast.training.shares import shares_of
from geotdm_fast.training.state import Progress, fingerprint, load_state, save_state
from geotdm_fast.training.step import TrainingStep
from geotdm_fast.training.stopping import StopRequest
from geotdm_fast.training.streamed_data import data_for_training
from geotdm_fast.training.validation import Validation

# Where there are no validation data: training graphs whose loss chooses the best weights.
GRAPHS_TO_VALIDATE = 1024


def train(
    config: Mapping,
    *,
    output_dir: PathLike | None = None,
    device: torch.device | str | None = None,
    resume: bool = True,
    progress: bool = True,
    minutes: float | None = None,
) -> pathlib.Path:
    """Train a model as `config` says and return the path of the last checkpoint (`last.safetensors`).

    Objective: the mean over graphs of the mean over a graph's scored nodes of the diffusion loss; for models of Align
    Your Structures (`denoise_model.type`) the mean over all nodes. Adam; the gradient's norm clipped. On CUDA the step
    is a captured graph, of padded batches where graphs differ (`TrainingStep`). The run is a function of the config
    alone: the same seed gives the same order, diffusion steps and noise, whatever the number of processes and restarts
    (bit for bit on the CPU with the same number of threads and processes; sums round differently otherwise).

    config: as `geotdm_fast.config.files.load_config` returns it
    output_dir: default train.output_base_path/train.exp_name; it receives
        last.safetensors, best.safetensors (by validation), epoch_<n>.safetensors: weights for use (averaged if
        train.ema_decay > 0) with the config inside; state.safetensors: what a resume needs; log.jsonl; loss.png;
        config.yaml; with train.logger also tensorboard/ or wandb/, and logger.jsonl, what was sent there
    device: default cuda if there is one; under torchrun every process takes its own
    resume: go on from output_dir/state.safetensors if it is there; False starts anew and discards that run
    progress: show a progress bar
    minutes: stop after so many, as train.max_minutes does, but without a word: the caller has one
    Raises ValueError if the config does not fit the data or the run to be resumed, and if the loss is not finite;
    OSError if a file cannot be written (the earlier one stays), if another process is training into the folder, and
    if another process of this run has died; ImportError if the package of train.logger cannot be imported;
    SystemExit(128 + signal) after SIGINT, SIGTERM or SIGHUP, once a checkpoint is written.
    """
    config = normalise_config(config)
    check_logger(config["train"]["logger"])
    directory = pathlib.Path(output_dir or _default_directory(config["train"]))
    with processes(device) as ours:
        run = _Run(config, directory, ours, show=progress and ours.writes, minutes=minutes)
        with held(directory, ours):
            try:
                run.resume_or_start(resume)
                return run.loop()
            finally:
                run.output.close()


def _context_noise(config: Mapping, device: torch.device) -> ContextNoise | None:
    level = config["train"]["context_noise"]
    return ContextNoise(level, Task.of_config(config).given_frames, device) if level > 0 else None


def _block_history(
    config: Mapping, data: DeviceData, objective: Objective, windows: HistoryWindows
) -> BlockHistory | None:
    train = config["train"]
    if windows.num_blocks == 0:
        return None
    share, level = train["block_history_share"], train["block_history_level"]
    return BlockHistory(data, objective, windows, seed=train["seed"], share=share, level=level)


def _default_directory(train: Mapping) -> pathlib.Path:
    return pathlib.Path(train["output_base_path"]) / str(train["exp_name"])


class _Run:
    """One call of `train`: everything it holds, and its loop."""

    def __init__(
        self, config: dict, directory: pathlib.Path, ours: Processes, *, show: bool, minutes: float | None = None
    ):
        train = config["train"]
        self.config, self.train_config, self.ours, self.show = config, train, ours, show
        limits = [limit for limit in (minutes, train["max_minutes"]) if limit is not None]
        self.stop = StopRequest(min(limits, default=None))
        self.is_timed = minutes is not None
        sections = {f"data.{name}": config["data"].get(name) for name in ("train", "val")}
        # Together: a file of both is read once.
        datasets = open_datasets(
            {where: section for where, section in sections.items() if section is not None}, progress=show
        )
        pairs = {where: pairs_of(config, where.removeprefix("data."), data) for where, data in datasets.items()}
        datasets = {where: data if (own := pairs[where]) is None else own.dataset for where, data in datasets.items()}
        dataset = datasets["data.train"]
        take_conditions(config, dataset)
        num_noisy = check_fits(config, dataset, "train")
        data = data_for_training(dataset, ours.device)
        windows = HistoryWindows.of(config, data.num_frames, dataset.name)
        self.validation = self._make_validation(data, windows, datasets.get("data.val"), num_noisy, pairs)

        self.source = BatchSource(
            data,
            seed=train["seed"],
            batch_size=train["batch_size"],
            num_timesteps=config["diffusion"]["num_timesteps"],
            num_noisy=num_noisy,
            accumulate=train["accumulate"],
            rotate=train["rotate"],
            context=_context_noise(config, ours.device),
            windows=windows,
            time_power=time_power(config),
            shares=shares_of(config["data"]["train"], dataset),
            by_nodes=is_ays(config),
            free_share=free_share(config) if is_ays(config) else 0.0,
            pairs=pairs["data.train"],
            rank=ours.rank,
            world_size=ours.world_size,
        )
        self.per_epoch = -(-windows_of_epoch(config, dataset) // train["batch_size"])
        self.total = total_steps(train, self.per_epoch)
        self.fingerprint = fingerprint(dataset, with_atoms=config["data"]["train"].get("molecule") is not None)

        self.network = initial_network(config).to(ours.device)
        self.network.set_precision(train["precision"])
        average = copy.deepcopy(self.network) if train["ema_decay"] > 0 else None
        weights = FlatWeights(self.network)
        self.average = None if average is None else WeightAverage(average, weights, train["ema_decay"])
        self.for_use = self.network if average is None else average
        self.diffusion_for_use = build_diffusion(self.for_use, config, ours.device)
        objective = Objective(build_diffusion(self.network, config, ours.device), Task.of_config(config), data.boxes)
        # The sums of the step are read when the log is written: reading them makes the host wait.
        history = _block_history(config, data, objective, windows)
        self.step = TrainingStep(
            train, objective, weights, self.average, self.source, ours, history=history, say=self._say
        )

        self.output = Output(directory, config, writes=ours.writes)
        self.progress = Progress()
        self.rate = 0.0
        self.graphs = 0
        # A validation that a stop cut short and that a resumed run does anew.
        self.dropped: str | None = None

    def _make_validation(
        self,
        training_data: DeviceData,
        windows: HistoryWindows,
        dataset: TrajectoryDataset | None,
        num_noisy: int,
        pairs: Mapping[str, Pairs | None],
    ) -> Validation:
        at_most, own_windows = self.train_config["eval_graphs"], None
        if dataset is not None:
            if check_fits(self.config, dataset, "val") != num_noisy:
                came = dataset[0].num_frames
                raise ValueError(
                    f"data.val ({dataset.name}) must have the model's {windows.num_frames} frames, got {came}"
                )
            data = data_for_training(dataset, self.ours.device)
        else:
            data, at_most, own_windows = training_data, at_most or GRAPHS_TO_VALIDATE, windows
            if self.ours.writes:
                warnings.warn("no data.val: the best weights are chosen by the loss on training data", stacklevel=2)
        return Validation(
            data,
            self.config,
            num_noisy=num_noisy,
            processes=self.ours,
            max_graphs=at_most,
            windows=own_windows,
            pairs=pairs["data.train" if dataset is None else "data.val"],
        )

    def resume_or_start(self, resume: bool) -> None:
        """Go on from the state in the output folder, or make the folder anew."""
        path = self.output.state_path
        (found,) = self.ours.agree(int(self.ours.writes and resume and path.is_file()))
        if not found:
            self._take_initial_weights()
            self.output.start_anew()
            return
        self.progress, sums = load_state(path, self.step, self.config, self.fingerprint)
        if self.ours.writes:
            self.step.sums.copy_(sums)
        self.output.continue_from(self.progress)
        step, total = self.progress.step, self.total
        nothing_left = f"; its {total} steps are done" if total is not None and step >= total else ""
        self._say(f"resuming {self.output.directory} at step {step}{nothing_left}")
        if self.output.recommend():
            has = "that of this configuration" if RECOMMENDED in self.config else "left out, as in this configuration"
            self._say(f"{self.output.best_path}: its section {RECOMMENDED} is now {has}; its weights are the same")

    def _take_initial_weights(self) -> None:
        """Begin with the weights of `train.start_from` or `denoise_model.pretrain_ckpt`, in the average too."""
        if self.config["denoise_model"].get("pretrain_ckpt") is not None:
            load_structure_model(self.network, self.config)
        elif self.train_config["start_from"] is not None:
            load_initial_weights(self.network, self.train_config["start_from"], self.output.directory)
        else:
            return
        if self.average is not None:
            self.for_use.load_state_dict(self.network.state_dict())
        self.step.mark_changed()

    def loop(self) -> pathlib.Path:
        """Train to the end, or to a stop; either way with a checkpoint last."""
        try:
            return self._loop()
        except ProcessDied as error:
            last = self.output.checkpoint_step
            where = f"goes on from step {last}" if last else "begins anew"
            raise ProcessDied(f"{error}; the same command {where}") from error

    def _loop(self) -> pathlib.Path:
        self.log_time, seconds_before = time.monotonic(), self.progress.seconds
        began = self.log_time
        bar = progress_bar(
            total=self.total, initial=self.progress.step, desc="train", unit="step", disable=not self.show
        )
        self.rewind = Rewind(self.step, self.ours, self.progress)
        with bar, self.stop.listening():
            while True:
                self._validate_and_keep()
                step = self.progress.step
                reason, due = self.ours.agree(self.stop.reason(), int(self.output.checkpoint_due(step)))
                finished = self.total is not None and step >= self.total and self.dropped is None
                if (reason or due or finished) and not self.rewind.settle(self.progress):
                    continue
                if reason or due or finished:
                    self._checkpoint()
                if reason or finished:
                    # Nobody leaves before the checkpoint is written: torchrun ends the others once one has gone.
                    self.ours.agree(reason)
                    break
                if due:
                    self.output.draw_if_old()
                self._one_step()
                self.progress.seconds = seconds_before + time.monotonic() - began
                is_line = self.progress.step % self.train_config["log_every_step"] == 0
                if is_line and self.rewind.settle(self.progress):
                    bar.set_postfix(loss=f"{self._log_line():.4g}", refresh=False)
                    self.rewind.keep(self.progress)
                bar.update(self.progress.step - bar.n)
        if finished:
            self.output.finish()
            return self.output.last_path
        where = f"at step {step}" + ("" if self.dropped is None else f" in its {self.dropped}, which was dropped")
        by = "after train.max_minutes" if reason == StopRequest.TIME_UP else "by a signal"
        if reason != StopRequest.TIME_UP or not self.is_timed:
            self._say(f"stopped {by} {where}, checkpoint written; the same command goes on from there")
        if reason == StopRequest.TIME_UP:
            self.output.finish()
            return self.output.last_path
        # Who sent the signal may not wait for a picture.
        raise SystemExit(128 + reason)

    def _one_step(self) -> None:
        progress, number = self.progress, self.progress.step
        self.rate = learning_rate(self.train_config, number, self.per_epoch, self.total)
        self.step(self.source.training(number), self.rate, number + 1)
        progress.step = number + 1
        progress.summed_steps += 1
        self.graphs += self.source.global_size(number)

    def _log_line(self) -> float:
        """Write the means since the last line and return the loss; this waits for the device."""
        sums = self._finite_sums() / self.progress.summed_steps
        loss, norm = sums.tolist()
        now = time.monotonic()
        record = {
            "step": self.progress.step,
            "epoch": self._epoch(),
            "loss": loss,
            "lr": self.rate,
            "grad_norm": norm,
            "seconds": round(self.progress.seconds, 3),
            "graphs_per_second": round(self.graphs / max(now - self.log_time, 1e-9), 3),
        }
        self.output.log(self.progress, record)
        self.step.sums.zero_()
        self.progress.summed_steps = 0
        self.graphs, self.log_time = 0, now
        return loss

    def _finite_sums(self) -> Tensor:
        """The sums over all processes. Raises ValueError, before anything is overwritten, if they are not finite."""
        sums = self.ours.sum(self.step.sums)
        if not bool(torch.isfinite(sums).all()):
            raise ValueError(
                f"train: loss and gradient must be finite, got {sums.tolist()} (sums) by step {self.progress.step}; "
                f"the checkpoint before is kept ({self.output.state_path}); lower train.lr or look for bad data"
            )
        return sums

    def _validate_and_keep(self) -> None:
        """Validate and keep weights where they are due; a resumed run does it if the killed one had not."""
        progress, train = self.progress, self.train_config
        epoch, within = divmod(progress.step, self.per_epoch)
        ends_epoch = within == 0 and epoch > 0
        at_end = self.total is not None and progress.step == self.total
        for kind, every_step, every_epoch in self._validations():
            done = progress.validated_step if kind == train["eval"] else progress.nll_step
            by_steps = every_step is not None and progress.step % every_step == 0
            by_epochs = every_epoch is not None and ends_epoch and epoch % every_epoch == 0
            if (by_steps or by_epochs or at_end) and progress.step > done and self.dropped is None:
                if not self.rewind.settle(progress):
                    return
                self._validate(kind)
        keep_every = train["save_every_epoch"] if train["save_model"] else None
        if ends_epoch and keep_every is not None and epoch % keep_every == 0 and self.rewind.settle(progress):
            self.output.save_weights(f"epoch_{epoch}", self.for_use)

    def _epoch(self) -> int:
        """The epoch, from 1, of the last step done."""
        return (self.progress.step - 1) // self.per_epoch + 1

    def _validations(self) -> list[tuple[str, int | None, int | None]]:
        """Kind, and every how many steps and epochs: what chooses the best weights, and perhaps the NLL beside it."""
        train = self.train_config
        by_epochs = None if train["eval_every_step"] is not None else train["eval_every_epoch"]
        chosen = [(train["eval"], train["eval_every_step"], by_epochs)]
        return chosen if train["nll_every_step"] is None else [*chosen, ("nll", train["nll_every_step"], None)]

    def _validate(self, kind: str) -> None:
        progress, name = self.progress, f"val_{kind}"
        self.step.mark_changed()
        value = self.validation(self.for_use, self.diffusion_for_use, kind, stopped=self.stop.reason, show=self.show)
        if value is None:
            self.dropped = f"validation by the {kind}"
            return
        if not math.isfinite(value):
            raise ValueError(f"train: {name} must be finite, got {value} at step {progress.step}")
        self.output.log(progress, {"step": progress.step, "epoch": self._epoch(), name: value})
        if kind != self.train_config["eval"]:
            progress.nll_step = progress.step
            return
        progress.validated_step = progress.step
        if progress.best is None or value < progress.best:
            progress.best = value
            self.output.save_weights("best", self.for_use)

    def _checkpoint(self) -> None:
        sums = self._finite_sums()
        if self.ours.writes:
            self.output.save_weights("last", self.for_use)
            save_state(self.output.state_path, self.progress, sums, self.step, self.config, self.fingerprint)
        self.output.checkpointed(self.progress.step)

    def _say(self, text: str) -> None:
        if self.ours.writes:
            say(text)
