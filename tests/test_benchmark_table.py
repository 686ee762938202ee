"""The benchmark's tables: ratios as they follow, goals reached or not, and what was left out stays out."""

import pytest
from measured import build_results, estimate, seconds

from vcm.research.benchmark.table import collect_figures, collect_ratios, list_lines, summarize_benchmark


@pytest.fixture
def results():
    return build_results()


def find(results, name):
    return next(figure for figure in collect_figures(results) if figure.name == name)


def test_ratios_are_of_medians_and_their_spread_is_that_of_the_rounds(results):
    figure = find(results, "published / ours, CPU time")
    assert figure.estimate["value"] == pytest.approx(40)
    assert figure.estimate["interval"] == pytest.approx([40, 40])  # in every round both were as slow
    results["runs"]["ours"]["cpu_rounds"] = [5.0] * 5
    assert find(results, "published / ours, CPU time").estimate["interval"] == pytest.approx([36.8, 43.2])
    assert find(results, "prior in float32 / ours").estimate["value"] == pytest.approx(4)
    once = find(results, "VCM with the encoder every step / encoder once")
    assert once.estimate["value"] == pytest.approx(0.12 / 0.044)


def test_every_goal_is_told_as_reached_or_not(results):
    verdicts = {figure.name: figure.verdict for figure in collect_figures(results) if figure.goal}
    assert verdicts == {
        "published / ours in float32, CPU time": "reached",
        "published / ours, CPU time": "reached",
        "VCM a step / prior a step": "reached",
        "VCM a step / prior a step, float32": "reached",
        "previews, share of a run's CPU time": "**not reached**",
        "peak memory of a process with three runs": "reached",
        "the same recipe again, wall time": "reached",
        "whole-tumor Dice, published - ours": "reached",
    }


def test_the_figures_of_another_processor_follow(results):
    other = build_results() | {"precision": "float32", "native_bfloat16": False}
    other["parts"]["adapter"]["float32"] = seconds(0.061)
    alone, both = summarize_benchmark(results), summarize_benchmark(results, other)
    assert both.startswith(alone)
    follows = both.removeprefix(alone)
    assert "on a CPU without AVX512_BF16, ours in float32" in follows
    (row,) = (line for line in follows.splitlines() if line.startswith("| VCM a step / prior a step, float32 "))
    assert "not reached" in row
    assert "steps |" not in follows  # its loops stay in the file


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("published / ours in float32, CPU time", lambda r: r["runs"].update({"ours in float32": seconds(20.1)})),
        ("published / ours, CPU time", lambda r: r["runs"].update(ours=seconds(13.4))),
        ("VCM a step / prior a step", lambda r: r["parts"]["adapter"].update(ours=seconds(0.0151))),
        ("VCM a step / prior a step, float32", lambda r: r["parts"]["adapter"].update(float32=seconds(0.0601))),
        ("peak memory of a process with three runs", lambda r: r["session"].update(peak_memory_mib=2385.0)),
        ("the same recipe again, wall time", lambda r: r["page"].update(same_recipe=seconds(0.151))),
        (
            "whole-tumor Dice, published - ours",
            lambda r: r["quality"]["loops"]["ours"].update(dice_below_published=estimate(-0.021)),
        ),
    ],
)
def test_a_goal_that_is_missed_by_a_hair_is_not_reached(results, name, spoil):
    assert find(results, name).verdict == "reached"
    spoil(results)
    assert find(results, name).verdict == "**not reached**"


def test_the_share_of_previews_is_what_a_run_loses_without_them(results):
    assert find(results, "previews, share of a run's CPU time").estimate["value"] == pytest.approx(0.2)


def test_the_goal_of_the_defaults_holds_only_where_the_processor_has_bfloat16(results):
    results["native_bfloat16"] = False
    assert find(results, "published / ours, CPU time").goal is None
    assert find(results, "published / ours in float32, CPU time").goal is not None


def test_the_lines_begin_with_exact_counts(results):
    lines = list(list_lines(results))
    assert lines[0] == "published: calls of prior 400, adapter 200, encode 200, decode 2; 90.00 TFLOP"
    assert lines[1].startswith("ours: calls of prior 40, adapter 20, encode 1, decode 2; 5.00")
    assert lines[2].endswith("goal at least 10: reached")
    assert any(line.endswith("goal at most 0.1: not reached") for line in lines)


def test_the_readme_has_every_loop_with_its_speed_beside_its_quality(results):
    text = summarize_benchmark(results)
    assert "| Published: DDIM, 200 steps | 200.00 s [184.00, 216.00] | 1.0 | 0.050 | 0.750 [0.700, 0.800] |" in text
    assert "| Ours: UniPC, 20 steps | 5.00 s [4.60, 5.40] | 40.0 | 0.052 | 0.740 [0.690, 0.790] |" in text
    assert "| DPM-Solver++(2M), 20 steps | 5.20 s [4.78, 5.62] | 38.5 |" in text
    assert "| Ours, uncontrolled volume cached: UniPC, 20 steps | 3.00 s [2.76, 3.24] | 66.7 |  |  |" in text
    assert "| Previews, share of a run's CPU time | 0.200 [0.200, 0.200] | 5 | at most 0.1 | **not reached** |" in text
    assert "| Payload of the viewer: slices, 1024 KiB, wall time | 0.060 s [0.055, 0.065] | 5 |  |  |" in text
    assert "a mean of 16 simulated test" in text


def test_what_was_not_measured_is_neither_told_nor_judged(results):
    del results["session"], results["page"]
    quality = results["quality"]
    quality["masks"] = 0
    for row in quality["loops"].values():
        row["dice"] = row["dice_below_published"] = estimate(None)
    names = [figure.name for figure in collect_figures(results)]
    assert names[: len(list(collect_ratios(results)))] == [figure.name for figure in collect_ratios(results)]
    assert not [name for name in names if "recipe" in name or "memory" in name or "Dice" in name]
    text = summarize_benchmark(results)
    assert "test masks" not in text
    assert "| Ours: UniPC, 20 steps | 5.00 s [4.60, 5.40] | 40.0 | 0.052 | not measured |" in text
