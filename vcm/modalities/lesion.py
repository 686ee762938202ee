"""A tumor from a few numbers: where it lies, how large it is, and how its parts share the room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.modalities.names import EDEMA, ENHANCING, NECROTIC_CORE

if TYPE_CHECKING:
    from vcm.model.config import Grid


SIDES = ("left", "right")
PLACES: Mapping[str, tuple[float, float, float]] = {
    "frontal": (28.0, 32.0, 24.0),
    "temporal": (46.0, -16.0, -16.0),
    "parietal": (30.0, -50.0, 44.0),
    "occipital": (24.0, -80.0, 12.0),
    "deep": (20.0, -10.0, 12.0),
    "cerebellum": (26.0, -62.0, -36.0),
}
"""Middles of the places on the right side, in mm of the template's space (RAS+); the left ones are their mirror."""

DIAMETER_RANGE_MM = (6.0, 60.0)
EDEMA_RANGE_MM = (0.0, 25.0)
_ROUGHNESS_MM = 9.0  # how wide the bumps of an irregular outline are
_LARGEST_BUMP = 0.45  # of the radius, at irregularity 1


@dataclass(frozen=True)
class LesionPlan:
    """What to build.

    - `side`: the patient's left or right; `place`: one of `PLACES`.
    - `diameter_mm`: of core and enhancing rim together, 6 to 60; `edema_mm`: how far the edema reaches beyond, 0 to 25.
    - `core_share`: the necrotic core's radius as a share of that of core and rim, 0 to 0.95.
    - `irregularity`: 0 is a ball, 1 a craggy lump; `seed`: which one.

    Raises:
        ValueError: a field is out of its range; the sentence names it.
    """

    side: str = "right"
    place: str = "frontal"
    diameter_mm: float = 28.0
    core_share: float = 0.6
    edema_mm: float = 8.0
    irregularity: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("side", SIDES), ("place", tuple(PLACES))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}.")
        ranges = {
            "diameter_mm": DIAMETER_RANGE_MM,
            "core_share": (0.0, 0.95),
            "edema_mm": EDEMA_RANGE_MM,
            "irregularity": (0.0, 1.0),
            "seed": (0, 2**32 - 1),
        }
        for field in fields(self):
            if field.name in ranges:
                low, high = ranges[field.name]
                value = getattr(self, field.name)
                if not isinstance(value, int | float) or not low <= value <= high:
                    raise ValueError(f"{field.name} is {value}; it must be from {low} to {high}.")


def build_lesion(plan: LesionPlan, grid: Grid, brain: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Return tumor labels, uint8 (X, Y, Z) on the grid: 1 necrotic core, 2 edema, 3 enhancing rim.

    Args:
        plan: what to build.
        grid: in the template's space.
        brain: (X, Y, Z), where a brain may be; nothing is put outside of it.
    """
    x, y, z = PLACES[plan.place]
    center = np.array([x if plan.side == "right" else -x, y, z])
    world = np.tensordot(grid.affine[:3, :3], np.indices(grid.shape), 1) + grid.affine[:3, 3].reshape(3, 1, 1, 1)
    distance = np.linalg.norm(world - center.reshape(3, 1, 1, 1), axis=0)
    radius = plan.diameter_mm / 2
    # Both outlines bulge at the same places, the inner one with its own small deviations.
    outer, inner = (_bumps(plan.seed + step, grid, plan.irregularity) for step in (0, 1))
    solid = distance <= radius * (1 + outer)
    core = distance <= plan.core_share * radius * (1 + 0.7 * outer + 0.3 * inner)
    edema = distance <= radius * (1 + outer) + plan.edema_mm * (1 + inner)
    labels = np.zeros(grid.shape, np.uint8)
    labels[edema] = EDEMA
    labels[solid] = ENHANCING
    labels[core & solid] = NECROTIC_CORE
    if brain is not None:
        labels[~brain] = 0
    return labels


def _bumps(seed: int, grid: Grid, irregularity: float) -> NDArray[np.float64]:
    """Return smooth noise (X, Y, Z) of at most `_LARGEST_BUMP` at irregularity 1."""
    if irregularity == 0:
        return np.zeros(grid.shape)
    spacing_mm = np.linalg.norm(grid.affine[:3, :3], axis=0)
    noise = np.random.default_rng(seed).standard_normal(grid.shape)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(noise, _ROUGHNESS_MM / spacing_mm, mode="wrap")
    return np.clip(smooth / smooth.std() / 2, -1, 1) * irregularity * _LARGEST_BUMP
