"""A real Chromium and real servers for the browser tests."""

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from at_the_page import PageAt, Serve, Studio, launch, launch_on_free_port
from get_chromium import HOW_TO, find_chromium
from playwright.sync_api import Browser, Page, expect, sync_playwright

from vcm.pipeline import Pipeline

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE_MS = 30_000  # for a machine that is busy with something else; what must be fast is timed by its own test
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium; where there is none the tests fail rather than pass unseen."""
    path = find_chromium()
    if path is None:
        pytest.fail(HOW_TO)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page_at(browser: Browser) -> Iterator[PageAt]:
    """Open a visitor of their own: `page_at(width, height, url)`; an uncaught error on a page fails the test."""
    contexts = []
    errors: list[str] = []

    def open_page(width: int, height: int, url: str | None = None, **context_options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **context_options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        if url is not None:
            page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Launch a `gr.Blocks` on a free loopback port: `serve(blocks)` gives its URL and closes it at the end."""
    launched: list[gr.Blocks] = []

    def launch_blocks(blocks: gr.Blocks, **launch_options: Any) -> str:
        url = launch_on_free_port(blocks, **launch_options)
        launched.append(blocks)
        return url

    yield launch_blocks
    for blocks in launched:
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def studio(serve: Serve) -> Studio:
    """The app on the embedded model."""
    return launch(Pipeline.from_pretrained("mini", device="cpu"), serve)
