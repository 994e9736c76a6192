"""Trajectories of a file in plain arrays on disk: made once, read a window at a time, in no more memory than that."""

from geotdm_fast.data.cache.folder import FrameCache
from geotdm_fast.data.cache.windows import StoredWindows

__all__ = ["FrameCache", "StoredWindows"]
