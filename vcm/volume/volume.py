"""Volumes in world space: read from untrusted NIfTI files, resampled by affine, written afresh."""

import gzip
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import nibabel as nib
import numpy as np
from nibabel.quaternions import fillpositive, quat2mat
from nibabel.volumeutils import shape_zoom_affine
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.volume.affines import (
    SAME_GRID_TOLERANCE,
    Affine,
    Shape,
    check_affine,
    check_extent,
    distance_mm,
    format_sizes,
    is_oblique,
    is_sheared,
    same_place,
    spacing_mm,
)
from vcm.volume.payload import Payload, open_payload
from vcm.volume.resample import resample
from vcm.whole_files import write_whole

__all__ = ["MAX_VOXELS", "Volume", "VolumeError", "as_labels"]

MAX_VOXELS = 2**26  # 512 x 512 x 256; refused by the header alone, before anything is allocated

_ACCEPTED = "choose a NIfTI volume (.nii or .nii.gz)"
_NUMBER_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OTHER_TYPES = {32: "complex numbers", 1792: "complex numbers", 128: "colors", 2304: "colors"}
_HEADERS = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}  # by their first number, their size
_EXTENSION_FLAG_BYTES = 4
_MAX_EXTENSION_BYTES = 2**20
_UNITS_TO_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, meter, mm, micron
_LABEL_TOLERANCE = 1e-3  # labels that went through a scale factor come back with rounding
_ALIGNED = 2  # NIfTI xform code: the affine leads to another volume's space


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D array with its place in the world.

    Attributes:
        array: (X, Y, Z), whole or floating numbers.
        affine: (4, 4) float64, voxel index to RAS+ mm.
        notes: sentences for the user on what was assumed, repaired or resampled on the way here.

    Raises:
        VolumeError: the array is not three-dimensional, is empty or holds no real numbers; the affine is
            not finite, is singular, or has a voxel size that no scanner makes.
    """

    array: NDArray
    affine: Affine
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        array = np.asarray(self.array)
        array = array.astype(np.uint8) if array.dtype == bool else array
        if array.dtype.kind not in "uif":
            raise VolumeError("A volume holds one real number a voxel; this one holds another kind of value.")
        if array.ndim != 3 or 0 in array.shape:
            raise VolumeError(f"A volume has three dimensions; this one has the shape {format_sizes(array.shape)}.")
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", check_affine(self.affine))
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The voxel size along the three array axes, in mm."""
        x, y, z = spacing_mm(self.affine).tolist()
        return x, y, z

    @property
    def axcodes(self) -> str:
        """The directions that the array axes run towards, such as "RAS"."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @classmethod
    def load(cls, path: str | os.PathLike[str], labels: bool = False) -> Self:
        """Read a NIfTI-1 or NIfTI-2 file, gzipped or plain, of either byte order.

        The file is taken as hostile: its header is judged before anything is allocated, its data are
        read to the end under a cap and against their checksum, and nothing of it but voxels and affine
        is kept.

        Args:
            path: of the file; its name is neither interpreted nor remembered.
            labels: whether the values are names. Labels come as uint8 and must be whole numbers. Other
                volumes come as float32, scaled as the header says, with NaN and infinity read as 0.

        Raises:
            VolumeError: the file cannot be read safely, or does not hold one 3-D volume of real numbers.
        """
        with open_payload(path) as payload:
            with np.errstate(all="ignore"):  # what is no number is refused in words, not warned of
                header, affine, notes = _read_header(payload)
            dtype, shape = _dtype(header), _shape(header)
            data = payload.read_exactly(int(np.prod(shape)) * dtype.itemsize)
            payload.expect_end()
        stored = np.frombuffer(data, dtype).reshape(shape, order="F")
        slope, inter = _scaling(header)
        if labels:
            return cls(as_labels(_scale(stored, slope, inter)), affine, notes)
        array, repairs = _finite(_scale(stored, slope, inter))
        return cls(array, affine, notes + repairs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the volume as NIfTI-1, gzipped if the name ends in .gz; the same volume gives the same bytes.

        Whole numbers from 0 to 255 are written as uint8, everything else as float32. The header is new
        and says nothing but type, shape and affine. A file of that name is replaced only once the new
        one is complete.

        Raises:
            VolumeError: the name ends neither in .nii nor in .nii.gz, or the disk refuses.
        """
        path = Path(path)
        if not path.name.endswith((".nii", ".nii.gz")):
            raise VolumeError("A volume is saved under a name that ends in .nii or .nii.gz.")
        try:
            with write_whole(path) as file:
                if path.suffix == ".gz":
                    # Neither a name nor a time: both would tell of the user and change the bytes.
                    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as stream:
                        stream.write(self._to_nifti())
                else:
                    file.write(self._to_nifti())
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "the disk refused"
            raise VolumeError(f"The volume could not be saved: {reason}.") from None

    def to_grid(self, shape: Sequence[int], affine: NDArray, labels: bool = False) -> "Volume":
        """Bring the volume to another grid by its place in the world; what it does not cover becomes 0.

        On its own grid the volume stays as it is. A grid that differs only by the order and direction
        of its axes, or by whole voxels of margin, is reached without interpolation, so the same data
        stored in any orientation give the same bits. Everything else is said in `notes`.

        Args:
            shape: of the target grid, three numbers.
            affine: (4, 4), voxel index to RAS+ mm, of the target grid.
            labels: whether the values are names; labels keep their volume, see `vcm.volume.resample`.

        Raises:
            VolumeError: the grids do not overlap, or labels are asked for and the values are none.
        """
        target: Shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        target_affine = check_affine(affine)
        array = as_labels(self.array) if labels else self.array
        array, interpolated = resample(array, self.affine, target, target_affine, labels)
        moved = Volume(array, target_affine)
        return replace(moved, notes=self.notes + _describe_change(self, moved, interpolated))

    def _to_nifti(self) -> bytes:
        whole = self.array.dtype.kind in "ui" and self.array.min() >= 0 and self.array.max() <= 255
        image = nib.Nifti1Image(self.array.astype(np.uint8 if whole else np.float32), self.affine)
        image.set_sform(self.affine, _ALIGNED)
        if not is_sheared(self.affine):  # a quaternion cannot say shear, and would contradict the sform
            image.set_qform(self.affine, _ALIGNED)
        image.header.set_xyzt_units("mm")
        return image.to_bytes()


