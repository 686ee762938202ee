"""Where a visitor's files lie on the server: a folder for each session, gone soon after the session ends."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Timer

import gradio as gr
from filelock import FileLock
from gradio.utils import get_upload_folder, is_in_or_equal

from vcm.outputs import write_result
from vcm.recipe import recipe_key
from vcm.request import GenerationResult

KEEP_SECONDS = 3600
"""How long the files of a visitor stay who never said goodbye."""

GRACE_SECONDS = 600
"""How long they stay after a page was closed: a connection that breaks for a moment looks the same from here."""

KEPT_RUNS = 8
"""Finished runs of a session whose files stay, so that its history can show them again."""

_FOLDER = "vcm"
_LEFT = "left"  # a file that says since when nobody is there


def session_folder(request: gr.Request | None) -> Path:
    """Return the folder of the visitor behind a request, inside Gradio's cache, where files are served in place.

    Whoever asks is there again, if the page seemed to be closed.
    """
    folder = _find_folder(request)
    with suppress(OSError):
        (folder / _LEFT).unlink(missing_ok=True)
    return folder


def one_at_a_time(folder: Path) -> FileLock:
    """Return what a handler holds while it reads what a session keeps and adds to it: another of the session waits.

    Args:
        folder: of the session.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "handler.lock")


def upload_time(path: str | Path) -> float:
    """Return when a file was uploaded, in seconds since the epoch; now, if it is gone."""
    try:
        return min(time.time(), Path(path).stat().st_mtime)
    except OSError:
        return time.time()


def _find_folder(request: gr.Request | None) -> Path:
    session = (request.session_hash if request is not None else None) or "nobody"
    # The browser names its own session: hashed, the name can lead nowhere else.
    return Path(get_upload_folder()) / _FOLDER / hashlib.sha256(session.encode()).hexdigest()[:32]


def leave_session(request: gr.Request, grace_seconds: float = GRACE_SECONDS) -> None:
    """Delete all files of a visitor whose page was closed, unless the page sends a request within `grace_seconds`."""
    folder = _find_folder(request)
    if folder.is_dir():
        with suppress(OSError):
            (folder / _LEFT).touch()
        sweep = Timer(grace_seconds, remove_old_sessions, kwargs={"grace_seconds": grace_seconds})
        sweep.daemon = True
        sweep.start()
    remove_old_sessions()


def remove_old_sessions(keep_seconds: float = KEEP_SECONDS, grace_seconds: float = GRACE_SECONDS) -> None:
    """Remove the folders of sessions that were left, or in which nothing was written or shown for `keep_seconds`.

    A page that is closed says so; a program that is killed, or a server that was, leaves its files to this.
    """
    parent = Path(get_upload_folder()) / _FOLDER
    for folder in parent.iterdir() if parent.is_dir() else ():
        if not re.fullmatch(r"[0-9a-f]{32}", folder.name):
            continue
        if time.time() - _last_used(folder) > keep_seconds or _seconds_left(folder) >= grace_seconds:
            shutil.rmtree(folder, ignore_errors=True)


def keep_in_use(files: Iterable[str | Path]) -> None:
    """Tell a cache that deletes by age that files of Gradio's are still on somebody's page."""
    for file in files:
        if is_in_or_equal(file, get_upload_folder()):
            with suppress(OSError):
                os.utime(file)


def write_downloads(result: GenerationResult, folder: Path) -> dict[str, Path]:
    """Write a result's files into a folder of its own, and return them by file name; the oldest runs make room.

    Args:
        folder: of the session.
    """
    remove_old_sessions()
    runs = folder / "runs"
    files = {path.name: path for path in write_result(result, runs / recipe_key(result.recipe)[:16])}
    newest_first = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[KEPT_RUNS:]:
        shutil.rmtree(old, ignore_errors=True)
    return files


def _seconds_left(folder: Path) -> float:
    """Return for how long nobody has been there; below 0 where somebody is."""
    try:
        return time.time() - (folder / _LEFT).stat().st_mtime
    except OSError:
        return -1.0


def _last_used(folder: Path) -> float:
    """Return when anything in a folder was last written, in seconds since the epoch."""
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # another thread may be removing it
            newest = max(newest, path.stat().st_mtime)
    return newest
