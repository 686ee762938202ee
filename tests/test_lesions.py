"""Lesions one by one: each is compared with what is found near it, and counted by its own size."""

import numpy as np
import pytest

from vcm.research.evaluate.lesions import LesionScore, compare_by_size, score_lesions

VOXEL_ML = 0.008


def two_lesions() -> np.ndarray:
    tumor = np.zeros((40, 40, 40), np.uint8)
    tumor[4:10, 4:10, 4:10] = 2
    tumor[6:8, 6:8, 6:8] = 1
    tumor[25:28, 25:28, 25:28] = 2  # without a core
    return tumor


def test_every_lesion_has_its_size_and_its_own_score():
    tumor = two_lesions()
    found = tumor.copy()
    found[25:28, 25:28, 25:28] = 0
    large, small = score_lesions(tumor, found, VOXEL_ML)
    assert large == LesionScore(pytest.approx(216 * VOXEL_ML), 1.0, 1.0)
    assert small == LesionScore(pytest.approx(27 * VOXEL_ML), 0.0, None)


def test_what_is_found_far_away_belongs_to_no_lesion():
    tumor = two_lesions()
    found = tumor.copy()
    found[35:, 5:10, 5:10] = 3
    assert score_lesions(tumor, found, VOXEL_ML) == score_lesions(tumor, tumor, VOXEL_ML)
    assert score_lesions(np.zeros_like(tumor), found, VOXEL_ML) == []


def test_the_share_that_is_kept_is_told_by_size():
    originals = [LesionScore(0.3, 0.5, None), LesionScore(0.4, 0.7, None), LesionScore(20.0, 0.9, 0.9)]
    others = [LesionScore(0.3, 0.25, None), LesionScore(0.4, 0.35, None), LesionScore(20.0, 0.9, 0.9)]
    kept = compare_by_size(originals, others)
    assert list(kept) == ["0.25 to 0.5 ml", "16 ml and more"]
    assert kept["0.25 to 0.5 ml"]["original"] == pytest.approx(0.6)
    assert kept["0.25 to 0.5 ml"]["share"]["value"] == pytest.approx(0.5)
    assert kept["16 ml and more"]["share"]["value"] == pytest.approx(1.0)
