"""Scores of molecules: how far the drawn trajectories are from the true ones in what molecular dynamics asks about."""

from geotdm_fast.scores.md.scoring import MoleculeScores, score_molecules
from geotdm_fast.scores.md.settings import MD_SCORES, MDSettings

__all__ = ["MD_SCORES", "MDSettings", "MoleculeScores", "score_molecules"]
