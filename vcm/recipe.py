"""Recipes: everything that a run depends on in one JSON object, and the way back to a request."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import math
import os
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm import __version__
from vcm.modalities.base import PreparedCondition
from vcm.modalities.names import PARTIAL
from vcm.modalities.registry import MODALITIES
from vcm.modalities.scans import clean_values
from vcm.request import GenerationRequest
from vcm.volume import Volume, VolumeError
from vcm.volume.volume import MAX_VOXELS
from vcm.whole_files import write_whole

SCHEMA = "vcm-recipe/1"
MAX_RECIPE_BYTES = 2**24  # a label map that compresses badly stays far below

_PACKAGES = ("torch", "monai", "diffusers", "numpy", "scipy")
_ENCODING = "zlib+base64"
_PLACEMENT = "placement"
_VOLUME_FIELDS = ("conditions", "fill")
_REQUEST_FIELDS = tuple(
    field.name for field in dataclasses.fields(GenerationRequest) if field.name not in _VOLUME_FIELDS
)


class RecipeError(ValueError):
    """A recipe that cannot be read or followed; the message is one sentence that quotes nothing from the recipe."""


@dataclass(frozen=True)
class Environment:
    """What a run depends on beside its request.

    `weights` maps each weight file of the model to its SHA-256; `device` is the kind ("cpu", "cuda"); `precision`
    names the number format of the sampling ("float32", "bfloat16"); `threads` is how many CPU threads share a sum, None
    off the CPU.
    """

    model: str
    weights: Mapping[str, str]
    device: str
    precision: str
    threads: int | None


def build_recipe(
    request: GenerationRequest, conditions: Mapping[str, PreparedCondition], environment: Environment
) -> dict[str, Any]:
    """Return the recipe of a run as plain JSON types.

    Label conditions are embedded as they lie on the model grid, so that following the recipe needs no other file;
    image conditions go in as they were given, by their SHA-256 only, with the intensities that became 0 and 1. The
    region that a user wants made up is embedded on the grid of its scan. No file name of the user's is known here, so
    none is written.
    """
    return {
        "schema": SCHEMA,
        "request": {
            name: getattr(request, name)
            for name in _REQUEST_FIELDS
            if name != _PLACEMENT or request.placement is not None  # recipes were written before there was any
        },
        "conditions": {name: _describe_condition(condition) for name, condition in conditions.items()},
        "model": {"name": environment.model, "weights": dict(environment.weights)},
        "environment": {
            "device": environment.device,
            "precision": environment.precision,
            "threads": environment.threads,
            "versions": _versions(),
        },
    }


def request_from_recipe(recipe: Mapping[str, Any], images: Mapping[str, Volume] | None = None) -> GenerationRequest:
    """Return the request that a recipe was made from.

    Args:
        recipe: as `build_recipe` or `parse_recipe` returned it.
        images: the image conditions that the recipe names by their hash only, as they were given.

    Raises:
        RecipeError: something is missing, unknown, of the wrong type, damaged, or an image is not the one meant.
        ValueError: a setting is out of its range; the sentence names the field, the value and the range.
    """
    _check_schema(recipe)
    settings = _mapping(recipe, "request")
    unknown = set(settings) - set(_REQUEST_FIELDS)
    if unknown:
        raise RecipeError(f"The recipe has {len(unknown)} settings that this version does not know.")
    missing = [name for name in _REQUEST_FIELDS if name not in settings and name != _PLACEMENT]
    if missing:
        raise RecipeError(f"The recipe lacks the settings {', '.join(missing)}.")
    conditions: dict[str, Volume] = {}
    fill: Volume | None = None
    for name, entry in _mapping(recipe, "conditions").items():
        if name not in MODALITIES:
            raise RecipeError("The recipe has a condition that this version does not know.")
        if not isinstance(entry, Mapping):
            raise RecipeError(f"The recipe's condition {name} must be an object.")
        labels = MODALITIES[name].kind == "labels"
        conditions[name] = _read_labels(name, entry) if labels else _find_image(name, entry, images or {})
        if name == PARTIAL and "fill" in entry:
            fill = _read_labels("fill", _mapping(entry, "fill"))
    return GenerationRequest(conditions=conditions, fill=fill, **settings)


def image_names(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the conditions that a recipe holds by their hash only, so that their scans must be found."""
    return tuple(name for name in _mapping(recipe, "conditions") if name in MODALITIES and _is_image(name))


