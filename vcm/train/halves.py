"""Left and right halves of heads, those with much tumor drawn more often: what the image networks train on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vcm.dataset import Cohort


def tumor_sampling_weights(cohort: Cohort) -> Tensor:
    """Return how often each half is drawn, (2 N,): as the root of its tumor's size, and never never."""
    middle = cohort.tumor.shape[1] // 2
    sizes = torch.tensor(
        [[float(np.count_nonzero(side)) for side in (tumor[:middle], tumor[middle:])] for tumor in cohort.tumor]
    ).flatten()
    return sizes.sqrt() + sizes.sqrt().mean() / 2 + 1


def draw_half(cohort: Cohort, sampling_weights: Tensor, random: torch.Generator) -> tuple[int, slice]:
    """Return a subject's index, and the half of its first axis that was drawn."""
    drawn = int(torch.multinomial(sampling_weights, 1, generator=random))
    subject, right = divmod(drawn, 2)
    middle = cohort.tumor.shape[1] // 2
    return subject, slice(middle, None) if right else slice(None, middle)
