"""How training varies scans: widely, with what is drawn for the whole head, and never the target."""

import numpy as np
import pytest
import torch

from vcm.data import simulate
from vcm.data.cohort import Cohort
from vcm.modalities.intensity import find_interior, measure_landmarks
from vcm.modalities.shifts import (
    STRIPPED_SHARE,
    UNSHIFTED_SHARE,
    draw_shift,
    shift_scan,
    strip_skull,
    thicken_slices,
)
from vcm.train.views import View

AFFINE = simulate.AFFINE


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> View:
    subject = simulate.simulate_subject(simulate.FIRST_TEST_SEED + 2)
    volumes = {name: getattr(subject, name)[None] for name in ("tumor", "anatomy", "anatomy_before")}
    images = {name: image[None].astype(np.float16) for name, image in subject.images.items()}
    numbers = {"context": np.zeros((1, 4), np.float32), "volumes_ml": np.zeros((1, 2), np.float32)}
    return View(Cohort([0], images, **volumes, **numbers), 0, False, AFFINE)


def draw(view: View, contrast: str, count: int, **options: object) -> list[np.ndarray]:
    random = torch.Generator().manual_seed(0)
    return [shift_scan(view, contrast, random, **options) for _ in range(count)]


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair"])
def test_every_scan_stays_in_the_range_that_the_model_reads(view, contrast):
    for scan in draw(view, contrast, 12):
        assert scan.shape == view.shape
        assert scan.dtype == np.float32
        assert 0 <= scan.min() < 0.2 < scan.max() <= 1


def test_some_scans_are_as_simulated_and_some_without_a_skull(view):
    whole = view.image("t2")
    plain = measure_landmarks(whole, find_interior(view.shape, AFFINE)).scale(whole, "t2")
    brain = (view.anatomy > 0) | (view.tumor > 0)
    scans = draw(view, "t2", 60)
    stripped = sum(not scan[~brain].any() for scan in scans)
    alike = sum(np.abs(scan - plain)[brain].mean() < 0.01 for scan in scans)
    assert stripped == pytest.approx(60 * STRIPPED_SHARE, abs=12)
    assert alike == pytest.approx(60 * UNSHIFTED_SHARE, abs=11)


def test_a_window_shows_what_the_whole_head_shows_there(view):
    window = (slice(20, 60), slice(30, 70), slice(20, 60))
    part = View(view.cohort, 0, False, AFFINE, window)
    shift = draw_shift("flair", torch.Generator().manual_seed(3))
    whole, seen = (each_view.image("flair") for each_view in (view, part))
    np.testing.assert_array_equal(whole[window], seen)
    whole, seen = (shift.change_intensities(each_view, "flair") for each_view in (view, part))
    inner = (slice(4, -4),) * 3  # tissues go over into each other, also across the window's border
    np.testing.assert_allclose(whole[window][inner], seen[inner], atol=1e-5)


def test_the_order_of_tissues_changes_in_t2_but_hardly_in_t1(view):
    def spread(contrast: str) -> float:
        white = [scan[view.anatomy == simulate.WHITE_MATTER].mean() for scan in draw(view, contrast, 30)]
        gray = [scan[view.anatomy == simulate.GRAY_MATTER].mean() for scan in draw(view, contrast, 30)]
        return float(np.mean(np.array(white) > np.array(gray)))

    assert spread("t1") > 0.9
    assert 0 < spread("t2") < 0.6


def test_thick_slices_are_means_of_thin_ones():
    image = np.random.default_rng(0).random((4, 4, 12)).astype(np.float32)
    thick = thicken_slices(image, 3)
    np.testing.assert_allclose(thick[:, :, 1::3], image.reshape(4, 4, 4, 3).mean(3), atol=1e-5)


def test_without_labels_of_the_anatomy_a_scan_stays_whole():
    image, none = np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)
    tumor, anatomy = none.copy(), none.copy()
    tumor[0, 0, 0], anatomy[1, 0, 0] = 1, 3
    assert strip_skull(image, none, none) is image
    assert strip_skull(image, anatomy, tumor).sum() == 2
