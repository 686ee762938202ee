"""How large a lesion comes out that was drawn, and how small one may be: read from an evaluation's subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm.weights.checkpoint import read_json

RESULTS_FILE = "evaluation.json"
"""What `vcm evaluate` measured, beside the weights that it is of."""
FOLLOWED_DICE = 0.6
NEIGHBORS = 5
MOST_MISSED = 1


@dataclass(frozen=True)
class Lesion:
    """What was drawn for one test subject and what the segmenter found, of the whole tumor."""

    drawn_ml: float
    found_ml: float
    diameter_mm: float
    dice: float

    @property
    def is_followed(self) -> bool:
        """Whether found and drawn overlap by `FOLLOWED_DICE` at least."""
        return self.dice >= FOLLOWED_DICE


@dataclass(frozen=True)
class Calibration:
    """The lesions of an evaluation, rising in drawn volume, and how well the judge finds what truly is there.

    `ceilings` are its mean whole-tumor Dice on the simulated originals and on their round trips through the
    autoencoder: no generated volume can be expected to score more.
    """

    lesions: tuple[Lesion, ...]
    ceilings: tuple[float, float] | None = None

    @property
    def smallest_followed(self) -> Lesion | None:
        """The smallest lesion from which size on drawings are followed reliably; None where there is no such size.

        From there on, of any `NEIGHBORS` lesions next to each other in size at most `MOST_MISSED` is not followed.
        """
        smallest: Lesion | None = None
        for first in range(len(self.lesions) - NEIGHBORS, -1, -1):
            near = self.lesions[first : first + NEIGHBORS]
            if sum(not lesion.is_followed for lesion in near) > MOST_MISSED:
                break
            if near[0].is_followed:
                smallest = near[0]
        return smallest


def read_calibration(evaluation: Mapping[str, Any]) -> Calibration:
    """Return the calibration that an evaluation holds; without lesions where adherence was not measured."""
    rows = evaluation.get("sections", {}).get("adherence", {}).get("subjects", ())
    lesions = [
        Lesion(row["drawn_ml"], row["found_ml"], row["diameter_mm"], row["dice"]["whole"])
        for row in rows
        if row["dice"]["whole"] is not None
    ]
    judged = evaluation.get("sections", {}).get("autoencoder", {})
    values = [judged.get(f"tumor_dice_{name}", {}).get("value") for name in ("originals", "round_trip")]
    ceilings = None if None in values else (values[0], values[1])
    return Calibration(tuple(sorted(lesions, key=lambda lesion: lesion.drawn_ml)), ceilings)


def load_calibration(folder: Path, weights: Mapping[str, str]) -> Calibration | None:
    """Return the calibration of a model folder; None where it has no evaluation, or one of other weights."""
    path = folder / RESULTS_FILE
    if not path.is_file():
        return None
    evaluation = read_json(path)
    return read_calibration(evaluation) if evaluation.get("weights") == dict(weights) else None
