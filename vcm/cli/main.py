"""The command `vcm`: each subcommand validates, calls one function of the package, and says what it did."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from vcm.errors import is_out_of_memory
from vcm.sampler.solvers import DEFAULT_SOLVER, SOLVERS

if TYPE_CHECKING:
    from vcm.cli.cases import Case
    from vcm.data.layouts import Problem
    from vcm.job import Job
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest, GenerationResult
    from vcm.runtime.shards import Shard
    from vcm.volume import Volume

# Nothing of torch, nibabel or Gradio is imported above: `vcm --help` answers at once.

USER_ERROR = 2
ONE_VOLUME = "One volume is made by one process: this one has nothing to do."

_log = logging.getLogger(__name__)
app = typer.Typer(
    name="vcm",
    help="Control a frozen 3D diffusion model of brain MRI with what you draw. For research and teaching only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 on success, 2 with one line on stderr for what a user can cause."""
    try:
        with _stopping_in_order():
            code = app(arguments, prog_name="vcm", standalone_mode=False)
    except _Stopped:
        _fail("Stopped.", code=143)
    except TyperException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):  # Abort is a RuntimeError
        _fail("Interrupted.", code=130)
    except (ValueError, FloatingPointError) as error:  # what a user can cause, and a training that diverged
        _log.debug("The command failed.", exc_info=True)
        _fail(str(error))
    except OSError as error:
        _log.debug("The command failed.", exc_info=True)
        _fail(f"The system refused: {error.strerror}." if error.strerror else str(error))
    except (MemoryError, RuntimeError) as error:  # of the machine or of its accelerator
        _log.debug("The command failed.", exc_info=True)
        if is_out_of_memory(error):
            _fail("There is not enough memory for this: choose a smaller model, or close other programs.", code=1)
        _fail("The model stopped unexpectedly: run the command again with vcm --verbose to see why.", code=1)
    sys.exit(code if isinstance(code, int) else 0)


class _Stopped(BaseException):
    """The system asked the command to end; not an Exception, so that nothing takes it for a failure."""


@contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that files in the making are removed on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def stop(*_: object) -> None:
        if os.getpid() != own:
            os._exit(143)  # a process of a pool: its parent tidies up
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.callback()
def configure(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, errors in full.")] = False,
) -> None:
    """Set up logging before any command."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _number(text: str) -> int | float | str:
    """Read a number, and leave anything else to the request, whose sentence names the field and its range."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


ModelOption = Annotated[
    str, typer.Option("--model", metavar="NAME|DIR", help="A model: mini, brainldm, or a folder with the same layout.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="float32, bfloat16, or auto (bfloat16 where the hardware is faster at it).")
]
VcmWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--vcm-weights",
        metavar="FILE|DIR|REPO",
        help="A VCM in place of the model's own: the released file, a folder, or OWNER/NAME on the hub.",
        show_default="VCM_WEIGHTS for brainldm, else the model's own",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Go on without asking, however long a run takes.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to; made if it is missing.")]


def _setting(name: str, text: str, default: str, metavar: str = "NUMBER") -> Any:
    return typer.Option(name, metavar=metavar, parser=_number, help=text, show_default=default)


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
    steps: Annotated[Any, _setting("--steps", "Denoising steps, 1 to 1000.", "20")] = None,
    guidance: Annotated[Any, _setting("--guidance", "Strength of the control, 0 to 10.", "1")] = None,
    seed: Annotated[Any, _setting("--seed", "Of the noise, 0 to 4294967295.", "0")] = None,
    sampler: Annotated[Any, _setting("--sampler", f"One of {', '.join(SOLVERS)}.", DEFAULT_SOLVER, "NAME")] = None,
    control_start: Annotated[Any, _setting("--control-start", "Fraction where control begins.", "0")] = None,
    control_end: Annotated[Any, _setting("--control-end", "Fraction where control ends.", "1")] = None,
    sex: Annotated[Any, _setting("--sex", "female or male.", "female", "NAME")] = None,
    age: Annotated[Any, _setting("--age", "Years, 44 to 82.", "63")] = None,
    ventricular_volume: Annotated[Any, _setting("--ventricular-volume", "From 0 to 1.", "0.5")] = None,
    brain_volume: Annotated[Any, _setting("--brain-volume", "From 0 to 1.", "0.5")] = None,
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
    find_vcm_weights(model, vcm_weights)  # what is missing is told before what a run would take
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
    plain = GenerationRequest(**settings)  # a wrong number is told before a model is loaded
    single = len(cases) == 1 and cases[0].name is None
    if single and shard.index:
        typer.echo(ONE_VOLUME)
        return
    request = load_request(cases[0], settings) if single else None
    weights = find_vcm_weights(model, vcm_weights)  # what is missing is told before what a run would take
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
    from vcm.modalities.conditions import check_modalities
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
    if not result.adherence or "tumor" not in result.adherence:
        return []
    scores = result.adherence["tumor"]["controlled"]["dice"]
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

    from vcm.modalities.conditions import load_condition
    from vcm.outputs import make_folder
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest
    from vcm.research.report.case_report import follow_case, place_with_scan, write_case
    from vcm.volume import Volume
    from vcm.weights.calibration import load_calibration
    from vcm.weights.pretrained import find_model, find_vcm_weights

    labels, placed_mm = load_condition("tumor", mask), None
    if scan is not None:
        labels, placed_mm = place_with_scan(labels, Volume.load(scan))
    request = GenerationRequest({"tumor": labels}, seed=seed, num_inference_steps=steps)
    find_vcm_weights(model, vcm_weights)  # what is missing is told before what a run would take
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


@app.command()
def simulate(
    out: OutOption,
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="How many.")] = 12,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the first; 0 to 99999 are for training, to 199999 validation.")
    ] = 200_000,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes.", show_default="one a core")
    ] = None,
) -> None:
    """Simulate subjects with tumors: T1w, T2w, FLAIR, tumor and anatomy of each, and participants.tsv."""
    from vcm.data.simulate import write_cohort
    from vcm.outputs import make_folder

    make_folder(out)
    write_cohort(out, subjects, seed, workers)
    typer.echo(f"Wrote {subjects} subjects to {out}.")


