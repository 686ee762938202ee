"""A recipe as a few thousand characters that fit into the fragment of a link, and the way back."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vcm.modalities.registry import MODALITIES
from vcm.recipe import MAX_RECIPE_BYTES, RecipeError, image_names, parse_recipe

MAX_LINK_CHARS = 8_000
"""Room for a drawing of several lesions; programs that pass links on cut longer ones."""

_LEFT_OUT = "left_out"
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_DAMAGED = "The link is damaged: copy it again as a whole, or drop the recipe file."


@dataclass(frozen=True)
class PackedRecipe:
    """A recipe for a link.

    Attributes:
        text: base64url without padding, at most `MAX_LINK_CHARS` characters.
        too_large: names of the label maps that had to stay behind for their size.
        scans: names of the scans, of which a recipe holds a checksum only, so that a link cannot bring them.
    """

    text: str
    too_large: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()


def pack_recipe(recipe: Mapping[str, Any]) -> PackedRecipe:
    """Return a recipe as text for a link; its settings always fit, of its label maps the largest stay behind first.

    Args:
        recipe: as `vcm.recipe.build_recipe` returned it.
    """
    scans = image_names(recipe)
    conditions = {name: entry for name, entry in recipe["conditions"].items() if name not in scans}
    largest_first = sorted(conditions, key=lambda name: len(conditions[name]["data"]), reverse=True)
    too_large: list[str] = []
    while True:
        left_out = [*scans, *too_large]
        text = _pack({**recipe, "conditions": conditions} | ({_LEFT_OUT: left_out} if left_out else {}))
        if len(text) <= MAX_LINK_CHARS or not largest_first:
            return PackedRecipe(text, tuple(too_large), scans)
        too_large.append(largest_first.pop(0))
        del conditions[too_large[-1]]


def unpack_recipe(text: str) -> dict[str, Any]:
    """Return the recipe that `pack_recipe` packed, from text of any origin; never more is inflated than a recipe has.

    Raises:
        RecipeError: the text is too long, damaged, or holds no recipe of this version.
    """
    if len(text) > MAX_LINK_CHARS:
        raise RecipeError("The link is too long to be one of ours: drop the recipe file instead.")
    if not _ALPHABET.fullmatch(text):
        raise RecipeError(_DAMAGED)
    try:
        inflater = zlib.decompressobj()
        content = inflater.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), MAX_RECIPE_BYTES + 1)
    except (binascii.Error, zlib.error):
        raise RecipeError(_DAMAGED) from None
    if len(content) <= MAX_RECIPE_BYTES and (not inflater.eof or inflater.unused_data):
        raise RecipeError(_DAMAGED)
    return parse_recipe(content)


def left_out(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the conditions that an unpacked recipe came without; names that are none are dropped."""
    names = recipe.get(_LEFT_OUT)
    return tuple(name for name in MODALITIES if name in names) if isinstance(names, list) else ()


def _pack(recipe: Mapping[str, Any]) -> str:
    content = json.dumps(recipe, separators=(",", ":"), allow_nan=False).encode()
    return base64.urlsafe_b64encode(zlib.compress(content, 9)).decode("ascii").rstrip("=")
