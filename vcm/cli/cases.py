"""From the command line's NAME=FILE arguments to the cases of a run, one file a condition or many."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vcm.modalities.registry import load_condition
from vcm.registration.register import place_request
from vcm.request import GenerationRequest
from vcm.volume import Volume

SUFFIXES = (".nii.gz", ".nii")

_FILL = "fill"  # found and paired like a condition, but part of one


class CaseError(ValueError):
    """Arguments that name no cases; the message is one sentence."""


@dataclass(frozen=True)
class Case:
    """One volume to be generated.

    `files` are those of its conditions, by modality name, and `fill` that of the region that is made up of a partial
    scan; `name` is None for a single case.
    """

    name: str | None
    files: dict[str, Path]
    fill: Path | None = None


def find_cases(arguments: Sequence[str], fill: str | None = None) -> list[Case]:
    """Return the cases that arguments such as "tumor=lesion.nii.gz" stand for.

    A folder stands for all NIfTI files in it, and so does a pattern such as "cohort/*_tumor.nii.gz" for those that it
    matches: each file is a case, named after the file without a trailing "_tumor", or after its folder where files are
    named alike, and a folder or pattern of one file is a batch of one. A file that is named itself, beside many,
    belongs to each of them. No argument at all is one case without conditions.

    Args:
        arguments: NAME=FILE each.
        fill: a file, a folder or a pattern likewise, of the regions that are made up.

    Raises:
        CaseError: an argument has another form, names no file, or the files of two conditions do not pair up.
    """
    found: dict[str, _Found] = {}
    for argument in arguments:
        name, equals, pattern = argument.partition("=")
        if not equals or not name or not pattern or name == _FILL:
            raise CaseError("A condition is given as NAME=FILE, for example tumor=lesion.nii.gz.")
        if name in found:
            raise CaseError(f"The condition {name} is given twice: give a folder or a pattern to make many volumes.")
        found[name] = _find_files(name, pattern)
    if fill is not None:
        found[_FILL] = _find_files(_FILL, fill)
    # A folder that holds one file so far is one of many, too: so its file is nobody else's, and its result lies where
    # it will with more files.
    many = {name: each for name, each in found.items() if each.stands_for_many}
    shared = {name: each.files[0] for name, each in found.items() if name not in many}
    if not many:
        return [_build_case(None, shared)]
    by_case = {name: _name_cases(name, each) for name, each in many.items()}
    first, *others = by_case
    for other in others:
        if by_case[other].keys() != by_case[first].keys():
            raise CaseError(f"The files for {first} and for {other} do not pair up: give both the same names.")
    return [
        _build_case(case, shared | {name: files[case] for name, files in by_case.items()})
        for case in sorted(by_case[first])
    ]


def load_request(case: Case, settings: dict[str, Any], *, register: bool = False) -> GenerationRequest:
    """Read a case's files into a request with the given settings.

    Args:
        case: its files.
        settings: of the request.
        register: whether scans that lie elsewhere are brought to template space.

    Raises:
        VolumeError, ValueError: a file is no usable volume, or a condition or a setting is none.
    """
    volumes = {name: load_condition(name, file) for name, file in case.files.items()}
    fill = None if case.fill is None else Volume.load(case.fill, labels=True)
    request = GenerationRequest(conditions=volumes, fill=fill, **settings)
    return place_request(request) if register else request


def _build_case(name: str | None, files: dict[str, Path]) -> Case:
    return Case(name, {each: file for each, file in files.items() if each != _FILL}, files.get(_FILL))


class _Found(NamedTuple):
    """What an argument names; only a file that is named itself does not stand for many, however many there are."""

    files: list[Path]
    stands_for_many: bool
    is_pattern: bool = False


def _find_files(name: str, pattern: str) -> _Found:
    path = Path(pattern)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
    elif path.exists():
        return _Found([path], stands_for_many=False)
    else:
        files = [Path(match) for match in glob.glob(pattern, recursive=True)]
    if not files:
        raise CaseError(f"No file was found for the condition {name}: check the path or the pattern.")
    return _Found(sorted(files), stands_for_many=True, is_pattern=not path.is_dir())


def _name_cases(name: str, found: _Found) -> dict[str, Path]:
    files = found.files
    stems = {_stem(file).removesuffix(f"_{name}") or _stem(file): file for file in files}
    is_alike = found.is_pattern and list(stems) == [name]  # the one match of "*/tumor.nii.gz", named as all will be
    if len(stems) == len(files) and not is_alike:
        return stems
    folders = {file.resolve().parent.name: file for file in files}
    if len(folders) == len(files):
        return folders
    raise CaseError(f"Several files for the condition {name} are named alike: give each a name of its own.")


def _stem(file: Path) -> str:
    return next((file.name.removesuffix(suffix) for suffix in SUFFIXES if file.name.endswith(suffix)), file.stem)
