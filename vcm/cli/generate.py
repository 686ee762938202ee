"""`vcm generate` and `vcm case`: volumes from conditions, recipes and folders of masks."""

from __future__ import annotations

import sys
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
    YesOption,
    setting,
)
from vcm.modalities.names import TUMOR
from vcm.sampler.solvers import DEFAULT_SOLVER, SOLVERS

if TYPE_CHECKING:
    from vcm.cli.cases import Case
    from vcm.job import Job
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest, GenerationResult
    from vcm.runtime.shards import Shard
    from vcm.volume import Volume

ONE_VOLUME = "One volume is made by one process: this one has nothing to do."


@app.command()
def generate(
    out: OutOption,
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", metavar="NAME=FILE", help="What to follow; a folder or a pattern makes a batch."),
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            "--fill",
            metavar="FILE",
            help="A mask of what is made up of the scan given as partial.",
            show_default="the tumor and 6 mm around it",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="The recipe.json of an earlier run, to repeat it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|DIR", help="mini, brainldm, or a folder.", show_default="mini, or the recipe's"
        ),
    ] = None,
    steps: Annotated[Any, setting("--steps", "Denoising steps, 1 to 1000.", "20")] = None,
    guidance: Annotated[Any, setting("--guidance", "Strength of the control, 0 to 10.", "1")] = None,
    seed: Annotated[Any, setting("--seed", "Of the noise, 0 to 4294967295.", "0")] = None,
    sampler: Annotated[Any, setting("--sampler", f"One of {', '.join(SOLVERS)}.", DEFAULT_SOLVER, "NAME")] = None,
    control_start: Annotated[Any, setting("--control-start", "Fraction where control begins.", "0")] = None,
    control_end: Annotated[Any, setting("--control-end", "Fraction where control ends.", "1")] = None,
    sex: Annotated[Any, setting("--sex", "female or male.", "female", "NAME")] = None,
    age: Annotated[Any, setting("--age", "Years, 44 to 82.", "63")] = None,
    ventricular_volume: Annotated[Any, setting("--ventricular-volume", "From 0 to 1.", "0.5")] = None,
    brain_volume: Annotated[Any, setting("--brain-volume", "From 0 to 1.", "0.5")] = None,
    compare: Annotated[
        bool | None,
        typer.Option("--compare/--no-compare", help="Also the uncontrolled volume.", show_default="compare"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="In a batch, make finished cases of other settings again.")
    ] = False,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Bring scans that lie elsewhere to template space first.")
    ] = True,
    vcm_weights: VcmWeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    yes: YesOption = False,
) -> None:
    """Generate a volume that follows label maps and scans, and the uncontrolled one of the same noise.

    Writes controlled.nii.gz, uncontrolled.nii.gz, one condition_NAME.nii.gz each, fill.nii.gz beside a partial scan,
    and recipe.json; with several masks, each into a folder of its own. A batch that was stopped goes on where it was
    when the command is given again, and under accelerate launch or torchrun each process makes its share. With
    --condition partial=SCAN the result is that scan, changed only in the region of --fill or around the tumor; with
    lowres=SCAN it is in the units of that scan. A scan that lies elsewhere is brought to template space for the run,
    with the masks on its grid; the files go back.
    """
    given = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "sampler": sampler,
        "control_start": control_start,
        "control_end": control_end,
        "sex": sex,
        "age": age,
        "ventricular_volume": ventricular_volume,
        "brain_volume": brain_volume,
        "compare": compare,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    if recipe is not None:
        if settings or fill is not None or precision != "auto" or overwrite or not register:
            raise ValueError("A recipe holds its conditions and settings: give --recipe without any of them.")
        _repeat(recipe, condition or [], out, model, vcm_weights, device, yes)
        return
    _generate_all(
        condition or [],
        fill,
        settings,
        out,
        model or "mini",
        vcm_weights,
        device,
        precision,
        yes,
        overwrite=overwrite,
        register=register,
    )


def _repeat(
    path: Path,
    conditions: list[str],
    out: Path,
    model: str | None,
    vcm_weights: str | None,
    device: str,
    yes: bool,
) -> None:
    from vcm.cli.cases import find_cases
    from vcm.outputs import refuse_own_files
    from vcm.pipeline import Pipeline
    from vcm.recipe import (
        check_environment,
        load_recipe,
        model_name,
        request_from_recipe,
        sampling_precision,
    )
    from vcm.runtime.shards import find_shard
    from vcm.weights.pretrained import find_vcm_weights

    if find_shard().index:
        typer.echo(ONE_VOLUME)
        return
    recipe = load_recipe(path)
    scans = _find_scans(recipe, path.parent, conditions)
    refuse_own_files(find_cases(conditions)[0].files, None, out)
    request = request_from_recipe(recipe, scans)
    precision = sampling_precision(recipe)
    model = model or model_name(recipe)
    find_vcm_weights(model, vcm_weights)  # missing weights are reported before the estimate of a run's cost
    _confirm_cost(model, device, request, yes)
    pipeline = Pipeline.from_pretrained(model, device=device, precision=precision, vcm_weights=vcm_weights)
    for note in check_environment(recipe, pipeline.environment):
        typer.echo(note)
    _generate_one(pipeline, request, out)


