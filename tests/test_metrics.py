"""Figures of merit: each against a value worked out by hand, and intervals that hold what they should."""

import numpy as np
import pytest
from scipy import ndimage

from vcm.metrics import (
    correlation,
    cubic_mmd,
    estimate,
    head_mask,
    largest_diameter_mm,
    mean_ms_ssim,
    psnr,
    ratio_of_means,
    slope,
    summarize,
)


def test_psnr_is_twenty_decibels_for_an_error_of_a_tenth():
    truth = np.zeros((4, 4, 4), np.float32)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)


def test_psnr_of_a_mask_sees_only_its_voxels():
    truth = np.zeros((2, 2, 2))
    found = truth.copy()
    found[0] = 0.01
    where = np.zeros(truth.shape, bool)
    where[0] = True
    assert psnr(found, truth, where) == pytest.approx(40.0)
    assert psnr(found, truth, ~where) == pytest.approx(120.0)  # the bound of what is reported as no error


def test_the_head_mask_fills_the_dark_inside_and_leaves_the_air_out():
    shape = (40, 40, 40)
    distance = np.sqrt(((np.indices(shape) - 20.0) ** 2).sum(0))
    shell = ((distance > 10) & (distance < 14)).astype(np.float32) * 0.8
    noise = np.random.default_rng(0).random(shape) * 0.05
    mask = head_mask(shell + noise)
    assert mask[distance < 13].all()
    assert not mask[distance > 17].any()


def test_the_diameter_is_that_of_the_largest_part_as_a_sphere():
    distance = np.sqrt(((np.indices((40, 40, 40)) - 20.0) ** 2).sum(0))
    ball = distance <= 9
    ball[0, 0, :5] = True  # a second, smaller part
    assert largest_diameter_mm(ball, 2.0) == pytest.approx(36.0, rel=0.02)
    assert largest_diameter_mm(np.zeros((3, 3, 3), bool), 2.0) == 0.0
    assert largest_diameter_mm(ball, 1.0) == pytest.approx(largest_diameter_mm(ball, 2.0) / 2)


def test_a_summary_has_the_mean_its_interval_and_how_many_values_there_were():
    values = list(np.random.default_rng(1).normal(3.0, 1.0, 400))
    summary = summarize([*values, None])
    assert summary["value"] == pytest.approx(np.mean(values))
    assert summary["count"] == 400
    low, high = summary["interval"]
    half_width = 1.96 * np.std(values) / 20
    assert low == pytest.approx(np.mean(values) - half_width, abs=0.02)
    assert high == pytest.approx(np.mean(values) + half_width, abs=0.02)
    assert summarize(values) == summarize(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], {"value": None, "interval": None, "count": 0}),
        ([None, None], {"value": None, "interval": None, "count": 0}),
        ([0.5, None], {"value": 0.5, "interval": None, "count": 1}),
        ([0.0, 0.0, 0.0], {"value": 0.0, "interval": None, "count": 3}),
    ],
)
def test_a_summary_of_too_little_has_no_interval(values, expected):
    assert summarize(values) == expected


def test_columns_are_resampled_in_pairs():
    # Every numerator is nine tenths of its own denominator, so the ratio is the same in every resample.
    denominators = [0.2, 0.4, 0.9, 0.7]
    kept = estimate(ratio_of_means, [0.9 * value for value in denominators], denominators)
    assert kept["value"] == pytest.approx(0.9)
    assert kept["interval"] is None or np.ptp(kept["interval"]) < 1e-12


def test_a_line_is_found_with_its_slope_and_its_correlation():
    asked = np.linspace(10, 80, 50)
    noise = np.random.default_rng(2).normal(0, 5, 50)
    measured = 0.8 * asked + 7 + noise
    assert estimate(slope, asked, measured)["value"] == pytest.approx(np.polyfit(asked, measured, 1)[0])
    assert correlation(asked, measured) == pytest.approx(np.corrcoef(asked, measured)[0, 1])
    low, high = estimate(slope, asked, measured)["interval"]
    assert low < 0.8 < high
    assert high - low < 0.3
    assert correlation(asked, -asked) == pytest.approx(-1.0)


def test_what_does_not_vary_has_neither_slope_nor_correlation_nor_ratio():
    constant, rising = np.ones(5), np.arange(5.0)
    assert estimate(correlation, rising, constant)["value"] is None
    assert estimate(slope, constant, rising) == {"value": None, "interval": None, "count": 5}
    assert estimate(ratio_of_means, rising, np.zeros(5))["value"] is None


def test_mmd_is_about_zero_for_sets_of_one_kind_and_larger_for_others():
    random = np.random.default_rng(3)
    first, second = random.normal(size=(60, 8)), random.normal(size=(60, 8))
    same, other = cubic_mmd(first, second), cubic_mmd(first + 1.0, second)
    assert same["interval"][0] < 0 < same["interval"][1]
    assert other["interval"][0] > same["interval"][1]
    assert other["count"] == 60


def test_mmd_is_the_unbiased_estimator_written_out():
    random = np.random.default_rng(4)
    first, second = random.normal(size=(3, 2)), random.normal(size=(4, 2))
    x, y = ((part - second.mean(0)) / (second.std(0) + 1e-6) for part in (first, second))

    def kernel(a, b):
        return (a @ b / 2 + 1) ** 3

    within_x = np.mean([kernel(x[i], x[j]) for i in range(3) for j in range(3) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert cubic_mmd(first, second)["value"] == pytest.approx(within_x + within_y - 2 * between)


def test_mmd_of_a_single_member_is_refused():
    with pytest.raises(ValueError, match="at least two members, got 1 and 5"):
        cubic_mmd(np.zeros((1, 3)), np.zeros((5, 3)))


def test_ms_ssim_is_one_between_equal_volumes_and_lower_between_different_ones():
    random = np.random.default_rng(5)
    shape = (80, 80, 80)
    equal = [ndimage.gaussian_filter(random.random(shape), 2).astype(np.float32)] * 2
    different = [ndimage.gaussian_filter(random.random(shape), 2).astype(np.float32) for _ in range(2)]
    assert mean_ms_ssim(equal, pairs=1) == pytest.approx([1.0], abs=1e-4)
    assert mean_ms_ssim(different)[0] < 0.9
    assert len(mean_ms_ssim(different)) == 1  # two volumes make one pair
