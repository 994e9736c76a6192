"""From a request to a row of results, in pieces: train, choose, draw, score, report. Killed anywhere, it goes on."""

import dataclasses
import functools
import json
import math
import pathlib
import uuid
import zlib
from typing import cast

import torch

from geotdm_fast.data import collate, open_dataset
from geotdm_fast.diffusion import Sampler
from geotdm_fast.families import build_diffusion, load_checkpoint
from geotdm_fast.paper import report
from geotdm_fast.paper.data_digest import data_digest
from geotdm_fast.paper.molecule_scores import with_baselines
from geotdm_fast.paper.pieces import draw_shards
from geotdm_fast.paper.progress import OutOfTime, Pieces, read_piece
from geotdm_fast.paper.recipes import Draw, Recipe, recipe
from geotdm_fast.paper.request import Request, is_molecule
from geotdm_fast.paper.results import append_row
from geotdm_fast.paper.simulations import SIMULATIONS, STRUCTURE
from geotdm_fast.provenance import context, now
from geotdm_fast.runtime.files import PathLike, write_json
from geotdm_fast.runtime.shown import shown
from geotdm_fast.samples.npz import write_samples
from geotdm_fast.samples.record import Samples, make_samples
from geotdm_fast.scores.evaluation import evaluate
from geotdm_fast.scores.md import MDSettings
from geotdm_fast.scores.published import UNCONDITIONAL
from geotdm_fast.task import Task
from geotdm_fast.training import train
from geotdm_fast.training.log import JsonLines, read_log

# Windows of the test set by which the official protocol's checkpoint is chosen.
CHOOSING_GRAPHS = 100
# What a second call may say otherwise: where the data lie, and what they are called. Their digest must be the same.
_FREE = ("data", "label")
STRUCTURE_TRAINING = "training of the structure model"


