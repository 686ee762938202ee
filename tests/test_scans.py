"""Scans: scaled as the VCM learned them, whatever grid and units they come in, or refused in one sentence."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from vcm.modalities.image_conditions import encode_image, encode_partial, grow, measure_range, scale_intensities
from vcm.modalities.registry import prepare_condition
from vcm.modalities.shifts import thicken_slices
from vcm.model.config import Grid
from vcm.volume import Volume, VolumeError

AFFINE = np.array([[2.0, 0, 0, -23], [0, 2, 0, -27], [0, 0, 2, -23], [0, 0, 0, 1]])
GRID = Grid((24, 28, 24), AFFINE)


def smooth(shape=GRID.shape, seed=0):
    """A head-like image in a scanner's units: exactly 0 in the air, smooth inside, and fading towards the air."""
    random = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(random.normal(size=shape), 2.0)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    head = np.clip(3 * (0.9 - (places**2).sum(0)), 0, 1)
    return (head * (500 + 2000 * (values - values.min()))).astype(np.float32)


@pytest.mark.parametrize("name", ["t2", "flair", "lowres"])
def test_a_scan_becomes_what_training_shows(name):
    image = smooth()
    prepared = prepare_condition(name, Volume(image, AFFINE), GRID)
    expected = encode_image(scale_intensities(image, measure_range(image)))
    assert prepared.tensor.equal(expected)
    assert prepared.tensor.shape == (1, *GRID.shape)
    np.testing.assert_array_equal(prepared.volume.array, expected[0].numpy())
    assert prepared.scan.limits == measure_range(image)
    np.testing.assert_array_equal(prepared.scan.volume.array, image)


def test_units_do_not_matter():
    image = smooth()
    plain = prepare_condition("t2", Volume(image, AFFINE), GRID).tensor
    other = prepare_condition("t2", Volume(np.where(image > 0, image * 3 + 40, 0), AFFINE), GRID).tensor
    torch.testing.assert_close(plain, other, atol=1e-5, rtol=0)


def test_a_partial_scan_has_its_hole_as_a_second_channel_and_nothing_in_it():
    image = smooth()
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:12, 9:15, 7:13] = 1
    prepared = prepare_condition("partial", Volume(image, AFFINE), GRID, fill=Volume(mask, AFFINE))
    expected = encode_partial(scale_intensities(image, measure_range(image)), mask > 0)
    assert prepared.tensor.equal(expected)
    np.testing.assert_array_equal(prepared.scan.hole.array, mask)


def test_zeros_of_a_partial_scan_are_not_holes():
    image = smooth()
    image[10:14, 10:14, 10:14] = 0
    mask = np.zeros(GRID.shape, np.uint8)
    mask[6:8, 9:15, 7:13] = 1
    prepared = prepare_condition("partial", Volume(image, AFFINE), GRID, fill=Volume(mask, AFFINE))
    np.testing.assert_array_equal(prepared.tensor[1].numpy(), mask)


def test_without_a_fill_the_tumor_and_its_surroundings_are_made_up():
    tumor = np.zeros(GRID.shape, np.uint8)
    tumor[11:13, 12:15, 11:14] = 2
    prepared = prepare_condition("partial", Volume(smooth(), AFFINE), GRID, tumor=tumor)
    np.testing.assert_array_equal(prepared.tensor[1].numpy() > 0, grow(tumor > 0, 6.0, (2.0, 2.0, 2.0)))
    assert any("within 6 mm" in note for note in prepared.notes)


