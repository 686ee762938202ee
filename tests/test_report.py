"""The report: model card and README's table from an evaluation, which stays with the model."""

import json

import pytest
from judged import evaluation, folder

from vcm.checkpoint import load_model
from vcm.report import GOALS, mark, write_report

TABLE_BEGIN, TABLE_END = mark(GOALS)

__all__ = ["evaluation", "folder"]  # fixtures


def test_the_report_writes_card_and_table_and_can_be_made_again_without_the_evaluations_folder(
    folder, evaluation, tmp_path
):
    source, readme = tmp_path / "evaluation.json", tmp_path / "README.md"
    source.write_text(json.dumps(evaluation))
    readme.write_text(f"before\n{TABLE_BEGIN}\nan old table\n{TABLE_END}\nafter\n")
    assert write_report(folder, evaluation=source, readme=readme) == [folder / "README.md", readme]
    text = readme.read_text()
    assert text.startswith(f"before\n{TABLE_BEGIN}\n| figure |")
    assert text.endswith(f"|\n{TABLE_END}\nafter\n")
    assert "an old table" not in text
    assert "| Autoencoder: PSNR, whole volume | 29.12 dB [28.50, 29.60] | 32 | at least 26 dB | reached |" in text
    load_model(folder)  # its sums count the evaluation

    source.unlink()
    card = (folder / "README.md").read_bytes()
    write_report(folder, readme=readme)
    assert (folder / "README.md").read_bytes() == card
    assert readme.read_text() == text


def test_what_the_report_lacks_is_said(folder, evaluation, tmp_path):
    with pytest.raises(ValueError, match="run vcm evaluate"):
        write_report(folder)
    source, readme = tmp_path / "evaluation.json", tmp_path / "README.md"
    source.write_text(json.dumps(evaluation))
    readme.write_text("no place for a table\n")
    with pytest.raises(ValueError, match="has no place for the figures"):
        write_report(folder, evaluation=source, readme=readme)
    assert readme.read_text() == "no place for a table\n"
