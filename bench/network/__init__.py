"""Whole calls of the network, and their memory."""
