"""Finished examples: what the page opens on, read from a folder of small files.

Each example is a folder, its name the slug in the order of the page::

    assets/examples/01-frontal/
        example.json               title, sentence, adherence, timings
        recipe.json                settings and conditions, as of any run
        controlled.nii.gz          8 bits (0 to 255), on the model grid
        uncontrolled.nii.gz        likewise, the same noise without the condition
        condition_tumor.nii.gz     what was drawn, for those who want to upload a mask
        found_tumor.nii.gz         what the segmenter found (where the model has one)
        found_anatomy.nii.gz
        thumbnail.webp             one slice through the lesion

`python -m vcm.ui.sections.make_examples` makes them again from a model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vcm.modalities.names import ANATOMY, TUMOR
from vcm.outputs import CONTROLLED_FILE, RECIPE_FILE, UNCONTROLLED_FILE, write_result
from vcm.recipe import Environment, load_recipe, request_from_recipe
from vcm.request import GenerationRequest, GenerationResult
from vcm.volume import Volume

EXAMPLE_FILE = "example.json"
FOUND_FILE = "found_{name}.nii.gz"
THUMBNAIL_FILE = "thumbnail.webp"

_FOUND = (TUMOR, ANATOMY)
_log = logging.getLogger(__name__)

Case = TypeVar("Case")


@dataclass(frozen=True, eq=False)
class Example:
    """One example: its words, its request, and where its volumes lie.

    Attributes:
        slug: its name in URLs and in the API.
        title: a few words.
        sentence: what to see in it.
        recipe: of the run that made it.
        request: the same, with the conditions as volumes on the grid of the model that made it.
        folder: that it was read from.
        details: "adherence" and "timings" of that run.
    """

    slug: str
    title: str
    sentence: str
    recipe: Mapping[str, Any]
    request: GenerationRequest
    folder: Path
    details: Mapping[str, Any]

    @property
    def thumbnail(self) -> Path:
        """Path of a small picture."""
        return self.folder / THUMBNAIL_FILE

    def is_of(self, environment: Environment) -> bool:
        """Tell whether this very model made it, so that its volumes are what pressing Generate would give."""
        return bool(self.recipe["model"]["weights"] == dict(environment.weights))

    def load_result(self) -> GenerationResult:
        """Read the finished volumes, rounded to 8 bits.

        Raises:
            VolumeError: a file is missing or damaged.
        """
        found = {name: self.folder / FOUND_FILE.format(name=name) for name in _FOUND}
        segmentation = {name: Volume.load(path, labels=True) for name, path in found.items() if path.exists()}
        uncontrolled = self.folder / UNCONTROLLED_FILE
        return GenerationResult(
            controlled=_load_rounded(self.folder / CONTROLLED_FILE),
            uncontrolled=_load_rounded(uncontrolled) if uncontrolled.exists() else None,
            conditions=self.request.conditions,
            recipe=dict(self.recipe),
            adherence=self.details.get("adherence"),
            timings=dict(self.details.get("timings") or {}),
            segmentation=segmentation or None,
        )


def load_examples(folder: Path) -> list[Example]:
    """Read the examples of a folder, in the order of their slugs; one that cannot be read is left out and logged."""
    return load_cases(folder, EXAMPLE_FILE, _load_example, kind="example")


def load_cases(folder: Path, file: str, load: Callable[[Path], Case], *, kind: str) -> list[Case]:
    """Load the folders inside one that hold such a file, in their order; a broken one is left out and logged."""
    cases = []
    for path in sorted(folder.glob(f"*/{file}")):
        try:
            cases.append(load(path.parent))
        except (OSError, ValueError, KeyError) as error:
            _log.warning("The %s %s cannot be read: %s", kind, path.parent.name, error)
    return cases


def save_example(folder: Path, title: str, sentence: str, result: GenerationResult) -> None:
    """Write a result as an example, but for its thumbnail; volumes are rounded to 8 bits."""
    rounded = replace(
        result,
        controlled=_round(result.controlled),
        uncontrolled=None if result.uncontrolled is None else _round(result.uncontrolled),
    )
    write_result(rounded, folder)
    for name, volume in (result.segmentation or {}).items():
        volume.save(folder / FOUND_FILE.format(name=name))
    details = {
        "title": title,
        "sentence": sentence,
        "adherence": result.adherence,
        "timings": {stage: round(seconds, 3) for stage, seconds in result.timings.items()},
    }
    (folder / EXAMPLE_FILE).write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")


def _load_example(folder: Path) -> Example:
    details = json.loads((folder / EXAMPLE_FILE).read_text(encoding="utf-8"))
    recipe = load_recipe(folder / RECIPE_FILE)
    return Example(
        slug=folder.name,
        title=str(details["title"]),
        sentence=str(details["sentence"]),
        recipe=recipe,
        request=request_from_recipe(recipe),
        folder=folder,
        details=details,
    )


def _load_rounded(path: Path) -> Volume:
    volume = Volume.load(path)
    return Volume(volume.array.astype(np.float32) / 255, volume.affine)


def _round(volume: Volume) -> Volume:
    return Volume(np.rint(volume.array * 255).astype(np.uint8), volume.affine)
