"""Molecular dynamics into an `.npz`: argon, water and alanine dipeptide, by OpenMM; argon by an integrator of our own.

`simulate_md` does it, `MDSettings` says what; `geotdm simulate md:argon` is the same on the command line.
"""

from geotdm_fast.simulation.run import Outcome, simulate_md
from geotdm_fast.simulation.settings import SYSTEMS, MDSettings

__all__ = ["SYSTEMS", "MDSettings", "Outcome", "simulate_md"]
