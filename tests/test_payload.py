"""Payloads: bounded reading of plain and gzip files, each to its verified end."""

import gzip
import os
import zlib
from pathlib import Path

import pytest

from vcm.errors import VolumeError
from vcm.volume.payload import open_payload

DATA = bytes(range(256)) * 3000  # longer than two chunks


def read(path: Path, size: int = len(DATA)) -> bytes:
    with open_payload(path) as payload:
        data = payload.read_exactly(10) + payload.read_exactly(size - 10)
        payload.expect_end()
    return bytes(data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "payload"


def test_plain_and_gzip_are_told_by_their_bytes(file: Path) -> None:
    for content in (DATA, gzip.compress(DATA), gzip.compress(DATA, compresslevel=0)):
        file.write_bytes(content)
        assert read(file) == DATA


def test_a_gzip_file_in_several_members_is_read_whole(file: Path) -> None:
    members = [gzip.compress(DATA[start : start + 65280]) for start in range(0, len(DATA), 65280)]
    file.write_bytes(b"".join(members) + gzip.compress(b""))  # as bgzip writes it, with an empty last one
    assert read(file) == DATA


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 300])
def test_a_cut_gzip_file_is_damaged_wherever_the_cut_is(file: Path, cut: int) -> None:
    file.write_bytes(gzip.compress(DATA)[:-cut])
    with pytest.raises(VolumeError, match="damaged: it ends before its data do"):
        read(file)


def test_a_cut_plain_file_is_damaged(file: Path) -> None:
    file.write_bytes(DATA[:-1])
    with pytest.raises(VolumeError, match="damaged: it ends before its data do"):
        read(file)


def test_a_wrong_checksum_is_damaged(file: Path) -> None:
    content = bytearray(gzip.compress(DATA))
    content[-6] ^= 1
    file.write_bytes(content)
    with pytest.raises(VolumeError, match="damaged: its compressed data fail their checksum"):
        read(file)


@pytest.mark.parametrize("junk", [b"junk", b"\0", b"\x1f", b"\0" * 512])
def test_anything_after_the_gzip_stream_is_damage(file: Path, junk: bytes) -> None:
    file.write_bytes(gzip.compress(DATA) + junk)
    with pytest.raises(VolumeError, match="damaged: something else follows"):
        read(file)


def test_more_data_than_announced_is_damage(file: Path) -> None:
    for content in (DATA, gzip.compress(DATA)):
        file.write_bytes(content)
        with pytest.raises(VolumeError, match="damaged: it holds more data"):
            read(file, len(DATA) - 1)


def test_no_more_is_decompressed_than_is_asked_for(file: Path) -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(2**20)
    with file.open("wb") as bomb:
        for _ in range(512):
            bomb.write(stream.compress(zeros))
    with open_payload(file) as payload:
        payload.read_exactly(100)
        with pytest.raises(VolumeError, match="holds more data"):
            payload.expect_end()
        assert len(payload._spare) < 2**20


def test_a_flood_of_empty_gzip_members_is_refused(file: Path) -> None:
    file.write_bytes(gzip.compress(b"") * 20_000 + gzip.compress(DATA))  # sound, but for the flood
    with pytest.raises(VolumeError, match="damaged: something else follows"):
        read(file)


def test_what_is_no_readable_file_is_refused_without_its_path(tmp_path: Path) -> None:
    empty, pipe = tmp_path / "empty", tmp_path / "pipe"
    empty.touch()
    os.mkfifo(pipe)
    for path, message in (
        (empty, "is empty"),
        (pipe, "not a file"),
        (tmp_path, "not a file"),
        (tmp_path / "missing", "check that it exists"),
        (tmp_path / "nul\0", "check that it exists"),
    ):
        with pytest.raises(VolumeError, match=message) as refusal:
            read(path)
        assert str(tmp_path) not in str(refusal.value)
        assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_a_file_larger_than_any_volume_is_refused_unread(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(2**30)
    with pytest.raises(VolumeError, match="too large: 1024 MiB"):
        read(file)


def test_an_error_of_the_reader_is_not_taken_for_one_of_the_file(file: Path) -> None:
    file.write_bytes(DATA)
    with pytest.raises(ValueError, match=r"^mine$"), open_payload(file):
        raise ValueError("mine")