def reproduce(
    request: Request,
    *,
    out: PathLike | None = None,
    results: PathLike | None = None,
    budget: float | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict:
    """Train, draw and score one experiment, and append its row to `results`; the row.

    out: folder of everything; default: outputs/reproduce/<name of the request>. A call that finds its pieces there does
        not repeat them, whether the one before ran out of time or was killed
    results: JSON lines; None: only `row.json` in the folder
    budget: minutes for this call
    Raises OutOfTime when they are over before the row is done; ValueError for a request that is wrong or not the one
    that the folder was begun with, and for other data; what training and sampling raise.
    """
    plan = recipe(request)
    digest = data_digest(plan.config["data"])
    folder = pathlib.Path(out or _folder(request, None if request.data is None else digest))
    run = _Run(request, plan, folder, Pieces(folder / "pieces", budget, digest), torch.device(device), progress)
    row = run.row()
    if results is not None:
        append_row(results, row)
    return row


def default_folder(request: Request) -> pathlib.Path:
    """outputs/reproduce/<experiment>_<task>_<preset>, with short hashes of what is asked for beyond these, and of the
    files of the data.

    Raises as `recipe` does where there are data, which are read for that.
    """
    return _folder(request, None if request.data is None else data_digest(recipe(request).config["data"]))


def _folder(request: Request, digest: str | None) -> pathlib.Path:
    name = f"{request.experiment.replace(':', '_')}_{request.task}_{request.preset}"
    if request.changes:
        about = {key: value for key, value in dataclasses.asdict(request).items() if key not in _FREE}
        name += f"_{zlib.crc32(json.dumps(about, sort_keys=True).encode()):08x}"
    if digest is not None:
        name += f"_data_{digest[:8]}"
    return pathlib.Path("outputs/reproduce") / name


class _Run:
    """One call of `reproduce`."""

    def __init__(
        self, request: Request, plan: Recipe, folder: pathlib.Path, pieces: Pieces, device: torch.device, progress: bool
    ):
        self.request, self.recipe, self.folder, self.pieces = request, plan, folder, pieces
        self.device, self.progress = device, progress
        self.done: list[str] = []
        self.id = self._begin()

    def _begin(self) -> str:
        """The experiment's identity: made by the first call, checked by the others; and a note of this call."""
        path = self.folder / "experiment.json"
        asked = json.loads(json.dumps(dataclasses.asdict(self.request)))
        if path.is_file():
            begun = read_piece(path)
            for key, value in asked.items():
                if key not in _FREE and begun.get("request", {}).get(key) != value:
                    expected = f"must be {shown(begun.get('request', {}).get(key))} as when {self.folder} was begun"
                    raise ValueError(f"reproduce: {key} {expected}, got {shown(value)}; choose another folder (--out)")
            self._check_data(begun)
        else:
            begun = {"id": uuid.uuid4().hex[:12], "begun": now(), "request": asked, "data_sha256": self.pieces.data}
            write_json(path, begun)
        calls = JsonLines(self.folder / "calls.jsonl")
        calls.write(context(self.device))
        calls.close()
        return begun["id"]

    def _check_data(self, begun: dict) -> None:
        """ValueError unless the data are those that the folder was begun with."""
        asked, earlier = self.request.data, begun.get("request", {}).get("data")
        # A folder from before there were digests knows only where its data lay.
        same = begun["data_sha256"] == self.pieces.data if "data_sha256" in begun else earlier == asked
        if not same:
            raise ValueError(
                f"reproduce: data must be the files that {self.folder} was begun with ({earlier or 'simulated'}), got "
                f"others ({asked or 'simulated'}); choose another folder (--out)"
            )

    def row(self) -> dict:
        """Everything up to the row, which is made once. Raises OutOfTime with the parts that are done and left."""
        done = self.pieces.known("row")
        if done is not None:
            return done
        try:
            return self._row()
        except OutOfTime as stopped:
            parts = self._parts()
            raise OutOfTime(stopped.at, tuple(self.done), parts[len(self.done) :]) from None

    def _row(self) -> dict:
        trained = self._trained()
        scores, pictured = {}, None
        for draw in self.recipe.draws:
            samples, drawn = self._samples(draw)
            self.done.append(_part("samples", draw))
            scores[draw.protocol] = self._scores(draw, samples, drawn)
            self.done.append(_part("scores", draw))
            pictured = pictured or samples
        return self.pieces.once("row", lambda: self._report(trained, scores, cast(Samples, pictured)))

    def _parts(self) -> tuple[str, ...]:
        """What an experiment consists of, in the order in which it is done."""
        trained = ("training",) if self.recipe.structure is None else (STRUCTURE_TRAINING, "training")
        drawn = (_part(what, draw) for draw in self.recipe.draws for what in ("samples", "scores"))
        return (*trained, *drawn, "pictures and the row")

    # --- train ----------------------------------------------------------------------------------------------------

    def _trained(self) -> dict:
        """{steps, seconds, parameters} of the finished training; of two stages `structure` has those of the first."""
        config = json.loads(json.dumps(self.recipe.config))
        structure, first = self.recipe.structure, {}
        if structure is not None:
            first = {STRUCTURE: self.pieces.once(STRUCTURE, lambda: self._train(structure, STRUCTURE))}
            self.done.append(STRUCTURE_TRAINING)
            config["denoise_model"]["pretrain_ckpt"] = str(self.folder / STRUCTURE)
        trained = self.pieces.once("train", lambda: self._train(config, "train"))
        self.done.append("training")
        return trained | first

    def _train(self, config: dict, name: str) -> dict:
        """Train in the folder `name`. Raises OutOfTime where that is not finished."""
        config = json.loads(json.dumps(config))
        left = self.pieces.minutes_left()
        minutes = max(0.0, left) if math.isfinite(left) else None
        directory = self.folder / name
        train(config, output_dir=directory, device=self.device, progress=self.progress, minutes=minutes)
        log = read_log(directory / "log.jsonl")
        if not _is_finished(log, config["train"]):
            total = config["train"]["num_steps"]
            of = "" if total is None else f" of {total}"
            raise OutOfTime(f"{name}, step {log[-1]['step'] if log else 0}{of}")
        network, _ = load_checkpoint(directory / "last.safetensors")
        seconds = max((record["seconds"] for record in log if "seconds" in record), default=0.0)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {"steps": log[-1]["step"], "seconds": seconds, "parameters": parameters}

    # --- choose a checkpoint --------------------------------------------------------------------------------------

    def _checkpoint(self, draw: Draw) -> str:
        """The name of the weights to draw with: `best` by validation, or chosen by the scores on the test set.

        Chosen: of all weights that training kept, those with the smallest FDE (best of the protocol's number) over
        `CHOOSING_GRAPHS` test windows, as the official code keeps what has the smallest FDE on the test set.
        """
        if not draw.chosen_on_test:
            return "best"
        errors = {}
        for path in sorted((self.folder / "train").glob("*.safetensors")):
            if path.stem != "state":
                name = f"candidate_{path.stem}_fde"
                errors[path.stem] = self.pieces.once(name, functools.partial(self._try, path.stem, draw))
        return min(errors, key=lambda stem: errors[stem]["fde"])

    def _try(self, stem: str, draw: Draw) -> dict:
        tried = Draw(f"candidate_{stem}", False, draw.kmeans or draw.num_samples, None)
        samples, _ = self._draw(tried, stem, CHOOSING_GRAPHS)
        return {"fde": evaluate(samples, ["ade"], progress=False)["forecast"]["fde_best"]}

    # --- draw and score -------------------------------------------------------------------------------------------

    def _samples(self, draw: Draw) -> tuple[Samples, dict]:
        """The samples of a protocol and {checkpoint, seconds}."""
        stem = self._checkpoint(draw)
        samples, seconds = self._draw(draw, stem, self.recipe.num_graphs)
        path = self.folder / f"samples_{draw.protocol}.npz"
        if not path.is_file():
            write_samples(path, samples)
        return samples, {"checkpoint": stem, "seconds": seconds}

    def _draw(self, draw: Draw, stem: str, num_graphs: int | None) -> tuple[Samples, float]:
        network, config = load_checkpoint(self.folder / "train" / f"{stem}.safetensors", self.device)
        network.set_precision(config["train"]["precision"])
        plan = self.recipe
        sampler = Sampler(build_diffusion(network, config, self.device), plan.method, plan.steps, plan.spacing)
        dataset = open_dataset(plan.config["data"]["test"], "data.test", progress=self.progress).spread(num_graphs)
        batch = collate([dataset[i] for i in range(len(dataset))])
        seed, task = self.request.seed, Task.of_config(config)
        drawn, seconds = draw_shards(
            self.pieces, self.folder / "shards" / draw.protocol, sampler, batch, task,
            num_samples=draw.num_samples, seed=seed, progress=self.progress,
        )  # fmt: skip
        samples = make_samples(
            drawn, batch, dataset, task, seed=seed, checkpoint=f"{stem}.safetensors", method=sampler.method,
            num_steps=sampler.num_steps,
        )  # fmt: skip
        return samples, seconds

    def _scores(self, draw: Draw, samples: Samples, drawn: dict) -> dict:
        """Scores, each a piece of its own, with what they were drawn from."""
        merged: dict = {}
        for score in self.recipe.scores:
            merged |= self.pieces.once(
                f"scores_{draw.protocol}_{score}",
                functools.partial(
                    evaluate, samples, [score], kmeans=draw.kmeans, device=self.device, progress=self.progress
                ),
            )
        if self.request.task == UNCONDITIONAL and is_molecule(self.request.experiment):
            name = f"scores_{draw.protocol}_training_data"
            merged |= self.pieces.once(name, lambda: {"baselines": self._training_data_scores(samples)})
        if self.request.experiment in SIMULATIONS:
            known = SIMULATIONS[self.request.experiment]
            settings = MDSettings(scores=known.scores, r_max=known.r_max)
            name = f"scores_{draw.protocol}_molecules"
            merged |= self.pieces.once(name, lambda: with_baselines(samples, settings))
        return merged | drawn

    def _training_data_scores(self, samples: Samples) -> dict:
        """The scores of as many windows of the training data in place of samples: what there is to reach.

        Of molecules alone: N-body systems have other charges, which the learned scores are told. Empty where the
        training data are fewer.
        """
        num_graphs = samples.num_graphs
        dataset = open_dataset(self.recipe.config["data"]["train"], "data.train", progress=False).spread(num_graphs)
        if len(dataset) < num_graphs:
            return {}
        x = collate([dataset[i] for i in range(num_graphs)]).x[..., : samples.samples.shape[-1]]
        real = dataclasses.replace(samples, samples=x[None].float().numpy())
        found = evaluate(real, self.recipe.scores, device=self.device, progress=self.progress)
        return {"training_data_in_place_of_samples": {score: found[score] for score in self.recipe.scores}}

    # --- report ---------------------------------------------------------------------------------------------------

    def _report(self, trained: dict, scores: dict, samples: Samples) -> dict:
        report.pictures(samples, self.folder, bonds=is_molecule(self.request.experiment))
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        known = samples.experiment == self.request.experiment
        return report.make_row(self.id, self.request, self.recipe, trained, scores, calls, self.pieces.data, known)


def _part(what: str, draw: Draw) -> str:
    return f"{what} ({draw.protocol})"


def _is_finished(log: list[dict], train_config: dict) -> bool:
    """Whether the log ends with the validation that follows the last step.

    One comes at the end of the last epoch or after the last step, and at no other moment of that number.
    """
    validated = [record for record in log if f"val_{train_config['eval']}" in record]
    if not validated:
        return False
    last = validated[-1]
    num_steps, num_epochs = train_config["num_steps"], train_config["num_epochs"]
    by_steps = num_steps is not None and last["step"] >= num_steps
    return by_steps or (num_epochs is not None and last["epoch"] >= num_epochs)
