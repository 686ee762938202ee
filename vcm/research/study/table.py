"""The study in tables: every method at every size, what it costs, and the ablations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcm.modalities.names import TUMOR
from vcm.research.report.model_card import markdown_table
from vcm.research.report.source_line import spell_command, tell_source
from vcm.research.study.measuring import FLOOR
from vcm.research.study.methods import BUILDERS, TITLES
from vcm.research.study.plan import REPEATED, VARIANTS, StudyPlan, find_main, list_runs

Row = tuple[str, ...]

_FIGURE_TITLES = ("tumor Dice [95 % interval]", "MMD", "MS-SSIM", "change outside")


def summarize_study(results: Mapping[str, Any]) -> str:
    """Return the study as Markdown; what was not run yet is left out.

    Args:
        results: what `vcm.research.study.conduct.conduct` returned.

    Raises:
        ValueError: no training has ended yet.
    """
    if not results["runs"]:
        raise ValueError("The study holds no finished training yet: run vcm study.")
    plan = results["plan"]
    text = (
        f"Every training: {plan['steps']} steps of {plan['batch_size']} pairs on the frozen backbone; "
        f"{plan['subjects']} test subjects whose largest lesion has at least {plan['lesion_mm']:g} mm, "
        f"{plan['num_inference_steps']} steps of sampling, guidance 1. On simulated data from one template. "
        f"{_count(results)}, {_hours(results)} hours of training in all.\n\n"
    )
    for title, table in tabulate_study(results).items():
        if len(table) > 1:
            text += f"**{title}**\n\n{markdown_table(table[0], table[1:])}\n"
    return text + _tell_source(results)


def _tell_source(results: Mapping[str, Any]) -> str:
    options = {name: f"--{name}" for name in ("steps", "subjects")}
    command = spell_command("vcm study --out study", results["plan"], StudyPlan(), options)
    return tell_source(command, results["weights"], "all tables of the study")


def tabulate_study(results: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return each table's title, and its rows, titles of the columns first."""
    samples = results["plan"]["sizes"][1]
    return {
        "The tumor drawn: methods by the number of subjects": [
            ("method", "subjects", "learning rate", *_FIGURE_TITLES),
            *_list_limits(results),
            *_list_methods(results, TUMOR),
        ],
        "Tumor, anatomy and T2 given": [
            ("method", "subjects", "learning rate", *_FIGURE_TITLES, "Dice, the tumor alone given"),
            *_list_methods(results, "three"),
        ],
        "Tumor Dice over three seeds": [
            ("method", "subjects", "each", "mean"),
            *_list_seeds(results),
        ],
        "Tumor Dice of a segmenter that learned from a method's volumes, on originals": [
            ("it learned from", "volumes", "Dice [95 % interval]"),
            *_list_taught(results),
        ],
        "What a method costs": [
            (
                "method",
                "trainable parameters",
                "GFLOP a step, backbone included",
                "a training step, CPU s",
                "a denoising step, CPU s",
                "memory of a training step, MiB",
            ),
            *_list_costs(results),
        ],
        f"Our VCM on {samples} subjects with one thing changed": [
            ("what", "trainable parameters", *_FIGURE_TITLES, "Dice, the tumor alone given"),
            *_list_variants(results),
        ],
        "Guidance, of methods on most subjects": [
            ("method", "guidance scale", *_FIGURE_TITLES),
            *_list_guidance(results),
        ],
    }


