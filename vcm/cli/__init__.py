"""The command `vcm`."""

from vcm.cli.main import main

__all__ = ["main"]
