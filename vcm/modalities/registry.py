"""The registry of modalities: every place that lists or handles conditions asks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vcm.modalities import anatomy, contrasts, lowres, partial, semantic
from vcm.modalities import tumor as tumors
from vcm.modalities.base import Given, Modality, PreparedCondition
from vcm.modalities.image_conditions import scale_intensities
from vcm.modalities.labels import LabelModality
from vcm.modalities.names import TUMOR
from vcm.modalities.scans import ScanModality
from vcm.volume import Volume

if TYPE_CHECKING:
    from vcm.model.config import Grid
    from vcm.request import GenerationResult

_REGISTRY: dict[str, Modality] = {
    modality.name: modality
    for modality in (
        tumors.MODALITY,
        anatomy.MODALITY,
        partial.MODALITY,
        lowres.MODALITY,
        contrasts.T2_MODALITY,
        contrasts.FLAIR_MODALITY,
        semantic.MODALITY,
    )
}
MODALITIES: Mapping[str, Modality] = MappingProxyType(_REGISTRY)
"""All modalities by name, in the order in which models and pages list them."""


def register(modality: Modality) -> None:
    """Add a modality behind those that there are.

    Raises:
        ValueError: there is one of that name.
    """
    if modality.name in _REGISTRY:
        raise ValueError(f"There is a condition {modality.name!r} already.")
    _REGISTRY[modality.name] = modality


def unregister(name: str) -> None:
    """Take a modality out again."""
    del _REGISTRY[name]


def get_modality(name: str) -> Modality:
    """Return the modality of that name.

    Raises:
        ValueError: there is none; the sentence lists those there are.
    """
    if name not in MODALITIES:
        raise ValueError(f"There is no condition {name!r}; the conditions are {', '.join(MODALITIES)}.")
    return MODALITIES[name]


def get_scan_modality(name: str) -> ScanModality:
    """Return the modality of that name, which is one of scans.

    Raises:
        ValueError: there is none, or it is one of labels.
    """
    modality = get_modality(name)
    if not isinstance(modality, ScanModality):
        raise ValueError(f"The condition {name!r} is no scan.")
    return modality


def get_label_modality(name: str) -> LabelModality:
    """Return the modality of that name, which is one of labels.

    Raises:
        ValueError: there is none, or it is one of scans.
    """
    modality = get_modality(name)
    if not isinstance(modality, LabelModality):
        raise ValueError(f"The condition {name!r} is no label map.")
    return modality


def list_trainable() -> tuple[str, ...]:
    """Return the names of the conditions that training subjects show."""
    return tuple(name for name, modality in MODALITIES.items() if modality.can_be_trained)


def load_condition(name: str, path: str | Path) -> Volume:
    """Read the file of a condition; see `Modality.load`.

    Raises:
        VolumeError: it is no usable volume.
        ValueError: there is no such modality.
    """
    return get_modality(name).load(path)


def prepare_conditions(
    conditions: Mapping[str, Volume],
    names: Sequence[str],
    grid: Grid,
    given: Given,
    channels: Mapping[str, int],
) -> dict[str, PreparedCondition]:
    """Return all conditions of a run as the model takes them.

    Args:
        conditions: by name, on any grid.
        names: of all that the model takes, in its order, which the result has, too.
        grid: of the model.
        given: what the run knows beside them; the tumor is taken from the conditions.
        channels: of each condition of the model.

    Raises:
        VolumeError: as `Modality.prepare` does.
    """
    wanted = [name for name in names if name in conditions]
    prepared: dict[str, PreparedCondition] = {}
    # Labels first: a tumor may say where the hole of a scan is.
    for name in sorted(wanted, key=lambda name: MODALITIES[name].kind != "labels"):
        known = prepared[TUMOR].volume.array if TUMOR in prepared else None
        beside = replace(given, num_labels=channels[name], tumor=known)
        prepared[name] = get_modality(name).prepare(conditions[name], grid, beside)
    return {name: MODALITIES[name].reconcile(prepared[name], prepared) for name in wanted}


def prepare_condition(
    name: str,
    volume: Volume,
    grid: Grid,
    num_labels: int | None = None,
    brain: NDArray[np.bool_] | None = None,
    fill: Volume | None = None,
    tumor: NDArray[np.uint8] | None = None,
) -> PreparedCondition:
    """Return one condition as the model takes it; see `Modality.prepare`, and `Given` for the other arguments.

    Raises:
        VolumeError: the volume is none of this modality.
        ValueError: there is no such modality.
    """
    return get_modality(name).prepare(volume, grid, Given(num_labels, brain, fill, tumor))


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


def list_by_precedence(names: Iterable[str]) -> list[str]:
    """Return those conditions that say in which units a result is wanted; the last of them has the last word."""
    saying = [name for name in names if MODALITIES[name].precedence > 0]
    return sorted(saying, key=lambda name: MODALITIES[name].precedence)


def show_on_grid(result: GenerationResult, volume: Volume) -> Volume:
    """Return a volume of a result in [0, 1] on the model grid, where scans have taken it to their own grid or units."""
    names = list_by_precedence(result.scans)
    if not names:
        return volume
    like = result.conditions[names[-1]]
    low, high = result.recipe["conditions"][names[-1]]["intensities"]
    scaled = Volume(scale_intensities(volume.array, (low, high)), volume.affine)
    return scaled.to_grid(like.array.shape, like.affine)
