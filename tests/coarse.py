"""Real simulated subjects seen through a coarse grid, which fit a tiny model, in place of the cohorts on disk."""

from pathlib import Path

import numpy as np

from vcm.data import simulate
from vcm.data.cohort import Cohort
from vcm.model.config import Grid

# Large enough that no level of a network is 2 cells wide: there oneDNN's bfloat16 convolutions read memory that nobody
# wrote, and their gradients differ from run to run.
GRID = Grid((24, 32, 24), np.diag([2.0, 2.0, 2.0, 1.0]))


def make_coarse_subjects(contrasts: tuple[str, ...] = ("t1",)) -> list[dict]:
    """Two real subjects at every fifth voxel or so."""
    picks = [
        np.round(np.linspace(0, size - 1, few)).astype(int)
        for size, few in zip(simulate.SHAPE, GRID.shape, strict=True)
    ]
    subjects = []
    for seed in (200_005, 200_007):  # with large lesions
        subject = simulate.simulate_subject(seed, contrasts)
        coarse = {name: getattr(subject, name)[np.ix_(*picks)] for name in ("tumor", "anatomy", "anatomy_before")}
        facts = subject.covariates
        images = {name: image[np.ix_(*picks)].astype(np.float16) for name, image in subject.images.items()}
        coarse |= {"images": images, "context": facts.context}
        coarse |= {"volumes_ml": (facts.ventricular_ml, facts.brain_ml)}
        assert (coarse["tumor"] > 0).sum() > 20
        subjects.append(coarse)
    return subjects


class CoarseCohorts:
    """The coarse subjects over and over. It remembers who asked for which seeds."""

    def __init__(self, subjects: list[dict]) -> None:
        self._subjects = subjects
        self.asked: list[tuple[range, bool]] = []

    def __call__(self, cache: Path, seeds: range, contrasts=("t1",), with_tumor=True, workers=None) -> Cohort:
        self.asked.append((seeds, with_tumor))
        chosen = [self._subjects[seed % len(self._subjects)] for seed in seeds]
        tumor = np.stack([subject["tumor"] for subject in chosen])
        return Cohort(
            seeds=seeds,
            images={name: np.stack([subject["images"][name] for subject in chosen]) for name in contrasts},
            tumor=tumor if with_tumor else np.zeros_like(tumor),
            anatomy=np.stack([subject["anatomy" if with_tumor else "anatomy_before"] for subject in chosen]),
            anatomy_before=np.stack([subject["anatomy_before"] for subject in chosen]),
            context=np.float32([subject["context"] for subject in chosen]),
            volumes_ml=np.float32([subject["volumes_ml"] for subject in chosen]),
        )
