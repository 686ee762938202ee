"""Volumes as gzipped bytes on disk: the one format that the browser canvas fetches and sends back."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from gradio.data_classes import FileData
from numpy.typing import NDArray

from vcm.whole_files import write_whole

_GZIP_LEVEL = 4  # a live preview is published in about 15 ms and is within 3 % of the smallest size
_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib's way to say "a gzip member, with its checksum verified"

_GONE = "The drawing is no longer on the server; please draw one stroke to send it again."
_DAMAGED = "The drawing arrived damaged; please draw one stroke to send it again."


class VolumeFileError(ValueError):
    """A file is not the gzipped volume it should be; the message is one sentence for the user."""


def publish_volume(array: NDArray[np.uint8], cache_dir: str | Path) -> FileData:
    """Write a volume where the canvas can fetch it, under a name made of its content.

    The same voxels give the same file, so that an unchanged volume is never sent twice and a viewer can tell
    from the name alone that nothing changed.

    Args:
        array: (X, Y, Z) uint8, in the model grid's voxel order.
        cache_dir: A folder that Gradio may serve. Inside Gradio's own cache (`gradio.utils.get_upload_folder()`)
            the file is served in place; elsewhere Gradio makes a copy.

    Returns:
        The file, for a `Layer` or the `mask` of a `SliceCanvasData`.

    Raises:
        ValueError: The array is not three-dimensional or not uint8.
    """
    if array.ndim != 3 or array.dtype != np.uint8:
        raise ValueError(f"publish_volume takes a three-dimensional uint8 array, not {array.dtype} {array.shape}.")
    voxels = array.tobytes(order="F")
    shape = "x".join(str(n) for n in array.shape)
    folder = Path(cache_dir)
    target = folder / f"{hashlib.sha256(voxels).hexdigest()[:24]}-{shape}.u8.gz"
    if target.exists():
        os.utime(target)  # a cache that deletes by age must not take a file that is in use again
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with write_whole(target) as file:
            file.write(gzip.compress(voxels, _GZIP_LEVEL, mtime=0))
    return FileData(path=str(target), orig_name=target.name, mime_type="application/gzip")


def read_volume_file(path: str | Path, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Read a gzipped uint8 volume of a known shape; never inflates more than the shape needs.

    Args:
        path: A file of one gzip member: prod(shape) bytes in Fortran order.
        shape: The expected (X, Y, Z).

    Returns:
        (X, Y, Z) uint8, writable.

    Raises:
        VolumeFileError: The file is missing, damaged, or holds another number of voxels.
    """
    expected = prod(shape)
    # Random bytes do not shrink, and gzip adds a few bytes a block: anything longer cannot be this volume.
    limit = expected + expected // 100 + 4096
    try:
        with Path(path).open("rb") as file:
            packed = file.read(limit + 1)
    except OSError as error:
        raise VolumeFileError(_GONE) from error
    if len(packed) > limit:
        raise VolumeFileError(f"The drawing is larger than the grid of {_words(shape)} voxels.")
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        voxels = inflater.decompress(packed, expected + 1)
    except zlib.error as error:
        raise VolumeFileError(_DAMAGED) from error
    if len(voxels) > expected:
        raise VolumeFileError(f"The drawing is larger than the grid of {_words(shape)} voxels.")
    if not inflater.eof or inflater.unused_data:
        raise VolumeFileError(_DAMAGED)
    if len(voxels) < expected:
        raise VolumeFileError(f"The drawing is smaller than the grid of {_words(shape)} voxels.")
    return np.frombuffer(voxels, np.uint8).reshape(tuple(shape), order="F").copy(order="F")


def _words(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
