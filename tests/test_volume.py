"""Volumes: hostile and odd files in, placed and honest voxels out, nothing of the user's in what is written."""

import gzip
import itertools
import os
import pickle
import stat
import struct
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nifti import AFFINE, encode
from numpy.typing import NDArray

from vcm.volume import Volume, VolumeError
from vcm.volume.volume import as_labels

SECRETS = (b"Jane Doe", b"1970-01-01", b"PAT0042")

Write = Callable[..., Path]


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 4, (5, 6, 4)).astype(np.uint8)


@pytest.fixture
def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write bytes, or an array with header fields, to a file and return its path."""

    def write_file(content: bytes | NDArray, name: str = "volume.nii", **fields: Any) -> Path:
        data = content if isinstance(content, bytes) else encode(content, **fields)
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write_file


def refusal(path: Path, **options: bool) -> str:
    """Return the sentence that refuses a file, and check that it is one a user can be shown."""
    with pytest.raises(VolumeError) as error:
        Volume.load(path, **options)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 220
    assert str(path.parent) not in message
    assert path.name not in message
    return message


class TestReading:
    """Files that are sound, in all their variety."""

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
    def test_every_version_byte_order_and_type_gives_the_same_labels(
        self, write: Write, labels: NDArray, version: int, order: str, dtype: str
    ) -> None:
        path = write(labels.astype(dtype), version=version, order=order)
        volume = Volume.load(path, labels=True)
        assert volume.array.dtype == np.uint8
        assert np.array_equal(volume.array, labels)
        assert np.array_equal(volume.affine, AFFINE)
        assert volume.notes == ()
        assert np.array_equal(Volume.load(path).array, labels.astype(np.float32))

    def test_an_image_comes_as_it_is_in_float32(self, write: Write, image: NDArray) -> None:
        volume = Volume.load(write(image.astype(np.float64)))
        assert volume.array.dtype == np.float32
        assert np.array_equal(volume.array, image)
        assert (volume.axcodes, volume.spacing_mm) == ("RAS", (2, 2, 3))

    def test_gzip_is_told_by_its_bytes_whatever_the_name(self, write: Write, image: NDArray) -> None:
        plain_named_gz = write(image, name="volume.nii.gz")
        gzip_named_nii = write(gzip.compress(encode(image)), name="volume.nii")
        assert np.array_equal(Volume.load(plain_named_gz).array, image)
        assert np.array_equal(Volume.load(gzip_named_nii).array, image)

    @pytest.mark.parametrize("axes", [*itertools.permutations(range(3))])
    def test_it_agrees_with_nibabel_on_files_that_nibabel_wrote(
        self, tmp_path: Path, image: NDArray, axes: tuple[int, ...]
    ) -> None:
        turned = AFFINE.copy()
        turned[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ turned[:3, :3] @ np.diag([-1, 1, 1])
        written = nib.Nifti1Image(image.transpose(axes), turned[:, [*axes, 3]])
        written.set_qform(turned[:, [*axes, 3]], code=1)
        nib.save(written, tmp_path / "written.nii.gz")
        written.set_sform(None, code=0)
        nib.save(written, tmp_path / "qform_only.nii.gz")
        for name in ("written.nii.gz", "qform_only.nii.gz"):
            expected, volume = nib.load(tmp_path / name), Volume.load(tmp_path / name)
            assert np.array_equal(volume.array, expected.get_fdata(dtype=np.float32))
            np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)
            assert volume.notes == ()

    def test_trailing_dimensions_of_one_are_dropped(self, write: Write, image: NDArray) -> None:
        assert np.array_equal(Volume.load(write(image[..., None, None])).array, image)

    def test_values_are_scaled_as_the_header_says(self, write: Write, labels: NDArray) -> None:
        stored = labels.astype(np.int16)
        scaled = Volume.load(write(stored, scl_slope=0.5, scl_inter=-1))
        assert np.array_equal(scaled.array, labels * np.float32(0.5) - 1)
        assert np.array_equal(Volume.load(write(stored * 2, scl_slope=0.5), labels=True).array, labels)

    @pytest.mark.parametrize("slope", [0, np.nan, np.inf])
    def test_a_slope_of_zero_or_nan_means_unscaled(self, write: Write, labels: NDArray, slope: float) -> None:
        path = write(labels, scl_slope=slope, scl_inter=7)
        assert np.array_equal(Volume.load(path).array, labels)

    def test_extensions_are_read_over(self, write: Write, image: NDArray) -> None:
        extension = struct.pack("<ii", 32, 6) + b"Jane Doe".ljust(24, b"\0")
        assert np.array_equal(Volume.load(write(image, extension=extension)).array, image)

    def test_nan_and_infinity_are_read_as_zero_and_said(self, write: Write, image: NDArray) -> None:
        image[0, 0, 0], image[1, 1, 1], image[2, 2, 2] = np.nan, np.inf, -np.inf
        volume = Volume.load(write(image))
        assert np.isfinite(volume.array).all()
        assert volume.array[0, 0, 0] == volume.array[1, 1, 1] == 0
        assert volume.notes == ("3 voxels that were not a number, or infinite, were read as 0.",)

    def test_a_value_beyond_float32_counts_as_infinite(self, write: Write, image: NDArray) -> None:
        values = image.astype(np.float64)
        values[0, 0, 0] = 1e300
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            volume = Volume.load(write(values))
        assert volume.array[0, 0, 0] == 0
        assert volume.notes

    def test_a_volume_of_nan_is_refused(self, write: Write, image: NDArray) -> None:
        assert "no number at all" in refusal(write(np.full_like(image, np.nan)))

    def test_a_constant_volume_is_said(self, write: Write, image: NDArray) -> None:
        assert Volume.load(write(np.full_like(image, 3))).notes == ("Every voxel holds the same value, 3.",)


class TestRefusing:
    """Files that are not: one sentence, soon, and cheaply."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"a few words", "not a NIfTI file"),
            (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 20, "not a NIfTI file"),
            (bytes(128) + b"DICM" + bytes(1000), "DICOM.*dcm2niix"),
            (b"NRRD0004\n" + bytes(400), "NRRD"),
            (struct.pack(">i", 1) + bytes(400), "FreeSurfer"),
            (gzip.compress(struct.pack(">i", 1) + bytes(400), mtime=0), "FreeSurfer"),
            (gzip.compress(b"words", mtime=0), "not a NIfTI file"),
            (struct.pack("<i", 348) + bytes(100), "damaged: it ends within its header"),
            (struct.pack("<i", 348) + bytes(344), "half of a header and image pair"),
            (b"\x1f\x8b", "damaged"),
        ],
    )
    def test_what_is_no_nifti_is_named(self, write: Write, content: bytes, message: str) -> None:
        path = write(content, name="volume.nii.gz")
        with pytest.raises(VolumeError, match=message):
            Volume.load(path)
        assert ".nii" in refusal(path) or "damaged" in refusal(path) or "NIfTI" in refusal(path)

    def test_an_archive_is_never_unpacked(self, tmp_path: Path, image: NDArray) -> None:
        path = tmp_path / "volume.nii.gz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("volume.nii", encode(image))
        assert "zip" in refusal(path)

    def test_a_header_without_its_image_is_refused(self, write: Write, image: NDArray) -> None:
        assert ".hdr and .img" in refusal(write(encode(image, magic=b"ni1")[:348], name="volume.hdr"))

    def test_a_file_that_is_not_there_is_refused_without_its_name(self, tmp_path: Path) -> None:
        assert "exists" in refusal(tmp_path / "Jane_Doe.nii.gz")

    @pytest.mark.parametrize("compress", [bytes, gzip.compress])
    def test_a_truncated_file_is_damaged(self, write: Write, image: NDArray, compress: Callable) -> None:
        content = compress(encode(image))
        for length in (len(content) - 1, len(content) - 9, len(content) // 2):
            assert "damaged" in refusal(write(content[:length]))

    def test_a_wrong_checksum_and_junk_are_damage(self, write: Write, image: NDArray) -> None:
        content = bytearray(gzip.compress(encode(image)))
        assert "damaged" in refusal(write(bytes(content) + b"junk"))
        content[-7] ^= 0x10
        assert "damaged" in refusal(write(bytes(content)))

    @pytest.mark.parametrize(
        "dim",
        [
            [3, 32767, 32767, 32767, 1, 1, 1, 1],
            [3, 1024, 1024, 1024, 1, 1, 1, 1],
            [3, 0, 6, 4, 1, 1, 1, 1],
            [3, -5, 6, 4, 1, 1, 1, 1],
            [0, 5, 6, 4, 1, 1, 1, 1],
            [8, 5, 6, 4, 1, 1, 1, 1],
            [-1, 5, 6, 4, 1, 1, 1, 1],
        ],
    )
    def test_impossible_dimensions_are_refused_before_any_allocation(
        self, write: Write, image: NDArray, dim: list[int]
    ) -> None:
        path = write(image, dim=dim)
        tracemalloc.start()
        try:
            message = refusal(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "too large" in message or "impossible" in message
        assert peak < 2**21

    @pytest.mark.parametrize("shape", [(5, 6), (5,), (5, 6, 4, 2), (5, 6, 4, 1, 3)])
    def test_other_numbers_of_dimensions_are_refused_with_the_shape(self, write: Write, shape: tuple) -> None:
        message = refusal(write(np.zeros(shape, np.float32)))
        assert " x ".join(map(str, shape)) in message
        assert "three dimensions" in message

    @pytest.mark.parametrize(
        ("code", "bits", "kind"),
        [
            (128, 24, "colors"),
            (2304, 32, "colors"),
            (32, 64, "complex"),
            (1792, 128, "complex"),
            (1, 1, "kind"),
            (7, 8, "kind"),
            (0, 0, "kind"),
            (1536, 128, "kind"),
        ],
    )
    def test_values_that_are_no_real_numbers_are_refused(
        self, write: Write, image: NDArray, code: int, bits: int, kind: str
    ) -> None:
        assert kind in refusal(write(image, datatype=code, bitpix=bits))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"magic": b"nix"}, "mark of NIfTI"),
            ({"magic": b"n+2"}, "mark of NIfTI"),
            ({"vox_offset": np.nan}, "impossible place"),
            ({"vox_offset": np.inf}, "impossible place"),
            ({"vox_offset": 1e9}, "impossible place"),
            ({"vox_offset": -352}, "impossible place"),
            ({"vox_offset": 100}, "impossible place"),
            ({"vox_offset": 352.5}, "impossible place"),
            ({"scl_slope": 2, "scl_inter": np.nan}, "intercept"),
            ({"qform_code": 1, "quatern_b": 2}, "rotation"),
            ({"qform_code": 1, "quatern_c": np.nan}, "rotation"),
            ({"qform_code": 1, "sform_code": 0, "quatern_d": -1.5}, "rotation"),
            ({"srow_x": [np.nan, 0, 0, 0]}, "not a finite"),
            ({"srow_y": [0, np.inf, 0, 0]}, "not a finite"),
            ({"srow_z": [2, 0, 0, 0]}, "singular"),
            ({"srow_z": [0, 0, 0, 5]}, "singular"),
            ({"srow_z": [0, 0, 1e6, 0]}, "voxel size"),
            ({"srow_z": [0, 0, 1e-6, 0]}, "voxel size"),
            ({"srow_z": [0, 0, 0.01, 0]}, "voxel size"),
            ({"dim": [3, 2**12, 2, 2, 1, 1, 1, 1], "srow_x": [10, 0, 0, 0]}, "spans 4.1e+04 x"),
            ({"sform_code": 0, "pixdim": [1, 0, 2, 3, 1, 1, 1, 1]}, "singular"),
        ],
    )
    def test_a_damaged_header_is_refused(
        self, write: Write, image: NDArray, fields: dict[str, Any], message: str
    ) -> None:
        assert message in refusal(write(image, **fields))

    @pytest.mark.parametrize("size", [0, -16, 4, 48, 2**30])
    def test_an_extension_of_impossible_size_is_refused(self, write: Write, image: NDArray, size: int) -> None:
        extension = struct.pack("<ii", size, 6) + bytes(24)
        assert "extension" in refusal(write(image, extension=extension))

    @pytest.mark.parametrize("declared", [(64, 64, 64), (2048, 1024, 1024)])
    def test_a_small_file_that_inflates_without_end_is_refused_soon_and_cheaply(
        self, tmp_path: Path, declared: tuple[int, int, int]
    ) -> None:
        path = tmp_path / "bomb.nii.gz"
        stream = zlib.compressobj(9, zlib.DEFLATED, 31)
        zeros = bytes(2**24)
        with path.open("wb") as file:
            file.write(stream.compress(encode(np.zeros((1, 1, 1), np.float32), dim=[3, *declared, 1, 1, 1, 1])))
            for _ in range(32):  # half a GiB; the rest would take longer to make than to refuse
                file.write(stream.compress(zeros))
            file.write(stream.flush())
        tracemalloc.start()
        start = time.process_time()
        try:
            message = refusal(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "damaged" in message or "too large" in message
        assert time.process_time() - start < 1
        assert peak < 2**24


class TestLabels:
    """Values that are names."""

    @pytest.mark.parametrize(
        ("value", "found"), [(3.7, "3.7"), (-1, "-1"), (np.nan, "nan"), (np.inf, "inf"), (1035, "1035")]
    )
    def test_values_that_cannot_be_labels_are_listed(
        self, write: Write, labels: NDArray, value: float, found: str
    ) -> None:
        values = labels.astype(np.float32)
        values[0, 0, 0] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            message = refusal(write(values), labels=True)
        assert f"holds {found}." in message
        assert "whole numbers from 0 to 255" in message

    def test_the_rounding_of_a_scale_factor_is_no_fraction(self, labels: NDArray) -> None:
        assert np.array_equal(as_labels(labels * 0.9999999 + 1e-5), labels)

    def test_large_whole_numbers_do_not_wrap_around(self) -> None:
        for value in (256, 2**32, 2**63 + 3, -(2**33) + 1):
            with pytest.raises(VolumeError):
                as_labels(np.array([[[value]]]))


class TestPlacing:
    """Where a volume is, and how it gets to another grid."""

    def test_a_sheared_affine_is_said(self, write: Write, image: NDArray) -> None:
        volume = Volume.load(write(image, srow_x=[2, 0.5, 0, -9]))
        assert any("sheared" in note for note in volume.notes)
        assert volume.affine[0, 1] == 0.5

    def test_a_zero_sform_gives_way_to_the_qform_and_is_said(self, write: Write, image: NDArray) -> None:
        nothing = [0, 0, 0, 0]
        path = write(
            image,
            srow_x=nothing,
            srow_y=nothing,
            srow_z=nothing,
            qform_code=1,
            qoffset_x=-9,
            qoffset_y=-11,
            qoffset_z=-6,
        )
        volume = Volume.load(path)
        assert np.array_equal(volume.affine, AFFINE)
        assert any("sform is all zero" in note and "qform" in note for note in volume.notes)

    @pytest.mark.parametrize("fields", [{"sform_code": 0}, {"srow_x": 0, "srow_y": 0, "srow_z": 0}])
    def test_a_file_without_orientation_is_read_as_nibabel_does_and_said(
        self, write: Write, image: NDArray, fields: dict[str, Any]
    ) -> None:
        volume = Volume.load(write(image, **fields))
        assert volume.axcodes == "LAS"
        assert volume.spacing_mm == (2, 2, 3)
        assert any("left, anterior, superior" in note for note in volume.notes)
        expected = nib.load(write(image, sform_code=0)).affine
        np.testing.assert_allclose(volume.affine, expected)

    def test_sform_and_qform_that_disagree_are_said_and_the_sform_used(self, write: Write, image: NDArray) -> None:
        path = write(image, qform_code=1, qoffset_x=-9, qoffset_y=-11 + 12, qoffset_z=-6)
        volume = Volume.load(path)
        assert np.array_equal(volume.affine, AFFINE)
        assert volume.notes == ("The file's sform and qform disagree by up to 12.0 mm; the sform was used.",)

    @pytest.mark.parametrize(("code", "factor", "name"), [(1, 1e-3, "meters"), (3, 1e3, "microns")])
    def test_other_units_are_converted_to_mm_and_said(
        self, write: Write, image: NDArray, code: int, factor: float, name: str
    ) -> None:
        rows = {f"srow_{axis}": row for axis, row in zip("xyz", AFFINE[:3] * factor, strict=True)}
        volume = Volume.load(write(image, xyzt_units=code, **rows))
        np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
        assert any(name in note for note in volume.notes)

    def test_a_volume_on_the_grid_stays_as_it_is_and_nothing_is_said(self, image: NDArray) -> None:
        volume = Volume(image, AFFINE, ("From the file.",))
        moved = volume.to_grid(image.shape, AFFINE)
        assert np.array_equal(moved.array, image)
        assert moved.array.dtype == image.dtype
        assert moved.notes == ("From the file.",)

    @pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "SLA", "ILP"])
    def test_a_mark_on_the_left_stays_on_the_left(self, tmp_path: Path, image: NDArray, codes: str) -> None:
        marked = np.zeros_like(image)
        marked[0, 5, 3] = 1  # RAS+: left, anterior, superior
        path = tmp_path / "stored.nii.gz"
        orientation = nib.orientations.axcodes2ornt(codes)
        nib.save(nib.Nifti1Image(marked, AFFINE).as_reoriented(_from_ras(orientation)), path)
        loaded = Volume.load(path)
        moved = loaded.to_grid(image.shape, AFFINE)
        assert loaded.axcodes == codes
        assert np.array_equal(moved.array, marked)
        assert np.array_equal(moved.affine, AFFINE)
        assert moved.axcodes == "RAS"
        said = "" if codes == "RAS" else f"Axes reordered from {codes} to RAS; no value changed."
        assert " ".join(moved.notes) == said

    def test_resampling_is_said_with_both_grids(self, image: NDArray) -> None:
        turned = AFFINE.copy()
        turned[:3, :3] = nib.eulerangles.euler2mat(0.3, 0.2) @ turned[:3, :3]
        (note,) = Volume(image, turned).to_grid((8, 8, 8), AFFINE).notes
        assert note == (
            "Resampled from 5 x 6 x 4 voxels of 2 x 2 x 3 mm (RAS, oblique) to 8 x 8 x 8 voxels of 2 x 2 x 3 mm (RAS)."
        )

    def test_a_changed_field_of_view_is_said(self, image: NDArray) -> None:
        shifted = AFFINE.copy()
        shifted[0, 3] += 2
        flipped = shifted @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        for affine, shape, said in (
            (AFFINE, (5, 6, 3), ["Field of view"]),
            (shifted, (5, 6, 4), ["Field of view"]),
            (flipped, (5, 6, 4), ["Axes reordered", "Field of view"]),
        ):
            notes = Volume(image, affine).to_grid(shape, AFFINE).notes
            assert len(notes) == len(said)
            assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))

    def test_fractions_are_no_labels_on_any_grid(self, image: NDArray) -> None:
        with pytest.raises(VolumeError, match="whole numbers"):
            Volume(image, AFFINE).to_grid(image.shape, AFFINE, labels=True)

    def test_grids_that_do_not_overlap_are_refused(self, image: NDArray) -> None:
        far = AFFINE.copy()
        far[1, 3] = 900
        with pytest.raises(VolumeError, match="field of view"):
            Volume(image, far).to_grid((8, 8, 8), AFFINE)


