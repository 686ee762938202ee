"""A scan that lies elsewhere is found again in template space."""

import numpy as np
import pytest
from own_subjects import MOVED

from vcm.data import simulate
from vcm.data.make_template import render_templates
from vcm.errors import VolumeError
from vcm.model.config import Grid
from vcm.registration.register import (
    TEMPLATE_FOLDER,
    _pool,
    brain_surface,
    place_in_template,
    register,
    template_brain,
)
from vcm.volume import Volume

TOLERANCE_MM = 2.0  # at the brain's surface


@pytest.fixture(scope="module")
def subject() -> simulate.Subject:
    return simulate.simulate_subject(200_005, ("t1",))


def move(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    return points @ transform[:3, :3].T + transform[:3, 3]


@pytest.mark.parametrize("stripped", [False, True])
def test_a_known_rigid_transform_is_undone_within_two_millimeters(subject: simulate.Subject, stripped: bool) -> None:
    brain = (subject.anatomy > 0) | (subject.tumor > 0)
    image = np.where(brain, subject.images["t1"], np.float32(0)) if stripped else subject.images["t1"]
    before = register(Volume(image, simulate.AFFINE))
    after = register(Volume(image, MOVED @ simulate.AFFINE))
    surface = move(brain_surface(), np.linalg.inv(before.transform))  # of this subject's brain, where it was
    apart = move(surface, after.transform @ MOVED) - move(surface, before.transform)
    assert np.linalg.norm(apart, axis=1).max() < TOLERANCE_MM
    assert (
        np.linalg.norm(move(surface, after.transform @ MOVED) - surface, axis=1).max() < 15
    )  # no flip, no other brain


def test_fine_voxels_cost_no_more_and_are_placed_alike(subject: simulate.Subject) -> None:
    """A few kilobytes may hold voxels of a tenth of a millimeter: each averaged one by one, they took minutes."""
    coarse = Volume(subject.images["t1"], simulate.AFFINE)
    fine = Volume(coarse.array.repeat(2, axis=0).repeat(3, axis=1), coarse.affine @ np.diag([1 / 2, 1 / 3, 1, 1]))
    fine.affine[:3, 3] -= coarse.affine[:3, :3] @ [1 / 4, 1 / 3, 0]
    pooled = _pool(fine, 2.0)
    np.testing.assert_allclose(pooled.array, coarse.array, atol=1e-6)
    np.testing.assert_allclose(pooled.affine, coarse.affine)
    odd = _pool(Volume(np.ones((7, 5, 3), np.float32), np.diag([0.1, 0.1, 1, 1])), 0.4)
    assert odd.array.shape == (2, 2, 3)
    assert (odd.array == 1).all()
    assert _pool(coarse, 1.0) is coarse


def test_the_tumor_is_where_it_was_after_a_registration(subject: simulate.Subject) -> None:
    found = place_in_template(Volume(subject.images["t1"], MOVED @ simulate.AFFINE))
    assert found.moved_mm > 30
    tumor = Volume(subject.tumor, found.transform @ MOVED @ simulate.AFFINE)
    placed = tumor.to_grid(simulate.SHAPE, simulate.AFFINE, labels=True).array
    centers = [np.argwhere(labels > 0).mean(axis=0) * simulate.SPACING_MM for labels in (placed, subject.tumor)]
    assert np.linalg.norm(centers[0] - centers[1]) < 8  # heads are scaled to the template's


def test_a_scan_in_template_space_stays_as_it_lies(subject: simulate.Subject) -> None:
    found = place_in_template(Volume(subject.images["t1"], simulate.AFFINE))
    np.testing.assert_array_equal(found.transform, np.eye(4))
    assert found.moved_mm == 0


def test_what_is_no_head_is_refused() -> None:
    noise = np.random.default_rng(0).random(simulate.SHAPE).astype(np.float32)
    with pytest.raises(VolumeError, match="could not be placed in template space"):
        place_in_template(Volume(noise, simulate.AFFINE))


def test_the_brain_of_the_template_lies_on_any_grid() -> None:
    brain = template_brain(Grid((40, 56, 40), simulate.AFFINE @ np.diag([2.0, 2, 2, 1])))
    assert set(np.unique(brain)) == {0, 1}
    assert 1500 < brain.sum() * 0.064 < 2100  # ml


def test_the_templates_of_the_package_are_what_is_made_of_the_template() -> None:
    for kind, made in render_templates().items():
        kept = Volume.load(TEMPLATE_FOLDER / f"{kind}.nii.gz")
        np.testing.assert_array_equal(kept.affine, made.affine)
        apart = np.abs(kept.array.astype(int) - made.array)
        assert apart.max() <= 1  # another processor may round the other way
