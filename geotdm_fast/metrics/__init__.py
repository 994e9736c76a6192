"""Scores of forecasts and of samples."""

from geotdm_fast.metrics.baselines import BASELINES, baseline_forecast
from geotdm_fast.metrics.displacement import displacement_errors, displacement_summary
from geotdm_fast.metrics.eqmotion import EqMotion
from geotdm_fast.metrics.graphs import by_graph, graph_mean, graph_sum
from geotdm_fast.metrics.kmeans import kmeans_centres, kmeans_representatives
from geotdm_fast.metrics.learned import classification_score, prediction_score
from geotdm_fast.metrics.likelihood import nll_per_graph
from geotdm_fast.metrics.marginal import (
    bond_lengths,
    close_pairs,
    coordinate_channels,
    marginal_distances,
    marginal_score,
)

__all__ = [
    "BASELINES",
    "EqMotion",
    "baseline_forecast",
    "bond_lengths",
    "by_graph",
    "classification_score",
    "close_pairs",
    "coordinate_channels",
    "displacement_errors",
    "displacement_summary",
    "graph_mean",
    "graph_sum",
    "kmeans_centres",
    "kmeans_representatives",
    "marginal_distances",
    "marginal_score",
    "nll_per_graph",
    "prediction_score",
]
