"""What the server refuses before Gradio sees it: doors that this app does not use, and links that would be followed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NoReturn

import gradio as gr
from gradio import processing_utils
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

Scope = MutableMapping[str, Any]
Channel = Callable[..., Awaitable[Any]]

# Gradio offers all of these; the first three make the server fetch what a stranger names.
_REFUSED = (
    "/proxy=",
    "/file=http:",
    "/file=https:",
    "/process_recording",
    "/deep_link",
    "/monitoring",
    "/runs",
    "/run-history",
    "/profiling",
    "/dev/",
    "/vibe-",
    "/undo-vibe-",
)
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Guard:
    """ASGI middleware: refuses the doors above with 404, and forbids browsers to guess the type of what is served.

    Args:
        app: that is guarded.
    """

    def __init__(self, app: Channel) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if is_refused(scope["path"]):
            await PlainTextResponse("Not found.", status_code=404)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


def is_refused(path: str) -> bool:
    """Tell whether a decoded URL path, with or without Gradio's prefix, is one of the doors that stay shut."""
    bare = "/" + path.lower().lstrip("/").removeprefix("gradio_api/").lstrip("/")
    return bare.startswith(_REFUSED)


def build_guard() -> Middleware:
    """Return the guard as `FastAPI(middleware=[...])` takes it."""
    return Middleware(Guard)


def follow_no_links() -> None:
    """Let Gradio refuse a file whose path is a link, which it would otherwise look up and download.

    It has no setting for that, so its one function that goes out is replaced, for the whole process.
    """
    processing_utils.async_ssrf_protected_download = _refuse_link


async def _refuse_link(url: str, cache_dir: str) -> NoReturn:
    raise gr.Error("Links are not followed: please upload the file itself.", print_exception=False)
