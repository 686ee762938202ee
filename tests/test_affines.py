"""Affines: which are usable, which are unusual, and which are the same."""

import numpy as np
import pytest

from vcm.errors import VolumeError
from vcm.volume.affines import (
    check_affine,
    distance_mm,
    format_sizes,
    is_oblique,
    is_sheared,
    same_place,
    spacing_mm,
)

AFFINE = np.array([[-0.9, 0, 0, 80], [0, 0, 3, -40], [0, 1.1, 0, -60], [0, 0, 0, 1]])


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation @ AFFINE


def test_the_spacing_follows_the_array_axes_whatever_their_direction() -> None:
    for affine in (AFFINE, turned(30)):
        np.testing.assert_allclose(spacing_mm(affine), [0.9, 1.1, 3])


def test_turned_axes_are_oblique_and_leaning_axes_sheared() -> None:
    leaning = AFFINE.copy()
    leaning[0, 1] = 0.4
    assert [is_oblique(affine) for affine in (AFFINE, turned(90), turned(10))] == [False, False, True]
    assert [is_sheared(affine) for affine in (AFFINE, turned(10), leaning)] == [False, False, True]


def test_the_distance_of_two_affines_is_that_of_the_farthest_corner() -> None:
    longer = AFFINE.copy()
    longer[1, 2] = 3.5
    assert distance_mm(AFFINE, longer, (10, 20, 31)) == pytest.approx(15)


def test_rounding_leaves_a_volume_in_its_place_and_a_shift_does_not() -> None:
    shifted = AFFINE.copy()
    shifted[2, 3] += 0.2
    assert same_place(AFFINE, AFFINE.astype(np.float32), (240, 240, 155))
    assert not same_place(AFFINE, shifted, (240, 240, 155))


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "finite 4 x 4"),
        (np.full((4, 4), np.nan), "finite 4 x 4"),
        (np.diag([1, 1, 1, 2]), "finite 4 x 4"),
        (np.diag([1, 1e200, 1, 1]), "finite 4 x 4"),
        (np.diag([1, 1, 0, 1]), "singular"),
        (AFFINE[:, [0, 0, 2, 3]], "singular"),
        (np.diag([1, 1, 1e-3, 1]), "voxel size is 1 x 1 x 0.001 mm; sizes from 0.1 to 20 mm"),
        (np.diag([1, 500, 1, 1]), "voxel size is 1 x 500 x 1 mm"),
    ],
)
def test_what_places_no_volume_is_refused(affine: np.ndarray, message: str) -> None:
    with pytest.raises(VolumeError, match=message):
        check_affine(affine)


def test_sizes_are_written_for_a_reader() -> None:
    assert format_sizes((80, 1120, 80)) == "80 x 1120 x 80"
    assert format_sizes(np.array([0.9375, 0.9375, 5.0])) == "0.938 x 0.938 x 5"
