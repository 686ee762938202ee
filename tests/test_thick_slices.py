"""A volume agrees with the thick slices that it was made from, in their own units."""

import numpy as np
import pytest
from scipy import ndimage

from vcm.modalities.image_conditions import measure_range
from vcm.modalities.scans import Scan
from vcm.modalities.thick_slices import ROUND_TRIPS, agree_with_slices, follow_slices, restore_units
from vcm.volume import Volume

AFFINE = np.array([[2.0, 0, 0, -15], [0, 2, 0, -19], [0, 0, 2, -23], [0, 0, 0, 1]])
SHAPE = (16, 20, 24)


def field(seed: int, shape=SHAPE, smooth: float = 1.5) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return ((values - values.min()) / np.ptp(values) * 900 + 50).astype(np.float32)


def thick(image: np.ndarray, factor: int) -> Scan:
    """Axial slices that are means of `factor` slices of an image on the model grid."""
    array = image.reshape(*image.shape[:2], -1, factor).mean(3)
    affine = AFFINE.copy()
    affine[2, 2] *= factor
    affine[2, 3] += factor - 1
    return Scan(Volume(array, affine), measure_range(array))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_mean_over_each_thick_slice_is_what_went_in(factor):
    scan = thick(field(1), factor)
    agreed = agree_with_slices(scan, Volume(field(2), AFFINE)).array
    means = agreed.reshape(16, 20, -1, factor).mean(3)
    np.testing.assert_allclose(means, scan.volume.array, atol=1e-3 * np.ptp(scan.volume.array))


def test_a_volume_that_agrees_already_stays():
    image = field(1)
    agreed = agree_with_slices(thick(image, 4), Volume(image, AFFINE)).array
    np.testing.assert_allclose(agreed, image, atol=0.01)


def test_agreeing_brings_a_guess_nearer_to_the_truth_without_steps_between_slices():
    truth = field(1)
    guess = truth + 0.3 * (field(2) - 400)
    agreed = agree_with_slices(thick(truth, 4), Volume(guess, AFFINE)).array
    assert np.abs(agreed - truth).mean() < 0.7 * np.abs(guess - truth).mean()
    change = np.diff(agreed - guess, axis=2)  # what was added, from slice to slice
    at_borders, within = np.abs(change[..., 3::4]).mean(), np.abs(change[..., 1::4]).mean()
    assert at_borders < 3 * within


def test_air_stays_empty_and_nothing_becomes_negative():
    truth = field(1)
    truth[:4] = 0
    agreed = agree_with_slices(thick(truth, 4), Volume(field(2), AFFINE)).array
    assert agreed.min() >= 0
    assert np.abs(agreed[:4]).max() < 1


def test_slices_of_finer_voxels_flipped_and_shorter_than_the_model_are_followed_where_they_are():
    truth = field(1)
    fine = np.repeat(np.repeat(truth.reshape(16, 20, 6, 4).mean(3), 2, 0), 2, 1)[:, :, 1:5]  # 1 mm in the plane
    affine = np.diag([1.0, 1.0, 8.0, 1.0])
    affine[:3, 3] = [-15.5, -19.5, -23 + 3 + 8]
    flipped = affine.copy()
    flipped[0, 0], flipped[0, 3] = -1, affine[0, 3] + 31
    array = np.ascontiguousarray(fine[::-1])
    guess = field(2)
    agreed = agree_with_slices(Scan(Volume(array, flipped), measure_range(array)), Volume(guess, AFFINE)).array
    means = agreed.reshape(16, 20, 6, 4).mean(3)
    np.testing.assert_allclose(means[:, :, 1:5], truth.reshape(16, 20, 6, 4).mean(3)[:, :, 1:5], atol=1)
    beyond = [0, 1, 2, 3, 20, 21, 22, 23]  # where there is no slice, only the level is brought to the scan's
    before, after = guess[:, :, beyond], agreed[:, :, beyond]
    gain, offset = np.polyfit(before[after > 0], after[after > 0], 1)
    np.testing.assert_allclose(after, np.maximum(gain * before + offset, 0), atol=0.1)


