"""Lessons: drawn from explorations, saved and read again, made by the embedded weights, and run live by a visitor."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import numpy as np
import pytest
from test_explore import Judge
from visitor import Visitor, text_of

from vcm.explore import Advance
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui import app as page
from vcm.ui.app import LESSONS, build_app, launch_options
from vcm.ui.learn.charts import draw_line, draw_scatter
from vcm.ui.learn.lesson_figures import Figure, draw_figure
from vcm.ui.learn.lesson_html import render_calibration, render_figure
from vcm.ui.learn.lesson_kinds import KINDS
from vcm.ui.learn.lesson_section import LESSON_PAGE, load_teaching
from vcm.ui.learn.lessons import Lesson, load_lessons, save_lesson
from vcm.ui.learn.make_lessons import make_lesson
from vcm.ui.learn.tour import STEPS
from vcm.ui.sections.examples import load_examples, save_example
from vcm.ui.server.studio import Studio
from vcm.volume import Volume
from vcm.weights.calibration import Calibration, Lesion
from vcm.weights.checkpoint import LoadedModel

ROOT = Path(__file__).parent.parent
MOST_BYTES = 3 * 2**20


@pytest.fixture(scope="module")
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model, segmenter=Judge())


@pytest.fixture(scope="module")
def request_(pipeline: Pipeline) -> GenerationRequest:
    labels = np.zeros(pipeline.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    return GenerationRequest({"tumor": Volume(labels, pipeline.grid.affine)}, num_inference_steps=4, seed=5)


@pytest.fixture(scope="module")
def examples(pipeline: Pipeline, request_: GenerationRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    save_example(folder / "01-first", "First", "A sentence.", pipeline(request_))
    return folder


@pytest.fixture(scope="module")
def lesson(pipeline: Pipeline, examples: Path) -> Lesson:
    return make_lesson(load_examples(examples)[0], pipeline)


@pytest.fixture(scope="module")
def url(pipeline: Pipeline, examples: Path, lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("lessons")
    save_lesson(folder, lesson)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "LESSONS", folder)
        blocks = build_app(pipeline, examples)
    blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    yield blocks.local_url
    blocks.close(verbose=False)


# ---- The embedded ones ---------------------------------------------------------------------------------------------


def test_the_lessons_were_made_by_the_embedded_weights() -> None:
    weights = Pipeline.from_pretrained("mini", device="cpu").environment.weights
    lessons = load_lessons(LESSONS)
    stale = [lesson.slug for lesson in lessons if not lesson.is_of(weights)]
    assert stale == [], "make them again: python -m vcm.ui.learn.make_lessons"
    assert [lesson.slug for lesson in lessons] == [example.slug for example in load_examples(page.EXAMPLES)]
    assert all(set(lesson.figures) == {kind.name for kind in KINDS} for lesson in lessons)


def test_the_lessons_are_small() -> None:
    assert sum(path.stat().st_size for path in LESSONS.rglob("*") if path.is_file()) < MOST_BYTES


def test_the_lesson_has_five_tasks_and_the_readme_leads_to_it() -> None:
    tasks = re.split(r"^### ", LESSON_PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(tasks) == 5
    assert all(f"**{part}:**" in task for task in tasks for part in ("Do", "See", "Why"))
    assert "(docs/lesson.md)" in (ROOT / "README.md").read_text()
    named = {title for title in re.findall(r"\*([^*:]+\?)\*", LESSON_PAGE.read_text()) if title[0].isupper()}
    titles = {kind.title for kind in KINDS} | {"How small may a lesion be?", "Does it follow the drawing?"}
    assert named <= titles


# ---- Figures -------------------------------------------------------------------------------------------------------


def test_a_lesson_comes_back_as_it_was_saved(lesson: Lesson, tmp_path: Path) -> None:
    save_lesson(tmp_path, lesson)
    save_lesson(tmp_path, replace(lesson, slug="00-before"))
    before, again = load_lessons(tmp_path)
    assert before.slug == "00-before"
    assert (again.title, again.weights) == (lesson.title, lesson.weights)
    for kind, figure in lesson.figures.items():
        assert again.figures[kind].sheet == figure.sheet
        assert render_figure(again.figures[kind]) == render_figure(figure)


def test_a_broken_lesson_takes_nothing_else_with_it(lesson: Lesson, tmp_path: Path) -> None:
    save_lesson(tmp_path, lesson)
    save_lesson(tmp_path, replace(lesson, slug="02-broken"))
    (tmp_path / "02-broken" / "pair.webp").unlink()
    save_lesson(tmp_path, replace(lesson, slug="03-wrong"))
    (tmp_path / "03-wrong" / "lesson.json").write_text("{")
    assert [each.slug for each in load_lessons(tmp_path)] == ["01-first"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_drawn_from_its_first_result_to_its_last(kind, pipeline, request_) -> None:
    # Without a condition nothing is scored and the VCM is never asked; the second time the volume is known.
    for conditions in (request_.conditions, {}, {}):
        events = kind.explore(pipeline, replace(request_, conditions=conditions))
        results = [event for event in events if not isinstance(event, Advance)]
        assert len(results) == kind.runs
        for result in results:
            figure = draw_figure(result)
            assert figure.facts["kind"] == kind.name
            json.dumps(figure.facts, allow_nan=False)
            told = text_of(render_figure(figure))
            assert "None" not in told
            assert "nan" not in told


def test_every_picture_of_a_figure_lies_on_its_sheet(lesson: Lesson) -> None:
    for figure in lesson.figures.values():
        at = re.findall(r"--x:(\d+);--y:(\d+)", render_figure(figure))
        assert all(int(x) < figure.facts["columns"] and int(y) < figure.facts["rows"] for x, y in at)
        assert bool(at) == bool(figure.sheet)


def test_sentences_come_from_the_numbers() -> None:
    edges = [0.0, 0.5, 1.0]
    cells = [[0.0, 0.5, 0.75, 0.1], [0.0, 1.0, 0.8, 0.1], [0.5, 1.0, 0.02, 0.1]]
    facts = {"kind": "window", "edges": edges, "steps": 10, "cells": cells}
    told = text_of(render_figure(Figure(facts)))
    assert "Control until 0.5 is enough for nine tenths of the overlap that the whole way gives (0.80)" in told
    assert "Control that begins at 0.5 or later comes too late: 0.02" in told
    hardly = {**facts, "cells": [[start, end, dice / 10, 0.1] for start, end, dice, _ in cells]}
    assert "The lesson hardly forms" not in told
    assert "The lesion hardly forms" in text_of(render_figure(Figure(hardly)))


def test_what_has_no_lesion_is_told_by_what_moves() -> None:
    shared = {"columns": 1, "rows": 1, "size": [8, 8]}
    pair = {"kind": "pair", "dice": [None, None], "brightest": 0.0488, **shared}
    assert "differ by less than 0.049; black to white is 1" in text_of(render_figure(Figure(pair)))
    assert "they are the same" in text_of(render_figure(Figure({**pair, "brightest": 0.0})))
    sweep = {"kind": "guidance", "scales": [0.0, 1.0, 3.0], "distance": [0.0, 0.0054, 0.0144], **shared}
    assert "At 3 the volume is 0.014 away from the uncontrolled one" in text_of(render_figure(Figure(sweep)))
    seeds = {"kind": "seeds", "seeds": [7, 8], "ventricles_ml": [64.5, 59.4], "brightest": 0.3, **shared}
    told = text_of(render_figure(Figure(seeds)))
    assert "In 2 brains the ventricles have 59 to 64 ml" in told
    assert "ventricles 59 ml" in told
    cells = [[0.0, 1.0, None, 0.0055]]
    window = {"kind": "window", "edges": [0.0, 1.0], "steps": 10, "cells": cells}
    assert "the cells say how far the volume moves" in text_of(render_figure(Figure(window)))


def test_the_calibration_says_honestly_how_small_a_lesion_may_be() -> None:
    assert "not been measured" in text_of(render_calibration(None))
    rows = [Lesion(float(ml), 2.0 * ml, 10.0 + ml, 0.1 if ml < 10 else 0.8) for ml in range(1, 21)]
    told = text_of(render_calibration(Calibration(tuple(rows))))
    assert "has 10 ml, about 20 mm across" in told
    told = text_of(render_calibration(Calibration(tuple(replace(row, dice=0.2) for row in rows))))
    assert "No size is followed reliably: of the 5 largest lesions, 0 came out where they were drawn" in told


def test_charts_are_sound_whatever_the_numbers() -> None:
    for xs, ys in (([], []), ([1.0], [0.0]), ([0.0, 1.0], [None, 0.5]), ([0.0, 3.0], [0.0, 0.041])):
        drawn = draw_line(xs, ys, x_title="a < b", y_title='"y"', has_marker=bool(xs))
        assert len(ElementTree.fromstring(drawn).findall("circle")) == len([y for y in ys if y is not None])
    points = [(0.0, 0.0, False), (0.1, 25.0, False), (79.0, 65.0, True)]
    circles = ElementTree.fromstring(draw_scatter(points, x_title="x", y_title="y", told="t")).findall("circle")
    assert [circle.get("class") for circle in circles] == ["dot hollow", "dot hollow", "dot"]
    assert all(0 < float(circle.get("cx")) < 320 and 0 < float(circle.get("cy")) < 190 for circle in circles)


# ---- On the page ---------------------------------------------------------------------------------------------------


def test_lessons_of_other_weights_are_named_as_such(pipeline: Pipeline, lesson: Lesson, tmp_path: Path) -> None:
    save_lesson(tmp_path, lesson)
    assert not load_teaching(tmp_path, pipeline).is_stale
    save_lesson(tmp_path, replace(lesson, weights={"vcm.safetensors": "others"}))
    assert load_teaching(tmp_path, pipeline).is_stale
    assert not load_teaching(tmp_path / "nothing", pipeline).is_stale


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_lesson_runs_on_what_the_page_is_set_to(kind, url: str) -> None:
    visitor = Visitor(url)
    started = visitor.find(f"lesson-{kind.name}-run", "click")
    running = visitor.after(started)
    *steps, end = visitor.follow(running, visitor.join(running, {"steps": 4}))
    assert "% done" in steps[0][f"lesson-{kind.name}-status"]
    assert "On your drawing, with seed 5 and 4 steps." in text_of(end[f"lesson-{kind.name}-status"])
    assert "lesson-figure" in end[f"lesson-{kind.name}-figure"]


def test_what_is_wrong_with_a_drawing_is_said_in_one_sentence(url: str) -> None:
    visitor = Visitor(url)
    running = visitor.after(visitor.find("lesson-pair-run", "click"))
    *_, end = visitor.follow(running, visitor.join(running, {"use-anatomy": True}))
    assert "Anatomy is ticked, but there is no map for it" in text_of(end["lesson-pair-status"])


def test_what_would_keep_others_waiting_is_refused(pipeline: Pipeline, request_, url: str, monkeypatch) -> None:
    monkeypatch.setattr(Studio, "estimate_seconds", lambda *_, **__: 100.0)
    visitor = Visitor(url)
    running = visitor.after(visitor.find("lesson-seeds-run", "click"))
    *_, end = visitor.follow(running, visitor.join(running, {}))
    assert "It would take about 13 min 20 s here" in text_of(end["lesson-seeds-status"])


def test_the_page_has_every_part_that_the_tour_speaks_of(pipeline: Pipeline, examples: Path) -> None:
    blocks: gr.Blocks = build_app(pipeline, examples)
    names = {getattr(block, "elem_id", None) for block in blocks.blocks.values()}
    assert len(STEPS) == 5
    assert {target.removeprefix("#") for target, _, _ in STEPS} <= names