class TestSaving:
    """Fresh files that say nothing but voxels and place."""

    @pytest.mark.parametrize("name", ["volume.nii.gz", "volume.nii"])
    def test_what_is_saved_is_loaded_again(self, tmp_path: Path, image: NDArray, labels: NDArray, name: str) -> None:
        turned = AFFINE.copy()
        turned[:3, :3] = nib.eulerangles.euler2mat(0.3, 0.2) @ turned[:3, :3]
        for array, is_labels in ((image, False), (labels, True)):
            Volume(array, turned).save(tmp_path / name)
            loaded = Volume.load(tmp_path / name, labels=is_labels)
            assert np.array_equal(loaded.array, array)
            np.testing.assert_allclose(loaded.affine, turned, atol=1e-5)
            assert loaded.notes == ()

    def test_other_tools_read_type_place_and_unit(self, tmp_path: Path, image: NDArray, labels: NDArray) -> None:
        for array, dtype in ((image, np.float32), (image.astype(np.float64), np.float32), (labels, np.uint8)):
            Volume(array, AFFINE).save(tmp_path / "volume.nii.gz")
            loaded = nib.load(tmp_path / "volume.nii.gz")
            assert loaded.get_data_dtype() == dtype
            assert np.array_equal(loaded.get_sform(), AFFINE)
            np.testing.assert_allclose(loaded.get_qform(), AFFINE, atol=1e-6)
            assert loaded.header["sform_code"] == loaded.header["qform_code"] > 0
            assert loaded.header.get_xyzt_units()[0] == "mm"

    def test_whole_numbers_that_are_no_bytes_are_saved_as_float32(self, tmp_path: Path, labels: NDArray) -> None:
        wide = labels.astype(np.int16) * 1000 - 500
        Volume(wide, AFFINE).save(tmp_path / "volume.nii.gz")
        assert np.array_equal(Volume.load(tmp_path / "volume.nii.gz").array, wide)

    def test_a_sheared_affine_is_not_contradicted_by_a_qform(self, tmp_path: Path, image: NDArray) -> None:
        sheared = AFFINE.copy()
        sheared[0, 1] = 0.5
        Volume(image, sheared).save(tmp_path / "volume.nii.gz")
        loaded = Volume.load(tmp_path / "volume.nii.gz")
        assert np.array_equal(loaded.affine, sheared)
        assert len(loaded.notes) == 1

    def test_the_same_volume_gives_the_same_bytes_under_any_name(self, tmp_path: Path, image: NDArray) -> None:
        Volume(image, AFFINE).save(tmp_path / "one.nii.gz")
        Volume(image, AFFINE).save(tmp_path / "other.nii.gz")
        assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one.nii.gz", "other.nii.gz"]

    def test_nothing_of_the_user_is_written(self, write: Write, tmp_path: Path, labels: NDArray) -> None:
        extension = struct.pack("<ii", 32, 4) + SECRETS[0].ljust(24, b"\0")
        header = {"descrip": SECRETS[0], "aux_file": SECRETS[1], "intent_name": SECRETS[2], "db_name": SECRETS[0]}
        given = write(labels, name="Jane Doe.nii", extension=extension, **header)
        volume = Volume.load(given, labels=True)
        volume.save(tmp_path / "Jane Doe.nii.gz")
        written = (tmp_path / "Jane Doe.nii.gz").read_bytes()
        assert b"Jane" not in written
        for content in (gzip.decompress(written), pickle.dumps(volume)):
            assert not any(secret in content for secret in SECRETS)

    def test_a_failed_save_leaves_the_old_file_and_nothing_else(self, tmp_path: Path, image: NDArray) -> None:
        target = tmp_path / "volume.nii.gz"
        target.mkdir()  # in the way of the last step, the rename
        with pytest.raises(VolumeError, match="could not be saved") as error:
            Volume(image, AFFINE).save(target)
        assert str(tmp_path) not in str(error.value)
        assert [path.name for path in tmp_path.iterdir()] == ["volume.nii.gz"]
        with pytest.raises(VolumeError, match="could not be saved"):
            Volume(image, AFFINE).save(tmp_path / "missing" / "volume.nii.gz")

    def test_a_saved_file_has_the_permissions_of_any_new_file(self, tmp_path: Path, image: NDArray) -> None:
        Volume(image, AFFINE).save(tmp_path / "volume.nii")
        (tmp_path / "plain").touch()
        assert stat.S_IMODE(os.stat(tmp_path / "volume.nii").st_mode) == stat.S_IMODE(
            os.stat(tmp_path / "plain").st_mode
        )

    def test_only_nifti_names_are_written(self, tmp_path: Path, image: NDArray) -> None:
        with pytest.raises(VolumeError, match=r"ends in \.nii or \.nii\.gz"):
            Volume(image, AFFINE).save(tmp_path / "volume.img")


