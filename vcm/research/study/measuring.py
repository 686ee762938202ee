"""What comes of a trained method on test subjects: whether it follows their tumors, and what else it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from vcm.data import simulate
from vcm.data.cohort import simulated_cohort
from vcm.metrics import cubic_mmd, largest_diameter_mm, mean_ms_ssim, summarize
from vcm.modalities.adherence import dice
from vcm.modalities.names import T2, TUMOR
from vcm.model.backbone import Backbone
from vcm.model.segmenter import Segmenter
from vcm.research.evaluate.evaluate import MARGIN_MM
from vcm.research.study.methods import Method
from vcm.research.study.plan import ARMS, StudyPlan
from vcm.research.study.pupil import find_tumor, teach
from vcm.runtime.precision import autocast
from vcm.sampler import initial_noise, sample
from vcm.train.pairs import Pairs

FLOOR = "no condition (floor)"
"""What the backbone's own volumes are called among the limits."""

_BATCH = 4
Volumes = list[NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Bench:
    """The test subjects, and what needs to be known of them once.

    - `pairs`: those that are generated; `uncontrolled`: the backbone's own volumes from the same noise.
    - `others`: subjects of the pool with as large lesions, from whose masks a method makes a segmenter's lessons.
    - `reference`: descriptions of other simulated subjects with tumors, (N, F).
    """

    pairs: Pairs
    others: Pairs
    uncontrolled: Volumes
    reference: NDArray[np.float32]
    backbone: Backbone
    segmenter: Segmenter
    plan: StudyPlan

    def measure(
        self, method: Method, backbone: Backbone, conditions: Sequence[str], guidance_scale: float = 1.0
    ) -> dict[str, Any]:
        """Return the figures of the volumes that a method makes of some of its conditions.

        Args:
            backbone: that the method controls; one that has gone on learning is compared with its own volumes.
        """
        plain = self.uncontrolled if backbone is self.backbone else generate(backbone, self.pairs, self.plan)
        volumes = generate(
            backbone, self.pairs, self.plan, method=method, names=conditions, guidance_scale=guidance_scale
        )
        return self.describe(volumes, plain)

    def describe(self, volumes: Volumes, uncontrolled: Volumes | None = None) -> dict[str, Any]:
        """Return the figures of volumes, one a test subject, each (X, Y, Z) in [0, 1].

        Args:
            uncontrolled: the same volumes without control, where they are not those of the study's backbone.
        """
        tumors = [np.asarray(tumor) > 0 for tumor in self.pairs.cohort.tumor]
        found = [self.segmenter.segment(volume)[0] > 0 for volume in volumes]
        reach_voxels = MARGIN_MM / simulate.SPACING_MM
        changes = [
            float(np.abs(volume - plain)[ndimage.distance_transform_edt(~tumor) > reach_voxels].mean())
            for volume, plain, tumor in zip(volumes, uncontrolled or self.uncontrolled, tumors, strict=True)
        ]
        features = np.stack([self.segmenter.describe(volume) for volume in volumes])
        several = len(volumes) > 1
        return {
            "dice": summarize([dice(tumor, seen) for tumor, seen in zip(tumors, found, strict=True)]),
            "change_outside": summarize(changes),
            "mmd": cubic_mmd(features, self.reference) if several else None,
            "ms_ssim": summarize(list(mean_ms_ssim(volumes))) if several else None,
        }

    def teach(self, method: Method, backbone: Backbone, folder: Path) -> dict[str, Any]:
        """Return the Dice, on the test subjects' originals, of a segmenter that learned from a method's volumes."""
        return self._teach(generate(backbone, self.others, self.plan, method=method), folder)

    def teach_on_originals(self, folder: Path) -> dict[str, Any]:
        """Return the same of one that learned from the originals with the same tumors: the ceiling."""
        return self._teach([np.asarray(image, np.float32) for image in self.others.cohort.images["t1"]], folder)

    def _teach(self, volumes: Volumes, folder: Path) -> dict[str, Any]:
        tumors = [np.asarray(tumor) > 0 for tumor in self.others.cohort.tumor]
        pupil = teach(volumes, tumors, self.plan.pupil_steps, folder)
        tested = self.pairs.cohort
        scores = [
            dice(np.asarray(tumor) > 0, find_tumor(pupil, image))
            for tumor, image in zip(tested.tumor, tested.images["t1"], strict=True)
        ]
        return {"dice": summarize(scores), "lessons": len(volumes)}

    def measure_limits(self) -> dict[str, Any]:
        """Return the same figures of what no method is needed for: the floor and the ceilings."""
        originals = [np.asarray(image, np.float32) for image in self.pairs.cohort.images["t1"]]
        restored = decode(self.backbone, self.pairs.latents[: len(self.pairs.cohort)])
        return {
            FLOOR: self.describe(self.uncontrolled),
            "autoencoder's round trip (ceiling)": self.describe(restored),
            "simulated originals (ceiling)": self.describe(originals),
        }


def build_bench(backbone: Backbone, segmenter: Segmenter, plan: StudyPlan, cache: Path, device: str) -> Bench:
    """Simulate the test subjects and generate their uncontrolled volumes.

    Raises:
        ValueError: too few of them have a lesion as large as the plan asks for.
    """
    first = simulate.FIRST_TEST_SEED
    cohort = simulated_cohort(cache, range(first, first + plan.pool), ("t1", T2))
    sizes = [largest_diameter_mm(np.asarray(tumor) > 0, simulate.SPACING_MM) for tumor in cohort.tumor]
    large = [index for index, size in enumerate(sizes) if size >= plan.lesion_mm]
    if len(large) <= plan.subjects:
        raise ValueError(
            f"Only {len(large)} of {plan.pool} test subjects have a lesion of {plan.lesion_mm:g} mm; "
            f"subjects is {plan.subjects}, and at least one more is needed."
        )
    chosen, rest = large[: plan.subjects], large[plan.subjects :]
    others = [index for index, size in enumerate(sizes) if size > 0 and index not in chosen]
    pairs, remaining = (
        Pairs(cache / f"latents-{name}", cohort.take(indices), backbone, device, simulate.AFFINE)
        for name, indices in (("test", chosen), ("others", rest))
    )
    reference = np.stack([segmenter.describe(cohort.images["t1"][index]) for index in others])
    return Bench(pairs, remaining, generate(backbone, pairs, plan), reference, backbone, segmenter, plan)


@torch.no_grad()
def generate(
    backbone: Backbone,
    pairs: Pairs,
    plan: StudyPlan,
    *,
    method: Method | None = None,
    names: Sequence[str] = ARMS[TUMOR],
    guidance_scale: float = 1.0,
) -> Volumes:
    """Return a volume (X, Y, Z) in [0, 1] for each subject, from noise of its own; uncontrolled without a method."""
    volumes: Volumes = []
    random = torch.Generator().manual_seed(0)
    count = len(pairs.cohort)
    for start in range(0, count, _BATCH):
        chosen = list(range(start, min(start + _BATCH, count)))
        latents, context, _ = pairs.targets(chosen)
        noise = initial_noise([int(pairs.cohort.seeds[index]) for index in chosen], latents.shape[1:])
        features, adapter = None, None
        with autocast(context.device):
            if method is not None:
                everything = {name: torch.ones(len(chosen), dtype=torch.bool) for name in names}
                features = method.encode(pairs.conditions(chosen, everything, random))
                adapter = method.bind(backbone, context)
            latent = sample(
                backbone,
                adapter,
                noise,
                context,
                features,
                num_inference_steps=plan.num_inference_steps,
                guidance_scale=guidance_scale,
            )
        volumes += decode(backbone, latent)
    return volumes


@torch.no_grad()
def decode(backbone: Backbone, latents: torch.Tensor) -> Volumes:
    """Return the volumes (X, Y, Z) in [0, 1] of latents (N, C, x, y, z)."""
    with autocast(latents.device):
        return backbone.decode_volumes(latents)
