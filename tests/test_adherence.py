"""Adherence: overlaps that are never NaN, scored by region, for both volumes of a pair."""

import json

import numpy as np
import pytest

from vcm.modalities.adherence import Segmentation, dice, measure_adherence, score_anatomy, score_tumor
from vcm.volume import Volume

SHAPE = (6, 6, 6)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])  # 8 cubic mm a voxel


def labelled(**slices: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for plane, label in slices.items():
        labels[int(plane.removeprefix("x"))] = label
    return labels


def test_dice_is_one_for_equal_masks_and_half_for_half_an_overlap():
    first, second = labelled(x1=1, x2=1) > 0, labelled(x2=1, x3=1) > 0
    assert dice(first, first) == 1.0
    assert dice(first, second) == 0.5


def test_a_lesion_that_was_not_found_scores_zero_and_an_absent_one_has_no_score():
    something, nothing = labelled(x1=1) > 0, labelled() > 0
    assert dice(something, nothing) == 0.0
    assert dice(nothing, something) is None
    assert dice(nothing, nothing) is None


def test_the_tumor_core_leaves_the_edema_out():
    drawn = labelled(x1=1, x2=2, x3=3)
    found = labelled(x1=1, x2=1, x3=3)
    scores = score_tumor(drawn, found)
    assert scores["whole"] == 1.0
    assert scores["core"] == pytest.approx(2 * 2 / (2 + 3))
    assert scores["enhancing"] == 1.0


def test_anatomy_is_not_scored_inside_the_drawn_tumor():
    drawn, found = labelled(x1=4), labelled(x1=4, x2=4)
    assert score_anatomy(drawn, found)["ventricles"] == pytest.approx(2 / 3)
    assert score_anatomy(drawn, found, ignored=labelled(x2=1) > 0)["ventricles"] == 1.0
    assert score_anatomy(drawn, found)["CSF"] is None


def test_both_volumes_of_a_pair_are_measured_in_milliliters_and_in_plain_json():
    conditions = {"tumor": Volume(labelled(x1=1), AFFINE), "anatomy": Volume(labelled(x4=4), AFFINE)}
    followed = Segmentation(labelled(x1=1), labelled(x4=4))
    healthy = Segmentation(labelled(), labelled(x4=4))
    adherence = measure_adherence(conditions, {"controlled": followed, "uncontrolled": healthy})
    tumor = json.loads(json.dumps(adherence))["tumor"]
    assert tumor["drawn_ml"]["whole"] == pytest.approx(36 * 8 / 1000)
    assert tumor["controlled"] == {
        "dice": {"whole": 1.0, "core": 1.0, "enhancing": None},
        "found_ml": {"whole": pytest.approx(0.288), "core": pytest.approx(0.288), "enhancing": 0.0},
    }
    assert tumor["uncontrolled"]["dice"]["whole"] == 0.0
    assert adherence["anatomy"]["controlled"]["dice"]["ventricles"] == 1.0


def test_nothing_is_measured_without_a_segmenter_or_without_labels():
    assert measure_adherence({"tumor": Volume(labelled(x1=1), AFFINE)}, {"controlled": None}) is None
    assert measure_adherence({}, {"controlled": Segmentation(labelled(), labelled())}) is None