class TestMaking:
    """Volumes made in memory."""

    @pytest.mark.parametrize(
        ("array", "affine", "message"),
        [
            (np.zeros((5, 6)), AFFINE, "three dimensions.*5 x 6"),
            (np.zeros((5, 6, 0)), AFFINE, "three dimensions"),
            (np.zeros((5, 6, 4), complex), AFFINE, "real number"),
            (np.full((5, 6, 4), "a"), AFFINE, "real number"),
            (np.zeros((5, 6, 4)), np.eye(3), "4 x 4"),
            (np.zeros((5, 6, 4)), np.zeros((4, 4)), "4 x 4"),
            (np.zeros((5, 6, 4)), np.diag([1, 0, 1, 1]), "singular"),
            (np.zeros((5, 6, 4)), np.diag([1, np.nan, 1, 1]), "finite"),
        ],
    )
    def test_what_is_no_volume_is_refused(self, array: NDArray, affine: NDArray, message: str) -> None:
        with pytest.raises(VolumeError, match=message):
            Volume(array, affine)

    def test_a_mask_of_booleans_becomes_labels(self) -> None:
        assert Volume(np.ones((2, 2, 2), bool), AFFINE).array.dtype == np.uint8

    def test_the_affine_is_a_copy(self, image: NDArray) -> None:
        affine = AFFINE.copy()
        volume = Volume(image, affine)
        affine[0, 3] = 77
        assert np.array_equal(volume.affine, AFFINE)


