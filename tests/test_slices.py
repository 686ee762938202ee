"""Slices as pictures: which way is up, which side is left, and where a reader looks first."""

import numpy as np
import pytest

from vcm.render.slices import extract_plane, find_focus, render_slice
from vcm.volume import Volume

RAS = np.diag([2.0, 3.0, 4.0, 1.0])


def with_mark(place: tuple[int, int, int], shape=(6, 8, 10)) -> Volume:
    array = np.zeros(shape, np.float32)
    array[place] = 1.0
    return Volume(array, RAS)


def stored_as(volume: Volume, flips: tuple[int, ...], order: tuple[int, int, int]) -> Volume:
    """The same volume in world space with its array axes turned round and permuted."""
    array, affine = volume.array, volume.affine.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
        affine[:3, axis] *= -1
        array = np.flip(array, axis)
    return Volume(array.transpose(order), affine[:, [*order, 3]])


def test_the_patients_right_is_on_the_left_of_an_axial_picture_and_the_front_is_up():
    right_front = with_mark((5, 7, 4))
    picture = extract_plane(right_front, "axial", (0, 0, 4))
    assert picture.shape == (8, 6)
    assert np.argwhere(picture).tolist() == [[0, 0]]


def test_the_top_of_the_head_is_up_in_coronal_and_sagittal_pictures_and_the_front_is_left():
    top_front_left = with_mark((0, 7, 9))
    assert np.argwhere(extract_plane(top_front_left, "coronal", (0, 7, 0))).tolist() == [[0, 5]]
    assert np.argwhere(extract_plane(top_front_left, "sagittal", (0, 0, 0))).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("flips", "order"), [((0,), (0, 1, 2)), ((0, 1), (0, 1, 2)), ((), (2, 0, 1)), ((2,), (1, 2, 0))]
)
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_picture_does_not_depend_on_how_the_volume_is_stored(plane, flips, order):
    volume = Volume(np.random.default_rng(0).random((6, 8, 10)).astype(np.float32), RAS)
    voxel = np.array([1, 2, 3])
    other = stored_as(volume, flips, order)
    world = volume.affine @ [*voxel, 1]
    there = np.rint(np.linalg.inv(other.affine) @ world)[:3].astype(int)
    np.testing.assert_array_equal(extract_plane(other, plane, there), extract_plane(volume, plane, voxel))


def test_the_focus_lies_inside_the_largest_lesion_even_where_that_is_hollow():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2, 2, 2] = 2
    labels[8:15, 8:15, 8:15] = 3
    labels[9:14, 9:14, 9:14] = 0
    x, y, z = find_focus(labels)
    assert labels[x, y, z] == 3


def test_the_focus_of_an_empty_map_is_the_middle_of_the_grid():
    assert find_focus(np.zeros((6, 8, 10))) == (3, 4, 5)


def test_a_picture_has_the_aspect_of_the_body():
    picture = render_slice(with_mark((3, 4, 5)), "sagittal", height=200)
    assert picture.shape == (200, round(200 * (8 * 3) / (10 * 4)), 3)
    assert picture.dtype == np.uint8


def test_labels_are_drawn_in_their_color_at_their_place():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[25:35, 10:20, 15:25] = 2
    volume = Volume(np.full(labels.shape, 0.5, np.float32), np.eye(4))
    colors = ("#00ff00", "#ff0000")
    picture = render_slice(volume, labels=Volume(labels, np.eye(4)), colors=colors, height=80).astype(int)
    red = picture[..., 0] > picture[..., 1] + 50
    assert red[:, :32].any()  # the patient's right
    assert not red[:, 32:].any()
    assert not (picture[..., 1] > picture[..., 0] + 50).any()


def test_labels_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="shape"):
        render_slice(with_mark((0, 0, 0)), labels=Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4)))
