"""A scan that lies elsewhere is moved for a run, masks on its grid with it, and the files go back to where it lay."""

import json
from dataclasses import replace

import numpy as np
import pytest
from own_subjects import MOVED
from tiny import ALL_CHANNELS, build_tiny_model

from vcm.cli import main
from vcm.data import simulate
from vcm.model.config import Grid
from vcm.outputs import write_result
from vcm.pipeline import Pipeline
from vcm.recipe import parse_recipe, request_from_recipe
from vcm.registration.placement import as_placement, find_placement_between, move, move_along, move_back
from vcm.registration.register import TOLERANCE_MM, place_head, place_request
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import save_model

AFFINE = np.float32(MOVED @ simulate.AFFINE).astype(np.float64)  # as a NIfTI file holds it


@pytest.fixture(scope="module")
def subject() -> simulate.Subject:
    return simulate.simulate_subject(200_005)


def place_of(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(array > 0).mean(axis=0) + affine[:3, 3]


@pytest.mark.parametrize("contrast", ["t1", "t2", "flair"])
def test_any_contrast_is_turned_and_shifted_and_keeps_its_size(subject: simulate.Subject, contrast: str) -> None:
    placed = place_head("partial", Volume(subject.images[contrast], AFFINE))
    assert placed.placement is not None
    linear = np.array(placed.placement)[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-9)
    brain = subject.anatomy > 0
    apart = place_of(brain, placed.volume.affine) - place_of(brain, simulate.AFFINE)
    assert np.linalg.norm(apart) < TOLERANCE_MM
    assert any("mm off template space and was moved there" in note for note in placed.notes)
    assert not any("skull" in note for note in placed.notes)


def test_a_scan_in_its_place_stays_and_one_without_a_skull_is_said_to_be(subject: simulate.Subject) -> None:
    whole = place_head("t2", Volume(subject.images["t2"], simulate.AFFINE))
    assert whole.placement is None
    assert whole.notes == ()
    brain = (subject.anatomy > 0) | (subject.tumor > 0)
    stripped = Volume(np.where(brain, subject.images["t1"], np.float32(0)), simulate.AFFINE)
    assert "a head is made up around it" in place_head("t2", stripped).notes[0]
    assert place_head("partial", stripped).notes == ("It is skull-stripped, and stays so outside of what is made up.",)
    assert place_head("lowres", stripped).placement is None


def test_what_is_no_head_is_taken_as_it_lies() -> None:
    noise = Volume(np.random.default_rng(0).random(simulate.SHAPE).astype(np.float32), AFFINE)
    placed = place_head("partial", noise)
    assert placed.volume is noise
    assert placed.placement is None
    assert "taken as it lies" in placed.notes[0]


def test_two_scans_of_a_session_stay_together(subject: simulate.Subject) -> None:
    first = place_head("partial", Volume(subject.images["t1"], AFFINE))
    assert first.placement is not None
    second = place_head("flair", Volume(subject.images["flair"], AFFINE), [first.placement])
    assert second.placement == first.placement


def test_a_scan_stays_where_another_of_its_session_stayed(subject: simulate.Subject) -> None:
    affine = simulate.AFFINE.copy()
    affine[0, 3] += 2 * TOLERANCE_MM
    flair = Volume(subject.images["flair"], affine)
    assert place_head("flair", flair).placement is not None  # by itself
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vcm.registration.register.measure_likeness", lambda image, transform: 1.0
        )  # as like there as here
        placed = place_head("flair", flair, [None])
    assert placed.placement is None
    assert placed.volume is flair


def test_the_files_go_back_to_where_the_scan_lay_that_they_agree_with(subject: simulate.Subject) -> None:
    near = Volume(subject.images["t2"], simulate.AFFINE)
    far = Volume(subject.images["t1"], AFFINE)
    placed = place_request(GenerationRequest({"t2": near, "partial": far}, fill=Volume(subject.tumor, AFFINE)))
    assert placed.placement is not None
    np.testing.assert_array_equal(placed.conditions["partial"].affine, np.array(placed.placement) @ AFFINE)


def test_a_request_is_placed_with_all_its_masks(subject: simulate.Subject) -> None:
    elsewhere = {"tumor": subject.tumor, "anatomy": subject.anatomy}
    masks = {name: Volume(labels, AFFINE) for name, labels in elsewhere.items()}
    drawn = Volume(subject.tumor, simulate.AFFINE)
    scans = {name: Volume(subject.images[image], AFFINE) for name, image in {"partial": "t1", "flair": "flair"}.items()}
    request = GenerationRequest({**masks, **scans}, fill=Volume(subject.tumor, AFFINE), seed=3)
    placed = place_request(request)
    assert placed.placement is not None
    assert placed.seed == 3
    for volume in (*placed.conditions.values(), placed.fill):
        np.testing.assert_array_equal(volume.affine, np.array(placed.placement) @ AFFINE)
    assert "moved there" in placed.conditions["partial"].notes[-1]
    assert placed.conditions["flair"].notes == ("It was moved with the other scan.",)
    stayed = place_request(GenerationRequest({"tumor": drawn, **scans})).conditions["tumor"]
    np.testing.assert_array_equal(stayed.affine, drawn.affine)
    assert "has not the grid of the scan that was moved" in stayed.notes[-1]
    without = GenerationRequest(masks)
    assert place_request(without) is without