def test_a_tumor_that_a_slab_does_not_hold_is_refused_and_one_that_it_cuts_is_said():
    image, tumor = smooth(), np.zeros(GRID.shape, np.uint8)
    depth = GRID.shape[2]
    slab = Volume(image[:, :, : depth // 2], AFFINE)
    tumor[6:9, 8:11, depth - 2] = 2
    with pytest.raises(VolumeError, match="tumor lies outside the partial scan"):
        prepare_condition("partial", slab, GRID, tumor=tumor)
    tumor[6:9, 8:11, depth // 2 - 1] = 2
    notes = prepare_condition("partial", slab, GRID, tumor=tumor).volume.notes
    assert any("of that lies outside the scan" in note for note in notes)


def test_a_mask_on_a_finer_grid_than_the_scan_is_brought_to_both():
    fine = np.zeros((48, 56, 48), np.uint8)
    fine[16:24, 18:30, 14:26] = 1
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 0.5
    prepared = prepare_condition("partial", Volume(smooth(), AFFINE), GRID, fill=Volume(fine, affine))
    expected = np.zeros(GRID.shape)
    expected[8:12, 9:15, 7:13] = 1
    np.testing.assert_array_equal(prepared.tensor[1].numpy(), expected)
    assert any(note.startswith("Fill: Resampled") for note in prepared.notes)


@pytest.mark.parametrize(("factor", "offset"), [(2, 0), (3, 0), (4, 0), (4, 2)])
def test_thick_slices_become_what_training_makes_of_them(factor, offset):
    image = smooth()
    padded = np.pad(image, ((0, 0), (0, 0), (offset, -(24 + offset) % factor)), mode="edge")
    thick = padded.reshape(24, 28, -1, factor).mean(3)
    affine = AFFINE.copy()
    affine[2, 2] *= factor
    affine[2, 3] += (factor - 1) - 2 * offset
    prepared = prepare_condition("lowres", Volume(thick, affine), GRID)
    shown = thicken_slices(image, factor, offset)
    expected = scale_intensities(shown, measure_range(shown))  # of the slices as interpolated: hardly another range
    assert np.abs(prepared.tensor[0].numpy() - expected).max() < 0.05


def test_the_intensities_are_measured_on_the_scan_itself():
    fine = smooth((48, 56, 48))
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 0.5
    prepared = prepare_condition("flair", Volume(fine, affine), GRID)
    assert prepared.scan.limits == measure_range(fine)
    assert any("Resampled" in note for note in prepared.notes)
    means = scale_intensities(fine, measure_range(fine)).reshape(24, 2, 28, 2, 24, 2).mean((1, 3, 5))
    np.testing.assert_allclose(prepared.tensor[0].numpy(), means, atol=1e-5)


def test_the_way_a_scan_is_stored_does_not_matter():
    image = smooth()
    flipped = AFFINE.copy()
    flipped[0, 0] *= -1
    flipped[0, 3] += 2 * 23
    plain = prepare_condition("t2", Volume(image, AFFINE), GRID)
    other = prepare_condition("t2", Volume(image[::-1], flipped), GRID)
    assert plain.tensor.equal(other.tensor)


LABELS = np.zeros(GRID.shape, np.uint8)
LABELS[8:12, 8:12, 8:12] = 2
FAR = AFFINE.copy()
FAR[:3, 3] += 1000


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (np.full(GRID.shape, 7.0), AFFINE, "every voxel of this volume holds the same value"),
        (np.zeros(GRID.shape), AFFINE, "every voxel of this volume holds the same value"),
        (LABELS, AFFINE, "takes a scan; this volume holds only the values 0, 2, as a label map does"),
        (smooth(), FAR, "outside the model's field of view"),
    ],
)
@pytest.mark.parametrize("name", ["partial", "lowres", "t2", "flair"])
def test_what_is_no_scan_is_refused_in_one_sentence(name, array, affine, words):
    fill = Volume(LABELS, affine)
    with pytest.raises(VolumeError, match=words) as caught:
        prepare_condition(name, Volume(array, affine), GRID, fill=fill)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("axis", "direction"), [(0, "left to right"), (1, "back to front")])
def test_slices_that_are_thick_in_another_direction_are_refused_with_a_hint(axis, direction):
    affine = AFFINE.copy()
    affine[:3, axis] *= 3
    shape = [24, 28, 24]
    shape[axis] = 8
    with pytest.raises(VolumeError, match=f"6 mm thick from {direction}: give the axial series"):
        prepare_condition("lowres", Volume(smooth(tuple(shape)), affine), GRID)


def test_slices_that_are_not_thick_or_very_thick_are_said():
    assert "not thick" in " ".join(prepare_condition("lowres", Volume(smooth(), AFFINE), GRID).notes)
    affine = AFFINE.copy()
    affine[2, 2] = 12
    notes = prepare_condition("lowres", Volume(smooth((24, 28, 4)), affine), GRID).notes
    assert "12 mm thick; the model has learned from 4 to 8 mm" in " ".join(notes)


@pytest.mark.parametrize(("degrees", "is_said"), [(0, False), (20, False), (-30, True)])
def test_slices_that_are_too_tilted_to_be_agreed_with_are_said(degrees, is_said):
    affine = AFFINE.copy()
    affine[2, 2] = 6
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ affine[:3, :3]
    notes = " ".join(prepare_condition("lowres", Volume(smooth((24, 28, 8)), affine), GRID).notes)
    assert (f"tilted by {abs(degrees)}\u00b0 against the model's" in notes) == is_said


@pytest.mark.parametrize(
    ("fill", "tumor", "words"),
    [
        (None, None, "needs a fill"),
        (None, np.zeros(GRID.shape, np.uint8), "The tumor map is empty"),
        (Volume(np.zeros(GRID.shape, np.uint8), AFFINE), None, "The fill is empty"),
        (Volume(LABELS, FAR), None, "outside the scan"),
        (Volume(smooth(), AFFINE), None, "The fill is a mask"),
    ],
)
def test_a_partial_scan_without_a_hole_is_refused(fill, tumor, words):
    with pytest.raises(VolumeError, match=words):
        prepare_condition("partial", Volume(smooth(), AFFINE), GRID, fill=fill, tumor=tumor)


def test_values_that_are_no_numbers_are_read_as_0_and_said():
    image = smooth()
    image[12, 12, 12] = np.nan
    prepared = prepare_condition("t2", Volume(image, AFFINE), GRID)
    assert bool(torch.isfinite(prepared.tensor).all())
    assert any("not a number" in note for note in prepared.notes)
