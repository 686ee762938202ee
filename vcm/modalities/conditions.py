"""The registry of condition modalities, and how a user's volume becomes the tensor that a VCM is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VolumeError
from vcm.modalities.scans import MOST_LABELS, Scan, prepare_scan
from vcm.volume import Volume
from vcm.volume.resample import fraction_outside
from vcm.volume.volume import as_labels, list_values

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.model.config import Grid

NECROTIC_CORE, EDEMA, ENHANCING = 1, 2, 3  # the labels of BraTS since 2023
OLD_ENHANCING = 4  # the label of BraTS until 2022, when there was no 3

_ONE_PART = (
    "It holds label 1 alone, which is necrotic core: a mask of a whole tumor has to be divided into its parts, "
    "1 necrotic core, 2 edema and 3 enhancing tumor."
)
_WORTH_SAYING = 0.001  # a lost share below this is the rounding of a border


@dataclass(frozen=True)
class Modality:
    """One kind of condition.

    Attributes:
        name: the key in `GenerationRequest.conditions`, in configurations and on the command line.
        title: what a page calls it.
        help: one sentence on what to give.
        channels: of the tensor; None where the model's configuration sets the number of labels.
        kind: "labels" for names that become one-hot channels, "image" for intensities.
        label_names: of the labels 1, 2, ...; empty for images and where the model sets them.
        colors: CSS colors of the labels 1, 2, ...; where there are fewer colors than labels they repeat.
    """

    name: str
    title: str
    help: str
    channels: int | None
    kind: Literal["labels", "image"]
    label_names: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()


# The colors are read over gray slices: saturated, far from gray, and apart in lightness as well as in
# hue, so that they stay apart for color-blind eyes.
_TUMOR_COLORS = ("#ef476f", "#ffd166", "#4cc9f0")
_ANATOMY_COLORS = ("#3a86ff", "#b07aa1", "#f4e9cd", "#1b9e77")
_SEMANTIC_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#c7c7c7")

MODALITIES: Mapping[str, Modality] = MappingProxyType(
    {
        modality.name: modality
        for modality in (
            Modality(
                name="tumor",
                title="Tumor",
                help="A label map: 1 necrotic core, 2 edema, 3 enhancing tumor.",
                channels=3,
                kind="labels",
                label_names=("necrotic core", "edema", "enhancing tumor"),
                colors=_TUMOR_COLORS,
            ),
            Modality(
                name="anatomy",
                title="Anatomy",
                help="A label map: 1 CSF, 2 gray matter, 3 white matter, 4 ventricles; a tumor is left out of it.",
                channels=4,
                kind="labels",
                label_names=("CSF", "gray matter", "white matter", "ventricles"),
                colors=_ANATOMY_COLORS,
            ),
            Modality(
                name="partial",
                title="Partial scan",
                help="A scan, a region of which is made up: that of a mask, or the tumor and its surroundings.",
                channels=2,
                kind="image",
            ),
            Modality(
                name="lowres",
                title="Thick slices",
                help="A T1-weighted scan of thick axial slices.",
                channels=1,
                kind="image",
            ),
            Modality(name="t2", title="T2", help="A T2-weighted scan.", channels=1, kind="image"),
            Modality(name="flair", title="FLAIR", help="A FLAIR scan.", channels=1, kind="image"),
            Modality(
                name="semantic",
                title="Semantic map",
                help="A label map with the labels 1 to N of a released model.",
                channels=None,
                kind="labels",
                colors=_SEMANTIC_COLORS,
            ),
        )
    }
)


@dataclass(frozen=True, eq=False)
class PreparedCondition:
    """A condition as a model takes it.

    Attributes:
        name: of its modality.
        volume: on the model grid; uint8 labels, or a scan as float32 in [0, 1], 0 in the hole of a partial one.
        tensor: (C, X, Y, Z) float32 on the CPU; for labels one channel each, 0 or 1, without background; for a scan its
            intensities, and for a partial one then the hole, 0 or 1.
        notes: sentences for the user on what was read, resampled, lost or empty.
        scan: of an image condition, as it was given.
    """

    name: str
    volume: Volume
    tensor: Tensor
    notes: tuple[str, ...] = ()
    scan: Scan | None = None


def get_modality(name: str) -> Modality:
    """Return the modality of that name.

    Raises:
        ValueError: there is none; the sentence lists those there are.
    """
    if name not in MODALITIES:
        raise ValueError(f"There is no condition {name!r}; the conditions are {', '.join(MODALITIES)}.")
    return MODALITIES[name]


def load_condition(name: str, path: str | Path) -> Volume:
    """Read the file of a condition, as `Volume.load` reads labels or a scan.

    Returns:
        The volume; its notes say where a tumor's parts seem to be missing from a map.

    Raises:
        VolumeError: it is no usable volume.
        ValueError: there is no such modality.
    """
    volume = Volume.load(path, labels=get_modality(name).kind == "labels")
    if name == "tumor" and np.array_equal(np.unique(volume.array), [0, 1]):
        return replace(volume, notes=(*volume.notes, _ONE_PART))
    return volume


def prepare_condition(
    name: str,
    volume: Volume,
    grid: Grid,
    num_labels: int | None = None,
    brain: NDArray[np.bool_] | None = None,
    fill: Volume | None = None,
    tumor: NDArray[np.uint8] | None = None,
) -> PreparedCondition:
    """Bring a user's volume to the model grid and turn it into a condition tensor.

    An empty label map is a condition like any other: a tumor map without a tumor asks for a brain
    without one.

    Args:
        name: of the modality.
        volume: on any grid; it is brought to the model's by its affine.
        grid: of the model.
        num_labels: of a modality whose number of labels the model sets ("semantic").
        brain: (X, Y, Z) on the model grid, where the brain is; given, a tumor outside of it is said.
        fill: of a partial scan, a mask on any grid of what is to be made up.
        tumor: of a partial scan without `fill`, labels (X, Y, Z) on the model grid, around which it is made up.

    Returns:
        The condition; its notes begin with those of `volume`.

    Raises:
        VolumeError: the values are not labels of this modality, or no scan; the volume lies outside the grid; a partial
            scan has nothing that is to be made up.
        ValueError: there is no such modality.
    """
    modality = get_modality(name)
    if modality.kind == "image":
        image = prepare_scan(name, volume, grid, fill, tumor)
        return PreparedCondition(name, image.volume, image.tensor, image.notes, image.scan)
    count = modality.channels or num_labels
    if count is None:
        raise ValueError(f"The condition {name!r} needs the number of labels that the model knows.")
    labels, notes = read_labels(modality, volume.array, count)
    given = Volume(labels, volume.affine, volume.notes + notes)
    placed = given.to_grid(grid.shape, grid.affine, labels=True)
    notes = placed.notes + _say_what_is_lost(modality, given, placed, brain)
    return PreparedCondition(name, replace(placed, notes=notes), encode_one_hot(placed.array, count), notes)


def check_modalities(wanted: Iterable[str], taken: Sequence[str]) -> None:
    """Refuse conditions that a model does not take.

    Args:
        wanted: names of conditions.
        taken: the modalities of the model.

    Raises:
        ValueError: the first that it does not take, with those that it does.
    """
    for name in wanted:
        if name not in taken:
            raise ValueError(f"The condition {name!r} is not available in this model: it takes {', '.join(taken)}.")


def clear_anatomy_in_tumor(conditions: Mapping[str, PreparedCondition]) -> dict[str, PreparedCondition]:
    """Return the conditions with the anatomy 0 wherever the tumor is; without both of them, unchanged.

    Args:
        conditions: by name, all on one grid.
    """
    cleared = dict(conditions)
    if "tumor" not in cleared or "anatomy" not in cleared:
        return cleared
    anatomy, tumor = cleared["anatomy"], cleared["tumor"].volume.array > 0
    if (anatomy.volume.array[tumor] > 0).any():
        labels = np.where(tumor, np.uint8(0), anatomy.volume.array)
        notes = (*anatomy.notes, "The anatomy inside the tumor was left out: the tumor map says what is there.")
        tensor = encode_one_hot(labels, len(anatomy.tensor))
        cleared["anatomy"] = PreparedCondition("anatomy", Volume(labels, anatomy.volume.affine, notes), tensor, notes)
    return cleared


def encode_one_hot(labels: NDArray[np.uint8], num_labels: int) -> Tensor:
    """Return one channel a label, (N, X, Y, Z) float32 of 0 and 1; the background, label 0, has none.

    Args:
        labels: (X, Y, Z), 0 to N.
        num_labels: N.
    """
    import torch  # here, because the registry above serves pages and commands that should not wait for it

    names = np.arange(1, num_labels + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return torch.from_numpy((labels[None] == names).astype(np.float32))


def read_labels(modality: Modality, array: NDArray, count: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return a map of labels 0 to `count`, and what had to be said about it.

    Raises:
        VolumeError: the values are not labels of this modality.
    """
    try:
        labels = as_labels(array)
    except VolumeError:
        raise _refuse(modality, np.setdiff1d(array, np.arange(count + 1)), count) from None
    notes: tuple[str, ...] = ()
    wrong = labels[labels > count]
    if modality.name == "tumor" and (wrong == OLD_ENHANCING).all() and wrong.size and not (labels == ENHANCING).any():
        labels = np.where(labels == OLD_ENHANCING, np.uint8(ENHANCING), labels)
        notes += ("Label 4 was read as 3, enhancing tumor, as older BraTS data have it.",)
    elif wrong.size:
        raise _refuse(modality, wrong, count)
    if not labels.any():
        meaning = "it asks for a brain without a tumor" if modality.name == "tumor" else "it asks for nothing"
        notes += (f"The {modality.name} map is empty: {meaning}.",)
    return labels, notes


