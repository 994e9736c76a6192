"""The training loop."""

import copy
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from geotdm_fast.checkpoint import build_diffusion, build_network
from geotdm_fast.config import normalise_config
from geotdm_fast.data.open import open_dataset
from geotdm_fast.files import PathLike
from geotdm_fast.processes import Processes, processes
from geotdm_fast.training.batches import BatchSource, Noised, to_device
from geotdm_fast.training.ema import WeightAverage
from geotdm_fast.training.objective import Objective, check_fits
from geotdm_fast.training.output import Output
from geotdm_fast.training.schedule import learning_rate, total_steps
from geotdm_fast.training.state import Progress, fingerprint, load_state, save_state
from geotdm_fast.training.stopping import StopRequest
from geotdm_fast.training.validation import Validation


def train(
    config: Mapping,
    *,
    output_dir: PathLike | None = None,
    device: torch.device | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> pathlib.Path:
    """Train a model as `config` says and return the path of the last checkpoint (`last.safetensors`).

    Objective: the mean over graphs of the mean over a graph's scored nodes of the diffusion loss; Adam; the gradient's
    norm clipped. The run is a function of the config alone: the same seed gives the same order, diffusion steps and
    noise, whatever the number of processes and restarts (bit for bit on the CPU with the same number of threads and
    processes; sums round differently otherwise).

    config: as `geotdm_fast.config.load_config` returns it
    output_dir: default train.output_base_path/train.exp_name; it receives
        last.safetensors, best.safetensors (by validation), epoch_<n>.safetensors: weights for use (averaged if
        train.ema_decay > 0) with the config inside; state.safetensors: what a resume needs; log.jsonl; loss.png;
        config.yaml
    device: default cuda if there is one; under torchrun every process takes its own
    resume: go on from output_dir/state.safetensors if it is there; False starts anew and discards that run
    progress: show a progress bar
    Raises ValueError if the config does not fit the data or the run to be resumed, and if the loss is not finite;
    OSError if a file cannot be written (the earlier one stays); SystemExit(128 + signal) after SIGINT or SIGTERM,
    once a checkpoint is written.
    """
    config = normalise_config(config)
    directory = pathlib.Path(output_dir or _default_directory(config["train"]))
    with processes(device) as ours:
        run = _Run(config, directory, ours, resume=resume, show=progress and ours.writes)
        return run.loop()


def _default_directory(train: Mapping) -> pathlib.Path:
    return pathlib.Path(train["output_base_path"]) / str(train["exp_name"])


class _Run:
    """One call of `train`: everything it holds, and its loop."""

    def __init__(self, config: dict, directory: pathlib.Path, ours: Processes, *, resume: bool, show: bool):
        train = config["train"]
        self.config, self.train_config, self.ours, self.show = config, train, ours, show
        self.stop = StopRequest(train["max_minutes"])
        dataset = open_dataset(config["data"]["train"], where="data.train", progress=show)
        num_noisy = check_fits(config, dataset, "train")
        self.validation = self._make_validation(dataset, num_noisy)

        self.source = BatchSource(
            dataset,
            seed=train["seed"],
            batch_size=train["batch_size"],
            num_timesteps=config["diffusion"]["num_timesteps"],
            num_noisy=num_noisy,
            rank=ours.rank,
            world_size=ours.world_size,
        )
        self.total = total_steps(train, self.source.per_epoch)
        self.fingerprint = fingerprint(dataset)

        self.network = _initial_network(config).to(ours.device)
        self.network.set_precision(train["precision"])
        self.average = None
        if train["ema_decay"] > 0:
            self.average = WeightAverage(copy.deepcopy(self.network), self.network, train["ema_decay"])
        self.for_use = self.network if self.average is None else self.average.average
        self.diffusion_for_use = build_diffusion(self.for_use, config, ours.device)
        objective = Objective(self.network, build_diffusion(self.network, config, ours.device), train)
        self.objective = _distributed(objective, ours, self.source.training(0))
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=train["lr"], fused=True)

        self.output = Output(directory, config, writes=ours.writes)
        self.progress = Progress()
        # Loss and gradient norm since the last line of the log, on the device: reading them makes the host wait.
        self.sums = torch.zeros(2, dtype=torch.float64, device=ours.device)
        self.graphs = 0
        self._resume_or_start(resume)

    def _make_validation(self, training_data, num_noisy: int) -> Validation:
        section = self.config["data"].get("val")
        if section is not None:
            dataset = open_dataset(section, where="data.val", progress=self.show)
            if check_fits(self.config, dataset, "val") != num_noisy:
                raise ValueError(f"data.val must have {training_data[0].num_frames} frames as data.train")
            return Validation(dataset, self.config, num_noisy=num_noisy, processes=self.ours)
        if self.ours.writes:
            warnings.warn("no data.val: the best weights are chosen by the loss on training data", stacklevel=2)
        return Validation(training_data, self.config, num_noisy=num_noisy, processes=self.ours, max_graphs=1024)

    def _resume_or_start(self, resume: bool) -> None:
        path = self.output.state_path
        (found,) = self.ours.agree(int(self.ours.writes and resume and path.is_file()))
        if not found:
            self.output.start_anew()
            return
        average = None if self.average is None else self.average.average
        self.progress, sums = load_state(path, self.network, average, self.optimizer, self.config, self.fingerprint)
        if self.ours.writes:
            self.sums.copy_(sums)
        self.output.continue_from(self.progress)
        self._say(f"resuming {self.output.directory} at step {self.progress.step}")

    def loop(self) -> pathlib.Path:
        """Train to the end, or to a stop; either way with a checkpoint last."""
        self.log_time, seconds_before = time.monotonic(), self.progress.seconds
        began = self.log_time
        bar = tqdm(total=self.total, initial=self.progress.step, desc="train", unit="step", disable=not self.show)
        with bar, self.stop.listening():
            while True:
                self._at_epoch_boundary()
                step = self.progress.step
                reason, due = self.ours.agree(self.stop.reason(), int(self.output.checkpoint_due(step)))
                finished = self.total is not None and step >= self.total
                if reason or due or finished:
                    self._checkpoint()
                if reason or finished:
                    break
                self._one_step()
                self.progress.seconds = seconds_before + time.monotonic() - began
                bar.update()
                if self.progress.step % self.train_config["log_every_step"] == 0:
                    bar.set_postfix(loss=f"{self._log_line():.4g}", refresh=False)
        self.output.finish()
        if finished:
            return self.output.last_path
        if reason == StopRequest.TIME_UP:
            self._say(f"stopped after train.max_minutes at step {step}; the same command goes on from there")
            return self.output.last_path
        self._say(f"stopped by a signal at step {step}, checkpoint written; the same command goes on from there")
        raise SystemExit(128 + reason)

    def _one_step(self) -> None:
        step = self.progress.step
        rate = learning_rate(self.train_config, step, self.source.per_epoch, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        noised = to_device(self.source.training(step), self.ours.device)
        loss = self.objective(noised)
        # Gradients are averaged over processes, but the parts of the loss add up.
        (loss * self.ours.world_size).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.train_config["clip"] or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Every process has the same norm; their shares of it add up to it.
        self.sums += torch.stack((loss.detach(), norm / self.ours.world_size))
        self.progress.step = step + 1
        self.progress.summed_steps += 1
        self.graphs += noised.num_graphs
        if self.average is not None:
            self.average.update(step + 1)

    def _log_line(self) -> float:
        """Write the means since the last line and return the loss; this waits for the device."""
        sums = self._finite_sums() / self.progress.summed_steps
        loss, norm = sums.tolist()
        now = time.monotonic()
        record = {
            "step": self.progress.step,
            "epoch": self._epoch(),
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": norm,
            "seconds": round(self.progress.seconds, 3),
            "graphs_per_second": round(self.graphs / max(now - self.log_time, 1e-9), 3),
        }
        self.output.log(self.progress, record)
        self.sums.zero_()
        self.progress.summed_steps = 0
        self.graphs, self.log_time = 0, now
        return loss

    def _finite_sums(self) -> Tensor:
        """The sums over all processes. Raises ValueError, before anything is overwritten, if they are not finite."""
        sums = self.ours.sum(self.sums)
        if not bool(torch.isfinite(sums).all()):
            raise ValueError(
                f"train: loss and gradient must be finite, got {sums.tolist()} (sums) by step {self.progress.step}; "
                f"the checkpoint before is kept ({self.output.state_path}); lower train.lr or look for bad data"
            )
        return sums

    def _at_epoch_boundary(self) -> None:
        """Validate and keep weights where they are due; a resumed run does it if the killed one had not."""
        progress, train = self.progress, self.train_config
        epoch, within = divmod(progress.step, self.source.per_epoch)
        ends_epoch = within == 0 and epoch > 0
        at_end = self.total is not None and progress.step == self.total
        due = at_end or (ends_epoch and epoch % train["eval_every_epoch"] == 0)
        if due and progress.step > progress.validated_step:
            self._validate()
        keep_every = train["save_every_epoch"] if train["save_model"] else None
        if ends_epoch and keep_every is not None and epoch % keep_every == 0:
            self.output.save_weights(f"epoch_{epoch}", self.for_use)

    def _epoch(self) -> int:
        """The epoch, from 1, of the last step done."""
        return (self.progress.step - 1) // self.source.per_epoch + 1

    def _validate(self) -> None:
        progress, name = self.progress, f"val_{self.train_config['eval']}"
        value = self.validation(self.for_use, self.diffusion_for_use)
        if not math.isfinite(value):
            raise ValueError(f"train: {name} must be finite, got {value} at step {progress.step}")
        progress.validated_step = progress.step
        self.output.log(progress, {"step": progress.step, "epoch": self._epoch(), name: value})
        if progress.best is None or value < progress.best:
            progress.best = value
            self.output.save_weights("best", self.for_use)

    def _checkpoint(self) -> None:
        sums = self._finite_sums()
        if self.ours.writes:
            average = None if self.average is None else self.average.average
            self.output.save_weights("last", self.for_use)
            save_state(
                self.output.state_path,
                self.progress,
                sums,
                self.network,
                average,
                self.optimizer,
                self.config,
                self.fingerprint,
            )
        self.output.checkpointed(self.progress.step)

    def _say(self, text: str) -> None:
        if self.ours.writes:
            tqdm.write(text, file=sys.stderr)


def _initial_network(config: Mapping) -> nn.Module:
    """The network with weights that follow from train.seed, on the CPU; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["train"]["seed"])
        return build_network(config)


def _distributed(objective: Objective, ours: Processes, example: Noised) -> nn.Module:
    """The objective under DistributedDataParallel, or as it is for one process.

    Weights that the objective does not use (a prior's network under another prior) are frozen: a gradient that never
    comes would be waited for.
    """
    if ours.world_size == 1:
        return objective
    objective(to_device(example, ours.device)).backward()
    for parameter in objective.parameters():
        parameter.requires_grad_(parameter.grad is not None)
    objective.zero_grad(set_to_none=True)
    return nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False)
