"""Many cases, each into a folder of its own: whole or not at all, and only what is not there yet."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.cases import Case, load_request
from vcm.modalities.names import PARTIAL
from vcm.outputs import RECIPE_FILE, OutputError, is_complete, make_folder, write_result
from vcm.recipe import (
    Environment,
    RecipeError,
    build_recipe,
    check_environment,
    differing_conditions,
    differing_settings,
    load_recipe,
)
from vcm.request import GenerationRequest, GenerationResult

if TYPE_CHECKING:
    from vcm.job import Job
    from vcm.pipeline import Pipeline

_WAY_OUT = "give another --out, or --overwrite to make {} again."


class BatchError(ValueError):
    """An output folder that holds something else; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class Made:
    """A case that was generated and written, in as many seconds."""

    name: str
    result: GenerationResult
    seconds: float


@dataclass(frozen=True)
class Kept:
    """A case that was there already; `notes` say what else it was made with."""

    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A case that cannot be made, and why in one sentence; the others go on."""

    name: str
    reason: str


def generate_batch(
    pipeline: Pipeline,
    cases: Sequence[Case],
    settings: dict[str, Any],
    out: Path,
    generate: Callable[[Job], GenerationResult],
    *,
    overwrite: bool = False,
    register: bool = False,
) -> Iterator[Made | Kept | Failed]:
    """Bring every case into `out`/<its name>, and yield what became of each, in their order.

    A case is made unless its folder holds a result of the same conditions, settings and weights: then it is kept, so
    that a batch that was stopped goes on where it was. Its seed is that of the settings, whichever process makes it and
    whatever was there before. Nothing is shared but the folder `out`, in which each case belongs to one process.

    Args:
        pipeline: the model.
        cases: each with a name.
        settings: of a GenerationRequest, for all cases.
        out: made where it is missing.
        generate: runs a job of the pipeline to its result.
        overwrite: whether a result of other conditions, settings or weights is made again, rather than refused.
        register: whether scans that lie elsewhere are brought to template space.

    Raises:
        OutputError, VolumeError, RecipeError: the disk refuses, as it will refuse what is left.
        MemoryError, RuntimeError: the machine fails.
    """
    leftovers = _find_leftovers(make_folder(out))
    for case in cases:
        assert case.name is not None
        folder = out / case.name
        started = time.perf_counter()
        try:
            job = pipeline.plan(load_request(case, settings, register=register))
            notes = _find_result(folder, job.recipe, pipeline.environment, overwrite=overwrite)
            result = generate(job) if notes is None else None
        except ValueError as error:
            yield Failed(case.name, str(error))
            continue
        if result is not None:
            try:
                write_case(result, folder)
            except ValueError:
                # Another process that was given the same case may have come first.
                notes = _find_result(folder, job.recipe, pipeline.environment)
                if notes is None:
                    raise
        for leftover in leftovers.pop(_tag(case.name), ()):
            shutil.rmtree(leftover, ignore_errors=True)
        if result is not None and notes is None:
            yield Made(case.name, result, time.perf_counter() - started)
        else:
            yield Kept(case.name, notes or ())


def refuse_other_settings(cases: Sequence[Case], settings: dict[str, Any], environment: Environment, out: Path) -> None:
    """Refuse a folder with results of these cases and other settings or weights, before any of it is mixed with more.

    Raises:
        BatchError: it holds some.
        ValueError: a setting is out of its range.
    """
    wanted = build_recipe(GenerationRequest(**settings), {}, environment)
    different: dict[str, None] = {}  # in the order in which they are found, each once
    count = 0
    for case in cases:
        assert case.name is not None
        path = out / case.name / RECIPE_FILE
        if not path.exists():
            continue
        try:
            recipe = load_recipe(path)
            names = differing_settings(recipe, wanted)
            names += sorted(_parts(recipe["conditions"]) ^ {*case.files, *(() if case.fill is None else ("fill",))})
        except (RecipeError, AttributeError, KeyError):
            names = ["a recipe that cannot be read"]
        count += bool(names)
        different |= dict.fromkeys(names)
    if count:
        raise BatchError(
            f"The output folder holds {count} of these {len(cases)} cases with other settings "
            f"({', '.join(different)}): {_WAY_OUT.format('them')}"
        )


def find_missing(cases: Sequence[Case], out: Path) -> list[bool]:
    """Return for each case whether there is no result yet, of whatever it is."""
    return [not (out / str(case.name) / RECIPE_FILE).exists() for case in cases]


def write_case(result: GenerationResult, folder: Path) -> None:
    """Write a result as `write_result` does, into a folder that appears with all of it in one moment.

    A folder that exists already is written into, the recipe last.

    Raises:
        OutputError, VolumeError, RecipeError: the disk refuses; nothing of a new folder stays.
    """
    with suppress(OSError):
        folder.rmdir()  # only where it is empty
    if folder.exists():
        for part in folder.glob(".*.part"):
            part.unlink(missing_ok=True)
        write_result(result, folder)
        return
    temporary = folder.with_name(f".{_tag(folder.name)}-{uuid.uuid4().hex[:8]}.part")
    try:
        write_result(result, temporary)
        os.rename(temporary, folder)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "the disk refused"
        raise OutputError(f"The folder of a case could not be made: {reason}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find_result(
    folder: Path, recipe: dict[str, Any], environment: Environment, *, overwrite: bool = False
) -> tuple[str, ...] | None:
    """Return notes on a finished result of this recipe in a folder, or None where it has to be made.

    Raises:
        BatchError: there is a result of another recipe, and no leave to overwrite it.
    """
    if folder.exists() and not folder.is_dir():
        raise BatchError("A file is in the way of the case's folder: give another --out, or remove it.")
    if not (folder / RECIPE_FILE).exists():
        return None
    try:
        found = load_recipe(folder / RECIPE_FILE)
        other = differing_settings(found, recipe) + differing_conditions(found, recipe)
    except RecipeError:
        other = ["recipe, one that cannot be read"]
    if not other:
        return check_environment(found, environment) if is_complete(folder, recipe) else None
    if overwrite:
        return None
    raise BatchError(
        f"The output folder has a result of this name with another {', '.join(other)}: {_WAY_OUT.format('it')}"
    )


def _parts(conditions: dict[str, Any]) -> set[str]:
    """Return the names of a recipe's conditions, and "fill" where a user gave one."""
    return {*conditions, *(("fill",) if "fill" in conditions.get(PARTIAL, ()) else ())}


def _find_leftovers(out: Path) -> dict[str, list[Path]]:
    """Return what killed processes left of cases that they were writing, by the tag of the case."""
    leftovers: dict[str, list[Path]] = {}
    for path in out.glob(".*-*.part"):
        leftovers.setdefault(path.name[1:].partition("-")[0], []).append(path)
    return leftovers


def _tag(name: str) -> str:
    """Return what stands for a case in the name of a temporary folder: short, whatever the case is called."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]
