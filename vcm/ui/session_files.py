"""Where a visitor's files lie on the server: a folder for each session, gone when the session ends."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from vcm.outputs import write_result
from vcm.recipe import recipe_key
from vcm.request import GenerationResult

_KEPT_RUNS = 3  # the page offers the files of the newest; a slow download may still read an older one


def session_folder(request: gr.Request | None) -> Path:
    """Return the folder of the visitor behind a request, inside Gradio's cache, where files are served in place."""
    session = (request.session_hash if request is not None else None) or "nobody"
    # The browser names its own session: hashed, the name can lead nowhere else.
    return Path(get_upload_folder()) / "vcm" / hashlib.sha256(session.encode()).hexdigest()[:32]


def remove_session(request: gr.Request) -> None:
    """Remove all files of a visitor who has left."""
    shutil.rmtree(session_folder(request), ignore_errors=True)


def write_downloads(result: GenerationResult, folder: Path) -> dict[str, Path]:
    """Write a result's files into a folder of its own, and return them by file name; the oldest runs make room.

    Args:
        folder: of the session.
    """
    runs = folder / "runs"
    files = {path.name: path for path in write_result(result, runs / recipe_key(result.recipe)[:16])}
    newest_first = sorted(runs.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[_KEPT_RUNS:]:
        shutil.rmtree(old, ignore_errors=True)
    return files