def as_labels(array: NDArray) -> NDArray[np.uint8]:
    """Return label values as uint8.

    Args:
        array: any shape and real type; floats are fine where they are whole numbers.

    Raises:
        VolumeError: a value is not a whole number from 0 to 255; the sentence lists such values.
    """
    if array.dtype == np.uint8:
        return array
    with np.errstate(invalid="ignore"):
        whole = np.rint(array)
        wrong = ~((np.abs(array - whole) <= _LABEL_TOLERANCE) & (whole >= 0) & (whole <= 255))
    if wrong.any():
        found = list_values(array[wrong])
        raise VolumeError(f"Labels are whole numbers from 0 to 255, for a tumor 1, 2 and 3; this volume holds {found}.")
    return whole.astype(np.uint8, order="C")


def list_values(array: NDArray, most: int = 8) -> str:
    """Return the distinct values of an array as a user reads them, such as "-1, 3.7 and 12 more"."""
    values = [f"{value:.4g}" if array.dtype.kind == "f" else str(value) for value in np.unique(array)]
    shown, rest = values[:most], len(values) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def _read_header(payload: Payload) -> tuple[nib.Nifti1Header, Affine, tuple[str, ...]]:
    """Read and judge a header up to the first voxel."""
    start = payload.read_up_to(min(_HEADERS))
    for order in ("<", ">"):
        size = int(np.frombuffer(start[:4], f"{order}i4")[0]) if len(start) >= 4 else 0
        if size in _HEADERS:
            break
    else:
        raise VolumeError(_name_the_format(start))
    start += payload.read_up_to(size - len(start))
    if len(start) < size:
        raise VolumeError("The file is damaged: it ends within its header; copy or export it again.")
    header_class, single_file = _HEADERS[size]
    header = header_class(bytes(start), endianness=order, check=False)
    mark = header["magic"].item()[:3]
    if mark in (b"", b"ni1", b"ni2"):
        raise VolumeError(f"This is one half of a header and image pair (.hdr and .img); {_ACCEPTED} instead.")
    if mark != single_file:
        raise VolumeError("The file is damaged: its header does not carry the mark of NIfTI; export it again.")
    _dtype(header)
    affine, notes = _read_affine(header, _shape(header))
    _skip_extensions(payload, header, size + _EXTENSION_FLAG_BYTES)
    return header, affine, notes


