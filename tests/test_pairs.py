"""What a VCM's training sees: subjects however small their lesions, and scans as a lab's may come."""

import numpy as np
import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_model

from vcm.modalities.image_conditions import measure_range, scale_intensities
from vcm.train.degrade import STRIPPED_SHARE, strip_skull
from vcm.train.pairs import Pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    subjects = make_coarse_subjects(("t1", "t2"))
    small = np.zeros_like(subjects[0]["tumor"])
    small[12, 16, 12] = 3
    subjects = [{**subjects[0], "tumor": small}, subjects[1], {**subjects[1], "tumor": np.zeros_like(small)}]
    cohort = CoarseCohorts(subjects)(tmp_path_factory.mktemp("cohort"), range(3), ("t1", "t2"))
    backbone = build_tiny_model(GRID).backbone
    return Pairs(tmp_path_factory.mktemp("latents") / "some", cohort, backbone, "cpu", (2.0, 2.0, 2.0))


def test_a_speck_is_drawn_as_often_as_a_large_tumor_and_both_more_often_than_none(pairs):
    speck, large, none = pairs.sampling_weights[:3].tolist()
    assert speck == large > none > 0
    assert pairs.sampling_weights[3:].tolist() == [speck, large, none]  # their mirror images


def test_some_scans_are_shown_without_their_skull(pairs):
    whole = scale_intensities(
        pairs.cohort.images["t2"][1].astype(np.float32), measure_range(pairs.cohort.images["t2"][1].astype(np.float32))
    )
    brain = (pairs.cohort.anatomy[1] > 0) | (pairs.cohort.tumor[1] > 0)
    random = torch.Generator().manual_seed(0)
    stripped = 0
    for _ in range(60):
        seen = pairs.conditions([1], {"t2": torch.tensor([True])}, random)["t2"][0, 0].numpy()
        if seen[~brain].any():
            np.testing.assert_array_equal(seen, whole)
        else:
            stripped += 1
            assert seen[brain].any()
    assert stripped == pytest.approx(60 * STRIPPED_SHARE, abs=12)


def test_without_labels_of_the_anatomy_a_scan_stays_whole():
    image, none = np.ones((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8)
    tumor, anatomy = none.copy(), none.copy()
    tumor[0, 0, 0], anatomy[1, 0, 0] = 1, 3
    assert strip_skull(image, none, tumor) is image
    assert strip_skull(image, anatomy, tumor).sum() == 2
