"""Volumes in world space: NIfTI in and out, affines, resampling, registration."""

from vcm.errors import VolumeError
from vcm.volume.volume import Volume

__all__ = ["Volume", "VolumeError"]
