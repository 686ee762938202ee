"""Intensities by tissue: neither a scan's units nor bright vessels change what the model reads."""

import numpy as np
import pytest

from vcm.data import simulate
from vcm.modalities.intensity import PERCENTILES, STANDARD, find_interior, measure_landmarks

INTERIOR = find_interior(simulate.SHAPE, simulate.AFFINE)


@pytest.fixture(scope="module")
def subject() -> simulate.Subject:
    return simulate.simulate_subject(simulate.FIRST_TEST_SEED)


def test_the_interior_is_brain_even_in_a_small_head(subject):
    assert subject.anatomy_before[INTERIOR].astype(bool).mean() > 0.93
    assert INTERIOR.sum() * 0.008 > 1200  # ml: most of the brain


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair"])
def test_the_landmarks_of_a_scan_become_those_of_the_model(subject, contrast):
    image = 731.0 * subject.images[contrast]
    scaled = measure_landmarks(image, INTERIOR).scale(image, contrast)
    found = np.percentile(scaled[INTERIOR & (image != 0)], PERCENTILES)
    np.testing.assert_allclose(found, STANDARD[contrast], atol=0.005)
    assert scaled.min() >= 0
    assert scaled.max() <= 1


def test_a_simulated_scan_is_read_about_as_it_is(subject):
    image = subject.images["t1"]
    scaled = measure_landmarks(image, INTERIOR).scale(image, "t1")
    assert np.abs(scaled - image)[INTERIOR].mean() < 0.03


def test_vessels_at_four_times_white_matter_move_nothing_else(subject):
    image = 900.0 * subject.images["t1"]
    bright = image.copy()
    vessels = INTERIOR & (np.random.default_rng(0).random(image.shape) < 0.01)
    bright[vessels] = 4 * np.median(image[subject.anatomy == simulate.WHITE_MATTER])
    plain, changed = (measure_landmarks(each, INTERIOR).scale(each, "t1") for each in (image, bright))
    assert np.abs(plain - changed)[~vessels].max() < 0.02


def test_restoring_undoes_scaling_but_for_what_was_clipped(subject):
    image = 50.0 + 400.0 * subject.images["t2"]
    landmarks = measure_landmarks(image, INTERIOR)
    scaled = landmarks.scale(image, "t2")
    inside = (scaled > 0) & (scaled < 1)
    np.testing.assert_allclose(landmarks.restore(scaled, "t2")[inside], image[inside], rtol=1e-3)


def test_what_was_cut_away_stays_zero(subject):
    image = np.where(subject.anatomy > 0, subject.images["t1"], 0).astype(np.float32)
    scaled = measure_landmarks(image, INTERIOR).scale(image, "t1")
    assert not scaled[image == 0].any()
    assert scaled[subject.anatomy == simulate.WHITE_MATTER].mean() == pytest.approx(0.68, abs=0.08)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_scan_without_contrast_or_brain_has_landmarks_that_rise(value):
    image = np.full(simulate.SHAPE, value, np.float32)
    landmarks = measure_landmarks(image, np.zeros(simulate.SHAPE, bool))
    assert np.all(np.diff((landmarks.background, *landmarks.percentiles)) > 0)
    assert np.isfinite(landmarks.scale(image, "t1")).all()
