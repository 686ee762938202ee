"""Files that appear whole or not at all, on a disk that is full or in a process that is stopped, too."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete; where that fails, nothing of it stays.

    Several processes and threads may write the same one: the last that is done wins.

    Raises:
        OSError: the disk refuses, also where a library that was given the file tells it as another error.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            remembering = _Remembering(file)
            try:
                yield remembering  # type: ignore[misc]
                file.flush()
            except RuntimeError as error:
                if remembering.refusal is None:
                    raise
                raise remembering.refusal from error
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def reserve(path: Path, num_bytes: int) -> None:
    """Take room on the disk for a file that is written to through memory, where a full disk would kill the process.

    Raises:
        OSError: there is not as much room; the file is removed.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError:
        path.unlink()
        raise


class _Remembering:
    """A file that remembers why it could not be written: torch says of a full disk that a position is unexpected."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.refusal: OSError | None = None

    def write(self, content: Any) -> int:
        """Write as the file does."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.refusal = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
