"""Make the figures and tables of README and model card again, from an evaluation and the weights it is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcm.checkpoint import write_bytes, write_sums
from vcm.dataset import read_json, write_json
from vcm.evaluate import RESULTS_FILE
from vcm.figures import draw_cohort, draw_samples
from vcm.model_card import summarize_goals, write_model_card
from vcm.pipeline import Pipeline

TABLE_BEGIN, TABLE_END = "<!-- figures -->", "<!-- /figures -->"
"""What stands between them in a README is the table of goals."""


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
        _replace_table(readme, results)
        written.append(readme)
    return written


def draw_pictures(pipeline: Pipeline, folder: Path) -> list[Path]:
    """Draw cohort.png and samples.png into a folder; returns their paths."""
    return [draw_cohort(folder / "cohort.png"), draw_samples(pipeline, folder / "samples.png")]


def _replace_table(readme: Path, results: Mapping[str, Any]) -> None:
    before, begin, rest = readme.read_text().partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not begin or not end:
        raise ValueError(f"The README has no place for the table: a line {TABLE_BEGIN} and a line {TABLE_END}.")
    table = summarize_goals(results)
    write_bytes(readme, f"{before}{TABLE_BEGIN}\n{table}{TABLE_END}{after}".encode())
