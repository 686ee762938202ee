"""The benchmark in lines and tables: counts, ratios beside their goals, and every loop's speed beside its quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.metrics import Estimate
from vcm.research.benchmark.plan import BenchmarkPlan
from vcm.research.report.model_card import Figure, Goal, markdown_table
from vcm.research.report.source_line import spell_command, tell_source
from vcm.sampler.solvers import SOLVERS

Results = Mapping[str, Any]
"""What `vcm.research.benchmark.benchmark.benchmark` returned."""

_FIGURE_TITLES = ("figure", "found [spread]", "n", "goal", "")
_LOOP_TITLES = ("loop", "CPU time [p10, p90]", "published / this", "distance to exact", "whole-tumor Dice")


def collect_ratios(results: Results) -> Iterator[Figure]:
    """Yield what was asked of the loop, each as a ratio of medians, with p10 and p90 of the rounds' own ratios."""
    runs, flops, steps = results["runs"], results["counts"]["flops"], results["plan"]["steps"]
    parts = {
        (part, name): _rounds(seconds) for part, taken in results["parts"].items() for name, seconds in taken.items()
    }
    adapter, encode, prior = (parts[part, "float32"] for part in ("adapter", "encode", "prior"))
    published, ours, ours_exact, half = (
        _rounds(runs[name]) for name in ("published", "ours", "ours in float32", "ours, uncontrolled volume cached")
    )
    overhead = Goal(most=0.15)
    has_fast_cpu = results["device"] == "cpu" and results["native_bfloat16"]
    yield _ratio("published / ours in float32, CPU time", published, ours_exact, Goal(10), digits=1)
    yield _ratio("published / ours, CPU time", published, ours, Goal(15) if has_fast_cpu else None, digits=1)
    yield _exact("published / ours, operations", flops["published"] / flops["ours"])
    yield _exact(
        "published / ours with the uncontrolled volume cached, operations",
        flops["published"] / flops["ours, uncontrolled volume cached"],
    )
    yield _ratio("ours / ours with the uncontrolled volume cached, CPU time", ours, half, digits=2)
    yield from _compare_solvers(results)
    yield _ratio("VCM a step / prior a step", parts["adapter", "ours"], parts["prior", "ours"], overhead)
    yield _ratio("VCM a step / prior a step, float32", adapter, prior, overhead)
    yield _ratio("VCM with the encoder every step / encoder once", adapter + encode, adapter + encode / steps, digits=2)
    yield _ratio("prior in float32 / ours", prior, parts["prior", "ours"], digits=2)
    yield _ratio("decoding in float32 / ours", parts["decode", "float32"], parts["decode", "ours"], digits=2)
    for part, name in (("prior", "prior"), ("adapter", "VCM"), ("decode", "decoding")):
        if (part, "plain") in parts:
            told = f"{name} in float32 with torch's own convolutions / with ours"
            yield _ratio(told, parts[part, "plain"], parts[part, "float32"], digits=2)


def collect_figures(results: Results) -> Iterator[Figure]:
    """Yield the ratios, then what else was measured, beside its goal."""
    yield from collect_ratios(results)
    shown, hidden = (_rounds(results["previews"][name]) for name in ("on", "off"))
    share = _ratio("", shown - hidden, shown).estimate
    yield Figure("previews, share of a run's CPU time", share, Goal(most=0.1))
    if "session" in results:
        session = results["session"]
        for stage, seconds in session["seconds"].items():
            yield Figure(f"{stage}, wall time", _wall(seconds), None, " s", 2)
        peak = session["peak_memory_mib"] * 2**20 / 1e9
        count = len(session["seconds"]["load"]["cpu_rounds"])
        memory: Estimate = {"value": peak, "interval": None, "count": count}
        yield Figure("peak memory of a process with three runs", memory, Goal(most=2.5, unit=" GB"), " GB", 2)
    if "page" in results:
        page = results["page"]
        yield Figure("the same recipe again, wall time", _wall(page["same_recipe"]), Goal(most=0.3, unit=" s"), " s")
        for name, payload in page["payloads"].items():
            size = f"{payload['bytes'] / 2**10:.0f} KiB"
            yield Figure(f"payload of the viewer: {name}, {size}, wall time", _wall(payload), None, " s")
        yield _exact("a result's voxels / payload of its slices, bytes", _shrinkage(page))
    if "quality" in results:
        below = results["quality"]["loops"]["ours"]["dice_below_published"]
        if below["count"]:
            yield Figure("whole-tumor Dice, published - ours", below, Goal(-0.02, 0.02))


def list_lines(results: Results) -> Iterator[str]:
    """Yield the lines that the command prints: exact counts, then ratios and goals, then every loop."""
    for loop, calls in results["counts"]["calls"].items():
        counted = ", ".join(f"{part} {count}" for part, count in calls.items())
        yield f"{loop}: calls of {counted}; {results['counts']['flops'][loop] / 1e12:.2f} TFLOP"
    for figure in collect_figures(results):
        name, found, count, goal, verdict = figure.row
        told = f"  goal {goal}: {verdict.strip('*')}" if goal else ""
        yield f"{name:66} {found}  n={count}{told}"
    for name, *cells in (_LOOP_TITLES, *_list_loops(results)):
        yield f"{name:56}{''.join(f'{cell:>25}' for cell in cells)}"


