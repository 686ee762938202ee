"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ModelOption = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR", help="A model: mini, brainldm, or a folder with the same layout.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="float32, bfloat16, or auto (bfloat16 where the hardware is faster at it).")
]
VcmWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--vcm-weights",
        metavar="FILE|DIR|REPO",
        help="A VCM in place of the model's own: the released file, a folder, or OWNER/NAME on the hub.",
        show_default="VCM_WEIGHTS for brainldm, else the model's own",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Go on without asking, however long a run takes.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to; made if it is missing.")]


def setting(name: str, text: str, default: str, metavar: str = "NUMBER") -> Any:
    """Return an option for a setting of a run, whose default is that of the request or of the recipe."""
    return typer.Option(name, metavar=metavar, parser=read_number, help=text, show_default=default)


def read_number(text: str) -> int | float | str:
    """Read a number, and leave anything else to the request, whose sentence names the field and its range."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def require_training_extra() -> None:
    """Refuse to go on without what `pip install ".[train]"` brings."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError('This needs the training extra; in the clone: pip install ".[train]".') from None
