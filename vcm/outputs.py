"""A result as files in a folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vcm.modalities.names import PARTIAL
from vcm.modalities.registry import MODALITIES
from vcm.recipe import RecipeError, load_recipe, save_recipe
from vcm.registration.placement import move_back
from vcm.request import GenerationResult

CONTROLLED_FILE = "controlled.nii.gz"
UNCONTROLLED_FILE = "uncontrolled.nii.gz"
CONDITION_FILE = "condition_{name}.nii.gz"
FILL_FILE = "fill.nii.gz"
RECIPE_FILE = "recipe.json"
_EARLIER_RECIPE_FILE = "recipe-before.json"


class OutputError(ValueError):
    """A folder that cannot be written to; the message is one sentence."""


def make_folder(folder: str | Path) -> Path:
    """Return the folder, made where it was missing.

    Raises:
        OutputError: it cannot be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the disk refused"
        raise OutputError(f"The output folder could not be made: {reason}.") from None
    return path


def is_complete(folder: str | Path, recipe: Mapping[str, Any]) -> bool:
    """Tell whether all files lie in a folder that `write_result` writes with a result of this recipe."""
    names = [*_list_volumes(recipe["conditions"], recipe["request"]), RECIPE_FILE]
    return all((Path(folder) / name).is_file() for name in names)


def refuse_own_files(files: Mapping[str, Path], fill: Path | None, folder: str | Path) -> None:
    """Refuse a folder in which a result would take the place of a file that it is to be made from.

    Args:
        files: of the conditions, by modality name.
        fill: of the region that is made up.

    Raises:
        OutputError: there is one.
    """
    where = Path(folder).resolve()
    written = {CONTROLLED_FILE, UNCONTROLLED_FILE, FILL_FILE, *(CONDITION_FILE.format(name=name) for name in files)}
    written |= set(_list_earlier(where))  # they would be removed
    own = [*files.values(), *([] if fill is None else [fill])]
    if any(file.resolve().parent == where and file.name in written for file in own):
        raise OutputError("A file that is given would be replaced by the result: choose another output folder.")


def write_result(result: GenerationResult, folder: str | Path) -> list[Path]:
    """Write a result's volumes and its recipe, and return the files.

    Label conditions are written as they lie on the model grid, scans as they were given: so the recipe finds beside it
    what it holds by a hash only. Beside a partial scan lies what was made up of it, as `FILL_FILE`. Where scans were
    moved to template space, all volumes go back to where those lay.

    Each file appears whole or not at all, the recipe last: where there is a recipe, the volumes beside it are its own.
    Files of an earlier result that this one does not have are removed: those that the recipe in the folder names. That
    recipe itself is kept under another name until all is written, since it may hold the only copy of a drawing.

    Raises:
        OutputError, VolumeError, RecipeError: the disk refuses.
    """
    path = make_folder(folder)
    volumes = {CONTROLLED_FILE: result.controlled}
    if result.uncontrolled is not None:
        volumes[UNCONTROLLED_FILE] = result.uncontrolled
    conditions = result.conditions | result.scans
    volumes |= {CONDITION_FILE.format(name=name): volume for name, volume in conditions.items()}
    if result.fill is not None:
        volumes[FILL_FILE] = result.fill
    try:
        for name in _list_earlier(path):
            if name not in volumes:
                (path / name).unlink(missing_ok=True)
        if (path / RECIPE_FILE).is_file():
            (path / RECIPE_FILE).replace(path / _EARLIER_RECIPE_FILE)
    except OSError:
        raise OutputError("An earlier result in the output folder could not be replaced.") from None
    for name, volume in volumes.items():
        move_back(volume, result.recipe["request"].get("placement")).save(path / name)
    save_recipe(result.recipe, path / RECIPE_FILE)
    with suppress(OSError):
        (path / _EARLIER_RECIPE_FILE).unlink()
    return [*(path / name for name in volumes), path / RECIPE_FILE]


def _list_earlier(folder: Path) -> list[str]:
    """Return the names of the volumes of the result that the recipe in a folder is of; none without a recipe."""
    try:
        recipe = load_recipe(folder / RECIPE_FILE)
    except (RecipeError, OSError):
        return []  # a file of that name that is no recipe says nothing about its neighbours
    conditions, settings = (recipe.get(part) for part in ("conditions", "request"))
    if not isinstance(conditions, Mapping) or not isinstance(settings, Mapping):
        return []
    return _list_volumes([name for name in conditions if name in MODALITIES], settings)


def _list_volumes(conditions: Collection[str], settings: Mapping[str, Any]) -> list[str]:
    """Return the names of a result's volumes, by what its recipe says."""
    names = [CONTROLLED_FILE, *(CONDITION_FILE.format(name=name) for name in conditions)]
    names += [UNCONTROLLED_FILE] if settings.get("compare") else []
    return names + ([FILL_FILE] if PARTIAL in conditions else [])
