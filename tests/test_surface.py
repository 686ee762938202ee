"""Surfaces: where they lie in millimetres, what they weigh, and what the figure promises the page."""

import json

import numpy as np
import pytest

from vcm.render.surface import (
    brain_from_anatomy,
    extract_surface,
    find_brain,
    found_part,
    label_parts,
    plotly_script,
    render_scene,
    scene_json,
    tumor_parts,
)
from vcm.volume import Volume

AFFINE = np.array([[2.0, 0, 0, -79.5], [0, 2, 0, -129.5], [0, 0, 2, -69.5], [0, 0, 0, 1]])
SHAPE = (80, 112, 80)


def ball(center_mm, radius_mm, shape=SHAPE, affine=AFFINE) -> np.ndarray:
    voxels = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ voxels + affine[:3, 3:]
    distance = np.linalg.norm(world - np.reshape(center_mm, (3, 1)), axis=0)
    return (distance <= radius_mm).reshape(shape)


def build_head() -> tuple[Volume, np.ndarray]:
    """A bright brain in a dark skull in a bright scalp, and the brain's mask."""
    brain = ball((0, -18, 10), 60)
    skull = ball((0, -18, 10), 67)
    scalp = ball((0, -18, 10), 72)
    noise = np.random.default_rng(0).normal(0, 0.03, SHAPE)
    return Volume((0.6 * brain + 0.9 * (scalp & ~skull) + noise).clip(0, 1).astype(np.float32), AFFINE), brain


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_surface_lies_where_the_mask_is_in_millimeters():
    surface = extract_surface(ball((30, -40, 20), 20), AFFINE)
    np.testing.assert_allclose(surface.vertices.mean(0), (30, -40, 20), atol=0.5)
    radii = np.linalg.norm(surface.vertices - (30, -40, 20), axis=1)
    assert 18 < radii.min() <= radii.max() < 22


def test_a_surface_follows_an_oblique_anisotropic_affine():
    angle = np.deg2rad(30)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, 1.0, 4.0])
    affine[:3, 3] = (10, -20, -70)
    center = (affine @ [30, 40, 18, 1])[:3]
    surface = extract_surface(ball(center, 15, (60, 80, 36), affine), affine)
    np.testing.assert_allclose(surface.vertices.mean(0), center, atol=0.7)
    assert 12 < np.linalg.norm(surface.vertices - center, axis=1).mean() < 17


def test_a_surface_is_closed_even_at_the_border_of_the_grid():
    corner = np.zeros((20, 20, 20), bool)
    corner[:10, :10, :10] = True
    faces = extract_surface(corner, np.eye(4)).faces
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_a_lesion_of_one_voxel_has_a_surface_and_an_empty_mask_has_none():
    mask = np.zeros(SHAPE, bool)
    assert extract_surface(mask, AFFINE) is None
    mask[41, 51, 33] = True
    assert len(extract_surface(mask, AFFINE).faces) > 0


def test_one_voxel_of_a_fine_grid_is_not_stepped_over():
    mask = np.zeros((60, 60, 60), bool)
    mask[31, 31, 31] = True
    assert extract_surface(mask, np.diag([0.5, 0.5, 0.5, 1])) is not None


def test_the_brain_is_found_inside_its_scalp():
    head, brain = build_head()
    assert dice(find_brain(head), brain) > 0.95


def test_a_stripped_brain_is_found_as_it_is():
    head, brain = build_head()
    assert dice(find_brain(Volume(head.array * brain, AFFINE)), brain) > 0.95


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_constant_volume_has_no_brain(level):
    assert not find_brain(Volume(np.full(SHAPE, level, np.float32), AFFINE)).any()


def test_the_brain_of_an_anatomy_map_counts_the_tumor_and_leaves_out_what_is_loose():
    brain, tumor = ball((0, -18, 10), 50), ball((20, -18, 10), 12)
    anatomy = np.where(brain & ~tumor, 3, 0).astype(np.uint8)
    anatomy[2, 2, 2] = 2
    found = brain_from_anatomy(Volume(anatomy, AFFINE), Volume(tumor.astype(np.uint8), AFFINE))
    assert found[tumor].all()
    assert not found[2, 2, 2]
    assert dice(found, brain) > 0.99


