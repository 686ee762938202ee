"""`vcm simulate` and `vcm train`: subjects to learn from, and models that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vcm.cli.app import app
from vcm.cli.options import (
    DeviceOption,
    ModelOption,
    OutOption,
    require_training_extra,
)

if TYPE_CHECKING:
    from vcm.data.layouts import Problem


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
    require_training_extra()
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
