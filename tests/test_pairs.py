"""What a VCM's training sees: subjects however small their lesions, and scans as a lab's may come."""

import numpy as np
import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_model

from vcm.train.pairs import Pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    subjects = make_coarse_subjects(("t1", "t2"))
    small = np.zeros_like(subjects[0]["tumor"])
    small[12, 16, 12] = 3
    subjects = [{**subjects[0], "tumor": small}, subjects[1], {**subjects[1], "tumor": np.zeros_like(small)}]
    cohort = CoarseCohorts(subjects)(tmp_path_factory.mktemp("cohort"), range(3), ("t1", "t2"))
    backbone = build_tiny_model(GRID).backbone
    return Pairs(tmp_path_factory.mktemp("latents") / "some", cohort, backbone, "cpu", GRID.affine)


def test_a_speck_is_drawn_as_often_as_a_large_tumor_and_both_more_often_than_none(pairs):
    speck, large, none = pairs.sampling_weights[:3].tolist()
    assert speck == large > none > 0
    assert pairs.sampling_weights[3:].tolist() == [speck, large, none]  # their mirror images


def test_a_window_of_a_condition_is_that_part_of_the_whole(pairs):
    window = (slice(4, 12), slice(8, 20), slice(2, 10))
    for index in (1, 4):  # as it is, and mirrored
        for name in ("tumor", "anatomy"):
            whole, part = (
                pairs.conditions([index], {name: torch.ones(1, dtype=torch.bool)}, torch.Generator().manual_seed(0), w)
                for w in (None, [window])
            )
            torch.testing.assert_close(part[name], whole[name][(slice(None), slice(None), *window)])


def test_a_mirrored_pair_has_left_and_right_swapped(pairs):
    both = pairs.conditions([1, 4], {"tumor": torch.ones(2, dtype=torch.bool)}, torch.Generator())["tumor"]
    assert both[0].any()
    torch.testing.assert_close(both[1], both[0].flip(1))