def _find_scans(recipe: dict[str, Any], folder: Path, conditions: list[str]) -> dict[str, Volume]:
    """Return the scans that a recipe names by their hash only: those given, else those that lie beside it."""
    from vcm.cli.cases import find_cases
    from vcm.outputs import CONDITION_FILE
    from vcm.recipe import image_names
    from vcm.volume import Volume

    cases = find_cases(conditions)
    given = cases[0].files
    needed = image_names(recipe)
    if len(cases) > 1 or not set(given) <= set(needed):
        told = f"give only its scans, {', '.join(needed)}" if needed else "give --recipe without any of them"
        raise ValueError(f"A recipe holds its conditions and settings: {told}.")
    beside = {name: folder / CONDITION_FILE.format(name=name) for name in needed}
    files = {name: path for name, path in beside.items() if path.is_file()} | given
    missing = [name for name in needed if name not in files]
    if missing:
        raise ValueError(
            f"The recipe needs the scan that it was made with, and none lies beside it: "
            f"give --condition {missing[0]}=FILE as well."
        )
    return {name: Volume.load(file) for name, file in files.items()}


def _generate_all(
    conditions: list[str],
    fill: str | None,
    settings: dict[str, Any],
    out: Path,
    model: str,
    vcm_weights: str | None,
    device: str,
    precision: str,
    yes: bool,
    *,
    overwrite: bool,
    register: bool,
) -> None:
    from vcm.cli.batch import find_missing
    from vcm.cli.cases import find_cases, load_request
    from vcm.outputs import refuse_own_files
    from vcm.pipeline import Pipeline
    from vcm.registration.register import place_request
    from vcm.request import GenerationRequest
    from vcm.runtime.shards import find_shard
    from vcm.weights.pretrained import find_vcm_weights

    shard = find_shard()
    cases = find_cases(conditions, fill)
    for case in cases:
        refuse_own_files(case.files, case.fill, out if case.name is None else out / case.name)
    plain = GenerationRequest(**settings)  # a wrong number is refused before a model is loaded
    single = len(cases) == 1 and cases[0].name is None
    if single and shard.index:
        typer.echo(ONE_VOLUME)
        return
    request = load_request(cases[0], settings) if single else None
    weights = find_vcm_weights(model, vcm_weights)  # missing weights are reported before the estimate of a run's cost
    _check_conditions({name for case in cases for name in case.files}, model, weights)
    if request is not None and register:
        request = place_request(request)
    device = shard.choose_device(device)
    own = shard.take(cases)
    _confirm_cost(model, device, plain, yes, runs=len(own) if overwrite or single else sum(find_missing(own, out)))
    pipeline = Pipeline.from_pretrained(model, device=device, precision=precision, vcm_weights=vcm_weights)
    if request is not None:
        _generate_one(pipeline, request, out)
    else:
        _generate_batch(pipeline, cases, settings, out, shard, overwrite=overwrite, register=register)


def _generate_batch(
    pipeline: Pipeline,
    cases: list[Case],
    settings: dict[str, Any],
    out: Path,
    shard: Shard,
    *,
    overwrite: bool,
    register: bool,
) -> None:
    from vcm.cli.batch import Failed, Kept, find_missing, generate_batch, refuse_other_settings

    if not overwrite:
        refuse_other_settings(cases, settings, pipeline.environment, out)  # of all shards, before any goes ahead
    own = shard.take(cases)
    missing = [True] * len(own) if overwrite else find_missing(own, out)
    share = f"[{shard.index + 1}/{shard.count}] " if shard.count > 1 else ""
    made = kept = failed = 0
    seconds = 0.0
    notes: dict[str, None] = {}  # each once
    run = partial(_run, pipeline, leave=False)
    ends = generate_batch(pipeline, own, settings, out, run, overwrite=overwrite, register=register)
    try:
        for number, end in enumerate(ends, start=1):
            begun = f"{share}{number} of {len(own)}: {end.name}"
            if isinstance(end, Failed):
                failed += 1
                typer.echo(f"{begun} failed.")
                typer.echo(f"{end.name}: {end.reason}", err=True)
            elif isinstance(end, Kept):
                kept += 1
                typer.echo(f"{begun} was there already.")
                notes |= dict.fromkeys(end.notes)
            else:
                made += 1
                seconds += end.seconds
                left = _tell_time(seconds / made * sum(missing[number:]))
                typer.echo(" ".join([f"{begun} made in {end.seconds:.1f} s, {left}.", *_tell_adherence(end.result)]))
                for note in _find_notes(end.result):
                    typer.echo(note)
    finally:  # also of a batch that is stopped, or that the machine fails
        told = f"{share}{made} made, {kept} there already, {failed} failed"
        left_over = len(own) - made - kept - failed
        typer.echo(f"{told}, {left_over} left: give the command again to go on." if left_over else f"{told}.")
    for note in notes:
        typer.echo(f"Note on what was there already: {note}")
    shard.end(failed=failed > 0)
    if failed:
        raise ValueError(f"{failed} of {len(own)} volumes could not be generated.")


