"""A hole is filled without a seam, and nothing else of the scan is touched."""

import numpy as np
import pytest
from scipy import ndimage

from vcm.modalities.image_conditions import measure_range, scale_intensities
from vcm.modalities.inpaint import BLEND_MM, fill_hole
from vcm.modalities.scans import Scan
from vcm.volume import Volume

AFFINE = np.array([[2.0, 0, 0, -31], [0, 2, 0, -35], [0, 0, 2, -31], [0, 0, 0, 1]])
SHAPE = (32, 36, 32)


def field(seed: int, shape=SHAPE, sigma=3.0) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def ball(shape, radius):
    places = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"))
    return (places**2).sum(0) <= radius**2


def as_scan(array, affine, hole) -> Scan:
    return Scan(Volume(array, affine), measure_range(array), Volume(hole.astype(np.uint8), affine))


def test_outside_the_hole_the_scan_is_its_own_bit_for_bit():
    affine = np.array([[0.9, 0.1, 0, -29], [-0.1, 1.1, 0, -33], [0, 0, 3, -30], [0, 0, 0, 1.0]])  # oblique
    shape = (60, 60, 20)
    scan = (field(1, shape) * 1200 + 300).astype(np.float32)
    hole = ball(shape, 8)
    filled = fill_hole(as_scan(scan, affine, hole), Volume(field(2), AFFINE))
    np.testing.assert_array_equal(filled.array[~hole], scan[~hole])
    assert (filled.array[hole] != scan[hole]).mean() > 0.99
    np.testing.assert_array_equal(filled.affine, affine)


def test_what_the_scan_holds_inside_the_hole_is_never_looked_at():
    scan, hole = field(1) * 900 + 100, ball(SHAPE, 7)
    black = np.where(hole, np.float32(0), scan)
    limits = measure_range(scan)
    mask, made = Volume(hole.astype(np.uint8), AFFINE), Volume(field(2), AFFINE)
    first = fill_hole(Scan(Volume(scan, AFFINE), limits, mask), made)
    second = fill_hole(Scan(Volume(np.where(hole, scan.max(), scan), AFFINE), limits, mask), made)
    np.testing.assert_array_equal(first.array, second.array)
    third = fill_hole(Scan(Volume(black, AFFINE), limits, mask), made)
    np.testing.assert_allclose(third.array, first.array, rtol=1e-6)


def jump(volume: np.ndarray, hole: np.ndarray) -> float:
    """The mean step between voxels on both sides of the hole's border."""
    steps = []
    for axis in range(3):
        difference = np.abs(np.diff(volume.astype(np.float64), axis=axis))
        steps.append(difference[np.diff(hole.astype(int), axis=axis) != 0])
    return float(np.concatenate(steps).mean())


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (1.3, 0.1), (0.8, -0.05)])
def test_the_seam_is_no_steeper_than_the_scan_itself(gain, offset):
    scan, hole = field(1) * 900 + 100, ball(SHAPE, 8)
    made = Volume(np.clip(gain * field(1) + offset, 0, None) + 0.1 * field(2), AFFINE)
    filled = fill_hole(as_scan(scan, AFFINE, hole), made).array
    pasted = np.where(hole, made.array * (scan.max() - scan.min()) + scan.min(), scan)
    assert jump(filled, hole) < 1.25 * jump(scan, hole)
    assert jump(filled, hole) < jump(pasted, hole)


def test_the_level_of_the_generated_volume_is_brought_to_the_scan_s():
    truth, hole = field(1) * 900 + 100, ball(SHAPE, 8)
    darker = Volume(0.7 * scale_intensities(truth, measure_range(truth)) + 0.05, AFFINE)
    filled = fill_hole(as_scan(truth, AFFINE, hole), darker).array
    assert np.abs(filled - truth)[hole].mean() < 0.02 * np.ptp(truth)


def test_deep_in_the_hole_the_border_is_not_heard():
    scan, hole, made = field(1) * 900 + 100, ball(SHAPE, 10), field(2)
    depth = ndimage.distance_transform_edt(hole, sampling=2.0)
    filled = fill_hole(as_scan(scan, AFFINE, hole), Volume(made, AFFINE)).array
    deep = depth > BLEND_MM
    gain, offset = np.polyfit(made[deep], filled[deep], 1)
    np.testing.assert_allclose(filled[deep], gain * made[deep] + offset, rtol=1e-4)
    assert gain > 0


def test_where_the_hole_leaves_the_field_of_view_the_scan_stays():
    shape = (48, 36, 32)  # reaches 32 mm beyond the model's grid
    scan = field(1, shape) * 900 + 100
    hole = np.zeros(shape, bool)
    hole[26:40, 12:20, 12:20] = True
    filled = fill_hole(as_scan(scan, AFFINE, hole), Volume(field(2), AFFINE)).array
    np.testing.assert_array_equal(filled[33:], scan[33:])
    assert (filled[26:32, 12:20, 12:20] != scan[26:32, 12:20, 12:20]).mean() > 0.99


def test_a_hole_that_covers_everything_but_air_is_filled_at_the_range_of_the_scan():
    scan = np.where(ball(SHAPE, 12), field(1) * 900 + 100, 0).astype(np.float32)
    made = field(2)
    filled = fill_hole(as_scan(scan, AFFINE, ball(SHAPE, 12)), Volume(made, AFFINE)).array
    low, high = measure_range(scan)
    inner = ball(SHAPE, 8)
    np.testing.assert_allclose(filled[inner], (made * (high - low) + low)[inner], rtol=1e-4)
