"""Compute the lessons again from a model: `python -m vcm.ui.learn.make_lessons [--model mini] [--out DIR]`.

The cases are the finished examples of the page, so make those first: `python -m vcm.ui.sections.make_examples`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from vcm.pipeline import Pipeline
from vcm.ui.app import EXAMPLES, LESSONS
from vcm.ui.learn.lesson_figures import Figure, draw_figure
from vcm.ui.learn.lesson_kinds import KINDS
from vcm.ui.learn.lessons import Lesson, save_lesson
from vcm.ui.sections.examples import Example, load_examples

_log = logging.getLogger(__name__)


def make_lesson(example: Example, pipeline: Pipeline) -> Lesson:
    """Compute all figures of one example."""
    figures: dict[str, Figure] = {}
    for kind in KINDS:
        *_, last = kind.explore(pipeline, kind.shorten(example.request))
        figures[kind.name] = draw_figure(last)
        _log.info("%s: %s is computed", example.slug, kind.name)
    return Lesson(example.slug, example.title, pipeline.environment.weights, figures)


def main() -> None:
    """Make the lessons of all examples."""
    parser = argparse.ArgumentParser(description="Compute the lessons of the page again.")
    parser.add_argument("--model", default="mini", help="mini, or a folder with the same layout")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="folder of the finished examples")
    parser.add_argument("--out", type=Path, default=LESSONS, help="folder to write to")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    pipeline = Pipeline.from_pretrained(arguments.model, device=arguments.device)
    for example in load_examples(arguments.examples):
        save_lesson(arguments.out, make_lesson(example, pipeline))


if __name__ == "__main__":
    main()
