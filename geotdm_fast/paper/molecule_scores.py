"""Scores of molecules of a forecast, and of the forecasts without a model beside it."""

import dataclasses

import torch

from geotdm_fast.metrics import baseline_forecast
from geotdm_fast.samples.record import Samples
from geotdm_fast.scores.evaluation import evaluate
from geotdm_fast.scores.md import MDSettings, score_molecules

BASELINES = ("standing_still", "mean_of_given", "constant_velocity", "persistent_velocity")
# Of one given frame there is no velocity, and its mean is itself.
_OF_ONE_FRAME = BASELINES[:1]


def with_baselines(samples: Samples, settings: MDSettings) -> dict:
    """`md`, the scores of the samples, and `baselines`: {name: {ade, fde, md}} of each forecast without a model.

    A score is {drawn, floor}: see docs/scores.md; those of a name with several rows are of the first.
    """
    baselines = {}
    for name in BASELINES if samples.cond_mask.sum() > 1 else _OF_ONE_FRAME:
        forecast = baseline_samples(samples, name)
        errors = evaluate(forecast, ["ade"], progress=False)["forecast"]
        baselines[name] = {
            "ade": errors["ade_mean"],
            "fde": errors["fde_mean"],
            "md": scores_of(forecast, settings),
        }
    return {"md": scores_of(samples, settings), "baselines": baselines}


def scores_of(samples: Samples, settings: MDSettings) -> dict[str, dict[str, float | None]]:
    """{score: {drawn, floor}} of samples of one molecule, the first row of each score."""
    (molecule,) = score_molecules(samples, settings)
    found: dict[str, dict[str, float | None]] = {}
    for row in (row.as_json() for row in molecule.rows):
        found.setdefault(row["score"], {"drawn": row["value"], "floor": row["floor"]})
    return found


def baseline_samples(samples: Samples, name: str) -> Samples:
    """The samples with the one forecast of a baseline in their place."""
    truth = torch.from_numpy(samples.truth(absolute=False))  # in the unit
    forecast = baseline_forecast(name, truth, torch.from_numpy(samples.cond_mask))
    return dataclasses.replace(samples, samples=(forecast / samples.scale)[None].numpy())
