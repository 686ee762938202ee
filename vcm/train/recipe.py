"""The recipe of a whole model: subjects, steps, rates and seeds of every stage, in a file beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vcm.train.autoencoder import AutoencoderRecipe
from vcm.train.diffusion import DiffusionRecipe
from vcm.train.segmenter import SegmenterRecipe
from vcm.train.vcm import VCMRecipe
from vcm.whole_files import write_whole

RECIPE_FILE = "training_recipe.json"


@dataclass(frozen=True)
class ModelRecipe:
    """What each stage learns from and for how long, in their order; the last only measures the others."""

    autoencoder: AutoencoderRecipe = field(default_factory=AutoencoderRecipe)
    diffusion: DiffusionRecipe = field(default_factory=DiffusionRecipe)
    vcm: VCMRecipe = field(default_factory=VCMRecipe)
    segmenter: SegmenterRecipe = field(default_factory=SegmenterRecipe)


MINI = ModelRecipe()
"""Of the embedded model."""

_JSON = TypeAdapter(ModelRecipe)


def save_recipe(folder: Path, recipe: ModelRecipe) -> None:
    """Write a recipe into a model folder, whole or not at all."""
    with write_whole(folder / RECIPE_FILE) as file:
        file.write(_JSON.dump_json(recipe, indent=2) + b"\n")


def load_recipe(folder: Path) -> ModelRecipe | None:
    """Read the recipe of a model folder; None where it has none.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return None
    try:
        return _JSON.validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError(f"{RECIPE_FILE} cannot be used.") from None