def tilt(affine: np.ndarray, radians: float) -> np.ndarray:
    """The affine turned about the X axis through the middle of the model grid."""
    turned, middle = np.eye(4), (AFFINE @ [7.5, 9.5, 11.5, 1])[:3]
    c, s = np.cos(radians), np.sin(radians)
    turned[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
    turned[:3, 3] = middle - turned[:3, :3] @ middle
    return turned @ affine


def scan_slices(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What a scanner makes of an image on the model grid: means across slices of 8 mm, (16, 20, 6)."""
    means = []
    for step in np.linspace(-0.5, 0.5, 33)[:-1] + 1 / 64:
        index = np.stack(np.meshgrid(np.arange(16), np.arange(20), np.arange(6) + step, indexing="ij"))
        points = np.einsum("ab,bxyz->axyz", np.linalg.inv(AFFINE)[:3, :3] @ affine[:3, :3], index)
        points += (np.linalg.inv(AFFINE) @ affine[:, 3])[:3, None, None, None]
        means.append(ndimage.map_coordinates(image, points, order=1, mode="nearest"))
    return np.mean(means, axis=0)


@pytest.mark.parametrize("radians", [0.005, -0.1, 0.3])
def test_tilted_slices_are_followed_where_they_lie(radians):
    truth = field(1, smooth=2.5)
    affine = tilt(thick(truth, 4).volume.affine, radians)
    asked = scan_slices(truth, affine)
    guess = Volume((truth + 0.3 * (field(2) - 400)).astype(np.float32), AFFINE)
    agreed = agree_with_slices(Scan(Volume(asked.astype(np.float32), affine), measure_range(asked)), guess)
    inside = (slice(3, -3),) * 3
    assert np.abs(agreed.array - truth)[inside].mean() < 0.45 * np.abs(guess.array - truth)[inside].mean()
    inside = (slice(2, -2), slice(3, -3), slice(1, -1))
    before, after = (np.abs(scan_slices(v.array, affine) - asked)[inside].mean() for v in (guess, agreed))
    assert after < 0.25 * before


def test_slices_that_are_tilted_far_or_thin_change_nothing():
    guess = Volume(field(2), AFFINE)
    scan = thick(field(1), 4)
    assert (
        agree_with_slices(Scan(Volume(scan.volume.array, tilt(scan.volume.affine, 0.5)), scan.limits), guess) is guess
    )
    thin = Scan(Volume(field(1), AFFINE), (0.0, 1.0))
    assert agree_with_slices(thin, guess) is guess


def test_a_sample_that_follows_slices_is_nearer_to_them_and_still_what_the_model_can_make():
    truth = field(1)
    scan = thick(truth, 4)
    made = []

    def reconstruct(image):
        made.append(ndimage.gaussian_filter(image, 1.0))
        return made[-1]

    sample = Volume(ndimage.gaussian_filter(field(2), 1.0) / 1000, AFFINE)
    followed = follow_slices(scan, sample, reconstruct)
    assert len(made) == ROUND_TRIPS
    assert followed is made[-1]
    errors = [
        np.abs(agree_with_slices(scan, restore_units(scan, Volume(array, AFFINE))).array - truth).mean()
        for array in (sample.array, *made)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_slices_that_cannot_be_placed_leave_a_sample_as_it_is():
    sample = Volume(field(2) / 1000, AFFINE)
    thin = Scan(Volume(field(1), AFFINE), (0.0, 1.0))
    assert follow_slices(thin, sample, lambda image: pytest.fail("nothing to reconstruct")) is sample.array


def test_a_scan_with_negative_intensities_shows_the_autoencoder_no_gray_air():
    scan = thick(field(1) - 300, 4)
    assert scan.limits[0] < 0
    sample = Volume(field(2) / 1000, AFFINE)
    assert follow_slices(scan, sample, lambda image: pytest.fail("nothing to reconstruct")) is sample.array


def test_units_come_back():
    scan = Scan(Volume(field(1), AFFINE), (100.0, 900.0))
    restored = restore_units(scan, Volume(np.linspace(0, 1, 16 * 20 * 24).reshape(SHAPE), AFFINE))
    assert (restored.array.min(), restored.array.max()) == (100.0, 900.0)


def test_another_level_and_contrast_of_the_guess_do_not_matter():
    truth = field(1)
    scan = thick(truth, 3)
    first = agree_with_slices(scan, Volume(truth + 0.2 * field(2), AFFINE)).array
    second = agree_with_slices(scan, Volume(0.8 * (truth + 0.2 * field(2)) + 60, AFFINE)).array
    np.testing.assert_allclose(first, second, atol=0.5)
