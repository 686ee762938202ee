"""Make the figures and tables of README and model card again, from an evaluation and the weights it is of.

The tables and the pictures of a benchmark and of a study are made here, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vcm.data.cohort import read_json, write_json
from vcm.data.simulate import FIRST_TEST_SEED
from vcm.model.config import ModelConfig
from vcm.pipeline import Pipeline
from vcm.research.benchmark.benchmark import RESULTS_FILE as BENCHMARK_FILE
from vcm.research.benchmark.plot import draw_benchmark
from vcm.research.benchmark.table import summarize_benchmark
from vcm.research.evaluate.evaluate import RESULTS_FILE
from vcm.research.report.figures import COHORT_SEEDS, draw_cohort, draw_samples
from vcm.research.report.model_card import summarize_goals, write_model_card
from vcm.research.report.source_line import tell_source
from vcm.research.study.conduct import RESULTS_FILE as STUDY_FILE
from vcm.research.study.plot import draw_study
from vcm.research.study.table import summarize_study
from vcm.weights.checkpoint import CONFIG_FILE, write_bytes, write_sums

GOALS, PICTURES, BENCHMARK, STUDY = "figures", "pictures", "benchmark", "study"
"""The parts of a README that are made here; each stands between two `mark` lines."""

SAMPLES_PICTURE, COHORT_PICTURE, BENCHMARK_PICTURE, STUDY_PICTURE = (
    f"{name}.png" for name in ("samples", "cohort", "benchmark", "study")
)
_SAMPLES = "The same noise without and with the tumor, beside simulated subjects"
_COHORT = "Twelve simulated subjects in three planes: contrast-enhanced T1, T2, FLAIR, labels"
_ALTERNATIVES = {
    BENCHMARK: "Every loop's CPU time beside its distance to the exact solution and beside its adherence",
    STUDY: "Every method's tumor Dice beside the number of subjects it learned from, and beside its parameters",
}
_FILES = {BENCHMARK: (BENCHMARK_FILE, BENCHMARK_PICTURE), STUDY: (STUDY_FILE, STUDY_PICTURE)}


def mark(part: str) -> tuple[str, str]:
    """Return the lines of a README that a part begins and ends with."""
    return f"<!-- {part} -->", f"<!-- /{part} -->"


def write_report(folder: Path, *, evaluation: Path | None = None, readme: Path | None = None) -> list[Path]:
    """Write the model card, and the table of goals in a README; returns what was written.

    Args:
        folder: of the model; the evaluation is kept in it, so that the report can be made again.
        evaluation: the evaluation.json to use, by default the one in `folder`.
        readme: a file with the table's two markers; None leaves it out.

    Raises:
        ValueError: there is no evaluation, it is not whole or of other weights, or the README has no markers.
    """
    kept = folder / RESULTS_FILE
    source = evaluation or kept
    if not source.is_file():
        raise ValueError("There is no evaluation of this model yet: run vcm evaluate, and name its evaluation.json.")
    results = read_json(source)
    written = [write_model_card(folder, results)]
    if source != kept:
        write_json(kept, results)
        write_sums(folder)
    if readme is not None:
        name = ModelConfig.from_json((folder / CONFIG_FILE).read_text()).name
        _replace(readme, GOALS, summarize_goals(results, name))
        written.append(readme)
    return written


def write_benchmark(
    source: Path, *, beside: Path | None = None, readme: Path | None = None, pictures: Path | None = None
) -> list[Path]:
    """Keep a benchmark beside the pictures, draw it, and write its part of a README; returns what was written.

    Args:
        source: what `vcm benchmark` wrote.
        beside: what it wrote on another device, under another name; its figures follow, and it is kept, too.
        readme: a file with the part's two markers; None leaves it out.
        pictures: a folder for benchmark.json and benchmark.png; None leaves them out.

    Raises:
        ValueError: there is no such file, it is not whole, there is nothing to write, or the README has no markers.
    """
    if beside is not None and beside.name == BENCHMARK_FILE:
        raise ValueError(f"The benchmark beside it is kept under its own name: it cannot be {beside.name}.")
    results = _read(source, BENCHMARK, readme, pictures)
    if "quality" not in results:
        raise ValueError("The benchmark was not run to its end: it lacks the quality of its volumes.")
    other = None if beside is None else _read(beside, BENCHMARK, readme, pictures)
    if beside is not None and other is not None and "previews" not in other:
        raise ValueError(f"The benchmark {beside.name} was not run to its end: it lacks figures.")
    text = summarize_benchmark(results, other)
    written = _write_part(BENCHMARK, results, text, draw_benchmark, readme, pictures)
    if beside is not None and other is not None and pictures is not None:
        write_json(pictures / beside.name, other)
        written.append(pictures / beside.name)
    return written


def write_study(source: Path, *, readme: Path | None = None, pictures: Path | None = None) -> list[Path]:
    """Keep a study beside the pictures, draw it, and write its part of a README; returns what was written.

    Args:
        source: what `vcm study` wrote, whole or so far.
        readme: a file with the part's two markers; None leaves it out.
        pictures: a folder for study.json and study.png; None leaves them out.

    Raises:
        ValueError: there is no such file, nothing in it has ended, there is nothing to write, or the README has no
            markers.
    """
    results = _read(source, STUDY, readme, pictures)
    return _write_part(STUDY, results, summarize_study(results), draw_study, readme, pictures)


def _read(source: Path, part: str, readme: Path | None, pictures: Path | None) -> dict[str, Any]:
    if not source.is_file():
        raise ValueError(f"There is no {part} yet: run vcm {part}, and name its {source.name}.")
    if readme is None and pictures is None:
        raise ValueError(f"Say what to make of the {part}: give --readme, --pictures, or both.")
    return read_json(source)


def _write_part(
    part: str,
    results: dict[str, Any],
    text: str,
    draw: Callable[[dict[str, Any], Path], Path],
    readme: Path | None,
    pictures: Path | None,
) -> list[Path]:
    """Write the results and their picture into a folder, and their text into a README."""
    written: list[Path] = []
    if pictures is not None:
        kept, drawn = (pictures / name for name in _FILES[part])
        pictures.mkdir(parents=True, exist_ok=True)
        draw(results, drawn)  # refused where there is nothing to draw, before anything is written
        write_json(kept, results)
        written += [kept, drawn]
        if readme is not None:
            text = f"![{_ALTERNATIVES[part]}]({_find_beside(readme, drawn)})\n\n{text}"
    if readme is not None:
        _replace(readme, part, text)
        written.append(readme)
    return written


def draw_pictures(pipeline: Pipeline, folder: Path) -> list[Path]:
    """Draw cohort.png and samples.png into a folder; returns their paths."""
    return [draw_samples(pipeline, folder / SAMPLES_PICTURE), draw_cohort(folder / COHORT_PICTURE)]


def write_pictures(pipeline: Pipeline, folder: Path, readme: Path | None = None) -> list[Path]:
    """Draw the pictures into a folder, and show them in a README where one is given; returns what was written.

    Raises:
        ValueError: the README has no markers.
    """
    written = draw_pictures(pipeline, folder)
    if readme is not None:
        command, weights = "vcm report --pictures assets", pipeline.environment.weights
        text = "\n".join(
            f"![{told}]({_find_beside(readme, path)})\n\n{tell_source(command, sums, facts)}"
            for path, told, sums, facts in (
                (written[0], _SAMPLES, weights, f"test subjects from seed {FIRST_TEST_SEED}, {pipeline.precision}"),
                (written[1], _COHORT, {}, f"seeds {COHORT_SEEDS[0]} to {COHORT_SEEDS[-1]}"),
            )
        )
        _replace(readme, PICTURES, text)
        written.append(readme)
    return written


def _find_beside(readme: Path, picture: Path) -> str:
    return Path(os.path.relpath(picture, readme.parent)).as_posix()


def _replace(readme: Path, part: str, text: str) -> None:
    begin, end = mark(part)
    before, found_begin, rest = readme.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"The README has no place for the {part}: a line {begin} and a line {end}.")
    write_bytes(readme, f"{before}{begin}\n{text}{end}{after}".encode())
