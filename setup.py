"""Build recipe; everything it can say declaratively is in pyproject.toml."""

from setuptools import setup

setup()
