"""The pictures of the page in the README, taken from the running page: `python tests/browser/take_pictures.py`.

Run it on a machine that does nothing else, since the page tells how long its runs take.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

sys.path.append(str(Path(__file__).parent.parent))
from at_the_page import launch, launch_on_free_port, open_page, set_seed, set_steps, status
from conftest import CHROMIUM_FLAGS
from get_chromium import HOW_TO, find_chromium

from vcm.pipeline import Pipeline

ASSETS = Path(__file__).parents[2] / "assets"
PICTURE_SIZE, FILM_SIZE = (1280, 1000), (1280, 800)
FILM_WIDTH = 800
FILM_QUALITY = 60
SEED, STEPS = 7, 12
RUN_MS = 600_000
# Shares of the axial plane's width and height, from its lower left corner: a stroke in the patient's right hemisphere.
STROKE = ((0.30, 0.60), (0.31, 0.55), (0.33, 0.50), (0.34, 0.45), (0.34, 0.41))


class Film:
    """Frames with the milliseconds that each is seen."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._milliseconds: list[int] = []

    def shoot(self, milliseconds: int) -> None:
        """Take a frame, unless nothing has changed: then the last one stays for longer."""
        with Image.open(io.BytesIO(self._page.screenshot())) as picture:
            height = round(picture.height * FILM_WIDTH / picture.width)
            frame = picture.convert("RGB").resize((FILM_WIDTH, height), Image.Resampling.LANCZOS)
        if self._frames and frame.tobytes() == self._frames[-1].tobytes():
            self._milliseconds[-1] += milliseconds
            return
        self._frames.append(frame)
        self._milliseconds.append(milliseconds)

    def save(self, path: Path) -> None:
        """Write the frames as a picture that moves, again and again."""
        first, *others = self._frames
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self._milliseconds,
            loop=0,
            quality=FILM_QUALITY,
            method=6,
        )


def opener(browser: Browser):
    """Return what opens a page, as the fixture of the tests does."""

    def open_at(width: int, height: int, url: str, **options: object) -> Page:
        page = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
        page.set_default_timeout(RUN_MS)
        page.goto(url)
        return page

    return open_at


def preview_of(viewer: Locator) -> str:
    """Tell one volume in the making from the next."""
    return str(viewer.evaluate("() => vcmSliceCanvas.find('viewer').layers[0].url"))


def film_a_run(page: Page) -> Film:
    """Film a stroke, the volume while it forms, and the comparison of both volumes."""
    film = Film(page)
    set_seed(page, SEED)
    set_steps(page, STEPS)
    page.locator("#editor [data-action=clear]").click()
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#editor [data-plane=axial] canvas").bounding_box()
    assert box is not None
    points = [(box["x"] + right * box["width"], box["y"] + (1 - up) * box["height"]) for right, up in STROKE]
    page.mouse.move(*points[0])
    page.wait_for_timeout(1_000)
    film.shoot(900)
    page.mouse.down()
    for point in points:
        page.mouse.move(*point, steps=2)
        page.wait_for_timeout(100)
        film.shoot(160)
    page.mouse.up()
    expect(status(page)).to_contain_text("press Generate")
    page.locator("#generate").hover()
    film.shoot(800)
    page.locator("#generate").click()
    film.shoot(250)
    viewer, seen = page.locator("#viewer"), ""
    while "Done in" not in status(page).inner_text():
        if (now := preview_of(viewer)) != seen:
            seen = now
            page.wait_for_timeout(60)  # until it is drawn
            film.shoot(260)
    expect(page.locator("#viewer [data-part=layers] button")).to_have_count(3)
    expect(page.locator("#download-recipe")).to_be_visible()
    page.wait_for_timeout(500)
    film.shoot(1_600)
    page.locator("#viewer [data-action=swipe]").click()
    page.mouse.move(5, 400)
    for seam in (85, 70, 55, 40, 25, 40, 55):
        page.locator("#viewer [data-setting=seam]").fill(str(seam))
        page.wait_for_timeout(100)
        film.shoot(180)
    film.shoot(700)
    return film


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder for app.png and drawing.webp")
    folder = parser.parse_args().out
    path = find_chromium()
    if path is None:
        sys.exit(HOW_TO)
    expect.set_options(timeout=RUN_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        studio = launch(Pipeline.from_pretrained("mini", device="cpu"), launch_on_free_port)
        page = open_page(opener(browser), studio, PICTURE_SIZE)
        page.wait_for_timeout(1_000)
        page.screenshot(path=folder / "app.png")
        film_a_run(open_page(opener(browser), studio, FILM_SIZE)).save(folder / "drawing.webp")
        browser.close()


if __name__ == "__main__":
    main()