def _refuse(modality: Modality, wrong: NDArray, count: int) -> VolumeError:
    """Return the error that lists the values found and those allowed."""
    found = np.unique(wrong)
    values = f"the value{'s' if found.size > 1 else ''} {list_values(found)}"
    if found.size > MOST_LABELS:
        values += ", as a scan does"
    named = [f"{label} {name}" for label, name in enumerate(modality.label_names, start=1)]
    allowed = f"{', '.join(named[:-1])} and {named[-1]}" if named else f"and 1 to {count}"
    return VolumeError(f"The {modality.name} map holds {values}; its labels are 0 for background, {allowed}.")


def _say_what_is_lost(
    modality: Modality, given: Volume, placed: Volume, brain: NDArray[np.bool_] | None
) -> tuple[str, ...]:
    """Return sentences on the labels that the model cannot show: off its grid, or outside the brain."""
    notes: tuple[str, ...] = ()
    labelled = given.array > 0
    outside = fraction_outside(labelled, given.affine, placed.array.shape, placed.affine)
    if outside > _WORTH_SAYING:
        lost = outside * _milliliters(labelled, given)
        notes += (
            f"{outside:.1%} of the {modality.name} map ({lost:.1f} ml) lies outside the model's field of view "
            "and is lost.",
        )
    inside = placed.array > 0
    if brain is not None and modality.name == "tumor" and inside.any():
        stray = inside & ~brain
        share = np.count_nonzero(stray) / np.count_nonzero(inside)
        if share > _WORTH_SAYING:
            notes += (f"{share:.1%} of the tumor ({_milliliters(stray, placed):.1f} ml) lies outside the brain.",)
    return notes


def _milliliters(mask: NDArray[np.bool_], volume: Volume) -> float:
    return float(np.count_nonzero(mask) * abs(np.linalg.det(volume.affine[:3, :3])) / 1000)
