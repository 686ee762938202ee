"""Lesions one by one: how well each is found, by its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.metrics import estimate, ratio_of_means
from vcm.modalities.adherence import dice
from vcm.modalities.names import ENHANCING, NECROTIC_CORE

SIZE_EDGES_ML = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, np.inf)
"""0.27 ml are a ball of 8 mm, 0.9 ml one of 12 mm, 7.2 ml one of 24 mm."""

_REACH = 3  # voxels around a lesion within which what is found belongs to it
_CORE = (NECROTIC_CORE, ENHANCING)
_BALL = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class LesionScore:
    """One connected lesion: its size, and the Dice of the whole and of its core; None where it has no core."""

    milliliters: float
    whole: float
    core: float | None


def score_lesions(tumor: NDArray[np.uint8], found: NDArray[np.uint8], voxel_ml: float) -> list[LesionScore]:
    """Return the score of every connected lesion of a label map, each compared with what is found near it.

    Args:
        tumor, found: labels (X, Y, Z).
        voxel_ml: size of a voxel.
    """
    lesions, count = ndimage.label(tumor > 0, structure=np.ones((3, 3, 3)))
    scores = []
    for index in range(1, count + 1):
        lesion = lesions == index
        near = ndimage.binary_dilation(lesion, _BALL, iterations=_REACH)
        whole = dice(lesion, (found > 0) & near)
        core = dice(lesion & np.isin(tumor, _CORE), np.isin(found, _CORE) & near)
        scores.append(LesionScore(float(np.count_nonzero(lesion) * voxel_ml), whole or 0.0, core))
    return scores


def compare_by_size(originals: Iterable[LesionScore], others: Iterable[LesionScore]) -> Mapping[str, Any]:
    """Return, for each range of sizes, the share of the originals' mean Dice that others keep, with its interval.

    Args:
        originals: of lesions in images that are as good as can be.
        others: of the same lesions, in the same order, in images that are measured.
    """
    pairs = list(zip(originals, others, strict=True))
    kept = {}
    for low, high in pairwise(SIZE_EDGES_ML):
        name = f"{low:g} ml and more" if np.isinf(high) else f"{low:g} to {high:g} ml"
        some = [(a, b) for a, b in pairs if low <= a.milliliters < high]
        if some and any(a.whole for a, _ in some):
            best, found = [a.whole for a, _ in some], [b.whole for _, b in some]
            kept[name] = {"original": float(np.mean(best)), "share": estimate(ratio_of_means, found, best)}
    return kept
