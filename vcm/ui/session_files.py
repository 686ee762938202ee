"""Where a visitor's files lie on the server: a folder for each session, gone when the session ends."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from vcm.outputs import write_result
from vcm.recipe import recipe_key
from vcm.request import GenerationResult

KEEP_SECONDS = 3600
"""How long the files of a visitor stay who never said goodbye."""

KEPT_RUNS = 8
"""Finished runs of a session whose files stay, so that its history can show them again."""

_FOLDER = "vcm"


def session_folder(request: gr.Request | None) -> Path:
    """Return the folder of the visitor behind a request, inside Gradio's cache, where files are served in place."""
    session = (request.session_hash if request is not None else None) or "nobody"
    # The browser names its own session: hashed, the name can lead nowhere else.
    return Path(get_upload_folder()) / _FOLDER / hashlib.sha256(session.encode()).hexdigest()[:32]


def remove_session(request: gr.Request) -> None:
    """Remove all files of a visitor who has left, and of those who were last seen long ago."""
    shutil.rmtree(session_folder(request), ignore_errors=True)
    remove_old_sessions()


def remove_old_sessions(keep_seconds: float = KEEP_SECONDS) -> None:
    """Remove the folders of sessions in which nothing was written or shown for `keep_seconds`.

    A page that is closed says so; a program that is killed, or a server that was, leaves its files to this.
    """
    parent = Path(get_upload_folder()) / _FOLDER
    for folder in parent.iterdir() if parent.is_dir() else ():
        if re.fullmatch(r"[0-9a-f]{32}", folder.name) and time.time() - _last_used(folder) > keep_seconds:
            shutil.rmtree(folder, ignore_errors=True)


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


def _last_used(folder: Path) -> float:
    """Return when anything in a folder was last written, in seconds since the epoch."""
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):  # another thread may be removing it
            newest = max(newest, path.stat().st_mtime)
    return newest
