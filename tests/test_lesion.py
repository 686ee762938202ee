"""The lesion builder: the size, the parts and the side that were asked for, and nothing outside the brain."""

import numpy as np
import pytest

from vcm.data import simulate
from vcm.modalities.lesion import PLACES, LesionPlan, build_lesion
from vcm.modalities.names import EDEMA, ENHANCING, NECROTIC_CORE
from vcm.model.config import Grid

GRID = Grid(simulate.SHAPE, simulate.AFFINE)


def center_mm(mask: np.ndarray) -> np.ndarray:
    return GRID.affine[:3, :3] @ np.argwhere(mask).mean(0) + GRID.affine[:3, 3]


def volume_mm3(mask: np.ndarray) -> float:
    return float(mask.sum() * simulate.SPACING_MM**3)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("place", PLACES)
def test_a_lesion_lies_on_its_side_where_it_was_asked_for(side, place):
    found = center_mm(build_lesion(LesionPlan(side=side, place=place, irregularity=0, diameter_mm=20), GRID) > 0)
    x, y, z = PLACES[place]
    np.testing.assert_allclose(found, [x if side == "right" else -x, y, z], atol=1.5)


@pytest.mark.parametrize("diameter", [10, 28, 50])
def test_a_ball_has_the_volumes_of_its_parts(diameter):
    labels = build_lesion(LesionPlan(place="deep", diameter_mm=diameter, core_share=0.6, irregularity=0), GRID)
    whole = np.pi / 6 * diameter**3
    assert volume_mm3(np.isin(labels, (NECROTIC_CORE, ENHANCING))) == pytest.approx(whole, rel=0.12)
    assert volume_mm3(labels == NECROTIC_CORE) == pytest.approx(whole * 0.6**3, rel=0.35)
    assert volume_mm3(labels > 0) == pytest.approx(np.pi / 6 * (diameter + 16) ** 3, rel=0.12)


def test_an_irregular_lesion_is_another_with_every_seed_and_keeps_about_its_size():
    plans = [LesionPlan(place="deep", irregularity=0.8, seed=seed) for seed in range(4)]
    built = [build_lesion(plan, GRID) for plan in plans]
    np.testing.assert_array_equal(built[0], build_lesion(plans[0], GRID))
    assert len({labels.tobytes() for labels in built}) == 4
    sizes = [volume_mm3(np.isin(labels, (NECROTIC_CORE, ENHANCING))) for labels in built]
    assert all(0.5 < size / (np.pi / 6 * 28**3) < 2 for size in sizes)


def test_without_edema_and_core_all_of_it_enhances():
    labels = build_lesion(LesionPlan(edema_mm=0, core_share=0), GRID)
    assert set(np.unique(labels)) == {0, ENHANCING}


def test_nothing_is_put_outside_the_brain():
    brain = np.zeros(GRID.shape, bool)
    brain[:, :, 40:] = True
    labels = build_lesion(LesionPlan(place="temporal", diameter_mm=50), GRID, brain)
    assert (labels[brain] == EDEMA).any()
    assert not labels[~brain].any()


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("side", "up", "side is 'up'; it must be one of left, right"),
        ("place", "elbow", "place is 'elbow'"),
        ("diameter_mm", 100, "diameter_mm is 100; it must be from 6.0 to 60.0"),
        ("core_share", -0.1, "core_share"),
        ("irregularity", float("nan"), "irregularity is nan"),
    ],
)
def test_what_cannot_be_built_is_said(field, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        LesionPlan(**{field: value})
