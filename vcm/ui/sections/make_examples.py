"""Make the finished examples again from a model: `python -m vcm.ui.sections.make_examples [--model mini] [--out DIR]`.

The drawings are tumors of simulated test subjects, which no model was trained on, so this needs the extra "train".
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vcm.data.simulate import AFFINE, simulate_subject
from vcm.modalities.names import TUMOR
from vcm.pipeline import Pipeline
from vcm.render.slices import render_slice
from vcm.request import GenerationRequest
from vcm.ui.app import EXAMPLES
from vcm.ui.sections.examples import THUMBNAIL_FILE, save_example
from vcm.volume import Volume

_THUMBNAIL_HEIGHT = 168  # three times what the page shows, for fine screens
_THUMBNAIL_QUALITY = 82

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One example to be made.

    Attributes:
        slug: of its folder; the number gives the order on the page.
        title: a few words.
        sentence: what to see in it.
        subject: seed of the simulated test subject that lends its tumor, or None for an empty map.
        settings: of the request, beside its conditions.
    """

    slug: str
    title: str
    sentence: str
    subject: int | None
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("01-parietal", "Left parietal", "A large ring with a dark core.", 200_007, {"seed": 7}),
    Case("02-temporal", "Left temporal", "Half the size, at the edge of the brain.", 200_009, {"seed": 12}),
    Case("03-two", "Two lesions", "One map, two tumors, one brain.", 200_005, {"seed": 5, "sex": "male"}),
    Case("04-edema", "Edema alone", "The hardest: on T1 it hardly shows.", 200_019, {"seed": 19, "age": 72}),
    Case(
        "05-none",
        "No tumor",
        "A person of 80: wide ventricles.",
        None,
        {"seed": 7, "age": 80, "ventricular_volume": 0.9},
    ),
)


def make_example(case: Case, pipeline: Pipeline, folder: Path) -> None:
    """Generate one example and write it into its folder."""
    grid = pipeline.grid
    if case.subject is None:
        drawn = Volume(np.zeros(grid.shape, np.uint8), grid.affine)
    else:
        tumor = simulate_subject(case.subject, contrasts=()).tumor
        drawn = Volume(tumor, AFFINE).to_grid(grid.shape, grid.affine, labels=True)
    result = pipeline(GenerationRequest(conditions={TUMOR: drawn}, **case.settings))
    save_example(folder, case.title, case.sentence, result)
    picture = render_slice(result.controlled, labels=drawn, height=_THUMBNAIL_HEIGHT)
    Image.fromarray(picture).save(folder / THUMBNAIL_FILE, quality=_THUMBNAIL_QUALITY)


def main() -> None:
    """Make all examples."""
    parser = argparse.ArgumentParser(description="Make the finished examples of the page again.")
    parser.add_argument("--model", default="mini", help="mini, or a folder with the same layout")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", type=Path, default=EXAMPLES, help="folder to write to")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    pipeline = Pipeline.from_pretrained(arguments.model, device=arguments.device)
    for case in CASES:
        make_example(case, pipeline, arguments.out / case.slug)
        _log.info("%s is made", case.slug)


if __name__ == "__main__":
    main()
