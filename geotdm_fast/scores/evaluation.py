"""Score samples, beside forecasts without a model and the paper's figures."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geotdm_fast.data.trajectory import Batch
from geotdm_fast.runtime.choices import check_choice
from geotdm_fast.runtime.shown import plain
from geotdm_fast.samples.npz import check_samples
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.published import EXPERIMENTS, paper_result
from geotdm_fast.scores.tables import cell_text, text_table
from geotdm_fast.task import Task

if TYPE_CHECKING:
    from geotdm_fast.diffusion import FramedDiffusion
    from geotdm_fast.scores.md import MoleculeScores

SCORES = {"cond": ("ade", "nll"), "uncond": ("marginal", "classification", "prediction", "nll")}
# Fits every model in three dimensions; `all` does not mean it.
MOLECULES = "md"
_EXTRAPOLATIONS = ("standing_still", "constant_velocity")


def parse_scores(text: str, mode: str, has_likelihood: bool = True) -> tuple[str, ...]:
    """The scores named in `text` (`ade,nll`, or `all`) for a model of `mode`; ValueError for one that does not fit.

    `all` is all but `md`, the scores of molecules, which fit both modes and are named beside it: `all,md`.
    Of a model that has no likelihood, a `Flow` or a student, it leaves out `nll`, which raises ValueError by its name.
    """
    check_choice("mode", mode, SCORES)
    fitting = tuple(score for score in SCORES[mode] if has_likelihood or score != "nll")
    if text == "all":
        return fitting
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"scores must name at least one of all, {', '.join(fitting)}; got '{text}'")
    every = dict.fromkeys((*SCORES["cond"], *SCORES["uncond"]))
    found: list[str] = []
    for name in names:
        check_choice("scores", name, ("all", *every, MOLECULES))
        if name not in ("all", MOLECULES, *SCORES[mode]):
            kind = "a conditional" if mode == "cond" else "an unconditional"
            raise ValueError(f"scores: '{name}' does not fit {kind} model, whose scores are {', '.join(fitting)}")
        if name == "nll" and not has_likelihood:
            raise ValueError(
                "scores: 'nll' does not fit a model of diffusion.kind flow or a student of `geotdm distill`, which "
                f"have no likelihood here; its scores are {', '.join(fitting)}"
            )
        found += fitting if name == "all" else (name,)
    return tuple(dict.fromkeys(found))


def evaluate(
    samples: Samples,
    scores: Iterable[str],
    *,
    nll: Tensor | None = None,
    md: "list[MoleculeScores] | None" = None,
    kmeans: int | None = None,
    experiment: str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict:
    """Scores of samples as plain values, ready for JSON.

    scores: of `SCORES[samples.mode]`
    nll: [B] (nats) - from `likelihoods`; needed for the score `nll`
    md: from `scores.md.score_molecules`, for the score `md`; None: computed by its default settings
    kmeans: also the best over so many k-means representatives of the samples (ADE and FDE)
    experiment: whose published figures stand beside the scores (charged, md:ethanol, zara1, ...); None: those of the
        data, where the data are known to be the paper's (`Samples.experiment`)
    seed, device: of the scores that train a network (classification, prediction)

    `ade`: ADE and FDE (unit of the data) as mean and best over the K samples, those of baselines, the paper's.
    Of a rollout that goes on where the data end the frames before that count; `num_without_truth` says how many follow.
    `marginal` takes all samples; `classification` and `prediction` the first of each graph.
    Raises ValueError for a score that does not fit the samples, for samples that are not finite, and for those of a
    future that is unknown.
    """
    check_samples("evaluate", samples)
    scores = parse_scores(",".join(scores), samples.mode)
    if experiment is not None:
        check_choice("evaluate: experiment", experiment, EXPERIMENTS)
    samples.check_target("evaluate")
    num_rolled_out, samples = samples.samples.shape[-1], samples.until_known()
    if not np.isfinite(samples.samples).all():
        raise ValueError(
            "evaluate: samples must be finite, got NaN or Inf; the model has diverged; of a rollout `geotdm drift` "
            "scores what is left"
        )
    num_given = int(samples.cond_mask.sum())
    prefix = bool(samples.cond_mask[:num_given].all())
    result = {
        "data": samples.name,
        "checkpoint": samples.checkpoint,
        "mode": samples.mode,
        "num_graphs": samples.num_graphs,
        "num_samples": samples.num_samples,
        "num_given": num_given,
        "num_drawn": samples.samples.shape[-1],
        "unit": samples.unit,
        "seed": samples.seed,
        "paper": paper_result(
            experiment or samples.experiment, samples.mode, num_given, samples.samples.shape[-1], prefix
        ),
    }
    if num_rolled_out > samples.samples.shape[-1]:
        result["num_without_truth"] = num_rolled_out - samples.samples.shape[-1]
    for score in scores:
        if score == "ade":
            result |= {"forecast": _forecast(samples, kmeans, progress), "baselines": _baselines(samples)}
        elif score == "nll":
            if nll is None:
                raise ValueError("evaluate: the score 'nll' needs a model: evaluate a checkpoint, not its samples")
            error = float(nll.double().std() / math.sqrt(len(nll))) if len(nll) > 1 else None
            result["nll"] = {"mean": float(nll.double().mean()), "standard_error": error}
        elif score == MOLECULES:
            from geotdm_fast.scores.md import score_molecules

            result[MOLECULES] = [molecule.as_json() for molecule in (score_molecules(samples) if md is None else md)]
        elif score == "marginal":
            result["marginal"] = marginal(samples)
        else:
            result[score] = _learned(score, samples, seed, device, progress)
    return result


def likelihoods(
    diffusion: "FramedDiffusion",
    batch: Batch,
    task: Task,
    *,
    seed: int,
    batch_size: int | None = None,
    progress: bool = True,
) -> Tensor:
    """Bound on the negative log-likelihood (nats) of every graph, [B] float: `num_timesteps` network calls per chunk.

    Random: one noise for each graph and step, which depends on `seed`, the graph and the step alone, so `batch_size`
    changes nothing but memory. The caller's generators are left alone. Positions count in the stored unit. Raises as
    `GeoTDM.calc_bpd_loop` does; ValueError for a `Flow`.
    """
    from geotdm_fast.diffusion.noise import likelihood_noise
    from geotdm_fast.metrics import nll_per_graph
    from geotdm_fast.runtime.bars import progress_bar
    from geotdm_fast.sampling import GraphPicker, default_batch_size

    device = torch.device(diffusion.device)
    chunks = torch.arange(batch.num_graphs).split(batch_size or default_batch_size(batch, device))
    bar = progress_bar(
        total=len(chunks) * diffusion.num_timesteps, desc="likelihood", unit="step", disable=not progress
    )
    nats = []
    pick = GraphPicker(batch)
    with bar, torch.no_grad():
        for chunk in chunks:
            part = pick(chunk).to(device, diffusion.dtype)
            x_start, model_kwargs = task.split(part)
            noise = likelihood_noise(seed, chunk, part.batch, x_start)
            terms = diffusion.calc_bpd_loop(x_start, model_kwargs=model_kwargs, progress=bar.update, noise=noise)
            nats.append(nll_per_graph(terms["total_bpd"], part.batch, part.scored).cpu())
    return torch.cat(nats)


def _tensors(samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """samples [K, N, D, T], target [N, D, T] (both in the unit), batch [N], scored [M]."""
    drawn = torch.from_numpy(samples.samples) * samples.scale
    target = torch.from_numpy(samples.target) * samples.scale
    return drawn, target, torch.from_numpy(samples.batch), torch.from_numpy(samples.scored)


def _forecast(samples: Samples, kmeans: int | None, progress: bool) -> dict[str, float]:
    from geotdm_fast.metrics import displacement_errors, displacement_summary, kmeans_representatives

    drawn, target, batch, scored = _tensors(samples)
    ade, fde = displacement_errors(drawn, target, batch, scored)
    representatives = None
    if kmeans is not None:
        if len(scored) != samples.num_graphs:
            raise ValueError(
                "evaluate: kmeans (train.cluster) needs exactly one scored node in each graph (pedestrians)"
            )
        representatives = kmeans_representatives(drawn[:, scored, :, -1], kmeans, progress=progress)
    return displacement_summary(ade, fde, representatives=representatives)


def _baselines(samples: Samples) -> dict[str, dict[str, float]]:
    from geotdm_fast.metrics import baseline_forecast, displacement_errors

    _, target, batch, scored = _tensors(samples)
    truth = torch.from_numpy(samples.truth(absolute=False))
    given = torch.from_numpy(samples.cond_mask)
    prefix = bool(given[: int(given.sum())].all())
    names = [n for n in _EXTRAPOLATIONS if prefix and int(given.sum()) >= (1 if n == "standing_still" else 2)]
    if samples.is_molecule and prefix and int(given.sum()) >= 3:
        names.append("persistent_velocity")
    if given[0] and given[-1]:
        names.append("linear")
    errors = {}
    for name in names:
        ade, fde = displacement_errors(baseline_forecast(name, truth, given)[None], target, batch, scored)
        errors[name] = {"ade": float(ade.double().mean()), "fde": float(fde.double().mean())}
    return errors


def marginal(samples: Samples) -> float:
    """The marginal score of samples against their targets: of coordinates, or of bond lengths for molecules."""
    from geotdm_fast.metrics import bond_lengths, by_graph, close_pairs, coordinate_channels, marginal_score

    drawn, target, batch, _ = _tensors(samples)
    if not samples.is_molecule:
        return marginal_score(coordinate_channels(target), coordinate_channels(drawn.flatten(0, 1)))
    real = by_graph(target, batch)
    bonds = close_pairs(real[0, ..., 0])
    fake = torch.cat([by_graph(one, batch) for one in drawn])
    return marginal_score(bond_lengths(real, bonds), bond_lengths(fake, bonds))


def _learned(score: str, samples: Samples, seed: int, device: torch.device | str, progress: bool) -> float:
    from geotdm_fast.metrics import by_graph, classification_score, prediction_score

    drawn, target, batch, _ = _tensors(samples)
    h = torch.from_numpy(samples.h)
    h = by_graph(h, batch) if h.dim() == 2 else None
    function = classification_score if score == "classification" else prediction_score
    return function(by_graph(target, batch), by_graph(drawn[0], batch), h, seed=seed, device=device, progress=progress)


def report(result: dict) -> str:
    """The result of `evaluate` as text: what was scored, then one table."""
    # Texts of a file, on their way to a terminal.
    result = result | {name: plain(result[name]) for name in ("data", "unit")}
    task = f"{result['num_drawn']} frames from {result['num_given']} given"
    if result["mode"] == "uncond":
        task = f"{result['num_drawn']} frames, generated"
    if "num_without_truth" in result:
        task += f" ({result['num_without_truth']} frames behind them, where the data end, are not scored)"
    scored = f"{result['num_graphs']} graphs"
    if set(result) & {"forecast", "marginal", "classification", "prediction", MOLECULES}:
        scored += f" x {result['num_samples']} samples"
    lines = [f"{result['data']}: {task}; {scored}", ""]
    if "forecast" in result:
        lines += [_forecast_table(result), ""]
    rows = []
    paper = result["paper"] or {}
    meaning = {
        "marginal": "lower is better",
        "classification": "higher is better, at most ln 2 = 0.693",
        "prediction": "lower is better",
    }
    for score, about in meaning.items():
        if score in result:
            rows.append([score, result[score], *([paper.get(score)] if paper else []), about])
    if rows:
        lines += [text_table(["score", "ours", *(["paper"] if paper else []), ""], rows), ""]
    if "nll" in result:
        nll = result["nll"]
        error = "" if nll["standard_error"] is None else f" +- {cell_text(nll['standard_error'])} (standard error)"
        lines += [f"NLL at most {cell_text(nll['mean'])}{error} nats per graph", ""]
    if MOLECULES in result:
        from geotdm_fast.scores.md.report import md_report

        lines += [md_report(result[MOLECULES]), ""]
    return "\n".join(lines).rstrip()


def _forecast_table(result: dict) -> str:
    forecast, num_samples = result["forecast"], result["num_samples"]
    unit = f" ({result['unit']})" if result["unit"] else ""
    rows = [[f"model, mean of {num_samples}", forecast["ade_mean"], forecast["fde_mean"]]]
    if num_samples > 1:
        rows.append([f"model, best of {num_samples}", forecast["ade_best"], forecast["fde_best"]])
    for key in forecast:
        if key.startswith("ade_best_kmeans"):
            count = key.removeprefix("ade_best_kmeans")
            label = f"model, best of {count} k-means representatives"
            rows.append([label, forecast[key], forecast[key.replace("ade", "fde")]])
    words = {"linear": "linear interpolation"}
    for name, errors in result["baselines"].items():
        rows.append([words.get(name, name.replace("_", " ")), errors["ade"], errors["fde"]])
    if result["paper"]:
        paper = result["paper"]
        fde = paper.get("fde")  # the paper's interpolation has none
        rows.append([f"paper, {paper['protocol']}", f"{paper['ade']:g}", None if fde is None else f"{fde:g}"])
    return text_table(["", f"ADE{unit}", f"FDE{unit}"], rows)
