"""Subjects of one's own as a cohort to train on: checked first, placed in template space, kept on the model's grid."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from vcm.data.cohort import Cohort, write_json
from vcm.data.layouts import IMAGES, LABELS, ROLES, DataProblemsError, Exam, Problem, find_exams
from vcm.errors import VolumeError
from vcm.modalities.image_conditions import measure_range, scale_intensities
from vcm.modalities.names import ANATOMY, ENHANCING, FLAIR, OLD_ENHANCING, PARTIAL, T2, TUMOR
from vcm.modalities.registry import MODALITIES, get_label_modality
from vcm.modalities.scans import ScanModality, find_no_scan
from vcm.model.config import CovariateConfig, Grid, ModelConfig
from vcm.registration.register import Registration, place_in_template, template_brain
from vcm.volume import Volume
from vcm.volume.affines import distance_mm, format_sizes, same_place
from vcm.volume.resample import fraction_outside

logger = logging.getLogger(__name__)

PARTICIPANTS_FILE = "participants.tsv"
NEUTRAL = 0.5
"""What a covariate is taken as where nothing is known of it."""

_MOST_OUTSIDE = 0.01  # of the labelled voxels may lie off the T1's field of view
_COLUMNS = {"age": 1, "age_years": 1, "ventricular_ml": 2, "brain_ml": 3}
_SEXES = {"f": 0.0, "female": 0.0, "w": 0.0, "m": 1.0, "male": 1.0}
_UNKNOWN = {"", "n/a", "na", "nan", "unknown"}


@dataclass(frozen=True)
class CheckedExam:
    """A visit whose files are sound; shape and spacing are those of its T1, the labels those stored for its tumor."""

    exam: Exam
    shape: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    registration: Registration
    labels: tuple[int, ...]


@dataclass(frozen=True)
class OwnCohort:
    """What a VCM learns from and is validated on, split by subject.

    Attributes:
        training, held_out: the two parts, on the model's grid.
        conditions: what can be learned from them.
        grid: of the model.
        key: tells these data on this grid from any other.
    """

    training: Cohort
    held_out: Cohort
    conditions: list[str]
    grid: Grid
    key: str


def check_data(root: str | Path) -> tuple[list[CheckedExam], list[Problem]]:
    """Open every file that will be trained on and return the sound visits, placed, and all problems there are.

    Args:
        root: a folder laid out as BIDS or BraTS are, see `find_exams`.

    Raises:
        ValueError: there is no such folder.
    """
    from tqdm import tqdm

    root = _find_folder(root)
    exams, problems = find_exams(root)
    _, more = _read_participants(root)
    problems += more
    checked = []
    for exam in tqdm(exams, unit="visit", desc="checking", disable=None):
        found = _check_exam(exam, root)
        if isinstance(found, CheckedExam):
            checked.append(found)
        else:
            problems += found
    problems += _find_mixed_labels(checked, root)
    if exams and len({exam.subject for exam in exams}) < 2:
        problems.append(Problem(".", "there is one subject only; at least 2 are needed, one of them for validation."))
    return checked, problems


def choose_conditions(
    exams: Sequence[Exam], own: Sequence[str], wanted: Sequence[str] | None = None
) -> tuple[list[str], list[Problem]]:
    """Return what a VCM can learn to follow from visits, and which of them lack a file for that.

    Args:
        exams: the visits.
        own: the conditions that the model's VCM follows, of which those are taken that the data show.
        wanted: conditions that were asked for, instead.

    Raises:
        ValueError: the data show none of a condition that was asked for, or nothing that the model follows.
    """
    made_of_t1 = {name for name, each in MODALITIES.items() if isinstance(each, ScanModality) and each.contrast == "t1"}
    shown = {role for exam in exams for role in exam.files} | made_of_t1
    told = ", ".join(name for name in MODALITIES if name in shown)
    for name in wanted or ():
        if name not in shown:
            raise ValueError(f"The data hold no {name} files, so a VCM cannot learn to follow them; they show {told}.")
    chosen = list(wanted) if wanted else [name for name in own if name in shown]
    if not chosen:
        raise ValueError(f"The data show nothing that this model follows; name with --condition what it shall: {told}.")
    problems = []
    for name in chosen:
        have = len(exams) if name in made_of_t1 else sum(name in exam.files for exam in exams)
        what = f"there is no {name}, which {have} of {len(exams)} visits have; add it, or take the visit out."
        lacking = [exam for exam in exams if name not in exam.files] if have < len(exams) else []
        problems += [Problem(exam.name if exam.folder == "." else exam.folder, what) for exam in lacking]
    return chosen, problems


def load_own_cohort(
    root: str | Path, config: ModelConfig, cache: str | Path, wanted: Sequence[str] | None = None
) -> OwnCohort:
    """Return the data on a model's grid: from `cache` where they lie there unchanged, else checked and placed.

    Args:
        root: the folder of the data.
        config: of the model.
        cache: folder to keep the placed volumes in, memory-mapped.
        wanted: what the VCM is to follow; by default what the model's own follows, as far as the data show it.

    Raises:
        DataProblemsError: something is wrong with a file; nothing is kept then.
        ValueError: there is no such folder, or a condition is asked for that it does not show.
    """
    root = _find_folder(root)
    exams, problems = find_exams(root)
    if not exams:
        raise DataProblemsError(problems)
    problems += _read_participants(root)[1]  # they are no part of what is kept
    conditions, lacking = choose_conditions(exams, tuple(config.adapter.condition_channels), wanted)
    roles = ["t1", *(name for name in (*IMAGES[1:], *LABELS) if name in conditions)]
    if TUMOR not in roles and all(TUMOR in exam.files for exam in exams):
        roles.append(TUMOR)  # holes are made around it, and it weighs more
    order, held_out = _split(exams)
    key = "" if lacking else _build_key(root, order, roles, config.grid)
    folder = Path(cache) / f"own-{len(order)}-{key}"
    if problems or lacking or not folder.is_dir():
        checked, problems = check_data(root)
        if problems or lacking:
            raise DataProblemsError(problems + lacking)
        _place_all(root, order, roles, {each.exam.name: each.registration for each in checked}, config.grid, folder)
    read = {role: np.load(folder / f"{role}.npy", mmap_mode="r") for role in roles}
    nothing = np.broadcast_to(np.uint8(0), read["t1"].shape)
    # Without anatomy, holes are made in the template's brain, where all the heads have been placed.
    brain = np.broadcast_to(template_brain(config.grid), nothing.shape) if PARTIAL in conditions else nothing
    context = _build_context(order, root, config.covariates)

    def take(part: slice) -> Cohort:
        return Cohort(
            seeds=range(len(order))[part],
            images={role: read[role][part] for role in roles if role in IMAGES},
            tumor=read.get(TUMOR, nothing)[part],
            anatomy=read.get(ANATOMY, brain)[part],
            anatomy_before=read.get(ANATOMY, brain)[part],
            context=context[part],
            volumes_ml=np.zeros((len(order), 2), np.float32)[part],
        )

    split = len(order) - held_out
    return OwnCohort(take(slice(None, split)), take(slice(split, None)), conditions, config.grid, key)


def tabulate(checked: Sequence[CheckedExam]) -> list[str]:
    """Return a table of what was found, a line for each visit."""
    width = max([len("visit"), *(len(each.exam.name) for each in checked)])
    lines = [f"{'visit':{width}}  target  t2   flair  tumor    anatomy  grid                             place"]
    for each in checked:
        files = each.exam.files
        tumor = ",".join(map(str, each.labels)) or "empty" if TUMOR in files else "-"
        grid = f"{format_sizes(each.shape)} of {format_sizes(each.spacing_mm)} mm"
        moved = each.registration.moved_mm
        place = f"moved {moved:.0f} mm" if moved else "as it lies"
        lines.append(
            f"{each.exam.name:{width}}  {'T1 +c' if each.exam.enhanced else 'T1':6}  "
            f"{'yes' if T2 in files else '-':3}  {'yes' if FLAIR in files else '-':5}  {tumor:7}  "
            f"{'yes' if ANATOMY in files else '-':7}  {grid:31}  {place} (likeness {each.registration.likeness:.2f})"
        )
    return lines


def _find_folder(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise ValueError("There is no such data folder.")
    return root


def _check_exam(exam: Exam, root: Path) -> CheckedExam | list[Problem]:
    """Return a visit whose files are sound, or everything that is wrong with them."""
    problems: list[Problem] = []
    scans: dict[str, Volume] = {}
    registration: Registration | None = None
    labels: tuple[int, ...] = ()
    for role in sorted(exam.files, key=ROLES.index):  # the T1 first, label maps last
        path = exam.files[role]
        try:
            if role in IMAGES:
                scans[role] = _read_scan(path)
                if role == "t1":
                    registration = place_in_template(scans[role])
                else:
                    _check_overlap(scans[role], scans.get("t1"))
                    scans[role] = Volume(np.broadcast_to(np.uint8(0), scans[role].array.shape), scans[role].affine)
            else:
                volume, stored = _read_label_map(role, path)
                labels = stored if role == TUMOR else labels
                _check_label_place(volume, scans)
        except VolumeError as error:
            problems.append(Problem(path.relative_to(root).as_posix(), str(error)))
    if problems or registration is None:
        return problems
    return CheckedExam(exam, scans["t1"].array.shape, scans["t1"].spacing_mm, registration, labels)


def _read_scan(path: Path) -> Volume:
    """Return a scan as it is stored."""
    volume = Volume.load(path)
    fault = find_no_scan(volume.array)
    if fault:
        raise VolumeError(f"A scan is expected; {fault}.")
    return volume


def _read_label_map(role: str, path: Path) -> tuple[Volume, tuple[int, ...]]:
    """Return a label map with the labels of the project, as a user's would be read, and the labels that it stores."""
    modality = get_label_modality(role)
    volume = Volume.load(path, labels=True)
    stored = np.flatnonzero(np.bincount(volume.array.ravel())[1:]) + 1
    labels, _ = modality.read_labels(volume.array, modality.channels or 0)
    if role == ANATOMY and not stored.size:
        raise VolumeError("The anatomy map is empty; labels are expected.")
    return Volume(labels, volume.affine), tuple(stored.tolist())