class Stage(StrEnum):
    """The parts of a model that are trained one after the other."""

    AUTOENCODER = "autoencoder"
    DIFFUSION = "diffusion"
    VCM = "vcm"
    SEGMENTER = "segmenter"
    MINI = "mini"


@app.command()
def train(
    stage: Annotated[
        Stage,
        typer.Argument(help="What to train; diffusion needs the autoencoder, vcm needs both; mini is all of them."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The model folder; only --check goes without.")
    ] = None,
    model: ModelOption = "mini",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Subjects of your own for a VCM, laid out as BIDS or BraTS are.",
            show_default="simulated subjects",
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check --data, and say what was found.")] = False,
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Simulated subjects.", show_default="the shipped recipe's")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps.", show_default="the shipped recipe's")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    from_weights: Annotated[
        bool, typer.Option("--from-weights", help="Begin a new run from the weights that the folder holds.")
    ] = False,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            "--condition",
            metavar="NAME",
            help="What a VCM is to follow, one option each: tumor, anatomy, partial, lowres, t2, flair.",
        ),
    ] = None,
    segmenter: Annotated[
        bool, typer.Option("--segmenter", help="Of mini: train the segmenter as well, which only measures.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Train one part of a model on simulated subjects or your own, or all of the embedded one, into a model folder."""
    _require_training_extra()
    if check:
        _check_data(data)
        return
    if out is None:
        raise ValueError("Missing option '--out'.")
    from vcm.data.layouts import DataProblemsError
    from vcm.outputs import make_folder
    from vcm.pipeline import choose_device
    from vcm.runtime.shards import find_shard
    from vcm.train.stages import train as train_stage
    from vcm.train.stages import train_model

    chosen_device = str(choose_device(find_shard().choose_device(device)))
    if stage is Stage.MINI:
        if data is not None or condition or from_weights:
            raise ValueError("vcm train mini makes the embedded model from nothing: it takes no data and no condition.")
        train_model(make_folder(out), samples=samples, steps=steps, with_segmenter=segmenter, device=chosen_device)
        typer.echo(f"Trained mini in {out}.")
        return
    if segmenter:
        raise ValueError("--segmenter is an option of vcm train mini.")
    try:
        train_stage(
            stage.value,
            make_folder(out),
            model=model,
            data=data,
            samples=samples,
            steps=steps,
            resume=resume,
            from_weights=from_weights,
            device=chosen_device,
            conditions=condition,
        )
    except DataProblemsError as error:
        _tell_problems(error.problems)
    typer.echo(f"Trained {stage.value} in {out}.")


def _check_data(data: Path | None) -> None:
    """Print what a folder of subjects holds, and all that is wrong with it."""
    if data is None:
        raise ValueError("--check needs --data, the folder to check.")
    from vcm.data.own_data import check_data, tabulate

    checked, problems = check_data(data)
    for line in tabulate(checked):
        typer.echo(line)
    if problems:
        _tell_problems(problems)
    typer.echo(f"{len(checked)} visits are sound.")


def _tell_problems(problems: Sequence[Problem]) -> NoReturn:
    for problem in problems:
        typer.echo(str(problem), err=True)
    raise ValueError(f"Problems in the data: {len(problems)}; nothing was trained.")


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
    _require_training_extra()
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
    _require_training_extra()
    from functools import partial

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
    _require_training_extra()
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
    _require_training_extra()
    from functools import partial

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


def _require_training_extra() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError('This needs the training extra; in the clone: pip install ".[train]".') from None


def _fail(message: str, code: int = USER_ERROR) -> NoReturn:
    typer.echo(f"vcm: {' '.join(message.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
