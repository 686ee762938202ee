"""`vcm evaluate`, `benchmark`, `study`, `report` and `doctor`: what a model and a machine are worth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vcm.cli.app import app
from vcm.cli.options import (
    DeviceOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    VcmWeightsOption,
    require_training_extra,
)

if TYPE_CHECKING:
    pass


@app.command()
def evaluate(
    out: OutOption,
    model: ModelOption = "mini",
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="With a tumor, for adherence.")] = 32,
    uncontrolled: Annotated[int, typer.Option("--uncontrolled", min=4, help="Samples of the prior alone.")] = 128,
    modality_subjects: Annotated[
        int, typer.Option("--modality-subjects", min=0, help="For the table of all conditions; 0 leaves it out.")
    ] = 32,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the first subject; from 200000 on.")] = 200_000,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what an earlier run measured.")] = False,
    vcm_weights: VcmWeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure a model on subjects that nothing was trained on; prints a table and writes evaluation.json."""
    require_training_extra()
    from vcm.outputs import make_folder
    from vcm.pipeline import Pipeline
    from vcm.research.evaluate.evaluate import EvaluationPlan
    from vcm.research.evaluate.evaluate import evaluate as measure
    from vcm.research.evaluate.modalities import SECTION, tabulate

    plan = EvaluationPlan(
        first_seed=seed, subjects=subjects, uncontrolled=uncontrolled, modality_subjects=modality_subjects
    )
    pipeline = Pipeline.from_pretrained(model, device=device, precision=precision, vcm_weights=vcm_weights)
    results = measure(pipeline, make_folder(out), plan, resume=resume)
    sections = dict(results["sections"])
    modalities = sections.pop(SECTION, None)
    for line in _tabulate(sections):
        typer.echo(line)
    for name, *cells in tabulate(modalities) if modalities else ():
        typer.echo(f"{name:42}{''.join(f'{cell:>22}' for cell in cells)}")


@app.command()
def benchmark(
    out: OutOption,
    model: ModelOption = "mini",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of our loop.")] = 20,
    masks: Annotated[int, typer.Option("--masks", min=0, help="For adherence; 0 leaves it out.")] = 16,
    noises: Annotated[
        int, typer.Option("--noises", min=0, help="For the distance to 1000 steps; 0 leaves it out.")
    ] = 3,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often every loop is timed, in turns.")] = 5,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what an earlier run measured.")] = False,
    vcm_weights: VcmWeightsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure our loop and the published one side by side; prints counts, then ratios, and writes benchmark.json."""
    require_training_extra()

    from vcm.outputs import make_folder
    from vcm.pipeline import Pipeline
    from vcm.research.benchmark.benchmark import benchmark as measure
    from vcm.research.benchmark.plan import BenchmarkPlan
    from vcm.research.benchmark.session import measure_session
    from vcm.research.benchmark.table import list_lines
    from vcm.ui.sections.benchmark import measure_page

    published, ours = (
        Pipeline.from_pretrained(model, device, precision, vcm_weights) for precision in ("float32", "auto")
    )
    plain = Pipeline.from_pretrained(model, device, "float32", vcm_weights, is_tuned=False)
    session = partial(measure_session, model, device=device, vcm_weights=vcm_weights, steps=steps)
    plan = BenchmarkPlan(steps=steps, masks=masks, noises=noises, rounds=rounds)
    results = measure(
        published,
        ours,
        make_folder(out),
        plan,
        plain=plain,
        measure_session=session,
        measure_page=measure_page,
        resume=resume,
    )
    for line in list_lines(results):
        typer.echo(line)


@app.command()
def study(
    out: OutOption,
    model: ModelOption = "mini",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of every training.")] = 400,
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Generated after every training.")] = 8,
    device: DeviceOption = "auto",
) -> None:
    """Train our VCM, its rivals and its ablations alike on one frozen backbone; prints tables, writes study.json.

    Each training is kept as it ends: the same command goes on, and several at once share the work.
    """
    require_training_extra()
    from vcm.outputs import make_folder
    from vcm.pipeline import choose_device
    from vcm.research.study.conduct import conduct
    from vcm.research.study.plan import StudyPlan
    from vcm.research.study.table import list_lines
    from vcm.weights.pretrained import find_model

    plan = StudyPlan(steps=steps, subjects=subjects)
    for line in list_lines(conduct(find_model(model), make_folder(out), plan, device=str(choose_device(device)))):
        typer.echo(line)


@app.command()
def report(
    model: ModelOption = "mini",
    evaluation: Annotated[
        Path | None, typer.Option("--evaluation", help="The evaluation.json to use.", show_default="the model folder's")
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option("--benchmark", help="A benchmark.json: its table and its picture are made, and nothing else."),
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option("--beside", help="With --benchmark: one of another processor, whose figures stand below."),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option("--study", help="A study.json: its tables and picture are made, and nothing else."),
    ] = None,
    readme: Annotated[Path | None, typer.Option("--readme", help="A README whose tables are made again.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option("--pictures", help="A folder for cohort.png and samples.png, or for benchmark.png or study.png."),
    ] = None,
    vcm_weights: VcmWeightsOption = None,
) -> None:
    """Make the model card again, and on request the README's table and the pictures; or a benchmark's, or a study's."""
    require_training_extra()

    from vcm.pipeline import Pipeline
    from vcm.research.report.report import write_benchmark, write_pictures, write_report, write_study
    from vcm.weights.pretrained import find_model

    if sum(source is not None for source in (evaluation, benchmark, study)) > 1:
        raise ValueError("Give --evaluation, --benchmark or --study, one at a time.")
    if beside is not None and (benchmark is None or beside.name == benchmark.name):
        raise ValueError("Give --beside with --benchmark, and a file of another name.")
    for source, write in ((benchmark, partial(write_benchmark, beside=beside)), (study, write_study)):
        if source is not None:
            for path in write(source, readme=readme, pictures=pictures):
                typer.echo(f"Wrote {path.name}.")
            return
    for path in write_report(find_model(model), evaluation=evaluation, readme=readme):
        typer.echo(f"Wrote {path.name}.")
    if pictures is not None:
        for path in write_pictures(Pipeline.from_pretrained(model, vcm_weights=vcm_weights), pictures, readme):
            typer.echo(f"Wrote {path.name}.")


def _tabulate(figures: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line for every figure, with its interval where it has one; lists of raw values are left to the file."""
    for name, value in figures.items():
        label = f"{prefix}{name}"
        if isinstance(value, dict) and "interval" in value:
            figure, interval = value["value"], value["interval"]
            told = "none" if figure is None else f"{figure:.3f}"
            told += f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
            yield f"{label:66} {told}  n={value['count']}"
        elif isinstance(value, dict):
            yield from _tabulate(value, f"{label}.")
        elif isinstance(value, int | float):
            yield f"{label:66} {value:.3f}"


@app.command()
def doctor(
    model: ModelOption = "mini",
    vcm_weights: VcmWeightsOption = None,
    device: DeviceOption = "auto",
    record: Annotated[
        bool, typer.Option("--record", help="First store the step to verify; for those who make a model.")
    ] = False,
) -> None:
    """Show versions, weight hashes, devices and processor features, and verify one denoising step."""
    from vcm.cli.doctor import examine, record_step

    if record:
        record_step(model, vcm_weights)
    findings = examine(model, device, vcm_weights)
    for finding in findings:
        typer.echo(f"{'ok ' if finding.healthy else 'BAD'} {finding.subject:28} {finding.found}")
    ill = [finding.subject for finding in findings if not finding.healthy]
    if ill:
        raise ValueError(f"Not as it should be: {', '.join(ill)}.")