def _check_overlap(scan: Volume, t1: Volume | None) -> None:
    if t1 is not None and fraction_outside(scan.array > 0, scan.affine, t1.array.shape, t1.affine) == 1.0:
        raise VolumeError("It does not overlap with the T1 of its visit; both are expected in one space, in mm.")


def _check_label_place(labels: Volume, scans: dict[str, Volume]) -> None:
    """Refuse a label map that lies elsewhere than the T1 of its visit.

    Raises:
        VolumeError: it has the voxels of the T1 but lies elsewhere, or some of it lies off the T1's field of view.
    """
    t1 = scans.get("t1")
    if t1 is None:
        return
    shape = labels.array.shape
    if any(shape == scan.array.shape and same_place(labels.affine, scan.affine, shape) for scan in scans.values()):
        return
    if shape == t1.array.shape and labels.axcodes == t1.axcodes:
        apart = distance_mm(labels.affine, t1.affine, shape)
        raise VolumeError(
            f"It has as many voxels as the T1 of its visit but lies up to {apart:.1f} mm off it; one grid is expected, "
            "so the affine of one of the two is wrong."
        )
    outside = fraction_outside(labels.array > 0, labels.affine, t1.array.shape, t1.affine)
    if outside > _MOST_OUTSIDE:
        raise VolumeError(
            f"{outside:.0%} of its labels lie off the field of view of the T1; both are expected in one space, in mm."
        )


