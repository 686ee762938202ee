"""Conditions: from a user's label map to the tensor a model is given, and what is said on the way."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from vcm.modalities.base import PreparedCondition
from vcm.modalities.registry import MODALITIES, load_condition, prepare_condition
from vcm.model.config import Grid
from vcm.volume import Volume, VolumeError
from vcm.weights.presets import brainldm_config

AFFINE = np.array([[2.0, 0, 0, -19], [0, 2, 0, -23], [0, 0, 2, -15], [0, 0, 0, 1]])


@pytest.fixture
def grid() -> Grid:
    return Grid((20, 24, 16), AFFINE)


@pytest.fixture
def tumor() -> np.ndarray:
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[4:12, 5:14, 3:9] = 2
    labels[5:10, 6:11, 4:8] = 3
    labels[6:8, 7:10, 5:7] = 1
    return labels


def test_the_registry_has_the_modalities_of_the_contract_in_order() -> None:
    assert list(MODALITIES) == ["tumor", "anatomy", "partial", "lowres", "t2", "flair", "semantic"]
    assert all(name == modality.name for name, modality in MODALITIES.items())


def test_tumor_labels_become_one_channel_each(grid: Grid, tumor: np.ndarray) -> None:
    prepared = prepare_condition("tumor", Volume(tumor, AFFINE), grid)
    assert prepared.tensor.shape == (3, 20, 24, 16)
    assert prepared.tensor.dtype.is_floating_point
    for label, channel in enumerate(prepared.tensor.numpy(), start=1):
        assert np.array_equal(channel, tumor == label)
    assert prepared.notes == ()
    assert np.array_equal(prepared.volume.array, tumor)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16, ">i4"])
def test_the_type_that_labels_are_stored_in_does_not_matter(grid: Grid, tumor: np.ndarray, dtype: str) -> None:
    plain = prepare_condition("tumor", Volume(tumor, AFFINE), grid)
    other = prepare_condition("tumor", Volume(tumor.astype(dtype), AFFINE), grid)
    assert np.array_equal(other.tensor.numpy(), plain.tensor.numpy())


def test_the_other_label_maps_get_as_many_channels_as_they_have_labels(grid: Grid, tumor: np.ndarray) -> None:
    volume = Volume(tumor, AFFINE)
    assert prepare_condition("anatomy", volume, grid).tensor.shape == (4, 20, 24, 16)
    assert prepare_condition("semantic", volume, grid, num_labels=7).tensor.shape == (7, 20, 24, 16)


def test_label_4_is_read_as_3_where_no_3_is_and_said(grid: Grid, tumor: np.ndarray) -> None:
    older = np.where(tumor == 3, np.uint8(4), tumor)
    prepared = prepare_condition("tumor", Volume(older, AFFINE), grid)
    assert np.array_equal(prepared.volume.array, tumor)
    assert any("Label 4 was read as 3" in note for note in prepared.notes)
    assert older.max() == 4  # the user's own array is untouched


def test_label_4_beside_3_is_refused(grid: Grid, tumor: np.ndarray) -> None:
    tumor[0, 0, 0] = 4
    with pytest.raises(VolumeError, match="holds the value 4; its labels are 0 for background, 1 necrotic core"):
        prepare_condition("tumor", Volume(tumor, AFFINE), grid)


@pytest.mark.parametrize(
    ("value", "found"), [(9, "9"), (-1, "-1"), (3.7, "3.7"), (np.nan, "nan"), (1035, "1035"), (np.inf, "inf")]
)
def test_values_that_are_no_labels_are_listed_with_the_labels_there_are(
    grid: Grid, tumor: np.ndarray, value: float, found: str
) -> None:
    values = tumor.astype(np.float32)
    values[0, 0, 0] = value
    with pytest.raises(VolumeError) as refusal:
        prepare_condition("tumor", Volume(values, AFFINE), grid)
    message = str(refusal.value)
    assert f"holds the value {found};" in message
    assert "1 necrotic core, 2 edema and 3 enhancing tumor" in message


def test_a_long_list_of_false_labels_is_cut(grid: Grid) -> None:
    scan = np.arange(20 * 24 * 16, dtype=np.int32).reshape(20, 24, 16)
    with pytest.raises(VolumeError, match="and 7668 more, as a scan does;") as refusal:
        prepare_condition("tumor", Volume(scan, AFFINE), grid)
    assert len(str(refusal.value)) < 200


def test_a_mask_of_a_whole_tumor_is_said_to_lack_its_parts(tumor: np.ndarray, tmp_path: Path) -> None:
    Volume((tumor > 0).astype(np.uint8), AFFINE).save(tmp_path / "whole.nii.gz")
    Volume(tumor, AFFINE).save(tmp_path / "parts.nii.gz")
    whole, parts = (load_condition("tumor", tmp_path / f"{name}.nii.gz") for name in ("whole", "parts"))
    assert "It holds label 1 alone" in " ".join(whole.notes)
    assert not any("label 1 alone" in note for note in parts.notes)


def test_an_empty_tumor_map_is_a_condition_and_is_said(grid: Grid, tumor: np.ndarray) -> None:
    prepared = prepare_condition("tumor", Volume(np.zeros_like(tumor), AFFINE), grid)
    assert prepared.tensor.shape == (3, 20, 24, 16)
    assert not prepared.tensor.any()
    assert any("empty" in note for note in prepared.notes)


@pytest.mark.parametrize("axes", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("flips", [*itertools.product((False, True), repeat=3)])
def test_the_same_mask_stored_in_any_orientation_gives_the_identical_tensor(
    grid: Grid, tumor: np.ndarray, axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    volume = _reorder(Volume(tumor, AFFINE), axes, flips)
    assert np.array_equal(
        prepare_condition("tumor", volume, grid).tensor.numpy(),
        prepare_condition("tumor", Volume(tumor, AFFINE), grid).tensor.numpy(),
    )


def test_a_finer_mask_gives_the_identical_tensor_in_any_orientation(grid: Grid) -> None:
    rng = np.random.default_rng(0)
    fine = Volume(rng.integers(0, 4, (33, 45, 27)).astype(np.uint8), np.diag([0.9, 1.0, 1.1, 1]))
    expected = prepare_condition("tumor", fine, grid).tensor.numpy()
    assert expected.any()
    for axes in itertools.permutations(range(3)):
        stored = _reorder(fine, axes, (True, False, True))
        stored = Volume(stored.array, stored.affine.astype(np.float32))  # as a header keeps it
        assert np.array_equal(prepare_condition("tumor", stored, grid).tensor.numpy(), expected)


def test_what_lies_outside_the_field_of_view_is_said_with_its_share_and_volume(grid: Grid, tumor: np.ndarray) -> None:
    moved = AFFINE.copy()
    moved[0, 3] -= 16  # 8 voxels to the left: half of the 8 voxels from index 4 on stay
    prepared = prepare_condition("tumor", Volume(tumor, moved), grid)
    lost = np.count_nonzero(tumor[:8]) * 8 / 1000
    share = np.count_nonzero(tumor[:8]) / np.count_nonzero(tumor)
    assert np.array_equal(prepared.volume.array[:12], tumor[8:])
    assert any(f"{share:.1%} of the tumor map ({lost:.1f} ml) lies outside" in note for note in prepared.notes)


def test_what_lies_outside_the_brain_is_said(grid: Grid, tumor: np.ndarray) -> None:
    brain = np.zeros((20, 24, 16), bool)
    brain[:, :, :6] = True
    notes = prepare_condition("tumor", Volume(tumor, AFFINE), grid, brain=brain).notes
    assert any("50.0% of the tumor (1.7 ml) lies outside the brain" in note for note in notes)
    assert prepare_condition("tumor", Volume(tumor, AFFINE), grid, brain=~np.zeros_like(brain)).notes == ()


def test_a_mask_in_another_place_altogether_is_refused(grid: Grid, tumor: np.ndarray) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += 500
    with pytest.raises(VolumeError, match="outside the model's field of view"):
        prepare_condition("tumor", Volume(tumor, moved), grid)


def test_the_notes_of_the_volume_come_first(grid: Grid, tumor: np.ndarray) -> None:
    prepared = prepare_condition("tumor", Volume(np.zeros_like(tumor), AFFINE, ("From the file.",)), grid)
    assert prepared.notes[0] == "From the file."
    assert len(prepared.notes) == 2
    assert prepared.volume.notes == prepared.notes


def reconcile(conditions: dict[str, PreparedCondition]) -> dict[str, PreparedCondition]:
    """The conditions beside each other, as a run has them."""
    return {name: MODALITIES[name].reconcile(prepared, conditions) for name, prepared in conditions.items()}


def test_anatomy_is_zero_inside_the_tumor_and_said(grid: Grid, tumor: np.ndarray) -> None:
    anatomy = np.full((20, 24, 16), 3, np.uint8)
    conditions = {
        "tumor": prepare_condition("tumor", Volume(tumor, AFFINE), grid),
        "anatomy": prepare_condition("anatomy", Volume(anatomy, AFFINE), grid),
    }
    cleared = reconcile(conditions)
    assert np.array_equal(cleared["anatomy"].volume.array, np.where(tumor > 0, 0, anatomy))
    assert np.array_equal(cleared["anatomy"].tensor[2].numpy(), tumor == 0)
    assert any("inside the tumor" in note for note in cleared["anatomy"].notes)
    assert cleared["tumor"] is conditions["tumor"]
    assert conditions["anatomy"].volume.array.all()  # the given condition is untouched
    assert reconcile(cleared)["anatomy"] is cleared["anatomy"]
    assert reconcile({"anatomy": conditions["anatomy"]}) == {"anatomy": conditions["anatomy"]}


def test_an_unknown_condition_is_refused_with_those_there_are(grid: Grid, tumor: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the conditions are tumor, anatomy, partial, lowres, t2, flair, semantic"):
        prepare_condition("tumour", Volume(tumor, AFFINE), grid)


# Machado, Oliveira and Fernandes, 2009, severity 1.0, for linear RGB.
_COLOR_BLINDNESS = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("eyes", _COLOR_BLINDNESS)
@pytest.mark.parametrize("name", ["tumor", "anatomy", "semantic"])
def test_the_colors_of_a_label_map_stay_apart_for_color_blind_eyes(name: str, eyes: str) -> None:
    colors = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in MODALITIES[name].colors])
    linear = np.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    seen = (linear @ np.array(_COLOR_BLINDNESS[eyes]).T).clip(0, 1)
    lab = rgb2lab(np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen))
    for first, second in itertools.combinations(range(len(lab)), 2):
        assert deltaE_ciede2000(lab[first], lab[second]) > 10


def _reorder(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """Return the same volume stored with other axes."""
    array, affine = volume.array.transpose(axes), volume.affine[:, [*axes, 3]]
    for axis in np.flatnonzero(flips):
        array = np.flip(array, axis)
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
    return Volume(array, affine)


def test_a_map_of_eight_labels_on_any_grid_becomes_what_the_published_model_takes() -> None:
    grid = brainldm_config().grid
    labels = np.zeros((60, 80, 60), np.uint8)
    for label in range(1, 9):
        labels[20:40, 8 * label : 8 * label + 8, 20:40] = label
    given = Volume(labels, np.array([[2.0, 0, 0, -60], [0, 2, 0, -100], [0, 0, 2, -50], [0, 0, 0, 1]]))  # RAS, 2 mm
    condition = prepare_condition("semantic", given, grid, num_labels=8)
    assert condition.tensor.shape == (8, 160, 224, 160)
    assert condition.volume.axcodes == "LAS"
    counts = condition.tensor.sum(dim=(1, 2, 3)).tolist()
    assert counts == pytest.approx([20 * 8 * 20 * 8] * 8, rel=0.05)  # 8 voxels of 1 mm for each of 2 mm
