"""A browser that is busy with something else reads all messages of a run at once, and shows the same."""

import pytest
from at_the_page import PageAt, Serve, Studio, generate, launch, open_page
from tiny import build_tiny_model

from vcm.pipeline import Pipeline

pytestmark = pytest.mark.browser

BUSY = "setTimeout(() => { const end = performance.now() + 5000; while (performance.now() < end); }, 400)"


@pytest.fixture(scope="module")
def small_studio(serve: Serve) -> Studio:
    """The app on random weights: a run is over before the browser reads its first message."""
    return launch(Pipeline(build_tiny_model()), serve)


def test_a_browser_that_reads_late_shows_the_volume_and_its_pair(small_studio, page_at: PageAt):
    page = open_page(page_at, small_studio)
    page.evaluate(BUSY)
    generate(page, steps=5)
    for name, count in (("viewer", 3), ("pair-controlled", 1), ("pair-uncontrolled", 1)):
        page.wait_for_function(f"vcmSliceCanvas.find('{name}').layers.length === {count}")
