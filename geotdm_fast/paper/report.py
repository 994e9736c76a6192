"""What is left of an experiment: its row, and its pictures."""

import pathlib

from geotdm_fast.config.files import portable_config
from geotdm_fast.paper.recipes import Recipe
from geotdm_fast.paper.request import Request
from geotdm_fast.provenance import now
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.published import EGNN, GEOTDM, UNCONDITIONAL, PaperRow, paper_rows


def pictures(samples: Samples, folder: pathlib.Path, *, bonds: bool) -> list[pathlib.Path]:
    """trajectories.png, and for molecules bonds.png: the files' paths."""
    from geotdm_fast.plots.bonds import plot_bond_lengths
    from geotdm_fast.plots.forecast import plot_forecast

    made = [folder / "trajectories.png"]
    plot_forecast(samples, made[0])
    if bonds:
        made.append(folder / "bonds.png")
        plot_bond_lengths(samples, made[1])
    return made


def make_row(
    id: str,
    request: Request,
    recipe: Recipe,
    trained: dict,
    scores: dict,
    calls: list[dict],
    data_sha256: str | None,
    known: bool,
) -> dict:
    """One experiment as a plain dict for JSON.

    trained: {steps, seconds, parameters}; scores: those of each protocol as `evaluate` returns them, with `checkpoint`
    and `seconds`; calls: machine, versions, commit and date of every call that had a part in it
    data_sha256: of the files of the data, None where they were simulated
    known: whether the test data are known to be the paper's: only then are ours read against its figures
    """
    task, experiment = request.task, request.experiment
    protocols = {}
    for protocol, found in scores.items():
        label, values = _protocol(protocol, found, task)
        protocols[label] = values | {
            "num_graphs": found["num_graphs"],
            "checkpoint": found["checkpoint"],
            "seconds": round(found["seconds"], 3),
        }
    baselines = next(iter(scores.values())).get("baselines", {})
    published = paper_rows(experiment, task)
    return {
        "id": id,
        "experiment": experiment,
        "task": task,
        "preset": request.preset,
        "data": recipe.data,
        "data_sha256": data_sha256,
        "changes": list(request.changes),
        "unit": next(iter(scores.values()))["unit"],
        "scores": protocols,
        "baselines": baselines,
        "paper": [{"method": row.method, "protocol": _of_paper(row, known), **row.scores} for row in published],
        "beats": _beats(next(iter(protocols.values())), baselines, published if known else []),
        "training": trained,
        "sampling": {
            "method": recipe.method,
            "steps": recipe.steps or recipe.config["diffusion"]["num_timesteps"],
            "spacing": recipe.spacing,
        },
        "settings": portable_config(recipe.config),
        **({} if recipe.structure is None else {"structure": portable_config(recipe.structure)}),
        "seed": request.seed,
        "date": now(),
        "calls": _distinct(calls),
    }


def _of_paper(row: PaperRow, known: bool) -> str:
    """The protocol of a published row, which says that it is of other data where ours are not known to be the same."""
    return row.protocol if known or row.protocol.startswith("on ") else f"on the paper's data, {row.protocol}"


def _protocol(protocol: str, found: dict, task: str) -> tuple[str, dict]:
    """How the scores of a protocol are called, and their numbers."""
    if task == UNCONDITIONAL:
        names = ("marginal", "classification", "prediction")
        return f"{found['num_drawn']} frames", {name: found[name] for name in names if name in found}
    forecast, num_samples = found["forecast"], found["num_samples"]
    if protocol == "clean":
        label = f"clean: best of {num_samples}, checkpoint not chosen on the test set"
        return label, {"ade": forecast["ade_best"], "fde": forecast["fde_best"]}
    kmeans = next((key.removeprefix("ade_best_kmeans") for key in forecast if "ade_best_kmeans" in key), None)
    if kmeans is not None:
        label = f"official: best of {kmeans} k-means of {num_samples}, checkpoint chosen on the test set"
        return label, {"ade": forecast[f"ade_best_kmeans{kmeans}"], "fde": forecast[f"fde_best_kmeans{kmeans}"]}
    values = {"ade": forecast["ade_mean"], "fde": forecast["fde_mean"]}
    if "md" in found:
        values |= {"ade_best": forecast["ade_best"], "fde_best": forecast["fde_best"], "md": found["md"]}
    return f"mean of {num_samples}", values


def _beats(ours: dict, baselines: dict, published: list) -> dict[str, bool]:
    """Of each forecast that ours is read against, whether ours has the smaller ADE."""
    if "ade" not in ours:
        return {}
    others = {name: errors["ade"] for name, errors in baselines.items()}
    others |= {row.method: row.scores["ade"] for row in published if row.method in (EGNN, GEOTDM)}
    return {name: ours["ade"] < error for name, error in others.items()}


def _distinct(calls: list[dict]) -> list[dict]:
    """Machine, versions and commit of the calls, the same ones once, with how often they came."""
    kept: dict[str, dict] = {}
    for call in calls:
        machine = {key: value for key, value in call["machine"].items() if key != "load"}
        about = {"machine": machine, "versions": call["versions"], "commit": call["commit"]}
        entry = kept.setdefault(repr(about), about | {"calls": 0, "largest_load": 0.0})
        entry["calls"] += 1
        entry["largest_load"] = max(entry["largest_load"], call["machine"]["load"] or 0.0)
    return list(kept.values())
