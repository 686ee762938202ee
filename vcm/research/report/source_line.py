"""The line beneath a table or a picture: the command that makes it again, and the weights that it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_WEIGHTS = ".safetensors"
_DIGITS = 12  # of a sum: enough to identify weights; SHA256SUMS has all 64


def spell_command(command: str, plan: Mapping[str, Any], usual: object, options: Mapping[str, str]) -> str:
    """Return a command with the options that are not its defaults.

    Args:
        command: without options that belong to the plan.
        plan: of a measurement, as its file holds it; a field that an older one lacks is its default.
        usual: the plan that the command makes by default, with the same fields.
        options: by field, those that can be given.
    """
    asked = [
        f" {option} {plan[name]}"
        for name, option in options.items()
        if name in plan and plan[name] != getattr(usual, name)
    ]
    return f"{command}{''.join(asked)}"


def tell_source(command: str, weights: Mapping[str, str], facts: str = "") -> str:
    """Return the line, as Markdown.

    Args:
        command: that makes it again.
        weights: SHA-256 sums by file name; what is no weight file is left out.
        facts: of the recipe that the command does not show, as a clause.
    """
    sums = ", ".join(
        f"{PurePath(name).stem} `{digest[:_DIGITS]}`" for name, digest in weights.items() if name.endswith(_WEIGHTS)
    )
    told = [f"`{command}`", *([facts] if facts else []), *([f"SHA-256 of the weights: {sums}"] if sums else [])]
    return f"<sub>{'; '.join(told)}.</sub>\n"
