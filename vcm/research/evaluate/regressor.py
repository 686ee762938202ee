"""What translation between contrasts is compared with: a U-Net that predicts T1 from other contrasts, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.transforms import Compose, RandFlipd
from torch.nn.functional import l1_loss

from vcm.data.cohort import simulated_cohort
from vcm.modalities.names import FLAIR, T2
from vcm.research.evaluate.modalities import Translate
from vcm.research.small_unet import INPUT, TARGET, apply_small_unet, train_small_unet


def train_regressor(contrasts: Sequence[str], subjects: int, steps: int, cache: Path) -> Translate:
    """Return what predicts the contrast-enhanced T1 of a subject, trained on whole heads by least absolute error.

    Args:
        contrasts: that it sees.
        subjects: of the training cohort, tumors and all.
        cache: folder for the cohort and the training's state.
    """
    cohort = simulated_cohort(cache, range(subjects), ("t1", T2, FLAIR))
    draw = Compose([RandFlipd((INPUT, TARGET), prob=0.5, spatial_axis=0)])
    lessons = [
        {INPUT: np.stack([cohort.images[name][index] for name in contrasts]), TARGET: cohort.images["t1"][index]}
        for index in range(subjects)
    ]
    network = train_small_unet(lessons, draw, l1_loss, steps, cache / f"regressor-{'-'.join(contrasts)}")
    return lambda images: apply_small_unet(network, np.stack([images[name] for name in contrasts])).clip(0, 1)
