"""Measures without a segmenter: contrasts of labels that are known by construction, errors of steps that are."""

import numpy as np
import pytest
import torch
from tiny import TINY_GRID, all_conditions, build_tiny_model

from vcm.data import simulate
from vcm.model.vcm import VCM
from vcm.research.evaluate.contrast import LEVELS, is_right, measure_contrasts, measure_step_errors


def head_with_lesion() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    volume, tumor, anatomy = (np.zeros((20, 20, 20), kind) for kind in (np.float32, np.uint8, np.uint8))
    anatomy[2:18, 2:18, 2:18] = simulate.WHITE_MATTER
    volume[2:18, 2:18, 2:18] = 0.7
    tumor[8:12, 8:12, 8:12] = simulate.ENHANCING
    tumor[9:11, 9:11, 9:11] = simulate.NECROTIC_CORE
    volume[tumor == simulate.ENHANCING], volume[tumor == simulate.NECROTIC_CORE] = 0.9, 0.3
    return volume, tumor, anatomy


def test_a_label_is_compared_with_the_healthy_tissue_around_the_lesion():
    volume, tumor, anatomy = head_with_lesion()
    expected = {simulate.NECROTIC_CORE: pytest.approx(-0.4), simulate.ENHANCING: pytest.approx(0.2)}
    assert measure_contrasts(volume, tumor, anatomy) == expected
    anatomy[12:] = simulate.CSF  # fluid on one side changes nothing, whatever its intensity
    volume[12:] = 0.1
    assert measure_contrasts(volume, tumor, anatomy) == expected


def test_what_is_too_small_to_have_a_mean_is_left_out():
    volume, tumor, anatomy = head_with_lesion()
    tumor[tumor == simulate.NECROTIC_CORE] = simulate.ENHANCING
    tumor[9, 9, 9] = simulate.EDEMA
    assert set(measure_contrasts(volume, tumor, anatomy)) == {simulate.ENHANCING}
    assert measure_contrasts(volume, tumor, np.zeros_like(anatomy)) == {}


@pytest.mark.parametrize(
    ("found", "original", "right"),
    [(0.05, 0.1, True), (0.03, 0.1, False), (-0.27, -0.4, True), (-0.25, -0.4, False), (0.05, 0.0, True)],
)
def test_a_contrast_is_right_within_the_larger_of_two_bounds(found, original, right):
    assert is_right(found, original) is right


def test_a_new_vcm_is_as_far_from_the_truth_as_the_prior_at_every_level_and_label():
    model = build_tiny_model()
    image = np.random.default_rng(0).random(TINY_GRID.shape, dtype=np.float32)
    tumor = np.zeros(TINY_GRID.shape, np.uint8)
    tumor[2:6, 2:6, 2:6] = 2
    context = torch.full((1, 1, 4), 0.5)
    errors = measure_step_errors(
        model.backbone, VCM(model.config.adapter), image, tumor, {"tumor": all_conditions()["tumor"]}, context
    )
    assert [(error.timestep, error.label) for error in errors] == [(t, label) for t in LEVELS for label in (0, 2)]
    for error in errors:
        assert error.controlled == pytest.approx(error.prior, rel=1e-4)
        assert error.prior > 0
