"""Files that a user may give by mistake or by malice, each with the sentence that refuses it, and neighbours that pass.

All lie on the tiny model's grid, whose shape is (16, 24, 16). `row` is that of the table in docs/reliability.md.
"""

import gzip
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache

import nibabel as nib
import numpy as np
from nifti import encode
from tiny import TINY_GRID

SECRET = b"Jane Doe"

AFFINE = TINY_GRID.affine
SHAPE = TINY_GRID.shape


@dataclass(frozen=True)
class Given:
    """A file as it is given: its bytes under its name, and what is said about it (a part of a sentence)."""

    row: int
    content: bytes
    said: str = ""
    name: str = "mask.nii.gz"


def tumor() -> np.ndarray:
    """A drawn tumor, uint8 (16, 24, 16), with all three labels."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    labels[4:7, 6:11, 5:8] = 3
    labels[5, 8, 6] = 1
    return labels


def plain(array: np.ndarray | None = None, **fields: object) -> bytes:
    """A plain NIfTI file of the tumor, or of another array, with header fields overwritten."""
    return encode(tumor() if array is None else array, affine=fields.pop("affine", AFFINE), **fields)


def packed(array: np.ndarray | None = None, **fields: object) -> bytes:
    """The same, gzipped."""
    return gzip.compress(plain(array, **fields), mtime=0)


def placed(affine: np.ndarray, array: np.ndarray | None = None) -> bytes:
    """A file in another place, gzipped."""
    return packed(array, affine=affine)


def moved(*shift_mm: float) -> np.ndarray:
    """The grid's affine, shifted."""
    affine = AFFINE.copy()
    affine[:3, 3] += shift_mm
    return affine


def with_value(value: float) -> np.ndarray:
    """The tumor as float32, with one value that is no label."""
    labels = tumor().astype(np.float32)
    labels[0, 0, 0] = value
    return labels


def stored(axcodes: str) -> bytes:
    """The very same tumor, stored in another orientation."""
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axcodes))
    image = nib.Nifti1Image(tumor(), AFFINE).as_reoriented(turn)
    return packed(np.asarray(image.dataobj), affine=image.affine)


@cache
def bomb() -> bytes:
    """Half a gigabyte of zeros behind a sound header, in half a megabyte."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [stream.compress(plain())]
    parts += [stream.compress(bytes(2**24)) for _ in range(32)]
    return b"".join([*parts, stream.flush()])


def zipped() -> bytes:
    """A zip archive with a sound volume inside."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("mask.nii", plain())
    return content.getvalue()


def flipped(content: bytes, position: int) -> bytes:
    """The same bytes with one bit of one of them flipped."""
    damaged = bytearray(content)
    damaged[position] ^= 1
    return bytes(damaged)


NOTHING = [0, 0, 0, 0]
EMPTY = np.zeros(SHAPE, np.uint8)