def parse_recipe(text: str | bytes) -> dict[str, Any]:
    """Read a recipe from JSON text of any origin.

    Raises:
        RecipeError: the text is too long, is no JSON, or is no recipe of this version.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"The recipe is too large: more than {MAX_RECIPE_BYTES // 2**20} MiB.")
    try:
        recipe = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RecipeError("This is not a recipe: choose the recipe.json of an earlier run.") from None
    _check_schema(recipe)
    return dict(recipe)


def load_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a recipe file; raises RecipeError as `parse_recipe` does, and where the file cannot be read."""
    try:
        if not Path(path).is_file():  # before open(): a pipe would block it
            raise RecipeError("There is no such recipe file: give the recipe.json of an earlier run.")
        with open(path, "rb") as file:
            text = file.read(MAX_RECIPE_BYTES + 1)
    except OSError:
        raise RecipeError("The recipe could not be opened: check that the file can be read.") from None
    return parse_recipe(text)


def save_recipe(recipe: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a recipe as JSON; an older file of that name is replaced only once the new one is complete.

    Raises:
        RecipeError: the disk refuses.
    """
    try:
        with write_whole(Path(path)) as file:
            file.write((json.dumps(recipe, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the disk refused"
        raise RecipeError(f"The recipe could not be saved: {reason}.") from None


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """Return a SHA-256 that two recipes share exactly if their runs give the same result; a key for caches."""
    conditions = {
        name: {key: value for key, value in entry.items() if key != "data"}  # it has a hash of its own
        for name, entry in recipe["conditions"].items()
    }
    canonical = json.dumps({**recipe, "conditions": conditions}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def model_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of the model that the recipe was made with; raises RecipeError if it has none."""
    name = _mapping(recipe, "model").get("name")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 64:
        raise RecipeError("The recipe does not name its model.")
    return name


def sampling_precision(recipe: Mapping[str, Any]) -> str:
    """Return the number format that the recipe was made in; raises RecipeError if it does not say where it was made."""
    return "bfloat16" if _mapping(recipe, "environment").get("precision") == "bfloat16" else "float32"


def check_environment(recipe: Mapping[str, Any], environment: Environment) -> tuple[str, ...]:
    """Compare what the recipe was made with to what is here, and return what a user should know, as sentences.

    Raises:
        RecipeError: the weights are others, so that nothing could come out the same.
    """
    if _mapping(recipe, "model").get("weights") != dict(environment.weights):
        raise RecipeError("The recipe was made with other weights: give the model that it was made with.")
    made_with = _mapping(recipe, "environment")
    here = {
        "device": environment.device,
        "precision": environment.precision,
        "threads": environment.threads,
        "versions": _versions(),
    }
    if all(made_with.get(key) == value for key, value in here.items()):
        return ()
    different = [key for key in ("device", "precision", "threads") if made_with.get(key) != here[key]]
    versions = made_with.get("versions")
    known = versions if isinstance(versions, Mapping) else {}
    different += [f"{name} version" for name, value in _versions().items() if known.get(name) != value]
    return (f"The recipe was made with another {', '.join(different)}: voxels may differ in their last digits.",)


def differing_settings(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what two recipes differ in beside their conditions: names of settings, "weights", "precision".

    Where scans were moved to shows in their affines, and counts with them.
    Device, threads and library versions move voxels in their last digits only, and are left to `check_environment`.
    """
    found, settings = _mapping(recipe, "request"), _mapping(wanted, "request")
    names = [name for name, value in settings.items() if name != _PLACEMENT and found.get(name) != value]
    if found.keys() - settings.keys() - {_PLACEMENT}:
        names.append("version")  # a setting that this one does not know
    if _mapping(recipe, "model").get("weights") != _mapping(wanted, "model")["weights"]:
        names.append("weights")
    if _mapping(recipe, "environment").get("precision") != _mapping(wanted, "environment")["precision"]:
        names.append("precision")
    return names


def differing_conditions(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the names of the conditions that only one of two recipes has, or that have another content."""
    found, conditions = _mapping(recipe, "conditions"), _mapping(wanted, "conditions")
    return [name for name in MODALITIES if _content(found.get(name)) != _content(conditions.get(name))]


def _content(entry: Any) -> Any:
    """Return what identifies a condition; its data are identified by their hash, since they may be packed otherwise."""
    if not isinstance(entry, Mapping):
        return None
    return *(entry.get(key) for key in ("shape", "affine", "sha256")), _content(entry.get("fill"))


def hash_array(array: NDArray) -> str:
    """Return the SHA-256 of an array's values in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _versions() -> dict[str, str]:
    versions = {"vcm-studio": __version__, "python": platform.python_version()}
    return versions | {package: metadata.version(package) for package in _PACKAGES}


def _describe_condition(condition: PreparedCondition) -> dict[str, Any]:
    if condition.scan is None:
        return _embed_labels(condition.volume)
    scan = condition.scan
    entry = _describe_place(scan.volume) | {"intensities": list(scan.limits)}
    if scan.hole is not None and scan.is_hole_given:
        entry["fill"] = _embed_labels(scan.hole)
    return entry


def _describe_place(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.array.shape),
        "affine": volume.affine.tolist(),
        "sha256": hash_array(volume.array),
    }


def _embed_labels(volume: Volume) -> dict[str, Any]:
    labels = np.ascontiguousarray(volume.array, dtype=np.uint8)
    data = base64.b64encode(zlib.compress(labels.tobytes(), level=9)).decode("ascii")
    return _describe_place(volume) | {"encoding": _ENCODING, "data": data}


def _is_image(name: str) -> bool:
    return MODALITIES[name].kind == "image"


def _read_labels(name: str, entry: Mapping[str, Any]) -> Volume:
    """Return the label map (uint8) that a recipe embeds; never more is unpacked than its shape announces."""
    shape, affine = _read_shape(name, entry), _read_affine(name, entry)
    data = entry.get("data")
    if entry.get("encoding") != _ENCODING or not isinstance(data, str):
        raise RecipeError(f"The recipe's condition {name} is not stored in a way that this version reads.")
    size = math.prod(shape)
    try:
        packed = base64.b64decode(data, validate=True)
        stream = zlib.decompressobj()
        unpacked = stream.decompress(packed, size + 1)
    except (binascii.Error, ValueError, zlib.error):
        raise RecipeError(f"The recipe is damaged: its condition {name} cannot be unpacked.") from None
    if len(unpacked) != size or not stream.eof or stream.unused_data:
        raise RecipeError(f"The recipe is damaged: its condition {name} is not as large as it says.")
    if hashlib.sha256(unpacked).hexdigest() != entry.get("sha256"):
        raise RecipeError(f"The recipe is damaged: its condition {name} fails its checksum.")
    try:
        return Volume(np.frombuffer(unpacked, np.uint8).reshape(shape), affine)
    except VolumeError:
        raise RecipeError(f"The recipe's condition {name} has an impossible place in space.") from None


def _find_image(name: str, entry: Mapping[str, Any], images: Mapping[str, Volume]) -> Volume:
    """Return the scan that a recipe means, at the exact place that it had: a file keeps fewer digits of an affine."""
    if name not in images:
        raise RecipeError(f"The recipe names its condition {name} by a checksum only: give that volume, too.")
    array, _ = clean_values(images[name].array)
    if array.shape != _read_shape(name, entry) or hash_array(array) != entry.get("sha256"):
        raise RecipeError(f"The volume given for {name} is not the one that the recipe was made with.")
    try:
        return Volume(array, _read_affine(name, entry))
    except VolumeError:
        raise RecipeError(f"The recipe's condition {name} has an impossible place in space.") from None


def _read_shape(name: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape):
        raise RecipeError(f"The recipe's condition {name} needs a shape of three positive numbers.")
    if math.prod(shape) > MAX_VOXELS:
        raise RecipeError(f"The recipe's condition {name} is larger than any volume that is read.")
    return tuple(shape)


def _read_affine(name: str, entry: Mapping[str, Any]) -> NDArray[np.float64]:
    try:
        affine = np.array(entry.get("affine"), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        affine = np.empty(0)
    if affine.shape != (4, 4):
        raise RecipeError(f"The recipe's condition {name} needs an affine of 4 x 4 numbers.")
    return affine


def _check_schema(recipe: Any) -> None:
    schema = recipe.get("schema") if isinstance(recipe, Mapping) else None
    if not isinstance(schema, str) or not schema.startswith("vcm-recipe/"):
        raise RecipeError("This is not a recipe: choose the recipe.json of an earlier run.")
    if schema != SCHEMA:
        raise RecipeError(f"The recipe is of another version: this program reads {SCHEMA}.")


def _mapping(recipe: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = recipe.get(key)
    if not isinstance(value, Mapping):
        raise RecipeError(f"The recipe lacks its part {key}.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are no JSON
