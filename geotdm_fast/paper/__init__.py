"""The paper's experiments, each from data to a row beside the paper's: what `geotdm reproduce` runs."""

from geotdm_fast.paper.pipeline import reproduce
from geotdm_fast.paper.recipes import recipe
from geotdm_fast.paper.request import PRESETS, TASKS, Request
from geotdm_fast.paper.results import read_results, results_table

__all__ = ["PRESETS", "TASKS", "Request", "read_results", "recipe", "reproduce", "results_table"]
