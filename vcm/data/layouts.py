"""Folders of subjects as BIDS and BraTS lay them out: which file is what, by names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

IMAGES = ("t1", "t2", "flair")
LABELS = ("tumor", "anatomy")
ROLES = IMAGES + LABELS

EXPECTED = (
    "expected are <case>/<case>-t1c.nii.gz (or -t1n), -t2w, -t2f and -seg as BraTS has them, or "
    "sub-<name>/anat/sub-<name>_T1w.nii.gz, _T2w, _FLAIR and _dseg or _mask as BIDS has them"
)

_SUFFIXES = (".nii.gz", ".nii")
_ENHANCED = "t1 with contrast"
_BIDS_NAME = re.compile(r"(?P<subject>sub-[A-Za-z0-9]+)(?:_(?P<entities>.+))?_(?P<suffix>[A-Za-z0-9]+)")
_BIDS_IMAGES = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair"}
_BIDS_LABELS = ("dseg", "mask", "seg", *LABELS)
_ANATOMY_WORDS = {"anatomy", "anat", "tissue", "tissues"}
_OTHER_WORDS = {"brain", "head", "skull", "air"}
_BRATS_NAME = re.compile(r"(?P<case>.+)[-_](?P<kind>t1ce|t1c|t1gd|t1n|t1|t2w|t2f|t2|flair|seg|tumor|anatomy)", re.I)
_BRATS_KINDS = {
    **dict.fromkeys(("t1c", "t1ce", "t1gd"), _ENHANCED),
    **dict.fromkeys(("t1n", "t1"), "t1"),
    **dict.fromkeys(("t2w", "t2"), "t2"),
    **dict.fromkeys(("t2f", "flair"), "flair"),
    **dict.fromkeys(("seg", "tumor"), "tumor"),
    "anatomy": "anatomy",
}
_BRATS_VISIT = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d{3}")


@dataclass(frozen=True)
class Problem:
    """What is wrong with one file: its name relative to the data folder, and a sentence."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class DataProblemsError(ValueError):
    """Data that cannot be trained on, with all its problems; the message has a line for each."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.file))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Exam:
    """The files of one visit of one subject.

    Attributes:
        name: of the visit, such as "sub-01/ses-2" or "BraTS-GLI-00005-100".
        subject: whose visits must stay together.
        folder: relative to the data, of its first file.
        files: by role, one of `ROLES`; the T1 is the one with contrast where there is one.
        enhanced: whether the T1 is one with contrast.
    """

    name: str
    subject: str
    folder: str
    files: dict[str, Path]
    enhanced: bool


def find_exams(root: Path) -> tuple[list[Exam], list[Problem]]:
    """Return the visits in a folder, sorted by name, and what is wrong with their names.

    Both layouts are found by themselves. A visit is known by its names, so that masks may lie in `derivatives`; scans
    there are not read, and neither is any file that is named otherwise.

    Args:
        root: the folder.
    """
    problems: list[Problem] = []
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for path in _list_volumes(root):
        named = _read_name(PurePosixPath(path.relative_to(root).as_posix()))
        if named is None:
            continue
        subject, name, role = named
        files = found.setdefault((subject, name), {})
        if role in files:
            kept = files[role].relative_to(root).as_posix()
            problems.append(
                Problem(_relative(path, root), f"{name} has a {role} already, {kept}: keep one of the two.")
            )
        else:
            files[role] = path
    exams = []
    for (subject, name), files in sorted(found.items(), key=lambda item: item[0][1]):
        enhanced = _ENHANCED in files
        folder = _relative(next(iter(files.values())).parent, root)
        t1 = files.pop(_ENHANCED, None) or files.get("t1")
        if t1 is None:
            where = name if folder == "." else folder
            problems.append(
                Problem(where, "there is no T1, which is what the model makes; add one, or take these files out.")
            )
            continue
        exams.append(Exam(name, subject, folder, {**files, "t1": t1}, enhanced))
    if not exams and not problems:
        problems.append(Problem(".", f"no subjects were found; {EXPECTED}."))
    return exams, problems


def _list_volumes(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.name.endswith(_SUFFIXES) and not hidden and path.is_file():
            yield path


def _read_name(path: PurePosixPath) -> tuple[str, str, str] | None:
    """Return a file's subject, visit and role; None where it has none."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    bids = _BIDS_NAME.fullmatch(stem)
    if bids is not None and (bids["suffix"] in _BIDS_IMAGES or bids["suffix"] in _BIDS_LABELS):
        entities = dict(part.partition("-")[::2] for part in (bids["entities"] or "").split("_"))
        role = _read_bids_role(bids["suffix"], entities, "derivatives" in path.parts)
        visit = f"{bids['subject']}/ses-{entities['ses']}" if "ses" in entities else bids["subject"]
        return None if role is None else (bids["subject"], visit, role)
    brats = _BRATS_NAME.fullmatch(stem)
    if brats is None:
        return None
    visited = _BRATS_VISIT.fullmatch(brats["case"])
    return visited[1] if visited else brats["case"], brats["case"], _BRATS_KINDS[brats["kind"].lower()]


def _read_bids_role(suffix: str, entities: dict[str, str], derived: bool) -> str | None:
    if suffix in _BIDS_IMAGES:
        if derived:
            return None
        return _ENHANCED if suffix == "T1w" and "ce" in entities else _BIDS_IMAGES[suffix]
    words = {suffix, *(entities.get(name, "").lower() for name in ("desc", "label"))}
    if words & _OTHER_WORDS:
        return None
    return "anatomy" if words & _ANATOMY_WORDS else "tumor"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
