"""Label maps as a session keeps them: small, since there is one for every visitor."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

UploadedMaps = dict[str, bytes]
"""By modality, each of `pack_labels`."""


def pack_labels(labels: NDArray[np.uint8]) -> bytes:
    """Return a label map (X, Y, Z) in the few bytes that it deserves."""
    return zlib.compress(np.ascontiguousarray(labels).tobytes())


def unpack_labels(packed: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the label map (X, Y, Z) that `pack_labels` packed."""
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