REFUSED: dict[str, Given] = {
    "an empty file": Given(1, b"", "empty"),
    "text": Given(1, b"a few words", "not a NIfTI file"),
    "a web page": Given(1, b"<!DOCTYPE html><html><body>Sign in</body></html>" * 20, "not a NIfTI file"),
    "a zip archive": Given(1, zipped(), "zip archive"),
    "a DICOM file": Given(1, bytes(128) + b"DICM" + bytes(1000), "dcm2niix"),
    "a truncated plain file": Given(3, plain()[:-1], "damaged", "mask.nii"),
    "a truncated gzip file": Given(3, packed()[:-9], "damaged"),
    "a wrong checksum": Given(3, flipped(packed(), -6), "checksum"),
    "junk behind the gzip stream": Given(3, packed() + b"junk", "something else follows"),
    "a file that inflates without end": Given(4, bomb(), "more data than its header announces"),
    "dimensions of 32767": Given(5, packed(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "too large"),
    "a dimension of zero": Given(5, packed(dim=[3, 0, 24, 16, 1, 1, 1, 1]), "impossible shape"),
    "a negative dimension": Given(5, packed(dim=[3, -16, 24, 16, 1, 1, 1, 1]), "impossible shape"),
    "no dimensions at all": Given(5, packed(dim=[0, 16, 24, 16, 1, 1, 1, 1]), "impossible number of dimensions"),
    "two dimensions": Given(6, packed(tumor()[0]), "24 x 16"),
    "four dimensions": Given(6, packed(np.zeros((*SHAPE, 2), np.uint8)), "16 x 24 x 16 x 2"),
    "five dimensions": Given(6, packed(np.zeros((*SHAPE, 1, 3), np.uint8)), "16 x 24 x 16 x 1 x 3"),
    "colors": Given(7, packed(datatype=128, bitpix=24), "colors"),
    "complex numbers": Given(7, packed(datatype=32, bitpix=64), "complex numbers"),
    "an unknown type": Given(7, packed(datatype=7), "kind"),
    "a bad mark": Given(7, packed(magic=b"nix"), "mark of NIfTI"),
    "an offset that is no number": Given(7, packed(vox_offset=np.nan), "impossible place"),
    "an offset of 1e9": Given(7, packed(vox_offset=1e9), "impossible place"),
    "a bad quaternion": Given(7, packed(qform_code=1, quatern_b=2), "rotation"),
    "an extension of size 0": Given(7, packed(extension=struct.pack("<ii", 0, 6) + bytes(24)), "extension"),
    "an extension of 1 GiB": Given(7, packed(extension=struct.pack("<ii", 2**30, 6) + bytes(24)), "extension"),
    "a header without its image": Given(8, plain(magic=b"ni1")[:348], ".hdr and .img", "mask.nii"),
    "a FreeSurfer volume": Given(8, gzip.compress(struct.pack(">i", 1) + bytes(400)), "FreeSurfer"),
    "an NRRD file": Given(8, b"NRRD0004\n" + bytes(400), "NRRD"),
    "a volume of NaN": Given(9, packed(np.full(SHAPE, np.nan, np.float32)), "nan"),
    "an intercept that is no number": Given(10, packed(scl_slope=2, scl_inter=np.nan), "intercept"),
    "label 9": Given(11, packed(with_value(9)), "holds the value 9; its labels are 0 for background, 1 necrotic"),
    "label -1": Given(11, packed(with_value(-1)), "-1"),
    "label 3.7": Given(11, packed(with_value(3.7)), "3.7"),
    "label NaN": Given(11, packed(with_value(np.nan)), "nan"),
    "codes of FreeSurfer": Given(11, packed(tumor().astype(np.int16) * 1011), "1011"),
    "an affine of NaN": Given(17, packed(srow_x=[np.nan, 0, 0, 0]), "not a finite"),
    "a singular affine": Given(17, packed(srow_z=[2, 0, 0, 0]), "singular"),
    "a mask in another place altogether": Given(18, placed(moved(0, 900, 0)), "field of view"),
}

ACCEPTED: dict[str, Given] = {
    "a sound file": Given(1, packed()),
    "a plain file named .gz": Given(2, plain()),
    "a gzip file named .nii": Given(2, packed(), name="mask.nii"),
    "a gzip file in several members": Given(3, gzip.compress(plain()[:700]) + gzip.compress(plain()[700:])),
    "a large header before the data": Given(4, packed(extension=struct.pack("<ii", 2**16, 6) + bytes(2**16 - 8))),
    "dimensions as they are": Given(5, packed(dim=[3, 16, 24, 16, 1, 1, 1, 1])),
    "a trailing dimension of one": Given(6, packed(tumor()[..., None, None])),
    "an extension of size 32": Given(7, packed(extension=struct.pack("<ii", 32, 6) + bytes(24))),
    "a single file": Given(8, plain(), name="mask.nii"),
    "a slope of zero": Given(10, packed(scl_slope=0, scl_inter=7)),
    "a slope of NaN": Given(10, packed(scl_slope=np.nan, scl_inter=7)),
    "label 4 of older BraTS": Given(
        11, packed(np.where(tumor() == 3, 4, tumor()).astype(np.uint8)), "Label 4 was read as 3"
    ),
    "labels as float": Given(12, packed(tumor().astype(np.float32))),
    "labels as int64": Given(12, packed(tumor().astype(np.int64))),
    "labels in big-endian": Given(12, packed(tumor().astype(np.int16), order=">")),
    "labels in NIfTI-2": Given(12, packed(version=2)),
    "a mask stored LAS": Given(15, stored("LAS"), "reordered from LAS to RAS"),
    "a mask stored LPS": Given(15, stored("LPS"), "reordered from LPS to RAS"),
    "a mask stored with permuted axes": Given(15, stored("SAR"), "reordered from SAR to RAS"),
    "a sheared affine": Given(17, packed(srow_x=[2, 1e-2, 0, -15]), "sheared"),
    "a zero sform": Given(
        17,
        packed(
            srow_x=NOTHING, srow_y=NOTHING, srow_z=NOTHING, qform_code=1, qoffset_x=-15, qoffset_y=-23, qoffset_z=-15
        ),
        "sform is all zero",
    ),
    "an sform and a qform that disagree": Given(
        17, packed(qform_code=1, qoffset_x=-15, qoffset_y=-23 + 12, qoffset_z=-15), "disagree by up to 12.0 mm"
    ),
    "names in every field": Given(
        19,
        packed(
            descrip=SECRET,
            aux_file=SECRET,
            intent_name=SECRET,
            db_name=SECRET,
            extension=struct.pack("<ii", 32, 4) + SECRET.ljust(24, b"\0"),
        ),
        name="Jane Doe 1970-01-01.nii.gz",
    ),
    "a name with markup": Given(20, packed(), name="<img src=x onerror=alert(1)>.nii.gz"),
}
"""Each gives exactly the condition of `tumor()`; what is said, where anything is, is a part of a note."""

CHANGED: dict[str, Given] = {
    "an empty mask": Given(13, packed(EMPTY), "The tumor map is empty: it asks for a brain without a tumor"),
    "a mask partly outside the field of view": Given(14, placed(moved(-10, 0, 0)), "lies outside the model's field"),
    "an oblique mask": Given(
        16,
        placed(AFFINE @ nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1), [1, 1, 0])),
        "Resampled from 16 x 24 x 16 voxels of 2 x 2 x 2 mm (RAS, oblique)",
    ),
    "an anisotropic mask": Given(
        16, placed(AFFINE @ np.diag([1, 1, 2, 1]), tumor()[:, :, ::2]), "Resampled from 16 x 24 x 8 voxels of 2 x 2 x 4"
    ),
    "a mask without any orientation": Given(17, packed(sform_code=0), "left, anterior, superior"),
    "a mask on another grid that overlaps": Given(18, placed(moved(0.5, 0.5, 0.5)), "Resampled from"),
}
"""Each is taken, and what became of it is said."""