def _tell_time(seconds: float) -> str:
    """Return how long is left, in words as coarse as an estimate is."""
    if seconds < 1:
        return "none left to make" if seconds == 0 else "about a second left"
    if seconds < 120:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 7200 else f"about {seconds / 3600:.1f} h left"


def _check_conditions(names: set[str], model: str, vcm_weights: str | Path | None) -> None:
    """Refuse what the model will not take before it is fetched, loaded or paid for."""
    from vcm.modalities.registry import check_modalities
    from vcm.weights.cost import peek_config
    from vcm.weights.share import peek_conditions

    taken = peek_conditions(peek_config(model), vcm_weights)
    if taken is not None:
        check_modalities(sorted(names), taken)


def _confirm_cost(model: str, device: str, request: GenerationRequest, yes: bool, runs: int = 1) -> None:
    """Say what runs like this one will take where that is long, and ask whether to go on."""
    from vcm.pipeline import choose_device
    from vcm.weights.cost import peek_config, say_cost

    kind = choose_device(device).type
    cost = say_cost(peek_config(model), kind, request.num_inference_steps, compare=request.compare, runs=runs)
    if cost is None:
        return
    if yes:
        typer.echo(cost)
    elif not sys.stdin.isatty():
        raise ValueError(f"{cost} Give --yes to go on.")
    else:
        typer.confirm(f"{cost} Go on?", abort=True)


def _generate_one(pipeline: Pipeline, request: GenerationRequest, out: Path) -> None:
    from vcm.outputs import make_folder, write_result

    job = pipeline.plan(request)
    make_folder(out)  # what can be refused is refused before the work
    result = _run(pipeline, job)
    files = write_result(result, out)
    for line in _summarize(result, files, out):
        typer.echo(line)


def _run(pipeline: Pipeline, job: Job, *, leave: bool = True) -> GenerationResult:
    """Run a job behind a bar, which only a terminal shows, and which stays there at the end if `leave` says so."""
    from tqdm import tqdm

    from vcm.request import Preview

    with tqdm(total=job.request.num_inference_steps, unit="step", file=sys.stdout, disable=None, leave=leave) as bar:
        for event in pipeline.run(job):
            if isinstance(event, Preview):
                bar.update()
            else:
                result = pipeline.finish(job, event)
    return result


def _summarize(result: GenerationResult, files: list[Path], out: Path) -> list[str]:
    return [
        *_find_notes(result),
        *_tell_adherence(result),
        f"Wrote {', '.join(file.name for file in files)} to {out} in {result.timings['total']:.1f} s.",
    ]


def _find_notes(result: GenerationResult) -> list[str]:
    return [f"Note: {note}" for volume in result.conditions.values() for note in volume.notes]


def _tell_adherence(result: GenerationResult) -> list[str]:
    if not result.adherence or TUMOR not in result.adherence:
        return []
    scores = result.adherence[TUMOR]["controlled"]["dice"]
    told = ", ".join(f"{region} {score:.2f}" for region, score in scores.items() if score is not None)
    return [f"Dice of the drawn and the generated tumor: {told or 'nothing was drawn'}."]


@app.command()
def case(
    mask: Annotated[Path, typer.Argument(metavar="MASK", help="Tumor labels 1 to 3, as NIfTI.")],
    out: OutOption,
    scan: Annotated[
        Path | None,
        typer.Option(
            "--scan", metavar="FILE", help="The mask's T1: both are moved to template space where they lie elsewhere."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=64, help="How many brains to generate.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first brain's.")] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, max=1000)] = 20,
    model: ModelOption = "mini",
    vcm_weights: VcmWeightsOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    yes: YesOption = False,
) -> None:
    """Report how well the model follows a mask of your own: a page with pictures and figures, and case.json."""
    from tqdm import tqdm

    from vcm.modalities.registry import load_condition
    from vcm.outputs import make_folder
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest
    from vcm.research.report.case_report import follow_case, place_with_scan, write_case
    from vcm.volume import Volume
    from vcm.weights.calibration import load_calibration
    from vcm.weights.pretrained import find_model, find_vcm_weights

    labels, placed_mm = load_condition(TUMOR, mask), None
    if scan is not None:
        labels, placed_mm = place_with_scan(labels, Volume.load(scan))
    request = GenerationRequest({TUMOR: labels}, seed=seed, num_inference_steps=steps)
    find_vcm_weights(model, vcm_weights)  # missing weights are reported before the estimate of a run's cost
    _confirm_cost(model, device, request, yes, runs=seeds)
    pipeline = Pipeline.from_pretrained(model, device=device, precision=precision, vcm_weights=vcm_weights)
    calibration = load_calibration(find_model(model), pipeline.environment.weights)
    folder = make_folder(out)
    with tqdm(total=seeds * steps, unit="step") as progress:
        found = follow_case(
            pipeline,
            labels,
            seeds=seeds,
            first_seed=seed,
            placed_mm=placed_mm,
            tell=lambda done, total: progress.update(done - progress.n),
            num_inference_steps=steps,
        )
    for path in write_case(found, folder, calibration):
        typer.echo(f"Wrote {path.name}.")