class TestFuzz:
    """Damage must end in the right voxels or in a VolumeError: never in others, never in another exception."""

    @staticmethod
    def _load(path: Path, content: bytes) -> Volume | None:
        path.unlink(missing_ok=True)  # overwriting a file would wait for the disk each time
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                return Volume.load(path)
            except VolumeError:
                return None

    def test_any_flipped_bit_of_a_gzip_file_is_harmless_or_refused(self, tmp_path: Path, labels: NDArray) -> None:
        content = gzip.compress(encode(labels), mtime=0)
        original = Volume.load(self._written(tmp_path, content))
        refused = 0
        for bit in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            volume = self._load(tmp_path / "damaged.nii.gz", bytes(damaged))
            refused += volume is None
            if volume is not None:
                assert np.array_equal(volume.array, original.array)
                assert np.array_equal(volume.affine, original.affine)
        assert refused >= 8 * (len(content) - 10)  # all but some of the header's: time, system, flags

    def test_a_gzip_file_cut_anywhere_is_refused(self, tmp_path: Path, labels: NDArray) -> None:
        content = gzip.compress(encode(labels), mtime=0)
        assert all(self._load(tmp_path / "cut.nii.gz", content[:length]) is None for length in range(len(content)))

    @pytest.mark.parametrize("version", [1, 2])
    def test_any_flipped_bit_of_a_plain_header_ends_in_a_volume_or_a_refusal(
        self, tmp_path: Path, image: NDArray, version: int
    ) -> None:
        content = encode(image, version=version)
        for bit in range(8 * (len(content) - image.nbytes)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            volume = self._load(tmp_path / "damaged.nii", bytes(damaged))
            if volume is not None:
                assert volume.array.size == image.size
                assert np.isfinite(volume.array).all()
                assert np.isfinite(volume.affine).all()

    def test_random_bytes_in_a_header_end_in_a_volume_or_a_refusal(self, tmp_path: Path, image: NDArray) -> None:
        content = encode(image)
        rng = np.random.default_rng(0)
        for _ in range(3000):
            damaged = bytearray(content)
            for position in rng.integers(4, 352, rng.integers(1, 12)):
                damaged[position] = rng.integers(256)
            volume = self._load(tmp_path / "damaged.nii", bytes(damaged))
            if volume is not None:
                self._place_anywhere(volume)

    @staticmethod
    def _place_anywhere(volume: Volume) -> None:
        try:
            moved = volume.to_grid((6, 6, 6), AFFINE)
        except VolumeError:
            return
        assert np.isfinite(moved.array).all()

    @staticmethod
    def _written(folder: Path, content: bytes) -> Path:
        path = folder / "original.nii.gz"
        path.write_bytes(content)
        return path


def _from_ras(orientation: NDArray) -> NDArray:
    return nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
