"""The command `vcm`: all its groups; each command calls one function of the package and says what it did."""

from __future__ import annotations

from typing import NoReturn

from vcm.cli import generate, measure, train
from vcm.cli.app import run_app

__all__ = ["generate", "main", "measure", "train"]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 with one line on stderr for what a user can cause."""
    run_app(arguments)


if __name__ == "__main__":
    main()
