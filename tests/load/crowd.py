"""A crowd against the real app: does everyone get what a run alone gives, and how long do they wait? Prints a table.

    python tests/load/crowd.py [--steps 20]

Thirty visitors ask for one example (four of them in Chromium), eight for masks of their own (four in Chromium); of
those eight, half cancel or leave in mid-run. Every answer is compared with its run alone, byte by byte of the volume.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from playwright.sync_api import Browser, Page, expect, sync_playwright
from served import ROOT, Server, serve

sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests")]  # in this order: both have a conftest

from at_the_page import download, set_seed, set_steps, status  # noqa: E402
from conftest import CHROMIUM_FLAGS  # noqa: E402
from get_chromium import HOW_TO, find_chromium  # noqa: E402

from vcm.pipeline import Pipeline  # noqa: E402
from vcm.recipe import load_recipe, request_from_recipe  # noqa: E402
from vcm.request import GenerationRequest  # noqa: E402
from vcm.volume import Volume  # noqa: E402

EXAMPLE = ROOT / "assets" / "examples" / "02-temporal"
PROGRAMS, PAGES = 26, 4  # for the example
PATIENCE_MS = 900_000
CONTROLLED = "controlled.nii.gz"


@dataclass(frozen=True)
class Answer:
    """What one visitor got.

    Attributes:
        group: of visitors who do the same.
        wish: number of the request, to compare with its run alone.
        seconds: from the click to the volume, or to the end of the visit.
        volume: bytes of controlled.nii.gz; None for one who left.
    """

    group: str
    wish: int
    seconds: float
    volume: bytes | None


def own_wishes(pipeline: Pipeline, steps: int) -> list[GenerationRequest]:
    """Return eight requests, each with a solid ball in another place and another seed."""
    shape, affine = pipeline.grid.shape, pipeline.grid.affine
    world = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    wishes = []
    for number in range(8):
        center = np.array([(-35, 35)[number % 2], -50 + 12 * number, 22])
        ball = np.linalg.norm(world - center[:, None], axis=0).reshape(shape) <= 12
        mask = Volume((ball * 3).astype(np.uint8), affine)
        wishes.append(GenerationRequest({"tumor": mask}, num_inference_steps=steps, seed=9000 + number))
    return wishes


class Program:
    """A visitor who speaks with the app by `gradio_client`."""

    def __init__(self, server: Server, folder: Path, mask: Path, request: GenerationRequest) -> None:
        folder.mkdir()
        self._client = Client(server.url, verbose=False, download_files=str(folder))
        self._mask, self._request = mask, request

    def submit(self) -> Any:
        asked = self._request
        names = ("guidance_scale", "num_inference_steps", "seed", "sampler", "control_start", "control_end", "sex")
        names += ("age", "ventricular_volume", "brain_volume", "compare")
        settings = {name: getattr(asked, name) for name in names}
        return self._client.submit(tumor=handle_file(self._mask), **settings, api_name="/generate")

    def stay(self, group: str, wish: int) -> Answer:
        started = time.monotonic()
        files, _ = self.submit().result()
        volume = next(Path(file).read_bytes() for file in files if Path(file).name == CONTROLLED)
        return Answer(group, wish, time.monotonic() - started, volume)

    def cancel(self, group: str, wish: int) -> Answer:
        """Wait for the first step, then cancel."""
        started = time.monotonic()
        job = self.submit()
        while not job.outputs() and not job.done():
            time.sleep(0.05)
        job.cancel()
        return Answer(group, wish, time.monotonic() - started, None)


def open_pages(browser: Browser, url: str, count: int) -> list[Page]:
    """Open visitors of their own, each with a finished example before them."""
    pages = []
    for _ in range(count):
        page = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        expect(page.locator("#editor .sc")).to_have_attribute("aria-busy", "false", timeout=PATIENCE_MS)
        pages.append(page)
    return pages


def follow_pages(pages: dict[Page, tuple[str, int, str]], started: dict[Page, float], folder: Path) -> list[Answer]:
    """Watch all pages at once; each stays, cancels at its first step, or closes then."""
    answers = []
    waiting = dict(pages)
    while waiting:
        for page, (group, wish, does) in list(waiting.items()):
            told = status(page).inner_text()
            seconds = time.monotonic() - started[page]
            is_done = "Done in" in told or "Shown at once" in told
            if does == "stay" and is_done:
                answers.append(Answer(group, wish, seconds, download(page, "controlled", folder).read_bytes()))
            elif does == "cancel" and "Step" in told:
                page.locator("#cancel").click()
                expect(status(page)).to_contain_text("Cancelled")
                answers.append(Answer(group, wish, seconds, None))
            elif does == "leave" and "Step" in told:
                page.close()
                answers.append(Answer(group, wish, seconds, None))
            elif seconds * 1000 > PATIENCE_MS or 'role="alert"' in status(page).inner_html():
                raise AssertionError(f"{group}: {told}")
            else:
                continue
            del waiting[page]
        time.sleep(0.1)
    return answers


def crowd(server: Server, wishes: list[GenerationRequest], browser: Browser, folder: Path) -> list[Answer]:
    """Let them all come at once: wish 0 is the example's, the others are those of visitors with their own masks."""
    masks = []
    for number, wish in enumerate(wishes):
        masks.append(folder / f"mask-{number}.nii.gz")
        wish.conditions["tumor"].save(masks[-1])
    programs: list[tuple[Callable[[str, int], Answer], str, int]] = []
    for number in range(PROGRAMS):
        program = Program(server, folder / f"example-{number}", masks[0], wishes[0])
        programs.append((program.stay, "example, by HTTP", 0))
    for number in range(1, 5):
        program = Program(server, folder / f"own-{number}", masks[number], wishes[number])
        does = (program.stay, "own mask, by HTTP") if number < 3 else (program.cancel, "own mask, cancelled by HTTP")
        programs.append((*does, number))

    pages = open_pages(browser, server.url, PAGES + 4)
    plans: dict[Page, tuple[str, int, str]] = {}
    for page in pages[:PAGES]:
        page.locator(f"#examples [data-slug='{EXAMPLE.name}']").click()
        expect(status(page)).to_contain_text("a finished example", timeout=PATIENCE_MS)
        page.wait_for_timeout(1000)
        set_steps(page, wishes[0].num_inference_steps)
        plans[page] = ("example, in Chromium", 0, "stay")
    for number, page in enumerate(pages[PAGES:], start=5):
        page.locator("#upload-tumor input[type=file]").set_input_files(masks[number])
        expect(status(page)).to_contain_text("Tumor map taken", timeout=PATIENCE_MS)
        set_seed(page, wishes[number].seed)
        set_steps(page, wishes[number].num_inference_steps)
        does = {7: "cancel", 8: "leave"}.get(number, "stay")
        ends = {"cancel": "cancelled in", "leave": "closed in"}.get(does, "in")
        plans[page] = (f"own mask, {ends} Chromium", number, does)

    with ThreadPoolExecutor(len(programs)) as threads:
        running = [threads.submit(does, group, wish) for does, group, wish in programs]
        started = {}
        for page in plans:
            started[page] = time.monotonic()
            page.locator("#generate").click()
        answers = follow_pages(plans, started, folder)
        answers += [each.result() for each in running]
    return answers