def _name_the_format(start: bytearray) -> str:
    """Return the message for a file that does not begin like NIfTI."""
    if start[128:132] == b"DICM":
        return "This is a DICOM file; convert its series to NIfTI first, for example with dcm2niix."
    if start.startswith(b"PK"):
        return f"This is a zip archive; unpack it, then {_ACCEPTED}."
    if start.startswith(b"NRRD"):
        return f"This is an NRRD file; {_ACCEPTED} instead."
    if start.startswith(b"\x00\x00\x00\x01"):
        return f"This is a FreeSurfer volume (.mgh or .mgz); {_ACCEPTED} instead."
    if start.startswith((b"\x89HDF", b"CDF")):
        return f"This is a MINC or HDF5 file; {_ACCEPTED} instead."
    return f"This is not a NIfTI file; {_ACCEPTED}."


def _shape(header: nib.Nifti1Header) -> Shape:
    """Return the header's three dimensions, if they make a volume of a size that will be read."""
    dims = [int(size) for size in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise VolumeError("The file is damaged: its header gives an impossible number of dimensions.")
    shape = dims[1 : dims[0] + 1]
    if min(shape) < 1:
        raise VolumeError(f"The file is damaged: its header gives the impossible shape {format_sizes(shape)}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise VolumeError(f"One volume of three dimensions is expected; this file has the shape {format_sizes(shape)}.")
    x, y, z = shape
    if x * y * z > MAX_VOXELS:
        raise VolumeError(
            f"The volume is too large: {format_sizes(shape)} voxels, where at most 512 x 512 x 256 are read."
        )
    return x, y, z


def _dtype(header: nib.Nifti1Header) -> np.dtype:
    """Return the type of the stored values, in the file's byte order."""
    code = int(header["datatype"])
    if code not in _NUMBER_TYPES:
        kind = _OTHER_TYPES.get(code, "an unknown kind of value")
        raise VolumeError(f"A volume of one real number a voxel is expected; this file holds {kind}.")
    return np.dtype(_NUMBER_TYPES[code]).newbyteorder(header.endianness)


def _skip_extensions(payload: Payload, header: nib.Nifti1Header, start: int) -> None:
    """Read on to the first voxel; extensions are measured, so that a false one is refused, and dropped."""
    flags = payload.read_exactly(_EXTENSION_FLAG_BYTES)
    offset = float(header["vox_offset"]) or float(start)  # 0 means "right after the header"
    if not start <= offset <= start + _MAX_EXTENSION_BYTES or offset != int(offset):
        raise VolumeError("The file is damaged: its header says that the voxels begin at an impossible place.")
    extensions = payload.read_exactly(int(offset) - start)
    position = 0
    while flags[0] and position + 8 <= len(extensions):
        size = int(np.frombuffer(extensions, f"{header.endianness}i4", count=1, offset=position)[0])
        if size < 8 or position + size > len(extensions):
            raise VolumeError("The file is damaged: a header extension has an impossible size; export it again.")
        position += size


def _scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 or NaN means, as the standard says, no scaling at all."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise VolumeError("The file is damaged: the intercept that scales its values is not a number.")
    return slope, inter


def _scale(stored: NDArray, slope: float, inter: float) -> NDArray:
    """Return the values that the stored numbers mean, in this machine's byte order."""
    if (slope, inter) == (1.0, 0.0):
        return stored.astype(stored.dtype.newbyteorder("="), order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float64, order="C") * slope + inter


def _finite(array: NDArray) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return an image as finite float32, and what had to be said about it."""
    with np.errstate(over="ignore", invalid="ignore"):
        image = array.astype(np.float32)
    finite = np.isfinite(image)
    if not finite.any():
        raise VolumeError("The volume holds no number at all: every voxel is NaN or infinite.")
    notes: tuple[str, ...] = ()
    if not finite.all():
        image[~finite] = 0.0
        count = int(finite.size - np.count_nonzero(finite))
        notes += (f"{count:,} voxels that were not a number, or infinite, were read as 0.",)
    if image.min() == image.max():
        notes += (f"Every voxel holds the same value, {image.flat[0]:.4g}.",)
    return image, notes


def _read_affine(header: nib.Nifti1Header, shape: Shape) -> tuple[Affine, tuple[str, ...]]:
    """Choose between a header's three ways to say where it is, and say so wherever there was a choice."""
    notes: list[str] = []
    unit = _UNITS_TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    to_mm = np.array([[unit], [unit], [unit], [1.0]])
    qform = check_affine(to_mm * _qform(header)) if header["qform_code"] > 0 else None
    sform = None
    if header["sform_code"] > 0:
        sform = np.vstack([header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]).astype(np.float64)
        empty = not sform[:3, :3].any()
        sform = None if empty else check_affine(to_mm * sform)
        if empty and qform is not None:
            notes.append("The file's sform is all zero; its qform was used to place it.")
    if sform is not None:
        affine = sform
        if qform is not None and not same_place(sform, qform, shape):
            apart = distance_mm(sform, qform, shape)
            notes.append(f"The file's sform and qform disagree by up to {apart:.1f} mm; the sform was used.")
    elif qform is not None:
        affine = qform
    else:
        zooms = np.abs(header["pixdim"][1:4].astype(np.float64))
        affine = check_affine(to_mm * shape_zoom_affine(shape, zooms, x_flip=True))
        notes.append(
            "The file does not say how it is oriented; it was read as left, anterior, superior around its centre, "
            "so check left and right."
        )
    check_extent(affine, shape)
    if unit != 1.0:
        notes.append(f"The file's lengths are in {'meters' if unit > 1 else 'microns'}; they were converted to mm.")
    if is_sheared(affine):
        notes.append("The file's axes are not at right angles (its affine is sheared); it was placed as it says.")
    return affine, tuple(notes)


def _qform(header: nib.Nifti1Header) -> Affine:
    """Return the affine of the header's quaternion."""
    pixdim = header["pixdim"].astype(np.float64)
    quaternion = np.array([header["quatern_b"], header["quatern_c"], header["quatern_d"]], dtype=np.float64)
    # Float32 rounding leaves a unit quaternion a hair too long.
    if not np.isfinite(quaternion).all() or quaternion @ quaternion > 1 + 1e-5 or (pixdim[1:4] <= 0).any():
        raise VolumeError("The file is damaged: the rotation in its header (qform) is impossible; export it again.")
    affine = np.eye(4)
    handedness = -1.0 if pixdim[0] < 0 else 1.0
    affine[:3, :3] = quat2mat(fillpositive(quaternion, w2_thresh=-1e-4)) * (pixdim[1:4] * [1, 1, handedness])
    affine[:3, 3] = header["qoffset_x"], header["qoffset_y"], header["qoffset_z"]
    return affine


def _describe_change(before: Volume, after: Volume, interpolated: bool) -> tuple[str, ...]:
    """Return the sentences that describe to a user what a change of grid did."""
    if interpolated:
        return (f"Resampled from {_describe_grid(before)} to {_describe_grid(after)}.",)
    notes: tuple[str, ...] = ()
    if before.axcodes != after.axcodes:
        notes += (f"Axes reordered from {before.axcodes} to {after.axcodes}; no value changed.",)
    if not np.allclose(_field_of_view(before), _field_of_view(after), atol=SAME_GRID_TOLERANCE * min(after.spacing_mm)):
        notes += ("Field of view moved, cropped or padded by whole voxels; no value changed inside it.",)
    return notes


def _describe_grid(volume: Volume) -> str:
    oblique = ", oblique" if is_oblique(volume.affine) else ""
    shape, spacing = format_sizes(volume.array.shape), format_sizes(volume.spacing_mm)
    return f"{shape} voxels of {spacing} mm ({volume.axcodes}{oblique})"


def _field_of_view(volume: Volume) -> NDArray[np.float64]:
    """Return the lowest and the highest world coordinates of a volume's corner voxels, (2, 3), in mm."""
    corners = np.array([*itertools.product(*((0, size - 1) for size in volume.array.shape))])
    world = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.stack([world.min(axis=0), world.max(axis=0)])
