"""Make the figures and tables of README and model card again, from an evaluation and the weights it is of.

A benchmark's table and picture are made here, too.
"""

from __future__ import annotations

import os
from pathlib import Path

from vcm.benchmark import RESULTS_FILE as BENCHMARK_FILE
from vcm.benchmark_plot import draw_benchmark
from vcm.benchmark_table import summarize_benchmark
from vcm.checkpoint import write_bytes, write_sums
from vcm.dataset import read_json, write_json
from vcm.evaluate import RESULTS_FILE
from vcm.figures import draw_cohort, draw_samples
from vcm.model_card import summarize_goals, write_model_card
from vcm.pipeline import Pipeline

GOALS, BENCHMARK = "figures", "benchmark"
"""The parts of a README that are made here; each stands between two `mark` lines."""

BENCHMARK_PICTURE = "benchmark.png"
_ALTERNATIVE = "Every loop's CPU time beside its distance to the exact solution and beside its adherence"


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
        _replace(readme, GOALS, summarize_goals(results))
        written.append(readme)
    return written


def write_benchmark(source: Path, *, readme: Path | None = None, pictures: Path | None = None) -> list[Path]:
    """Keep a benchmark beside the pictures, draw it, and write its part of a README; returns what was written.

    Args:
        source: what `vcm benchmark` wrote.
        readme: a file with the part's two markers; None leaves it out.
        pictures: a folder for benchmark.json and benchmark.png; None leaves them out.

    Raises:
        ValueError: there is no such file, it is not whole, there is nothing to write, or the README has no markers.
    """
    if not source.is_file():
        raise ValueError("There is no benchmark yet: run vcm benchmark, and name its benchmark.json.")
    if readme is None and pictures is None:
        raise ValueError("Say what to make of the benchmark: give --readme, --pictures, or both.")
    results = read_json(source)
    if "quality" not in results:
        raise ValueError("The benchmark was not run to its end: it lacks the quality of its volumes.")
    written: list[Path] = []
    text = summarize_benchmark(results)
    if pictures is not None:
        kept, drawn = pictures / BENCHMARK_FILE, pictures / BENCHMARK_PICTURE
        pictures.mkdir(parents=True, exist_ok=True)
        draw_benchmark(results, drawn)  # refused where there is no quality to draw, before anything is written
        write_json(kept, results)
        written += [kept, drawn]
        if readme is not None:
            where = Path(os.path.relpath(drawn, readme.parent)).as_posix()
            text = f"![{_ALTERNATIVE}]({where})\n\n{text}"
    if readme is not None:
        _replace(readme, BENCHMARK, text)
        written.append(readme)
    return written


def draw_pictures(pipeline: Pipeline, folder: Path) -> list[Path]:
    """Draw cohort.png and samples.png into a folder; returns their paths."""
    return [draw_cohort(folder / "cohort.png"), draw_samples(pipeline, folder / "samples.png")]


def _replace(readme: Path, part: str, text: str) -> None:
    begin, end = mark(part)
    before, found_begin, rest = readme.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"The README has no place for the {part}: a line {begin} and a line {end}.")
    write_bytes(readme, f"{before}{begin}\n{text}{end}{after}".encode())
