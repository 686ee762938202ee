"""Resampling: exact where grids agree, faithful to intensities and to labelled volume where they do not."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from vcm.errors import VolumeError
from vcm.volume.resample import fraction_outside, resample

SHAPE = (20, 24, 16)
AFFINE = np.array([[2.0, 0, 0, -19], [0, 2, 0, -23], [0, 0, 2, -15], [0, 0, 0, 1]])
FINE = np.array([[1.0, 0, 0, -19.5], [0, 1, 0, -23.5], [0, 0, 1, -15.5], [0, 0, 0, 1]])  # nests in AFFINE


def oblique(degrees: float, spacing: tuple[float, float, float], centre: tuple[float, float, float]) -> NDArray:
    """Return an affine rotated about two axes."""
    a, b = np.deg2rad([degrees, degrees / 2])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = centre
    return affine


def world(shape: tuple[int, ...], affine: NDArray) -> NDArray:
    """Return the place of every voxel in mm, (X, Y, Z, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ball(shape: tuple[int, ...], affine: NDArray, centre: tuple[float, float, float], radius: float) -> NDArray:
    return np.linalg.norm(world(shape, affine) - centre, axis=-1) <= radius


@pytest.mark.parametrize("labels", [True, False])
def test_a_volume_on_the_grid_stays_as_it_is(labels: bool) -> None:
    array = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    nearly = AFFINE + np.array([[1e-6, 0, 0, 1e-4]] * 3 + [[0, 0, 0, 0]])  # what a float32 header leaves
    for affine in (AFFINE, nearly):
        moved, interpolated = resample(array, affine, SHAPE, AFFINE, labels)
        assert np.array_equal(moved, array)
        assert moved.dtype == array.dtype
        assert not interpolated


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, False), (True, True, True)])
def test_other_axis_orders_are_matched_without_interpolation(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    array = np.random.default_rng(0).random(SHAPE)
    stored, affine = array.transpose(axes), AFFINE[:, [*axes, 3]]
    for axis in np.flatnonzero(flips):
        stored = np.flip(stored, axis)
        affine[:, 3] += affine[:, axis] * (stored.shape[axis] - 1)
        affine[:, axis] *= -1
    moved, interpolated = resample(stored, affine, SHAPE, AFFINE, labels=False)
    assert np.array_equal(moved, array)
    assert not interpolated


def test_whole_voxels_of_margin_are_cropped_and_padded_without_interpolation() -> None:
    array = np.random.default_rng(0).random((22, 20, 16))
    affine = AFFINE.copy()
    affine[:3, 3] += [-2 * 3, 2 * 1, 2 * -2]  # begins 3 voxels further left, 1 further front, 2 further down
    moved, interpolated = resample(array, affine, SHAPE, AFFINE, labels=False)
    expected = np.zeros(SHAPE)
    expected[:19, 1:21, :14] = array[3:, :, 2:]
    assert np.array_equal(moved, expected)
    assert not interpolated


def test_a_finer_image_is_averaged_over_each_target_voxel() -> None:
    array = np.random.default_rng(0).random([2 * size for size in SHAPE]).astype(np.float32)
    moved, interpolated = resample(array, FINE, SHAPE, AFFINE, labels=False)
    expected = array.reshape(20, 2, 24, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    assert moved.dtype == np.float32
    assert interpolated


def test_detail_too_fine_for_the_grid_does_not_alias() -> None:
    x = world(tuple(2 * size for size in SHAPE), FINE)[..., 0]
    stripes = (0.5 + 0.5 * np.cos(np.pi * x * 0.9)).astype(np.float32)  # 2.2 mm apart, under a grid of 2 mm
    moved = resample(stripes, FINE, SHAPE, AFFINE, labels=False).array
    skipped = stripes[::2, ::2, ::2]
    assert moved[2:-2].std() < 0.5 * skipped[2:-2].std()


def test_interpolation_equals_a_naive_trilinear_one() -> None:
    rng = np.random.default_rng(0)
    array = rng.random((15, 14, 13)).astype(np.float32)
    affine = oblique(20, (4.1, 4.4, 5.0), (-25, -30, -20))
    moved = resample(array, affine, SHAPE, AFFINE, labels=False).array
    points = world(SHAPE, np.linalg.inv(affine) @ AFFINE)
    inside = ((points >= 0) & (points <= np.array(array.shape) - 1)).all(axis=-1)
    naive = RegularGridInterpolator([np.arange(size) for size in array.shape], array)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(moved[inside], naive(points[inside]), atol=1e-4)


def test_what_the_volume_does_not_cover_is_zero() -> None:
    array = np.ones((6, 6, 6), np.float32)
    moved = resample(array, oblique(0, (3, 3, 3), (-7.5, -7.5, -7.5)), SHAPE, AFFINE, labels=False).array
    edge = np.abs(world(SHAPE, AFFINE)).max(axis=-1)
    assert (moved[edge < 9] == 1).all()
    assert (moved[edge > 9] == 0).all()
    assert ((moved[edge == 9] > 0) & (moved[edge == 9] < 1)).all()  # a voxel centred on the border is covered in part


def test_a_place_in_the_world_stays_that_place() -> None:
    affine = oblique(35, (1.5, 0.9, 3), (-15, -30, -30))
    centre = (4.0, -5.0, 3.0)
    labels = ball((40, 60, 20), affine, centre, 7).astype(np.uint8)
    moved = resample(labels, affine, SHAPE, AFFINE, labels=True).array
    found = world(SHAPE, AFFINE)[moved > 0].mean(axis=0)
    np.testing.assert_allclose(found, centre, atol=0.6)


def test_labels_on_a_nested_finer_grid_come_back_exactly() -> None:
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    fine = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert np.array_equal(resample(fine, FINE, SHAPE, AFFINE, labels=True).array, labels)


@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (FINE + np.array([[0, 0, 0, 0.37]] * 3 + [[0, 0, 0, 0]]), (40, 48, 32)),  # finer, and does not nest
        (oblique(0, (1, 1, 5), (-20, -24, -14)), (40, 48, 7)),  # thick slices
        (oblique(30, (0.8, 1.2, 2.5), (-5, -32, -22)), (50, 40, 18)),  # oblique and anisotropic
    ],
)
@pytest.mark.parametrize("radius", [3.0, 6.0, 10.0])
def test_labels_keep_their_volume_on_other_grids(affine: NDArray, shape: tuple[int, ...], radius: float) -> None:
    whole = ball(shape, affine, (1.0, -2.0, 0.5), radius)
    core = ball(shape, affine, (1.0, -2.0, 0.5), 0.6 * radius)
    labels = np.where(core, 3, np.where(whole, 2, 0)).astype(np.uint8)
    moved = resample(labels, affine, SHAPE, AFFINE, labels=True).array
    before = whole.sum() * np.linalg.det(affine[:3, :3])
    after = np.count_nonzero(moved) * 8.0
    assert abs(after - before) <= 8 + 0.02 * before
    assert set(np.unique(moved)) <= {0, 2, 3}


