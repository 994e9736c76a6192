"""Scores of a file of samples, and of a network's equivariance."""
