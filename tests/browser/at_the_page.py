"""What the browser tests of the page share: opening it, and doing what a visitor does."""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from playwright.sync_api import Locator, Page, expect

from vcm.pipeline import Pipeline
from vcm.ui.app import build_app, launch_options
from vcm.volume import Volume

PageAt = Callable[..., Page]
Serve = Callable[..., str]

DESK, PHONE = (1280, 900), (390, 844)
RUN_MS = 120_000
STEPS = 6
FINISHED = re.compile("Done in|Shown at once")  # the server may know the recipe from another test


@dataclass(frozen=True)
class Studio:
    """The app under test and the model behind it."""

    url: str
    pipeline: Pipeline


def launch_on_free_port(blocks: gr.Blocks, **options: object) -> str:
    """Launch an app on a free port of this machine, and return its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = blocks.launch(
        server_name="127.0.0.1",
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        run_history=False,
        **({"_frontend": False} | options),  # type: ignore[arg-type]
    )
    return str(url)


def launch(pipeline: Pipeline, serve: Serve) -> Studio:
    given_by_serve = {"ssr_mode", "run_history"}
    options = {name: value for name, value in launch_options().items() if name not in given_by_serve}
    return Studio(serve(build_app(pipeline), **options), pipeline)


def open_page(page_at: PageAt, studio: Studio, size: tuple[int, int] = DESK, **options) -> Page:
    page = page_at(*size, studio.url, accept_downloads=True, **options)
    for name in ("editor", "viewer"):
        expect(page.locator(f"#{name} .sc")).to_have_attribute("aria-busy", "false", timeout=60_000)
    return page


def status(page: Page) -> Locator:
    return page.locator("#status")


def set_steps(page: Page, steps: int) -> None:
    page.locator("#steps input[type=number]").fill(str(steps))
    page.keyboard.press("Tab")


def set_seed(page: Page, seed: int) -> None:
    page.locator("#seed input").fill(str(seed))
    page.keyboard.press("Tab")


def generate(page: Page, steps: int = STEPS) -> None:
    set_steps(page, steps)
    page.locator("#generate").click()
    expect(status(page)).to_contain_text(FINISHED, timeout=RUN_MS)
    expect(page.locator("#generate")).to_be_visible()


def draw_blob(page: Page, right: float, up: float) -> None:
    """Clear the drawing and draw a stroke in the axial plane; `right` and `up` are shares of the screen."""
    clear = page.locator("#editor [data-action=clear]")
    if clear.is_enabled():  # where there is something to clear
        clear.click()
    box = page.locator("#editor [data-plane=axial] canvas").bounding_box()
    x, y = box["x"] + right * box["width"], box["y"] + (1 - up) * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y + 6, steps=4)
    page.mouse.up()


def download(page: Page, name: str, folder: Path) -> Path:
    button = page.locator(f"#download-{name}")
    expect(button).to_be_visible(timeout=30_000)
    with page.expect_download() as waiting:
        button.click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def downloads(page: Page, folder: Path) -> tuple[Volume, Volume, Volume, dict]:
    """The controlled and the uncontrolled volume, the drawn map and the recipe."""
    folder.mkdir(exist_ok=True)
    return (
        Volume.load(download(page, "controlled", folder)),
        Volume.load(download(page, "uncontrolled", folder)),
        Volume.load(download(page, "condition-tumor", folder), labels=True),
        json.loads(download(page, "recipe", folder).read_text()),
    )


def brightness(page: Page, canvas: str) -> float:
    """Mean gray value of a canvas, 0 to 255."""
    return page.locator(canvas).first.evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let s = 0; for (let i = 0; i < d.length; i += 4) s += d[i]; return s / (d.length / 4); }"
    )


def overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