def test_a_lesion_smaller_than_a_voxel_keeps_one() -> None:
    labels = np.zeros((40, 48, 32), np.uint8)
    labels[20, 21, 11] = 1
    moved = resample(labels, FINE, SHAPE, AFFINE, labels=True).array
    assert np.argwhere(moved).tolist() == [[10, 10, 5]]


def test_a_single_thick_slice_keeps_its_thickness() -> None:
    labels = np.ones((20, 24, 1), np.uint8)
    affine = oblique(0, (2, 2, 6), (-19, -23, 0))  # from -3 to 3 mm
    moved = resample(labels, affine, SHAPE, AFFINE, labels=True).array
    assert np.flatnonzero(moved.any(axis=(0, 1))).tolist() == [6, 7, 8]
    assert np.count_nonzero(moved) == 20 * 24 * 3


@pytest.mark.parametrize("spacing", [2.0, 1.3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_grids_without_a_common_point_are_refused(spacing: float, axis: int) -> None:
    affine = np.diag([spacing, spacing, spacing, 1])
    affine[axis, 3] = 200
    for labels in (True, False):
        with pytest.raises(VolumeError, match="outside the model's field of view"):
            resample(np.ones((5, 5, 5), np.uint8), affine, SHAPE, AFFINE, labels)


def test_a_box_within_one_voxel_of_the_grid_overlaps_it() -> None:
    affine = np.diag([0.1, 0.1, 0.1, 1])
    affine[:3, 3] = 0.3
    moved = resample(np.ones((3, 3, 3), np.uint8), affine, SHAPE, AFFINE, labels=True).array
    assert moved.shape == SHAPE


def test_the_lost_share_of_a_mask_is_measured_in_its_own_voxels() -> None:
    mask = np.zeros((40, 48, 32), bool)
    mask[:20, 10, 10] = True
    affine = FINE.copy()
    affine[0, 3] -= 5
    assert fraction_outside(mask, affine, SHAPE, AFFINE) == pytest.approx(0.25)
    assert fraction_outside(mask, FINE, SHAPE, AFFINE) == 0
    assert fraction_outside(np.zeros_like(mask), FINE, SHAPE, AFFINE) == 0
