"""The report: model card and README's table from an evaluation, which stays with the model."""

import json
from types import SimpleNamespace

import pytest
from judged import evaluation, folder
from measured import build_results

from vcm.research.report.report import BENCHMARK, GOALS, PICTURES, mark, write_benchmark, write_pictures, write_report
from vcm.weights.checkpoint import load_model

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
    assert text.endswith(f".</sub>\n{TABLE_END}\nafter\n")
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


def test_the_report_of_a_benchmark_keeps_it_draws_it_and_writes_its_part_of_the_readme(tmp_path):
    results = build_results()
    source, readme, assets = tmp_path / "benchmark.json", tmp_path / "README.md", tmp_path / "assets"
    source.write_text(json.dumps(results))
    assets.mkdir()
    begin, end = mark(BENCHMARK)
    goals = f"{TABLE_BEGIN}\nthe goals\n{TABLE_END}\n"
    readme.write_text(f"{goals}before\n{begin}\nan old table\n{end}\nafter\n")
    kept, picture = assets / "benchmark.json", assets / "benchmark.png"
    assert write_benchmark(source, readme=readme, pictures=assets) == [kept, picture, readme]
    assert json.loads(kept.read_text()) == results
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = readme.read_text()
    assert text.startswith(f"{goals}before\n{begin}\n![")
    assert "](assets/benchmark.png)\n\n" in text
    made = "`vcm benchmark --model mini --out benchmark`; torch 2.13.0"
    told = f"<sub>{made}; SHA-256 of the weights: vcm `aaaaaaaaaaaa`.</sub>"
    assert text.endswith(f"|\n\n{told}\n{end}\nafter\n")
    assert "an old table" not in text
    assert "| Published / ours, CPU time | 40.0 [40.0, 40.0] | 5 | at least 15 | reached |" in text

    write_benchmark(kept, readme=readme, pictures=assets)  # what is kept is enough to make it again
    assert readme.read_text() == text


def test_a_benchmark_of_another_processor_is_kept_under_its_name_and_stands_below(tmp_path):
    source, other, readme = (tmp_path / name for name in ("benchmark.json", "old.json", "README.md"))
    results = build_results()
    source.write_text(json.dumps(results))
    del results["quality"]  # of the figures that follow it is no part
    other.write_text(json.dumps(results | {"native_bfloat16": False}))
    readme.write_text("\n".join([*mark(BENCHMARK), ""]))
    assets = tmp_path / "assets"
    assert assets / "old.json" in write_benchmark(source, beside=other, readme=readme, pictures=assets)
    assert json.loads((assets / "old.json").read_text()) == json.loads(other.read_text())
    assert readme.read_text().count("| Published / ours, CPU time |") == 2
    with pytest.raises(ValueError, match=r"it cannot be benchmark\.json"):
        write_benchmark(other, beside=source, pictures=assets)
    other.write_text(json.dumps({"model": "mini"}))
    with pytest.raises(ValueError, match=r"old\.json was not run to its end"):
        write_benchmark(source, beside=other, readme=readme)


def test_what_the_report_of_a_benchmark_lacks_is_said(tmp_path):
    source, readme = tmp_path / "benchmark.json", tmp_path / "README.md"
    with pytest.raises(ValueError, match="run vcm benchmark"):
        write_benchmark(source, readme=readme)
    results = build_results()
    source.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="give --readme, --pictures, or both"):
        write_benchmark(source)
    readme.write_text("no place for it\n")
    with pytest.raises(ValueError, match="has no place for the benchmark"):
        write_benchmark(source, readme=readme)
    del results["quality"]
    source.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="not run to its end"):
        write_benchmark(source, readme=readme)
    assert readme.read_text() == "no place for it\n"


def test_the_pictures_of_a_readme_say_what_they_are_of(monkeypatch, tmp_path):
    pipeline = SimpleNamespace(environment=SimpleNamespace(weights={"vcm.safetensors": 64 * "a"}), precision="float32")
    for name in ("draw_samples", "draw_cohort"):  # have tests of their own
        monkeypatch.setattr(f"vcm.research.report.report.{name}", lambda *arguments: arguments[-1])
    readme, assets = tmp_path / "README.md", tmp_path / "assets"
    begin, end = mark(PICTURES)
    readme.write_text(f"before\n{begin}\nold ones\n{end}\nafter\n")
    assert write_pictures(pipeline, assets, readme) == [assets / "samples.png", assets / "cohort.png", readme]
    text = readme.read_text()
    assert (
        "](assets/samples.png)\n\n<sub>`vcm report --pictures assets`; test subjects from seed 200000, float32; "
        in text
    )
    assert "SHA-256 of the weights: vcm `aaaaaaaaaaaa`.</sub>" in text
    assert "](assets/cohort.png)\n\n<sub>`vcm report --pictures assets`; seeds 200000 to 200011.</sub>" in text
    assert "old ones" not in text
    readme.write_text("no place for them\n")
    with pytest.raises(ValueError, match="has no place for the pictures"):
        write_pictures(pipeline, assets, readme)