def _find_mixed_labels(checked: Sequence[CheckedExam], root: Path) -> list[Problem]:
    """Label 4 is enhancing tumor in older BraTS data and something else since: no data may hold both kinds."""
    old = [each for each in checked if OLD_ENHANCING in each.labels]
    new = [each for each in checked if ENHANCING in each.labels]
    if not old or not new:
        return []
    what = (
        f"The tumor map holds label 4, while {len(new)} other maps hold 3; enhancing tumor is 4 in BraTS to 2022 and "
        "3 since, and one of the two is expected in all."
    )
    return [Problem(each.exam.files[TUMOR].relative_to(root).as_posix(), what) for each in old]


def _split(exams: Sequence[Exam]) -> tuple[list[Exam], int]:
    """Return the visits with those of a tenth of the subjects, at least one, at the end, and how many these are."""
    subjects = sorted({exam.subject for exam in exams})
    drawn = sorted(subjects, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    validation = set(drawn[: max(1, round(len(drawn) / 10))])
    kept = [exam for exam in exams if exam.subject not in validation]
    apart = [exam for exam in exams if exam.subject in validation]
    return kept + apart, len(apart)


def _build_key(root: Path, exams: Sequence[Exam], roles: Sequence[str], grid: Grid) -> str:
    """Return a hash that identifies these files, in this version, on this grid."""
    facts: list[object] = [grid.shape, grid.affine.tolist(), list(roles)]
    for exam in exams:
        for role in roles:
            stat = exam.files[role].stat()
            facts.append((exam.files[role].relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _place_all(
    root: Path,
    exams: Sequence[Exam],
    roles: Sequence[str],
    registrations: dict[str, Registration],
    grid: Grid,
    folder: Path,
) -> None:
    """Bring all visits to the grid, into one array a role; the folder appears once it is whole."""
    from tqdm import tqdm

    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shape = (len(exams), *grid.shape)
    arrays = {
        role: open_memmap(partial / f"{role}.npy", "w+", np.float16 if role in IMAGES else np.uint8, shape)
        for role in roles
    }
    problems: list[Problem] = []
    for index, exam in enumerate(tqdm(exams, unit="visit", desc="placing", disable=None)):
        for role in roles:
            try:
                arrays[role][index] = _place(role, exam.files[role], registrations[exam.name], grid)
            except VolumeError as error:
                problems.append(Problem(exam.files[role].relative_to(root).as_posix(), str(error)))
    for array in arrays.values():
        array.flush()
    if problems:
        shutil.rmtree(partial)
        raise DataProblemsError(problems)
    moved = {name: found.transform.tolist() for name, found in sorted(registrations.items())}
    write_json(partial / "placed.json", {"order": [exam.name for exam in exams], "transforms": moved})
    partial.rename(folder)


def _place(role: str, path: Path, registration: Registration, grid: Grid) -> NDArray:
    """Return one file on the model's grid: a scan in [0, 1], as a user's would be, or labels."""
    if role in LABELS:
        volume, _ = _read_label_map(role, path)
    else:
        scan = _read_scan(path)
        # Measured on the scan itself, before anything is interpolated.
        volume = Volume(scale_intensities(scan.array, measure_range(scan.array)), scan.affine)
    moved = Volume(volume.array, registration.transform @ volume.affine)
    placed = moved.to_grid(grid.shape, grid.affine, labels=role in LABELS).array
    if role == "t1" and not placed.any():
        raise VolumeError("Nothing of it lies in the model's field of view.")
    return placed if role in LABELS else placed.clip(0.0, 1.0)


def _read_participants(root: Path) -> tuple[dict[str, dict[int, float]], list[Problem]]:
    """Return what participants.tsv says, by name without "sub-": covariate columns and amounts; and its problems."""
    path = root / PARTICIPANTS_FILE
    said: dict[str, dict[int, float]] = {}
    problems: list[Problem] = []
    if not path.is_file():
        return said, problems
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)  # BIDS has no quotes: an inch mark is one
        if "participant_id" not in (reader.fieldnames or ()):
            return said, [Problem(PARTICIPANTS_FILE, "a column participant_id is expected, then age and sex, by tabs.")]
        for line, row in enumerate(reader, start=2):
            amounts: dict[int, float] = {}
            for name, column in _COLUMNS.items():
                text = (row.get(name) or "").strip()
                if text.lower() in _UNKNOWN:
                    continue
                try:
                    amounts[column] = float(text)
                except ValueError:
                    what = f"line {line}: {name} is {text[:20]!r}; a number or n/a is expected."
                    problems.append(Problem(PARTICIPANTS_FILE, what))
            text = (row.get("sex") or row.get("gender") or "").strip()
            if text.lower() in _SEXES:
                amounts[0] = _SEXES[text.lower()]
            elif text.lower() not in _UNKNOWN:
                what = f"line {line}: sex is {text[:20]!r}; F, M or n/a is expected."
                problems.append(Problem(PARTICIPANTS_FILE, what))
            said[(row["participant_id"] or "").strip().removeprefix("sub-")] = amounts
    return said, problems


def _build_context(exams: Sequence[Exam], root: Path, covariates: CovariateConfig) -> NDArray[np.float32]:
    """Return the covariates (N, 4) as the model counts them, neutral where nothing is known."""
    said, _ = _read_participants(root)
    limits = (None, covariates.age_years, covariates.ventricular_ml, covariates.brain_ml)
    context = np.full((len(exams), len(limits)), NEUTRAL, np.float32)
    for row, exam in zip(context, exams, strict=True):
        for column, amount in said.get(exam.subject.removeprefix("sub-"), {}).items():
            among = limits[column]
            if column == 0:
                row[0] = amount
            elif among is not None and np.isfinite(amount):
                row[column] = np.clip((amount - among[0]) / (among[1] - among[0]), 0.0, 1.0)
    return context