def compare(answers: list[Answer], wishes: list[GenerationRequest], folder: Path) -> None:
    """Run every wish alone, in a fresh pipeline of this process, and compare the bytes."""
    for number in sorted({answer.wish for answer in answers if answer.volume is not None}):
        Pipeline.from_pretrained("mini", device="cpu")(wishes[number]).controlled.save(folder / "alone.nii.gz")
        alone = (folder / "alone.nii.gz").read_bytes()
        for answer in answers:
            if answer.wish == number and answer.volume is not None:
                assert answer.volume == alone, f"{answer.group}: another volume than the run alone"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    path = find_chromium()
    if path is None:
        sys.exit(HOW_TO)
    example = request_from_recipe(load_recipe(EXAMPLE / "recipe.json"))
    wishes = [replace(example, num_inference_steps=steps)]
    wishes += own_wishes(Pipeline.from_pretrained("mini", device="cpu"), steps)
    with (
        tempfile.TemporaryDirectory() as made,
        serve() as server,
        sync_playwright() as playwright,
    ):
        folder = Path(made)
        before = server.memory_mib()
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        answers = crowd(server, wishes, browser, folder)
        browser.close()
        is_idle = server.is_idle()
        after = server.memory_mib()
        compare(answers, wishes, folder)
        print("| visitors | number | wait: median, s | longest, s |\n|---|---|---|---|")  # noqa: T201
        for group in sorted({answer.group for answer in answers}):
            waits = [answer.seconds for answer in answers if answer.group == group]
            print(f"| {group} | {len(waits)} | {median(waits):.1f} | {max(waits):.1f} |")  # noqa: T201
        finished = sum(answer.volume is not None for answer in answers)
        print(f"{finished} volumes, each with the bytes of its run alone.")  # noqa: T201
        print(f"Memory: {before:.0f} MiB before, {server.peak_mib:.0f} at most, {after:.0f} afterwards.")  # noqa: T201
        assert len(answers) == PROGRAMS + PAGES + 8
        assert is_idle, "a run is still going on that nobody waits for"


if __name__ == "__main__":
    main()
