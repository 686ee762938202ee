"""NIfTI files as bytes, sound or with any field of the header wrong."""

from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2, 0, -11], [0, 0, 3, -6], [0, 0, 0, 1]])


def encode(
    array: NDArray,
    version: int = 1,
    order: str = "<",
    extension: bytes = b"",
    affine: NDArray = AFFINE,
    **fields: Any,
) -> bytes:
    """Return a plain NIfTI file; `fields` overwrite those of a sound header, right or wrong."""
    kind = nib.Nifti1Header if version == 1 else nib.Nifti2Header
    header = kind(endianness=order)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header.set_zooms((*spacing, 1, 1, 1, 1)[: array.ndim])
    header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
    header["sform_code"] = 1
    header["magic"] = b"n+1" if version == 1 else b"n+2"
    header["vox_offset"] = header.single_vox_offset + len(extension)
    header["scl_slope"] = 0
    for name, value in fields.items():
        header[name] = value
    flags = b"\1\0\0\0" if extension else bytes(4)
    return header.binaryblock + flags + extension + array.astype(array.dtype.newbyteorder(order)).tobytes("F")
