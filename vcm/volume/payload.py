"""Reading an untrusted file, plain or gzip, in bounded steps and to its verified end."""

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vcm.errors import VolumeError

MAX_FILE_BYTES = 2**29 + 2**20  # the largest volume accepted, stored plainly, and room for its header
GZIP_MAGIC = b"\x1f\x8b"

_CHUNK_BYTES = 2**18
_MAX_GZIP_MEMBERS = 2**14  # block-wise writers make one per 64 KiB; a flood of empty ones is an attack
_CUT_SHORT = "The file is damaged: it ends before its data do; copy or export it again."
_CORRUPT = "The file is damaged: its compressed data fail their checksum; copy or export it again."
_JUNK = "The file is damaged: something else follows its compressed data; copy or export it again."
_TOO_LONG = "The file is damaged: it holds more data than its header announces; export it again."


class Payload:
    """The uncompressed bytes of a file, read front to back and never further than asked."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._spare = b""

    def read_up_to(self, size: int) -> bytearray:
        """Return the next `size` bytes, fewer only where the file ends."""
        parts = bytearray()
        while len(parts) < size:
            chunk = self._spare or next(self._chunks, b"")
            if not chunk:
                break
            taken = size - len(parts)
            parts += chunk[:taken]
            self._spare = chunk[taken:]
        return parts

    def read_exactly(self, size: int) -> bytearray:
        """Return the next `size` bytes.

        Raises:
            VolumeError: the file ends earlier.
        """
        data = self.read_up_to(size)
        if len(data) < size:
            raise VolumeError(_CUT_SHORT)
        return data

    def expect_end(self) -> None:
        """Read on to the end, which verifies a gzip file's checksum.

        Raises:
            VolumeError: more data follow, or the checksum is wrong.
        """
        if self.read_up_to(1):
            raise VolumeError(_TOO_LONG)


@contextmanager
def open_payload(path: str | os.PathLike[str]) -> Iterator[Payload]:
    """Open a file for bounded reading; whether it is gzip is decided by its first bytes, not by its name.

    Raises:
        VolumeError: there is no such file, it is no regular file, it is empty, or it is larger than
            `MAX_FILE_BYTES`; while reading: it is cut short, corrupt, or followed by something else.
    """
    try:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise VolumeError("The file is empty; choose a NIfTI volume (.nii or .nii.gz).")
            if size > MAX_FILE_BYTES:
                raise VolumeError(f"The file is too large: {size / 2**20:.0f} MiB, where at most 512 MiB are read.")
            gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            yield Payload(_gunzip(file) if gzipped else iter(lambda: file.read(_CHUNK_BYTES), b""))
    except OSError:
        raise VolumeError("The file could not be read; check that it exists and may be opened.") from None


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file; anything else is refused before open(), which a pipe would block."""
    try:
        mode = Path(path).stat().st_mode
    except ValueError:  # a NUL character in the name
        raise FileNotFoundError from None
    if not stat.S_ISREG(mode):
        raise VolumeError("This is not a file; choose one volume (.nii or .nii.gz).")
    return Path(path).open("rb")


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    """Yield a gzip file's content in chunks; zlib compares each member's checksum and length at its end."""
    pending = file.read(_CHUNK_BYTES)
    members = 0
    while pending:
        if len(pending) < len(GZIP_MAGIC):
            pending += file.read(_CHUNK_BYTES)
        members += 1
        if not pending.startswith(GZIP_MAGIC) or members > _MAX_GZIP_MEMBERS:
            raise VolumeError(_JUNK)
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not member.eof:
            pending = pending or file.read(_CHUNK_BYTES)
            if not pending:
                raise VolumeError(_CUT_SHORT)
            try:
                chunk = member.decompress(pending, _CHUNK_BYTES)
            except zlib.error:
                raise VolumeError(_CORRUPT) from None
            pending = member.unconsumed_tail
            if chunk:
                yield chunk
        pending = member.unused_data or file.read(_CHUNK_BYTES)