def test_the_command_moves_a_scan_and_goes_on_with_a_batch_of_it(subject: simulate.Subject, tmp_path, capsys) -> None:
    """The networks are tiny: what counts is where things lie."""
    model = build_tiny_model(Grid(simulate.SHAPE, simulate.AFFINE), ALL_CHANNELS)
    save_model(tmp_path / "model", model.config, model.backbone, model.adapter)
    (tmp_path / "in").mkdir()
    for name, array in {"partial": subject.images["t1"], "tumor": subject.tumor}.items():
        Volume(array, AFFINE).save(tmp_path / "in" / f"one_{name}.nii.gz")
    files = [f"--condition={name}={tmp_path / 'in' / f'*_{name}.nii.gz'}" for name in ("partial", "tumor")]
    out = tmp_path / "out"

    def run(*more: str) -> tuple[int, str]:
        short = ("--steps=1", "--no-compare", "--device=cpu")
        with pytest.raises(SystemExit) as caught:
            main(["generate", *files, f"--model={tmp_path / 'model'}", *short, f"--out={out}", *more])
        told = capsys.readouterr()
        return caught.value.code, told.out + told.err

    code, told = run()
    assert code == 0
    assert "mm off template space and was moved there" in told
    np.testing.assert_array_equal(Volume.load(out / "one" / "controlled.nii.gz").affine, AFFINE)
    assert json.loads((out / "one" / "recipe.json").read_text())["request"]["placement"]
    assert "0 made, 1 there already, 0 failed." in run()[1]
    code, told = run("--no-register")
    assert code != 0
    assert "with another tumor, partial" in told


def test_there_and_back_is_the_very_same_place() -> None:
    placement = as_placement(MOVED)
    volume = Volume(np.zeros((4, 5, 6), np.float32), AFFINE)
    np.testing.assert_array_equal(move_back(move(volume, placement), placement).affine, AFFINE)
    straight = Volume(volume.array, np.diag([-1.5, 2.0, 0.9375, 1.0]))
    np.testing.assert_array_equal(move_back(move(straight, placement), placement).affine, straight.affine)
    assert move(volume, None) is volume
    assert move_back(volume, None) is volume


def test_a_move_is_found_again_from_where_it_began_and_ended() -> None:
    placement = as_placement(MOVED)
    native = Volume(np.zeros((4, 5, 6), np.float32), AFFINE)
    moved = move(native, placement)
    assert find_placement_between(native, native, placement) is None
    assert find_placement_between(native, moved, placement) is placement
    found = find_placement_between(native, moved, None)
    np.testing.assert_allclose(np.array(found), MOVED, atol=1e-9)


def test_a_mask_goes_with_the_scan_on_whose_grid_it_lies_and_another_stays() -> None:
    placement = as_placement(MOVED)
    scan = Volume(np.zeros((4, 5, 6), np.float32), AFFINE)
    mask = Volume(np.ones((4, 5, 6), np.uint8), AFFINE)
    moved = move_along(mask, [(move(scan, placement), placement)])
    np.testing.assert_array_equal(moved.affine, move(scan, placement).affine)
    other = Volume(mask.array, simulate.AFFINE)
    assert move_along(other, [(move(scan, placement), placement)]) is other
    # The first scan on its grid decides, also where that one stayed.
    assert move_along(mask, [(scan, None), (move(scan, placement), placement)]) is mask


def test_files_lie_where_the_scan_lay_and_the_recipe_makes_them_again(tmp_path) -> None:
    grid = Grid((24, 32, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
    pipeline = Pipeline(build_tiny_model(grid, ALL_CHANNELS))
    placement = as_placement(MOVED)
    random = np.random.default_rng(0)
    affine = np.float32(np.linalg.inv(MOVED) @ grid.affine).astype(np.float64)
    scan = Volume(random.random((24, 32, 24)).astype(np.float32), affine)
    tumor = np.zeros(grid.shape, np.uint8)
    tumor[8:14, 8:14, 8:14] = 3
    request = GenerationRequest(
        {"partial": move(scan, placement), "tumor": Volume(tumor, grid.affine)},
        num_inference_steps=2,
        placement=placement,
    )
    result = pipeline(request)
    files = {path.name: path for path in write_result(result, tmp_path)}
    for name in ("controlled", "uncontrolled", "condition_partial", "fill"):
        np.testing.assert_array_equal(Volume.load(files[f"{name}.nii.gz"]).affine, scan.affine)
    outside = result.fill.array == 0
    written = Volume.load(files["controlled.nii.gz"]).array
    np.testing.assert_array_equal(written[outside], scan.array[outside])
    drawn = Volume.load(files["condition_tumor.nii.gz"], labels=True)
    back = np.linalg.inv(MOVED) @ np.append(place_of(tumor, grid.affine), 1)
    np.testing.assert_allclose(place_of(drawn.array, drawn.affine), back[:3], atol=1e-3)

    recipe = parse_recipe(files["recipe.json"].read_text())
    again = request_from_recipe(recipe, {"partial": Volume.load(files["condition_partial.nii.gz"])})
    assert again.placement == placement
    np.testing.assert_array_equal(pipeline(again).controlled.array, result.controlled.array)


def test_a_run_without_a_move_says_nothing_of_one() -> None:
    grid = Grid((24, 32, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
    recipe = Pipeline(build_tiny_model(grid)).plan(GenerationRequest()).recipe
    assert "placement" not in json.dumps(recipe)
    assert request_from_recipe(recipe).placement is None


@pytest.mark.parametrize(
    "wrong",
    ["here", 3, [[1, 0, 0, 0]] * 4, np.zeros((4, 4)), np.diag([-1.0, 1, 1, 1]), np.diag([1, 1, 1, 2.0]),
     np.full((4, 4), np.nan), np.diag([1e9, 1e9, 1e9, 1.0])],
)  # fmt: skip
def test_what_is_no_transform_of_space_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="placement is no transform of space"):
        replace(GenerationRequest(), placement=wrong)
