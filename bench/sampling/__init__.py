"""Sampling, and how few steps cost nothing."""
