"""A drawing outlives the server that it was drawn on, in Chromium with the command that a user types."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from at_the_page import DESK, PageAt, Studio, draw_blob, generate, open_page, set_seed
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
START_SECONDS = 180
VOXELS = "Array.from(vcmSliceCanvas.find('editor').drawing.voxels).join('')"
KEPT = "Object.keys(localStorage).some((key) => key.startsWith('vcm-studio drawing'))"

Start = Callable[[], subprocess.Popen]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start(port: int) -> Iterator[Start]:
    """Start the app on the same port as before, and wait until it answers."""
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--device", "cpu"]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(server)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and server.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/config", timeout=5)
            except httpx.TransportError:
                time.sleep(0.5)
            else:
                return server
        raise AssertionError("The app did not start.")

    yield start
    for server in started:
        if server.poll() is None:
            kill(server)


def kill(server: subprocess.Popen) -> None:
    os.kill(server.pid, signal.SIGKILL)
    server.wait(30)


def test_a_drawing_survives_a_server_that_was_killed(start: Start, port: int, page_at: PageAt) -> None:
    server = start()
    page = open_page(page_at, Studio(f"http://127.0.0.1:{port}", pipeline=None), DESK)
    notice = page.locator("#editor [data-part=restored]")
    expect(notice).to_be_hidden()
    opening = page.evaluate(VOXELS)
    draw_blob(page, right=0.35, up=0.5)
    drawn = page.evaluate(VOXELS)
    page.wait_for_function(KEPT)
    kill(server)
    start()
    reload(page)
    expect(notice).to_contain_text("Your drawing from before is restored.")
    assert page.evaluate(VOXELS) == drawn != opening
    set_seed(page, 3)
    generate(page)  # the new server has the drawing, too
    reload(page)
    expect(notice).to_be_visible()
    page.locator("#editor [data-action=discard]").click()
    expect(notice).to_be_hidden()
    assert page.evaluate(VOXELS) == opening
    page.wait_for_timeout(500)
    reload(page)
    assert page.evaluate(VOXELS) == opening
    expect(notice).to_be_hidden()


def reload(page: Page) -> None:
    page.reload()
    expect(page.locator("#editor .sc")).to_have_attribute("aria-busy", "false", timeout=60_000)
    page.wait_for_function("window.vcmSliceCanvas?.find('editor')?.drawing")
    page.wait_for_timeout(500)
