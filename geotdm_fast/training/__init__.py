"""Training: one function, `train`, that a kill at any moment does not hurt."""

from geotdm_fast.training.loop import train

__all__ = ["train"]