def summarize_benchmark(results: Results, beside: Results | None = None) -> str:
    """Return the benchmark as Markdown: how it was measured, figures beside their goals, and every loop.

    Args:
        beside: a benchmark on another device, whose figures follow.
    """
    plan, quality = results["plan"], results["quality"]
    where = "one CPU thread" if results["device"] == "cpu" else "one GPU"
    told = f"""\
The model *{results["model"]}* on {where}, ours in {results["precision"]}. The published loop takes
{plan["published_steps"]} DDIM steps in float32 and encodes the conditions at each of them. Both make a controlled and
an uncontrolled volume and decode them. Times are medians of n rounds in turns, with their p10 and p90."""
    if quality["noises"]:
        told += f"""
The distance is the RMSE of the latents to those that the same noise becomes in {quality["reference_steps"]} DDIM steps
in float32, a mean of {quality["noises"]}."""
    if quality["masks"]:
        told += f"""
Dice is between the drawn whole tumor and the one that the segmenter finds, a mean of {quality["masks"]} simulated test
masks with its 95 % interval."""
    loops = markdown_table(_LOOP_TITLES, ((_capitalize(name), *cells) for name, *cells in _list_loops(results)))
    text = f"{told}\n\n{loops}\n{_tabulate_figures(results)}"
    if beside is not None:
        text += f"\nThe same on {_name_device(beside)}, ours in {beside['precision']}:\n\n{_tabulate_figures(beside)}"
    return text


def _tabulate_figures(results: Results) -> str:
    figures = (figure.row for figure in collect_figures(results))
    table = markdown_table(_FIGURE_TITLES, ((_capitalize(name), *cells) for name, *cells in figures))
    return f"{table}\n{_tell_source(results)}"


def _tell_source(results: Results) -> str:
    command = f"vcm benchmark --model {results['model']} --out benchmark"
    options = {name: f"--{name}" for name in ("steps", "masks", "noises", "rounds")}
    told = spell_command(command, results["plan"], BenchmarkPlan(), options)
    return tell_source(told, results["weights"], f"torch {results['torch']}")


def _name_device(results: Results) -> str:
    if results["device"] != "cpu":
        return "a GPU"
    return f"a CPU {'with' if results['native_bfloat16'] else 'without'} AVX512_BF16"


def _capitalize(name: str) -> str:
    return name[0].upper() + name[1:]


def _list_loops(results: Results) -> Iterator[tuple[str, ...]]:
    """Yield cells: name, time, how much faster than the published loop, distance, Dice."""
    published = _rounds(results["runs"]["published"])
    for name, seconds in results["runs"].items():
        facts = results["loops"][name]
        settings = f"{SOLVERS[facts['sampler']].title}, {facts['steps']} steps"
        is_named = name != f"{facts['sampler']} {facts['steps']}"
        title = f"{name}: {settings}" if is_named else settings
        time = f"{seconds['cpu_seconds']:.2f} s [{seconds['cpu_p10']:.2f}, {seconds['cpu_p90']:.2f}]"
        quality = results["quality"]["loops"].get(name)
        found = ("", "") if quality is None else (_cell(quality["distance"]), _cell(quality["dice"], interval=True))
        yield title, time, _ratio("", published, _rounds(seconds), digits=1).found.split(" ")[0], *found


def _cell(estimate: Estimate, *, interval: bool = False) -> str:
    if estimate["value"] is None:
        return "not measured"
    shown = estimate if interval else {**estimate, "interval": None}
    return Figure("", shown).found


def _compare_solvers(results: Results) -> Iterator[Figure]:
    """Yield what the solver is worth: the published steps in our loop, where they were timed, against ours."""
    plan = results["plan"]
    many = f"ddim {plan['published_steps']}"
    if many in results["runs"]:
        name = f"DDIM {plan['published_steps']} / UniPC {plan['steps']}, both in our loop, CPU time"
        yield _ratio(name, _rounds(results["runs"][many]), _rounds(results["runs"]["ours"]), digits=1)


def _rounds(seconds: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.array(seconds["cpu_rounds"])


def _ratio(
    name: str, over: NDArray[np.float64], under: NDArray[np.float64], goal: Goal | None = None, digits: int = 3
) -> Figure:
    low, high = np.percentile(over / under, [10, 90])
    value = float(np.median(over) / np.median(under))
    return Figure(
        name, {"value": value, "interval": [float(low), float(high)], "count": len(over)}, goal, digits=digits
    )


def _exact(name: str, value: float) -> Figure:
    return Figure(name, {"value": value, "interval": None, "count": 1}, digits=1)


def _wall(seconds: Mapping[str, Any]) -> Estimate:
    spread = [seconds["wall_p10"], seconds["wall_p90"]]
    return {"value": seconds["wall_seconds"], "interval": spread, "count": len(seconds["cpu_rounds"])}


def _shrinkage(page: Mapping[str, Any]) -> float:
    return float(page["result_bytes"] / page["payloads"]["slices"]["bytes"])