def test_the_legend_names_what_was_drawn_and_an_enclosed_core_stays_visible():
    labels = np.where(ball((20, 0, 10), 24), 2, 0)
    labels[ball((20, 0, 10), 15)] = 3
    labels[ball((20, 0, 10), 8)] = 1
    parts = {part.name: part for part in tumor_parts(labels.astype(np.uint8))}
    assert list(parts) == ["Drawn necrotic core", "Drawn enhancing tumor", "Drawn edema"]
    assert parts["Drawn necrotic core"].opacity == 1.0
    # What lies outside must not give its color to what lies inside.
    assert 0.0 < parts["Drawn edema"].opacity < parts["Drawn enhancing tumor"].opacity < 1.0
    assert parts["Drawn edema"].mask.sum() == (labels > 0).sum()


def test_a_tumor_of_one_label_has_one_part():
    parts = tumor_parts(np.where(ball((20, 0, 10), 10), 3, 0).astype(np.uint8))
    assert [(part.name, part.opacity) for part in parts] == [("Drawn enhancing tumor", 1.0)]


def test_other_label_maps_have_a_part_for_each_label_that_occurs():
    labels = np.where(ball((0, 0, 0), 10), 2, 0).astype(np.uint8)
    assert [part.name for part in label_parts(labels, ("one", "two"), ("#111111", "#222222"))] == ["two"]


def test_a_scene_is_light_json_with_a_switch_for_each_part():
    _, brain = build_head()
    labels = np.where(ball((20, 0, 10), 20), 2, 0).astype(np.uint8)
    figure = render_scene(brain, [*tumor_parts(labels), found_part(labels)], AFFINE)
    text = scene_json(figure)
    assert len(text) < 1_500_000
    scene = json.loads(text)
    meshes = {trace["name"]: trace for trace in scene["data"] if trace["type"] == "mesh3d"}
    marks = {trace["name"]: trace for trace in scene["data"] if trace["showlegend"]}
    assert set(meshes) == set(marks) == {"Drawn edema", "Generated tumor", "Brain"}
    for name, mesh in meshes.items():
        assert mesh["visible"] is True  # what the model made is what one came to see
        assert marks[name]["legendgroup"] == mesh["legendgroup"]
        assert marks[name]["marker"]["color"] == mesh["color"]
        assert "opacity" not in marks[name]
    assert scene["layout"]["scene"]["aspectmode"] == "data"


def test_scenes_share_their_revision_so_that_the_camera_survives():
    _, brain = build_head()
    first, second = (
        render_scene(brain, tumor_parts(ball(c, 15) * np.uint8(1)), AFFINE) for c in [(9, 9, 9), (0, 0, 0)]
    )
    assert first.layout.uirevision == second.layout.uirevision
    assert first.layout.scene.uirevision == second.layout.scene.uirevision


def test_a_scene_without_any_tumor_still_shows_the_brain():
    _, brain = build_head()
    figure = render_scene(brain, [*tumor_parts(np.zeros(SHAPE, np.uint8)), found_part(np.zeros(SHAPE))], AFFINE)
    assert {trace.name for trace in figure.data} == {"Brain", "Directions"}


def test_the_letters_stand_where_the_body_has_those_sides():
    _, brain = build_head()
    figure = render_scene(brain, [], AFFINE)
    letters = next(trace for trace in figure.data if trace.name == "Directions")
    mesh = next(trace for trace in figure.data if trace.type == "mesh3d")
    places = dict(zip(letters.text, zip(letters.x, letters.y, letters.z, strict=True), strict=True))
    assert places["R"][0] > max(mesh.x)
    assert places["L"][0] < min(mesh.x)
    assert places["A"][1] > max(mesh.y)
    assert places["S"][2] > max(mesh.z)


def test_the_installed_plotly_brings_its_script():
    assert plotly_script().stat().st_size > 1_000_000
