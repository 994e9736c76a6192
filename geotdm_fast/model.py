"""A trained model in one object: network, diffusion, task, and what is known of its data."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.checkpoint import save_checkpoint
from geotdm_fast.checkpoint_paths import checkpoint_file
from geotdm_fast.conditions import Conditions
from geotdm_fast.config.files import load_config
from geotdm_fast.config.sampling_rules import recommended_sampling
from geotdm_fast.config.settings import as_section
from geotdm_fast.data.conditions import check_conditions, with_conditions
from geotdm_fast.data.convert import to_dataset
from geotdm_fast.data.given_frames import as_given_frames
from geotdm_fast.data.trajectory import Batch, TrajectoryDataset, collate
from geotdm_fast.diffusion import Flow, GeoTDM, Sampler
from geotdm_fast.diffusion.sampler_options import OptionNames
from geotdm_fast.families import build_diffusion, is_ays, load_checkpoint
from geotdm_fast.nn import EGTN
from geotdm_fast.nn.given_graph import num_edge_features
from geotdm_fast.nn.plain import bare
from geotdm_fast.runtime.choices import require_sections
from geotdm_fast.runtime.files import PathLike
from geotdm_fast.samples.record import Samples, make_samples
from geotdm_fast.sampling.rollout_blocks import BOUND, FeatureFunction
from geotdm_fast.task import Task

if TYPE_CHECKING:
    from geotdm_fast.sampling import Rollout

# What errors of `Model.sampler` call its arguments.
_NAMES = OptionNames.of("sampler")


class Model:
    """A trained model: network, diffusion, task and configuration in one.

        model = geotdm_fast.load("nbody_charged_small")
        samples = model.forecast(data, num_samples=5)
        model.evaluate(samples)

    network: the `EGTN`
    diffusion: a `GeoTDM` or `Flow` of that network
    task: which frames are given
    config: the sections denoise_model, diffusion, train and data, and perhaps sampling, as a checkpoint holds them
    name: of the checkpoint's file; samples carry it

    `forecast`, `rollout`, `interpolate` and `generate` take what `geotdm_fast.data.convert.to_dataset` takes: a data
    set, a `Trajectory` or `Batch`, positions [frames, N, D], a list of `ase.Atoms`, `Data` or `Batch` of PyTorch
    Geometric. A trajectory has all T = `num_frames` frames, of which the drawn ones are the truth for scores, or the
    given frames alone. For `rollout` it has any number of frames, at least the given ones. Noise depends on seed,
    graph, sample and step alone, not on batch_size.
    """

    def __init__(self, network: EGTN, diffusion: GeoTDM | Flow, task: Task, config: Mapping, name: str = "model"):
        task.check_mode("Model", diffusion.task_mode)
        self.network, self.diffusion, self.task, self.config, self.name = network, diffusion, task, config, name

    @classmethod
    def load(
        cls,
        source: PathLike,
        *,
        config: PathLike | Mapping | None = None,
        device: torch.device | str | None = None,
        precision: str = "fp32",
    ) -> "Model":
        """The model of a checkpoint, in evaluation mode: an `AysModel` where it is one of Align Your Structures.

        source: a file of weights, the folder of a training (its best weights), or the name of a model that comes with
            the package
        config: the YAML file, or what `load_config` reads from it, for weights that hold none: official ones
        device: default cuda where there is one; precision: fp32, tf32 or bf16, see `EGTN.set_precision`
        Raises FileNotFoundError, or ValueError for a file that is no checkpoint or lacks a section.
        """
        path = checkpoint_file(str(source))
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        given = config if config is None or isinstance(config, Mapping) else load_config(config)
        network, config = load_checkpoint(path, device, given)
        for section in ("train", "diffusion"):
            require_sections(f"{path}: the config inside", config, section)
            as_section(config[section], f"{path}: config section {section}")
        network.set_precision(precision)
        config = {"data": {}} | config
        if is_ays(config):
            from geotdm_fast.ays_model import AysModel

            cls = AysModel
        network = cast(EGTN, network)  # or, of an AysModel, a Network
        try:
            diffusion, task = build_diffusion(network, config, device), Task.of_config(config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        model = cls(network, diffusion, task, config, path.name)
        recommended_sampling(config, str(path))  # a wrong section is told by the file's name, before data are read
        return model

    def save(self, path: PathLike) -> None:
        """Write weights and configuration to one safetensors file, which `load` and the command line take.

        Raises ValueError for a configuration without the section denoise_model or diffusion, which every file has.
        """
        require_sections(f"save: the configuration of {self.name}", self.config, "denoise_model", "diffusion")
        given, length = [list(frames) for frames in self.task.given], self.task.num_frames
        task = {"cond_mask": given} if self.task.is_conditional else {"cond_mask": None, "tot_len": length}
        diffusion = {**self.config["diffusion"], "mode": self.task.mode}
        train = {**self.config.get("train", {}), **task}
        save_checkpoint(path, self.network, {**self.config, "diffusion": diffusion, "train": train})

    def to(self, device: torch.device | str) -> "Model":
        """This model, moved to `device`. Raises ValueError for a configuration without the section diffusion."""
        require_sections(f"to: the configuration of {self.name}", self.config, "diffusion")
        self.network.to(device)
        self.diffusion = build_diffusion(self.network, self.config, torch.device(device))
        return self

    def set_precision(self, precision: str) -> "Model":
        """This model, whose products are computed in `fp32`, `tf32` or `bf16`; see `EGTN.set_precision`."""
        self.network.set_precision(precision)
        return self

    @property
    def _bare(self) -> EGTN:
        return cast(EGTN, bare(self.network))

    @property
    def conditions(self) -> Conditions | None:
        """The numbers that the network is told, with the ranges of its training; None where it is told none."""
        return self._bare.conditions

    @property
    def device(self) -> torch.device:
        return torch.device(self.diffusion.device)

    @property
    def data(self) -> dict:
        """The section of the configuration that the model was trained on; empty where it is not known."""
        return dict(self.config.get("data", {}).get("train", {}))

    @property
    def num_frames(self) -> int:
        """T: the frames of a trajectory, given and drawn."""
        num_w = self._bare.num_w
        if not self.task.is_conditional:
            return self.task.num_frames or num_w
        if self.task.num_frames is not None or self._bare.learn_ref_frame:
            return self.task.num_frames or self.task.window(num_w)
        # Without a learned prior num_w may be anything.
        return self._trained_frames or self.task.window(num_w)

    @property
    def _trained_frames(self) -> int | None:
        """T in the windows that the model was trained on; None where its data section does not say it."""
        section = self.data
        people = section.get("past_frames", 8) + section.get("future_frames", 12)
        people = people if section.get("kind") == "pedestrian" else None
        length = section.get("span") or section.get("num_frames") or people
        if length is None:
            return None
        return self.task.without_history(length, self.config.get("train", {}).get("block_history", 0))

    def forecast(self, data: Any, num_samples: int = 1, **options: Any) -> Samples:
        """Draw the frames behind the given ones; data, arrays and options as for `sample`.

        Raises ValueError for a model of another task, as the other methods do.
        """
        if not self.task.is_conditional or self._fills_gaps:
            raise ValueError(f"forecast: {self.name} is a model that would {self._does}; see {self._method}")
        return self.sample(data, num_samples, where="forecast", **options)

    def interpolate(self, data: Any, num_samples: int = 1, **options: Any) -> Samples:
        """Draw the frames between, or before, the given ones; data, arrays and options as for `sample`."""
        if not self.task.is_conditional or not self._fills_gaps:
            raise ValueError(f"interpolate: {self.name} is a model that would {self._does}; see {self._method}")
        return self.sample(data, num_samples, where="interpolate", **options)

    def generate(self, data: Any, num_samples: int = 1, **options: Any) -> Samples:
        """Make whole trajectories of the graphs of `data`, whose positions are not looked at but by scores.

        data, arrays and options as for `sample`
        """
        if self.task.is_conditional:
            raise ValueError(f"generate: {self.name} is a model that would {self._does}; see {self._method}")
        return self.sample(data, num_samples, where="generate", **options)

    def sample(
        self,
        data: Any,
        num_samples: int = 1,
        *,
        method: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        eta: float = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = False,
        conditions: Mapping[str, Any] | None = None,
        extrapolate: bool = False,
        where: str = "sample",
        **arrays: Any,
    ) -> Samples:
        """Whatever the model's task is: `num_samples` trajectories of every graph of `data`, beside the truth.

        method, steps, spacing, eta: see `Sampler`, and `Model.sampler` for their defaults, which are the model's
        batch_size: most trajectories at once, by default what fits
        arrays: z, h, edge_index, ..., charges beside positions alone, see `to_dataset`
        conditions: {name: number, or one for each graph} that the network is told, beside or in place of those of the
            data; `Model.conditions` has names and ranges. They must be in the range of the training, unless extrapolate
        progress: show a progress bar; where: the caller's name, for messages
        Raises what `to_dataset` and `Sampler` raise, and ValueError for data of other sizes than the model's.
        """
        from geotdm_fast.sampling import sample

        sampler = self.sampler(method, steps, spacing, eta, OptionNames.of(where))
        dataset = self.dataset(data, where, conditions=conditions, extrapolate=extrapolate, **arrays)
        batch = collate(dataset)
        drawn = sample(
            sampler, batch, self.task, num_samples=num_samples, seed=seed, batch_size=batch_size, progress=progress
        )
        return self._made(drawn, batch, dataset, sampler, seed)

    def rollout(
        self,
        data: Any,
        num_frames: int,
        num_samples: int = 1,
        *,
        overlap: int | None = None,
        bound: float = BOUND,
        features: FeatureFunction | None = None,
        method: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        eta: float = 0.0,
        seed: int = 0,
        batch_size: int | None = None,
        progress: bool = False,
        conditions: Mapping[str, Any] | None = None,
        extrapolate: bool = False,
        **arrays: Any,
    ) -> Samples:
        """Draw `num_frames` frames behind the given ones, block by block, however long the model's window is.

            samples = model.rollout(data, 500, num_samples=5)

        Block b is given the last frames of block b - 1; its noise depends on seed, graph, sample, b and step alone.
        With num_frames = T - G this is `forecast`.

        data: as for `sample`, of any number of frames from the model's G given ones on; those behind are the truth of
            the scores as far as they reach (`Samples.num_known`)
        overlap: frames that a block shares with the next one, by default G, see `sampling.Rollout`
        bound: how far a node may move within a block, in the largest displacement of the given frames, see
            `sampling.Rollout`; a trajectory that goes farther is NaN from that block on, and a warning names the block
        features: makes h [N, F, T] of the given frames [N, D, G] of a block and T; by default that of people
            (`data.pedestrian.people_features`) for a model of pedestrians, and else h of the data, whose axis of
            frames, if it has one, must reach the end of the last block
        Other options as for `sample`. Raises what `sample` raises; ValueError for a model that is not given frames at
        the beginning of its window, and where every trajectory explodes in the first block.
        """
        from geotdm_fast.sampling import roll_out

        plan = self.rollout_plan(num_frames, overlap, bound, features)
        sampler = self.sampler(method, steps, spacing, eta, OptionNames.of("rollout"))
        dataset = self.rollout_dataset(data, conditions=conditions, extrapolate=extrapolate, **arrays)
        batch = collate(dataset)
        drawn = roll_out(
            sampler,
            batch,
            self.task,
            plan,
            num_samples=num_samples,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
        return self._made(drawn, plan.record(batch), dataset, sampler, seed)

    def _made(self, drawn: Tensor, batch: Batch, dataset: TrajectoryDataset, sampler: Sampler, seed: int) -> Samples:
        return make_samples(
            drawn, batch, dataset, self.task, seed=seed, checkpoint=self.name, method=sampler.method,
            num_steps=sampler.num_steps,
        )  # fmt: skip

    def rollout_plan(
        self,
        num_frames: int,
        overlap: int | None = None,
        bound: float = BOUND,
        features: FeatureFunction | None = None,
    ) -> "Rollout":
        """The blocks of `rollout`. Raises ValueError as it does."""
        from geotdm_fast.sampling import Rollout

        if not self.task.is_conditional or self._fills_gaps:
            raise ValueError(
                f"rollout: {self.name} is a model that would {self._does}; a rollout needs one that is given frames at "
                f"the beginning of its window; see {self._method}"
            )
        if features is None and self.data.get("kind") == "pedestrian":
            features = self._people_features
        is_bound_to_a_place = self.diffusion.prior == "none" and not self.data.get("project", False)
        plan = Rollout.of(self.task, self.num_frames, num_frames, overlap, bound)
        return replace(plan, recentres=not is_bound_to_a_place, features=features)

    def rollout_dataset(self, data: Any, **arrays: Any) -> TrajectoryDataset:
        """`data` as a data set for `rollout`, of any number of frames. Raises as `dataset` does."""
        dataset = self._dataset(data, "rollout", **arrays)
        given, came = len(self.task.given_frames), dataset[0].num_frames
        if came < given:
            raise ValueError(f"rollout: a trajectory must have the {given} given frames, got {came} ({dataset.name})")
        return dataset

    def _people_features(self, given: Tensor, num_frames: int) -> Tensor:
        from geotdm_fast.data.pedestrian import people_features

        past = self.data.get("past_frames", 8)
        if past > given.shape[2]:
            raise ValueError(
                f"rollout: the features of people are made of data.past_frames = {past} frames, but {self.name} is "
                f"given {given.shape[2]}; give features, which makes h of the given frames of a block"
            )
        return people_features(given[..., :past], num_frames)

    @property
    def recommended(self) -> dict | None:
        """{method, steps, spacing} that the section `sampling` of the configuration recommends; None without one."""
        return recommended_sampling(self.config, self.name)

    def sampler(
        self,
        method: str | None = None,
        steps: int | None = None,
        spacing: str | None = None,
        eta: float = 0.0,
        names: OptionNames = _NAMES,
    ) -> Sampler:
        """The `Sampler` of this model's diffusion.

        method: default: the recommended one, without a recommendation the first of the diffusion
        steps, spacing: default: by the recommended method the recommended ones, by any other all steps and `uniform`
        names: what the messages of errors call the options
        """
        recommended = self.recommended or {}
        method = recommended.get("method") if method is None else method
        if method is not None and method == recommended.get("method"):
            steps = recommended["steps"] if steps is None else steps
            spacing = recommended["spacing"] if spacing is None else spacing
        return Sampler(self.diffusion, method, steps, "uniform" if spacing is None else spacing, eta, names)

    def dataset(self, data: Any, where: str = "dataset", **arrays: Any) -> TrajectoryDataset:
        """`data` as a data set of this model; arrays, conditions and extrapolate as for `sample`.

        Warns of trajectories of another length than the training's, where the model can draw them.
        Raises TypeError for what is none, ValueError for data of other sizes than the model's.
        """
        dataset = self._dataset(data, where, **arrays)
        item, network = dataset[0], self._bare
        given, came = len(self.task.given_frames), item.num_frames
        if self.task.is_conditional and came == given:
            return as_given_frames(dataset, np.isin(np.arange(self.num_frames), self.task.given_frames))
        if self.task.is_conditional and network.learn_ref_frame and network.num_w > 1 and came != self.num_frames:
            raise ValueError(
                f"{where}: a trajectory must have all {self.num_frames} frames, or the {given} given ones alone, got "
                f"{came} ({dataset.name}); longer ones are cut into windows by geotdm_fast.data.array_dataset(x, "
                f"span={self.num_frames})"
            )
        self.task.num_noisy(came)
        self._check_length(dataset, where)
        return dataset

    def _check_length(self, dataset: TrajectoryDataset, where: str) -> None:
        """Warn of trajectories that the network can draw, but of another length than any it was trained on."""
        came, trained = dataset[0].num_frames, self._trained_frames
        if self.task.num_frames is not None or trained is None or came == trained:
            return
        goes_on = came > trained and self._method == "forecast"
        longer = "; rollout draws more frames behind the given ones" if goes_on else ""
        warnings.warn(
            f"{where}: a trajectory has {came} frames ({dataset.name}), but {self.name} was trained on windows of "
            f"{trained}, and nothing is known of what it draws at another length{longer}",
            stacklevel=4,
        )

    def _dataset(
        self,
        data: Any,
        where: str,
        conditions: Mapping[str, Any] | None = None,
        extrapolate: bool = False,
        **arrays: Any,
    ) -> TrajectoryDataset:
        """The same for any number of frames."""
        dataset = with_conditions(to_dataset(data, self.data, where, **arrays), conditions or {}, where)
        check_conditions(dataset, self.conditions, where, extrapolate)
        item, network = dataset[0], self._bare
        edge_dim = num_edge_features(item.edge_attr, network.graph_spec)
        for name, came, expected in (
            ("features h [N, F]: F", item.h.shape[1], network.node_dim - self.task.num_told),
            ("edge features edge_attr [E, A]: A", edge_dim, network.edge_dim),
        ):
            if came != expected:
                raise ValueError(f"{where}: {name} must be {expected} for {self.name}, got {came} ({dataset.name})")
        return dataset

    def evaluate(self, samples: Samples, scores: str | Sequence[str] = "all", **options: Any) -> dict:
        """Scores of samples, as `geotdm evaluate` prints them; `scores.evaluation.evaluate` has the options.

        scores: `all` that need no call of the model, or names of them; `likelihood` computes the score `nll`
        """
        from geotdm_fast.scores.evaluation import evaluate, parse_scores

        names = parse_scores(scores if isinstance(scores, str) else ",".join(scores), samples.mode)
        if scores == "all":
            names = tuple(name for name in names if name != "nll")
        about: dict[str, Any] = {"device": self.device, "progress": False}
        return evaluate(samples, names, **about | options)

    def likelihood(
        self, data: Any, *, seed: int = 0, batch_size: int | None = None, progress: bool = False, **arrays: Any
    ) -> Tensor:
        """[B] float - the bound on the negative log-likelihood (nats) of every trajectory, `num_timesteps` calls each.

        ValueError for a `Flow`, which has none. See `scores.evaluation.likelihoods`; data, arrays, conditions,
        extrapolate and errors as for `sample`.
        """
        from geotdm_fast.scores.evaluation import likelihoods

        batch = collate(self.dataset(data, "likelihood", **arrays))
        return likelihoods(self.diffusion, batch, self.task, seed=seed, batch_size=batch_size, progress=progress)

    def __repr__(self) -> str:
        from geotdm_fast.cards.model import model_card

        return model_card(self, self._does).as_text()

    def _repr_html_(self) -> str:
        from geotdm_fast.cards.model import model_card

        return model_card(self, self._does).as_html()

    @property
    def _fills_gaps(self) -> bool:
        given = self.task.given_frames
        return given != tuple(range(len(given)))

    @property
    def _does(self) -> str:
        if not self.task.is_conditional:
            return f"make trajectories of {self.num_frames} frames"
        what = "fill gaps" if self._fills_gaps else "forecast"
        return f"{what}: {len(self.task.given_frames)} of {self.num_frames} frames are given"

    @property
    def _method(self) -> str:
        return "interpolate" if self._fills_gaps else "forecast" if self.task.is_conditional else "generate"


load = Model.load
