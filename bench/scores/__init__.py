"""Scores of samples against the libraries that compute the same quantities."""