def list_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tables as lines for a terminal."""
    for title, table in tabulate_study(results).items():
        if len(table) < 2:
            continue
        yield ""
        yield title
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _list_limits(results: Mapping[str, Any]) -> Iterator[Row]:
    for name, figures in results["limits"].get("limits", {}).items():
        yield (name, "", "", *_cells(figures))


def _list_methods(results: Mapping[str, Any], arm: str) -> Iterator[Row]:
    for samples in results["plan"]["sizes"]:
        for method in BUILDERS:
            found = find_main(results["runs"], method, arm, samples)
            if found is not None:
                alone = [_dice(found["tumor_alone"])] if "tumor_alone" in found else []
                rate = f"{found['learning_rate']:g}"
                yield (TITLES[method], str(samples), rate, *_cells(found["figures"]), *alone)


def _list_seeds(results: Mapping[str, Any]) -> Iterator[Row]:
    for samples in results["plan"]["sizes"]:
        for method in REPEATED:
            found = [find_main(results["runs"], method, TUMOR, samples, seed) for seed in range(3)]
            values = [each["figures"]["dice"]["value"] for each in found if each is not None]
            if len(values) > 1:
                told = ", ".join(f"{value:.3f}" for value in values)
                yield (TITLES[method], str(samples), told, f"{sum(values) / len(values):.3f}")


def _list_taught(results: Mapping[str, Any]) -> Iterator[Row]:
    found = {"simulated originals (ceiling)": results["limits"].get("taught")}
    for method in BUILDERS:
        run = find_main(results["runs"], method, TUMOR, max(results["plan"]["sizes"])) or {}
        found[TITLES[method]] = run.get("taught")
    for title, taught in found.items():
        if taught is not None:
            yield (title, str(taught["lessons"]), _dice(taught))


def _list_costs(results: Mapping[str, Any]) -> Iterator[Row]:
    for method in BUILDERS:
        if (cost := results["costs"].get(method)) is not None:
            yield (
                TITLES[method],
                f"{cost['parameters']:,}",
                f"{cost['flops'] / 1e9:.1f}",
                f"{cost['training_step']['cpu_seconds']:.2f}",
                f"{cost['denoising_step']['cpu_seconds']:.2f}",
                f"{cost['memory_mib'] - cost['memory_before_mib']:.0f}",
            )


def _list_variants(results: Mapping[str, Any]) -> Iterator[Row]:
    """Yield each arm's unchanged VCM, then what was changed in that arm."""
    for arm in (TUMOR, "three"):
        own = find_main(results["runs"], "vcm", arm, results["plan"]["sizes"][1])
        changed = {
            told: next((run for run in results["runs"].values() if run["variant"] == name), None)
            for name, (where, told) in VARIANTS.items()
            if where == arm
        }
        if own is None or not any(changed.values()):
            continue
        base = "nothing" if arm == TUMOR else "nothing, three conditions"
        for told, run in {base: own, **changed}.items():
            if run is not None:
                alone = _dice(run["tumor_alone"]) if "tumor_alone" in run else ""
                yield (told, f"{run['parameters']:,}", *_cells(run["figures"]), alone)


def _list_guidance(results: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the floor, which guidance 0 leaves of any, then each method's scales in rising order."""
    guided = {
        method: run
        for method in REPEATED
        if "guidance" in (run := find_main(results["runs"], method, TUMOR, max(results["plan"]["sizes"])) or {})
    }
    floor = results["limits"].get("limits", {}).get(FLOOR)
    if guided and floor is not None:
        yield (FLOOR, "0", *_cells(floor))
    for method, run in guided.items():
        scales = {1.0: run["figures"]} | {float(scale): figures for scale, figures in run["guidance"].items()}
        for scale in sorted(scales):
            yield (TITLES[method], f"{scale:g}", *_cells(scales[scale]))


def _cells(figures: Mapping[str, Any]) -> Sequence[str]:
    return (
        _dice(figures),
        _told(figures["mmd"], "{:.1f}"),
        _told(figures["ms_ssim"], "{:.3f}"),
        _told(figures["change_outside"], "{:.4f}"),
    )


def _dice(figures: Mapping[str, Any]) -> str:
    found = figures["dice"]
    interval = found["interval"]
    told = _told(found, "{:.3f}")
    return f"{told} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else told


def _told(found: Mapping[str, Any] | None, form: str) -> str:
    return "" if found is None or found["value"] is None else form.format(found["value"])


def _count(results: Mapping[str, Any]) -> str:
    """Return how many trainings there are, and of how many where some are still to come."""
    plan = StudyPlan.from_json(results["plan"])
    done, planned = len(results["runs"]), sum(1 for _ in list_runs(plan))
    return f"{done} trainings" if done >= planned else f"So far {done} of {planned} trainings"


def _hours(results: Mapping[str, Any]) -> str:
    return f"{sum(run['training_seconds'] for run in results['runs'].values()) / 3600:.1f}"
