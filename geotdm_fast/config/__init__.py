"""Configuration files: every key with its meaning and default, and how they are read."""

from geotdm_fast.config.files import load_config

__all__ = ["load_config"]
