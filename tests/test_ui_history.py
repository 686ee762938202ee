"""The history of a visit: what is remembered and for how long, what comes back, and what a comparison shows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.app import build_app
from vcm.ui.canvas.volume_files import read_volume_file
from vcm.ui.palette import build_palette
from vcm.ui.sections.history import GoneError, PastRun, check_files, compare_runs, list_runs, remember
from vcm.ui.sections.run_facts import describe_run
from vcm.ui.server.session_files import KEPT_RUNS
from vcm.ui.views import Shown, view_files, view_result
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel

VISITOR = SimpleNamespace(session_hash="x")


@pytest.fixture(scope="module")
def pipeline(tiny_model: LoadedModel) -> Pipeline:
    return Pipeline(tiny_model)


@pytest.fixture
def show(pipeline: Pipeline, tmp_path: Path):
    """Run a seed, with a drawing of some width, and show it as the page does."""

    def run(seed: int, width: int = 0) -> Shown:
        labels = np.zeros(pipeline.grid.shape, np.uint8)
        labels[5 : 5 + width, 8:14, 5:9] = 2
        conditions = {"tumor": Volume(labels, pipeline.grid.affine)} if width else {}
        result = pipeline(GenerationRequest(conditions, seed=seed, num_inference_steps=1))
        palette = build_palette(pipeline, "tumor")
        view, files = view_result(result, palette, tmp_path), view_files(result, palette, tmp_path)
        return Shown(view, files, facts=describe_run(result, palette))

    return run


def test_the_newest_run_comes_first_and_a_known_recipe_keeps_its_number(show):
    first, second = show(1), show(2)
    runs = remember(remember((), first), second)
    assert [run.number for run in runs] == [2, 1]
    assert remember(runs, first) == runs  # shown again, not run again
    again = replace(first, facts=replace(first.facts, finished_at=first.facts.finished_at + 60))
    assert [run.number for run in remember(runs, again)] == [1, 2]


def test_only_finished_runs_of_this_visit_are_remembered(show):
    assert remember((), None) == ()
    assert remember((), replace(show(1), facts=None)) == ()  # an example, or a comparison


def test_a_history_holds_as_many_runs_as_there_are_files(show):
    runs = ()
    for seed in range(KEPT_RUNS + 2):
        runs = remember(runs, show(seed))
    assert [run.number for run in runs] == list(range(KEPT_RUNS + 2, 2, -1))
    for run in runs:
        check_files(run)


def test_a_run_is_listed_with_its_settings_and_a_small_picture(show):
    (listed,) = list_runs(remember((), show(7, width=4)))
    assert listed["number"] == 1
    assert "Seed 7 \u00b7 guidance 1 \u00b7 1 step \u00b7 tumor" in listed["text"]
    assert listed["picture"].startswith("data:image/webp;base64,")
    assert len(str(listed)) < 10_000


def test_a_comparison_shows_both_volumes_and_what_a_has_more_than_b(show, pipeline, tmp_path):
    first, second = PastRun(3, show(1)), PastRun(5, show(2))
    view = compare_runs(first, second, tmp_path)
    assert [layer.name for layer in view.viewer.layers] == ["A: run 3", "B: run 5", "Difference"]
    a, b, difference = (
        read_volume_file(layer.file.path, pipeline.grid.shape).astype(float) for layer in view.viewer.layers
    )
    clipped = ((a - b) / 255).clip(-0.5, 0.5)
    np.testing.assert_allclose(difference / 255 - 0.5, clipped, atol=1 / 255)
    assert np.abs(clipped).max() > 0.1
    assert [view.controlled.layers[0].file, view.uncontrolled.layers[0].file] == [
        run.shown.result.viewer.layers[0].file for run in (first, second)
    ]


def test_the_drawing_is_outlined_only_where_both_runs_have_the_same(show, tmp_path):
    one, same, other = (PastRun(n, show(n, width=width)) for n, width in ((1, 4), (2, 4), (3, 6)))
    alike, unlike = compare_runs(one, same, tmp_path), compare_runs(one, other, tmp_path)
    assert alike.viewer.mask is not None
    assert alike.viewer.labels
    assert "another" not in alike.adherence
    assert unlike.viewer.mask is None
    assert not unlike.viewer.labels  # their volumes would be those of no drawing
    assert "<td data-differs>another</td>" in unlike.adherence


def test_a_run_whose_files_are_gone_is_told_in_one_sentence(show, tmp_path):
    run, other = PastRun(4, show(1)), PastRun(5, show(2))
    Path(run.shown.result.viewer.layers[0].file.path).unlink()
    for look in (lambda: check_files(run), lambda: compare_runs(other, run, tmp_path)):
        with pytest.raises(GoneError, match=r"^The files of run 4 are gone[^.]*\.$"):
            look()


@pytest.fixture
def handlers(tiny_model, tmp_path):
    """The handlers of an app on the tiny model, by name."""
    blocks = build_app(Pipeline(tiny_model), tmp_path / "no-examples")
    return {function.fn.__name__: function.fn for function in blocks.fns.values() if callable(function.fn)}


@pytest.mark.parametrize("event", [{}, {"run": 2}, {"run": "<b>"}, {"a": 1, "b": 1}, {"a": 1, "b": [1]}])
def test_a_forged_choice_is_answered_by_one_sentence(handlers, show, event):
    runs = remember((), show(1))
    answers = [
        handlers["recall_run"](runs, "", SimpleNamespace(**event), VISITOR),
        handlers["compare_two_runs"](runs, "", SimpleNamespace(**event), VISITOR),
    ]
    for answer in answers:
        (status,) = answer.values()
        assert 'role="alert"' in status


def test_what_is_shown_again_does_not_talk_over_a_run_under_way(handlers, show):
    runs = remember((), show(1))
    choice = SimpleNamespace(run=1)
    quiet = handlers["recall_run"](runs, "", choice, VISITOR)
    running = handlers["recall_run"](runs, '<div data-kind="running">', choice, VISITOR)
    assert len(running) == len(quiet) - 1
    assert any("Run 1 is shown again" in str(value) for value in quiet.values())
    assert not any("Run 1 is shown again" in str(value) for value in running.values())
