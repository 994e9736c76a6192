"""Diffusion over geometric trajectories (GeoTDM, arXiv 2410.13027), fast."""

__version__ = "0.1.0"
