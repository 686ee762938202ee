"""Lessons that were computed before: explorations of the example cases, so that a class of thirty needs no queue.

Each case is a folder, its name that of the example::

    assets/lessons/01-frontal/
        lesson.json          title, the weights that made it, and the numbers of each figure
        guidance.webp        the sheet of pictures of a figure that has one

`python -m vcm.ui.learn.make_lessons` makes them again from a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcm.ui.learn.lesson_figures import Figure
from vcm.ui.sections.examples import load_cases

LESSON_FILE = "lesson.json"


@dataclass(frozen=True, eq=False)
class Lesson:
    """The figures of one case.

    Attributes:
        slug: of the example that it is made from.
        title: a few words.
        weights: SHA-256 of each weight file of the model that made it.
        figures: by kind.
    """

    slug: str
    title: str
    weights: Mapping[str, str]
    figures: Mapping[str, Figure]

    def is_of(self, weights: Mapping[str, str]) -> bool:
        """Tell whether a model with these weights made it."""
        return dict(self.weights) == dict(weights)


def load_lessons(folder: Path) -> list[Lesson]:
    """Read the lessons of a folder, in the order of their slugs; one that cannot be read is left out and logged."""
    return load_cases(folder, LESSON_FILE, _load_lesson, kind="lesson")


def save_lesson(folder: Path, lesson: Lesson) -> None:
    """Write a lesson into the folder of its slug."""
    target = folder / lesson.slug
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.webp"):
        old.unlink()
    for kind, figure in lesson.figures.items():
        if figure.sheet:
            (target / f"{kind}.webp").write_bytes(figure.sheet)
    content = {
        "title": lesson.title,
        "weights": dict(lesson.weights),
        "figures": {kind: dict(figure.facts) for kind, figure in lesson.figures.items()},
    }
    (target / LESSON_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _load_lesson(folder: Path) -> Lesson:
    content = json.loads((folder / LESSON_FILE).read_text(encoding="utf-8"))
    figures = {}
    for kind, facts in content["figures"].items():
        sheet = folder / f"{kind}.webp"
        figures[kind] = Figure(facts, sheet.read_bytes() if "size" in facts else b"")
    return Lesson(folder.name, str(content["title"]), content["weights"], figures)
