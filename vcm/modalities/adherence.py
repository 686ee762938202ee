"""How well a volume follows what was drawn: the overlap of drawn labels with those that a segmenter finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vcm.modalities.names import EDEMA, ENHANCING, NECROTIC_CORE
from vcm.modalities.registry import MODALITIES
from vcm.volume import Volume

TUMOR_REGIONS: Mapping[str, tuple[int, ...]] = {
    "whole": (NECROTIC_CORE, EDEMA, ENHANCING),
    "core": (NECROTIC_CORE, ENHANCING),
    "enhancing": (ENHANCING,),
}
"""The regions that BraTS scores: the whole tumor, the tumor core (without edema), the enhancing part."""


class Segmentation(NamedTuple):
    """What a segmenter finds in one volume: tumor labels and anatomy labels, each (X, Y, Z) uint8."""

    tumor: NDArray[np.uint8]
    anatomy: NDArray[np.uint8]


def dice(drawn: NDArray[np.bool_], found: NDArray[np.bool_]) -> float | None:
    """Return the Dice overlap of two masks of one shape, 0 to 1; None where nothing was drawn.

    A drawn region that was not found scores 0. One that was not drawn has no score: there is nothing to follow.
    """
    if not drawn.any():
        return None
    return float(2 * np.count_nonzero(drawn & found) / (np.count_nonzero(drawn) + np.count_nonzero(found)))


def score_tumor(drawn: NDArray[np.uint8], found: NDArray[np.uint8]) -> dict[str, float | None]:
    """Return the Dice of each region of `TUMOR_REGIONS` between two tumor label maps (X, Y, Z)."""
    return {region: dice(np.isin(drawn, labels), np.isin(found, labels)) for region, labels in TUMOR_REGIONS.items()}


def score_anatomy(
    drawn: NDArray[np.uint8], found: NDArray[np.uint8], ignored: NDArray[np.bool_] | None = None
) -> dict[str, float | None]:
    """Return the Dice of each anatomy label, by its name, between two anatomy label maps (X, Y, Z).

    Args:
        ignored: (X, Y, Z), where neither map counts: a drawn map says nothing about what lies inside a tumor.
    """
    counted = np.ones(drawn.shape, bool) if ignored is None else ~ignored
    names = MODALITIES["anatomy"].label_names
    return {
        name: dice((drawn == label) & counted, (found == label) & counted) for label, name in enumerate(names, start=1)
    }


def measure_adherence(
    conditions: Mapping[str, Volume], found: Mapping[str, Segmentation | None]
) -> dict[str, Any] | None:
    """Return how well volumes follow the label conditions, as JSON types; None where nothing can be measured.

    Args:
        conditions: what was drawn, by modality name, on the model grid.
        found: what the segmenter finds, by the volume's name ("controlled", "uncontrolled").

    Returns:
        For "tumor" and "anatomy", where drawn: by the volume's name the Dice of each region, and for the tumor the
        milliliters that were drawn ("drawn_ml") and found ("found_ml").
    """
    segmentations = {name: segmentation for name, segmentation in found.items() if segmentation is not None}
    if not segmentations:
        return None
    adherence: dict[str, Any] = {}
    if "tumor" in conditions:
        drawn = conditions["tumor"]
        voxel_ml = abs(float(np.linalg.det(drawn.affine[:3, :3]))) / 1000
        adherence["tumor"] = {
            "drawn_ml": _volumes_ml(drawn.array, voxel_ml),
            **{
                name: {"dice": score_tumor(drawn.array, s.tumor), "found_ml": _volumes_ml(s.tumor, voxel_ml)}
                for name, s in segmentations.items()
            },
        }
    if "anatomy" in conditions:
        labels = conditions["anatomy"].array
        tumor = conditions["tumor"].array > 0 if "tumor" in conditions else None
        adherence["anatomy"] = {
            name: {"dice": score_anatomy(labels, s.anatomy, ignored=tumor)} for name, s in segmentations.items()
        }
    return adherence or None


def _volumes_ml(labels: NDArray[np.uint8], voxel_ml: float) -> dict[str, float]:
    return {
        region: float(np.count_nonzero(np.isin(labels, members)) * voxel_ml)
        for region, members in TUMOR_REGIONS.items()
    }
